"""What a page is about: the run and the detector chosen in the sidebar, or why there is none."""

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import streamlit as st

from trace_probe.errors import TraceProbeError
from trace_probe.explorer.loading import Loaded, load_run
from trace_probe.explorer.rows import Row
from trace_probe.explorer.runs import list_runs, traces_root
from trace_probe.explorer.seen import Rows
from trace_probe.explorer.state import ViewState
from trace_probe.explorer.words import ShownDetector
from trace_probe.store import Store
from trace_probe.visible import visible

RUN_KEY, DETECTOR_KEY, LABELLER_KEY = "run", "detector", "labeller"
LAYER_KEY = "layer"
OWN_KEY, THRESHOLD_KEY, SMOOTHING_KEY = "own_threshold", "threshold", "smoothing"
NO_THRESHOLD = (
    "This detector has no calibrated threshold here, so there are no alarms: evaluate it on a run "
    "with benign traces, or try a threshold of your own at the left."
)


@dataclass(frozen=True)
class Current:
    """What the sidebar says: the run, the detector, whose labels."""

    run: Loaded
    detector: ShownDetector | None
    labeller: str | None = None
    """None where nobody has labelled the run."""

    @property
    def rows(self) -> Rows:
        """Return every trace as it is seen this way; made once for each way of seeing."""
        return self.run.rows(self.detector, self.labeller)

    def row(self, trace_id: str) -> Row:
        """Return one trace as it is seen this way."""
        return self.run.row(trace_id, self.detector, self.labeller)

    @property
    def alarms(self) -> bool:
        """Return whether there are alarms to speak of: a detector and a threshold."""
        return self.detector is not None and self.detector.threshold is not None

    @property
    def scorer(self) -> str | None:
        """Return the name of the detector; None where none has scored the run."""
        return None if self.detector is None else self.detector.name

    @property
    def report(self) -> dict[str, Any] | None:
        """Return the evaluation of the detector on this run; None where there is none."""
        return None if self.detector is None else self.detector.report

    def view(self, trace: str | None = None, sentence: int | None = None) -> ViewState:
        """Return what a link to a trace, or to a page, has to carry."""
        several = self.labeller if len(self.run.labellers) > 1 else None
        return ViewState(
            run=self.run.name,
            trace=trace,
            sentence=sentence,
            detector=self.scorer,
            layer=own_layer(),
            threshold=own_threshold(),
            smoothing=own_smoothing(),
            labeller=several,
        )


def root() -> Path:
    """Return the folder of runs of this server."""
    return traces_root(sys.argv[1:], os.environ)


def runs() -> dict[str, Path]:
    """Return the runs of this server by name, the most recently changed first."""
    return {path.resolve().name: path for path in list_runs(root())}


def reports(detector: str) -> dict[str, dict[str, Any]]:
    """Return the evaluations of a detector, by run."""
    found: dict[str, dict[str, Any]] = {}
    for name, path in runs().items():
        with contextlib.suppress(TraceProbeError):  # a broken run tells so when it is chosen
            report = Store(path).report(detector)
            found |= {name: report} if report else {}
    return found


def current(*, every_row: bool = True) -> Current:
    """Return what the sidebar says; end the page with a message where there is nothing.

    A page that shows one trace does without the rows of all, and finds out itself whether that
    one can be read.
    """
    path = runs().get(st.session_state.get(RUN_KEY, ""))
    if path is None:
        nothing_there()
    try:
        run = load_run(path)
        found = Current(run, chosen_detector(run), chosen_labeller(run))
        if every_row:
            found.rows  # noqa: B018 - made here, where what is broken can be told
        if run.store.broken():
            problem("Some lines of this run cannot be read", "\n".join(run.store.broken()))
        return found
    except TraceProbeError as error:
        problem("This run cannot be read", f"{path.resolve()}\n{error}")
        end_page()


def chosen_detector(run: Loaded) -> ShownDetector | None:
    """Return the detector of the sidebar, or None where none has scored the run."""
    name = st.session_state.get(DETECTOR_KEY)
    return (
        None if name not in run.detectors else run.detector(name, own_threshold(), own_smoothing())
    )


def chosen_labeller(run: Loaded) -> str | None:
    """Return whose labels count: the sidebar's choice, else whoever labelled last."""
    name = st.session_state.get(LABELLER_KEY)
    return name if name in run.judged else next(reversed(run.labellers), None)


def own_threshold() -> float | None:
    """Return the threshold the reader set, if any."""
    own: float | None = st.session_state.get(THRESHOLD_KEY)
    return own if st.session_state.get(OWN_KEY) else None


def own_smoothing() -> str | None:
    """Return the smoothing the reader chose instead of the detector's own, if any."""
    own: str | None = st.session_state.get(SMOOTHING_KEY)
    return own


def own_layer() -> int | None:
    """Return the layer the reader chose instead of the detector's own, if any."""
    own: int | None = st.session_state.get(LAYER_KEY)
    return own


def nothing_there() -> NoReturn:
    """Say that there are no runs, where they were looked for, and how to make one."""
    where = root()
    state = "there is no run in it" if where.is_dir() else "it does not exist"
    problem("No runs here", f"Looked in {where.resolve()}: {state}.")
    st.text("Record a run on the built-in organism (a few minutes, no GPU):")
    show_code("trace-probe demo")
    st.text("or say where your runs are:")
    show_code("trace-probe explore --traces <folder of runs>")
    end_page()


def no_detector(shown: Current) -> str:
    """Return why there are no scores, and what can be had instead."""
    if shown.run.manifest.layers:
        return "No detector has scored this run: `trace-probe train`, then `trace-probe evaluate`."
    return (
        "No detector has scored this run. It holds no activations, so no probe can until a model "
        "has read it (`trace-probe observe`); `trace-probe evaluate` scores it by its words alone."
    )


def no_traces() -> NoReturn:
    """Say that the run holds no traces yet."""
    st.info("This run holds no traces yet. Record some with `trace-probe record`, then reload.")
    end_page()


def no_probes() -> NoReturn:
    """Say that there is no probe to choose, and how to make one."""
    st.info(
        "No probe lies beside the folder of runs: `trace-probe train RUN probes/NAME` makes one."
    )
    end_page()


def problem(title: str, detail: str) -> None:
    """Show an error: a title of ours, and a detail that may quote data and so is never markup."""
    st.error(title, icon=":material/error:")
    show_code(detail)


@contextlib.contextmanager
def error_shown(title: str, *, end: bool = True) -> Iterator[None]:
    """Show an error of ours that arises within; the page then ends, or goes on behind."""
    try:
        yield
    except TraceProbeError as error:
        problem(title, str(error))
        if end:
            end_page()


def show_code(text: object) -> None:
    """Show commands or data as they are, with nothing hidden in them."""
    st.code(visible(str(text)) or " ", language=None, wrap_lines=True)


def end_page() -> NoReturn:
    """Draw nothing further."""
    st.stop()
    raise AssertionError("st.stop() returned")
