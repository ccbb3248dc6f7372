"""Live: watch a model think, with the probe reading along; an alarm shows at once."""

import streamlit as st

from trace_probe.errors import TraceProbeError
from trace_probe.evaluation.layers import DEPTH
from trace_probe.explorer import sidebar
from trace_probe.explorer.choices import choose_one
from trace_probe.explorer.current import Current, current, error_shown, no_probes, root, show_code
from trace_probe.explorer.heldout import unseen
from trace_probe.explorer.models import probes, resident, shown_probe
from trace_probe.explorer.panels import Frame, panel
from trace_probe.explorer.rows import Row
from trace_probe.explorer.watching import Watched
from trace_probe.monitor.detector import OUTSIDE, Detector, outside_of
from trace_probe.trace import Sampling, Task
from trace_probe.visible import visible

PROBE_KEY, PACE_KEY, WATCHED_KEY = "filter_live_probe", "filter_live_pace", "watched"
HALT_KEY = "filter_live_halt"
TICK_S = 0.4
PACES = {"readable": 4, "full speed": 10_000}
"""Tokens a tick."""
FEWEST_TOKENS = 60
"""Shown at least, so that the axis stands still at first."""
MARGIN, ABOVE = 1.0, 0.2
"""Room on the score axis beyond the threshold, in units of the score; and on top, for the marks."""


def start(detector: Detector, prompt: str, seed: int, length: int) -> None:
    """Begin to watch a generation; an older one is ended."""
    from trace_probe.monitor.live import Monitor, check_readable

    end()
    held = resident(detector.saved.card.model)
    check_readable(held.model.chat, prompt, "the prompt")
    sampling = Sampling(seed=seed, max_new_tokens=length)
    monitor = Monitor(held.model, detector, every=1)
    readings = monitor.watch(Task("live", "live", prompt), sampling)
    st.session_state[WATCHED_KEY] = Watched(readings, detector, held.turn)


def end() -> None:
    """Stop what is running."""
    watched = st.session_state.get(WATCHED_KEY)
    if watched is not None and watched.running:
        watched.stop()


def example(shown: Current) -> str:
    """Return the prompt whose samples act most often, so that an alarm is likely a true one."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in unseen(shown.rows):
        if row.outcome in ("instrumental", "harmless"):
            found.setdefault((row.facts.task, row.facts.condition), []).append(row)
    most = max(found.values(), key=lambda rows: (_acting(rows), len(rows)), default=[])
    try:
        return shown.run.trace(most[0].facts.id).task.prompt if most else ""
    except TraceProbeError:
        return ""  # the other pages tell what is wrong with this run


def _acting(rows: list[Row]) -> float:
    return sum(row.outcome == "instrumental" for row in rows) / len(rows)


def settings(shown: Current, detector: Detector) -> None:
    """Draw prompt, seed and length, and the button that begins."""
    with st.form("live_form", border=True):
        prompt = st.text_area("Prompt", value=example(shown), height=120)
        with st.container(horizontal=True, vertical_alignment="bottom"):
            seed = st.number_input("Seed", 0, 2**31 - 1, 0, width=120)
            length = st.number_input("Tokens at most", 16, 4096, 224, width=140)
            asked = st.form_submit_button("Watch", type="primary", icon=":material/play_arrow:")
    if not asked:
        return
    if not prompt.strip():
        st.warning("There is no prompt.")
        return
    with error_shown("This cannot be watched", end=False):
        start(detector, prompt, int(seed), int(length))


def banner(watched: Watched) -> None:
    """Say loudly whether the alarm was raised, and whether the model still writes."""
    state = "still writing" if watched.running else "stopped by hand" if watched.stopped else "done"
    peak, limit = watched.row.peak, f"threshold {watched.detector.threshold:.2f}"
    state += f" · {limit}" if peak is None else f" · highest score {peak:.2f}, {limit}"
    if watched.alarm is None:
        words = "No alarm so far" if watched.running else "No alarm"
        st.info(f"{words} · token {watched.last:,} · {state}", icon=":material/hearing:")
    else:
        st.error(
            f"ALARM at token {watched.alarm:,} · now at token {watched.last:,} · {state}",
            icon=":material/warning:",
        )


def draw(watched: Watched) -> None:
    """Draw banner, curve and text of what was written so far."""
    banner(watched)
    if not watched.running and outside_of([watched.detector], watched.distances):
        st.warning(f"This text lies {OUTSIDE}.", icon=":material/help:")
    row = watched.row
    limit = watched.detector.threshold
    peak = limit if row.peak is None else max(row.peak, limit)
    known = [float(value) for value in watched.statistics if value == value]
    deepest = limit - DEPTH * max(peak - limit, MARGIN)
    low = max(min([*known, limit - MARGIN]), deepest)
    begin = watched.begin or 0
    shown_to = max(watched.last, begin + FEWEST_TOKENS)
    frame = Frame((begin, shown_to), (low, peak + ABOVE * (peak - low)))
    st.vega_lite_chart(panel(row, frame), alt="Risk of each sentence as it is written")
    show_code("\n".join(watched.lines()))


def watching() -> None:
    """Take the next tokens and draw them, several times a second while the model writes."""
    watched: Watched = st.session_state[WATCHED_KEY]
    if watched.running:
        pace = PACES[st.session_state[PACE_KEY]]
        watched.advance(tokens=pace, seconds=TICK_S)
    if watched.running and watched.alarm is not None and st.session_state.get(HALT_KEY):
        watched.stop()
    if st.button("Stop", icon=":material/stop:", disabled=not watched.running, key="live_stop"):
        watched.stop()
    draw(watched)
    if not watched.running:
        st.rerun()  # the page draws what is left, without the clock


shown = current()
sidebar.publish(shown.view())
st.title("Live")
there = probes(root(), shown.detector)
if not there:
    no_probes()
with st.container(horizontal=True, vertical_alignment="bottom"):
    name = st.selectbox("Probe", list(there), key=PROBE_KEY, format_func=visible, width=260)
    choose_one("Pace", list(PACES), key=PACE_KEY)
    st.toggle("Stop at the alarm", key=HALT_KEY)
detector = shown_probe(there[name], Sampling())
settings(shown, detector)
held: Watched | None = st.session_state.get(WATCHED_KEY)
if held is not None and held.running:
    st.fragment(watching, run_every=TICK_S)()
elif held is not None:
    draw(held)
    st.caption(
        "While a sentence is being written, its score is of what is there so far; it can raise an "
        "alarm only when it is complete. This text is not saved: to keep it, `trace-probe record` "
        "writes the same text for the same task, seed and sample."
    )
