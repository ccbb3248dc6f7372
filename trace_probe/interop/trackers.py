"""The figures of a report beside the other runs of a project, in MLflow or Weights & Biases.

    with mlflow.start_run():
        log_report(report, "mlflow")

Where and whether anything is sent is set up with the tracker, which opens the run; here it is only
written into. Neither is a dependency of trace_probe.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from trace_probe.errors import TraceProbeError
from trace_probe.evaluation.report import Report

Tracker = Literal["mlflow", "wandb"]
ENDS = ("lower", "upper")


def log_report(report: Report, tracker: Tracker) -> None:
    """Write a report into the run that is open: each figure with its interval, and the whole.

    Figures are called ``DETECTOR/FIGURE`` with ``.lower`` and ``.upper`` for the interval,
    baselines likewise, such as ``tfidf/within_prompt_auroc``. Where a rate belongs to a figure it
    follows, as in ``tfidf/caught_before_said_at_sibling_rate/0.05``.

    Raises:
        TraceProbeError: the tracker is not installed, not known, or has no open run.
    """
    figures, whole = dict(figures_of(report)), report.to_json()
    if tracker == "mlflow":
        _to_mlflow(report, figures, whole)
    elif tracker == "wandb":
        _to_wandb(report, figures, whole)
    else:
        raise TraceProbeError(f"no tracker {tracker}: choose mlflow or wandb")


def figures_of(report: Report) -> Iterator[tuple[str, float]]:
    """Yield all figures of a report by name, less those that could not be computed."""
    for detector, figures in ((report.detector, report.figures), *report.baselines.items()):
        for name, metric in figures.items():
            if metric is None:
                continue
            at = f"{detector}/{name.replace(':', '/')}".replace(" ", "-")
            yield at, metric.estimate
            if metric.has_interval:
                yield from ((f"{at}.{end}", getattr(metric, end)) for end in ENDS)
    if report.threshold is not None:
        yield f"{report.detector}/threshold", report.threshold


def _to_mlflow(report: Report, figures: Mapping[str, float], whole: Mapping[str, Any]) -> None:
    try:
        import mlflow
    except ModuleNotFoundError as error:
        raise TraceProbeError("MLflow is not installed: pip install mlflow-skinny") from error
    if mlflow.active_run() is None:
        raise TraceProbeError("MLflow has no open run: call this within mlflow.start_run()")
    mlflow.log_metrics(dict(figures))
    mlflow.log_dict(dict(whole), f"trace_probe/{report.detector}.json")


def _to_wandb(report: Report, figures: Mapping[str, float], whole: Mapping[str, Any]) -> None:
    try:
        import wandb
    except ModuleNotFoundError as error:
        raise TraceProbeError("Weights & Biases is not installed: pip install wandb") from error
    if wandb.run is None:
        raise TraceProbeError("Weights & Biases has no open run: call wandb.init() before")
    wandb.run.summary.update({**figures, f"trace_probe/{report.detector}": dict(whole)})
