"""The sidebar: which run, which detector, which threshold; and their place in the address."""

from collections.abc import Mapping
from pathlib import Path

import streamlit as st

from trace_probe.errors import TraceProbeError
from trace_probe.explorer.choices import prefer
from trace_probe.explorer.current import (
    DETECTOR_KEY,
    LABELLER_KEY,
    LAYER_KEY,
    OWN_KEY,
    RUN_KEY,
    SMOOTHING_KEY,
    THRESHOLD_KEY,
    root,
    runs,
)
from trace_probe.explorer.loading import Loaded, load_run, prepare
from trace_probe.explorer.state import ViewState
from trace_probe.visible import visible

SEEN_KEY = "seen_query"
ARRIVAL_KEY = "arrival"
KEPT_PREFIX = "filter_"
STEPS = 200


def draw() -> None:
    """Draw the sidebar; what an address asks for is chosen first."""
    _keep_filters()
    asked = _adopt_address()
    found = runs()
    if not found:
        return
    if asked.run is not None and asked.run not in found:
        st.sidebar.error("The link asks for a run that is not here", icon=":material/link_off:")
        st.sidebar.code(f"{visible(asked.run)}\nnot in {root().resolve()}", language=None)
    with st.sidebar:
        name = st.selectbox("Run", list(found), key=RUN_KEY)
    try:
        _prepare(found[name])
        with st.sidebar:
            with st.spinner("Reading the run"):
                run = load_run(found[name])
            _choose_detector(run)
            _choose_labeller(run)
    except TraceProbeError:
        # The page tells it, with its reason, where there is room for it.
        st.sidebar.text("This run cannot be read.")


def _prepare(run: Path) -> None:
    """Show how far it is while a large run is parsed for the first time."""
    bar = None

    def tell(done: int, of: int) -> None:
        nonlocal bar
        bar = bar or st.empty()
        words = f"Reading {of:,} traces for the first time: {done:,}. The next time is faster."
        bar.progress(min(done / max(of, 1), 1.0), words)

    prepare(run, tell)
    if bar is not None:
        bar.empty()


def publish(view: ViewState, more: Mapping[str, str] | None = None) -> None:
    """Put a view into the address; the next run knows that it came from here.

    `more` is what only the page itself understands, such as its filters.
    """
    query = {**view.to_query(), **(more or {})}
    if dict(st.query_params) != query:
        st.query_params.from_dict(query)
    st.session_state[SEEN_KEY] = query


def arrival() -> Mapping[str, str] | None:
    """Return the address if it came from outside in this run: a link, or the browser's Back."""
    query: Mapping[str, str] | None = st.session_state.get(ARRIVAL_KEY)
    return query


def _keep_filters() -> None:
    """Keep widget values of other pages alive; Streamlit drops those not drawn in a run."""
    for key in list(st.session_state):
        if str(key).startswith(KEPT_PREFIX):
            st.session_state[key] = st.session_state[key]


def _adopt_address() -> ViewState:
    """Let an address that was not written here choose run, detector and threshold."""
    query = dict(st.query_params)
    asked = ViewState.from_query(query)
    known = query == st.session_state.get(SEEN_KEY)
    st.session_state[ARRIVAL_KEY] = None if known else query
    if known:
        return asked
    st.session_state[SEEN_KEY] = query
    if asked.run in runs():
        st.session_state[RUN_KEY] = asked.run
    wanted = (DETECTOR_KEY, asked.detector), (LABELLER_KEY, asked.labeller)
    for key, name in (*wanted, (SMOOTHING_KEY, asked.smoothing)):
        if name:
            st.session_state[key] = name
    st.session_state[LAYER_KEY] = asked.layer
    if asked.threshold is not None:
        st.session_state[OWN_KEY] = True
        st.session_state[THRESHOLD_KEY] = asked.threshold
    return asked


def _choose_detector(run: Loaded) -> None:
    if not run.detectors:
        st.text("No detector has scored this run.")
        return
    prefer(run.detectors, key=DETECTOR_KEY)
    name = st.selectbox("Detector", run.detectors, key=DETECTOR_KEY)
    calibrated = run.detector(name, None, _choose_smoothing(run, name))
    if calibrated.threshold is None:
        st.caption("No calibrated threshold.")
    else:
        source = calibrated.detector.source
        st.caption(visible(f"Threshold {calibrated.threshold:.3g} ({source})"))
    if not st.toggle("Try another threshold", key=OWN_KEY):
        return
    low, high = calibrated.low, calibrated.high
    start = (low + high) / 2 if calibrated.threshold is None else calibrated.threshold
    held = st.session_state.get(THRESHOLD_KEY, start)
    st.session_state[THRESHOLD_KEY] = min(max(float(held), low), high)
    st.slider("Threshold", low, high, key=THRESHOLD_KEY, step=(high - low) / STEPS)


def _choose_smoothing(run: Loaded, detector: str) -> str | None:
    """Let the reader choose a smoothing, where there are thresholds for several."""
    known = run.smoothings(detector)
    if st.session_state.get(SMOOTHING_KEY) not in known:
        st.session_state.pop(SMOOTHING_KEY, None)
    if len(known) < 2:
        return None
    return str(st.selectbox("Smoothing", known, key=SMOOTHING_KEY))


def _choose_labeller(run: Loaded) -> None:
    """Let the reader say whose labels count, where several have labelled the run."""
    if len(run.labellers) < 2:
        return
    if st.session_state.get(LABELLER_KEY) not in run.judged:
        st.session_state[LABELLER_KEY] = _first_labeller(run)
    st.selectbox("Labels by", run.labellers[::-1], key=LABELLER_KEY, format_func=visible)


def _first_labeller(run: Loaded) -> str:
    """Return the labeller the chosen detector was evaluated by, else whoever came last."""
    detector = st.session_state.get(DETECTOR_KEY)
    report = run.report(detector) if detector in run.detectors else None
    judge = str((report or {}).get("labeller"))
    return judge if judge in run.judged else run.labellers[-1]
