"""A report's figures reach the run of a tracker that is open, and nothing else is touched."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from trace_probe.errors import TraceProbeError
from trace_probe.evaluation.report import Report, at_rate
from trace_probe.interop.trackers import figures_of, log_report
from trace_probe.statistics.bootstrap import Metric

HEADLINE = at_rate("0.05")
REPORT = Report(
    detector="eye",
    labeller="rules",
    layer=2,
    n={"traces": 12},
    threshold=1.5,
    target_false_alarm_rate=0.01,
    figures={HEADLINE: Metric(0.9, 0.8, 1.0, 12), "within_prompt_auroc": None},
    baselines={"layer 0": {"within_prompt_auroc": Metric(0.5, float("nan"), float("nan"), 3)}},
)
FIGURES = {
    "eye/caught_before_said_at_sibling_rate/0.05": 0.9,
    "eye/caught_before_said_at_sibling_rate/0.05.lower": 0.8,
    "eye/caught_before_said_at_sibling_rate/0.05.upper": 1.0,
    "layer-0/within_prompt_auroc": 0.5,
    "eye/threshold": 1.5,
}


class Fake(ModuleType):
    """A tracker that keeps what it is given."""

    def __init__(self, *, open_run: bool) -> None:
        super().__init__("a tracker")
        self.metrics: dict[str, float] = {}
        self.files: dict[str, Any] = {}
        self.summary: dict[str, Any] = {}
        self.active_run = lambda: SimpleNamespace() if open_run else None
        self.log_metrics = self.metrics.update
        self.log_dict = lambda value, name: self.files.update({name: value})
        self.run = SimpleNamespace(summary=self.summary) if open_run else None


def test_figures_have_names_that_trackers_take_and_unknown_ones_are_left_out() -> None:
    assert dict(figures_of(REPORT)) == FIGURES


def test_mlflow_gets_figures_and_the_whole_report(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake(open_run=True)
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    log_report(REPORT, "mlflow")
    assert fake.metrics == FIGURES
    assert fake.files == {"trace_probe/eye.json": REPORT.to_json()}


def test_wandb_gets_figures_and_the_whole_report(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake(open_run=True)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    log_report(REPORT, "wandb")
    assert fake.summary == {**FIGURES, "trace_probe/eye": REPORT.to_json()}


@pytest.mark.parametrize("tracker", ["mlflow", "wandb"])
def test_without_a_tracker_or_an_open_run_it_says_what_to_do(
    tracker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, tracker, Fake(open_run=False))
    with pytest.raises(TraceProbeError, match=r"no open run: call .*(start_run|init)\(\)"):
        log_report(REPORT, tracker)
    monkeypatch.setitem(sys.modules, tracker, None)  # as if it were not installed
    with pytest.raises(TraceProbeError, match="is not installed: pip install"):
        log_report(REPORT, tracker)
    with pytest.raises(TraceProbeError, match="choose mlflow or wandb"):
        log_report(REPORT, "comet")  # type: ignore[arg-type]
