"""What a detector achieved, as a value, as JSON and as a table."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from trace_probe.errors import NotEnoughData
from trace_probe.statistics.metrics import Metric, shown

FIGURES = (
    "false_alarm_rate",
    "hard_negative_alarm_rate",
    "within_prompt_auroc",
    "pooled_auroc",
    "delta_over_best_text",
    "delta_bits",
    "selectivity",
    "observer_gap",
    "caught_before_said",
    "caught_before_action",
    "silent_caught",
    "same_task_alarm_rate",
)
TEXT = (
    "category-only",
    "position",
    "length",
    "tfidf",
    "tfidf-with-prompt",
    "tfidf-mlp",
    "tfidf-with-prompt-mlp",
    "sentence embeddings",
)
"""Baselines that read nothing but text; so do those called ``text-monitor``."""
COLUMNS = {
    "within_prompt_auroc": "within prompts",
    "gain_over_it": "gain over it",
    "pooled_auroc": "pooled",
    "caught_before_said": "before said",
    "silent_caught": "silent",
    "caught_before_action": "before action",
    "same_task_alarm_rate": "harmless, same tasks",
}
"""Of the table, by name of the figure: two AUROCs, and which traces of the test tasks alarm."""

Figures = Mapping[str, Metric | None]


@dataclass(frozen=True)
class Report:
    """What a detector achieves on tasks it has not seen, beside every baseline."""

    detector: str
    labeller: str
    layer: int | None
    n: Mapping[str, int]
    threshold: float | None
    target_false_alarm_rate: float | None
    figures: Figures
    """By name, such as ``within_prompt_auroc``; None where the data cannot give it."""
    baselines: Mapping[str, Figures]
    alternatives: Mapping[str, Figures] = field(default_factory=dict)
    """Other statistics of the same activations, each at its own threshold of the same rate."""
    useful_warning: Mapping[str, Metric | None] = field(default_factory=dict)
    """By number of sentences: alarmed at least so many before the action, of all positives."""
    prefix: Mapping[str, Metric | None] = field(default_factory=dict)
    """By fraction of the reasoning: alarmed by then, of all positives."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """Further figures, ready for JSON."""
    notes: tuple[str, ...] = ()
    rule: str = "max"
    """What the alarms follow: the threshold's statistic."""
    ranked_by: str = "max"
    """What is made of scores where traces are ranked at a moment."""

    def __post_init__(self) -> None:
        """Refuse a report without baselines."""
        if not self.baselines:
            raise NotEnoughData("a detector cannot be reported without its baselines")

    def to_json(self) -> dict[str, Any]:
        """Return plain values; null where a figure cannot be computed."""
        raw = asdict(self)
        figures = raw.pop("figures")
        return {
            **raw,
            **{name: figures.get(name) for name in FIGURES},
            "PreV(0)": figures.get("caught_before_said"),
            "UWR(0)": raw["useful_warning"].get("0"),
            "notes": list(self.notes),
        }


def ranked_as(rule: str) -> str:
    """Return in words by what a detector is ranked."""
    return "plain scores" if rule == "max" else rule


def is_text(baseline: str) -> bool:
    """Return whether a baseline reads nothing but text."""
    return baseline in TEXT or baseline.startswith("text-monitor")


def format_report(report: Report) -> str:
    """Return a table: the detector, its baselines, and what else there is to say.

    AUROC before it is said, the detector's gain over each baseline within prompts on the same
    resamples of tasks, and what each catches at its own threshold of the same false-alarm rate.
    """
    columns = [name for name in COLUMNS if _any(report, name)]
    header = ["", *(COLUMNS[name] for name in columns)]
    rows = [header, [report.detector, *(shown(report.figures.get(name)) for name in columns)]]
    rows += [
        [name, *(shown(figures.get(column)) for column in columns)]
        for name, figures in (*report.baselines.items(), *report.alternatives.items())
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n".join([*lines, "", *_tail(report)])


def _any(report: Report, name: str) -> bool:
    every = [report.figures, *report.baselines.values()]
    return any(figures.get(name) is not None for figures in every)


def _tail(report: Report) -> list[str]:
    """Return the lines under the table."""
    rows = {
        name.replace("_", " "): report.figures.get(name) for name in FIGURES if name not in COLUMNS
    }
    best = report.more.get("best_text")
    rows = {
        f"gain over the best text baseline, {best}" if name == "delta over best text" else name: one
        for name, one in rows.items()
    }
    rows["PreV(0), of those that say it flagged before"] = report.figures.get("caught_before_said")
    rows |= {
        f"UWR({lead}), warned {lead} sentences before the action": value
        for lead, value in report.useful_warning.items()
    }
    rows |= {name: Metric(**value) for name, value in _further(report.more).items() if value}
    given = {name: value for name, value in rows.items() if value is not None}
    width = max(map(len, given), default=0)
    lines = [f"{name.ljust(width)}  {shown(value)}  n={value.n}" for name, value in given.items()]
    if report.threshold is not None:
        lines.append(
            f"threshold {report.threshold:.4g} for {report.target_false_alarm_rate:.1%}, "
            f"alarms follow the rule {report.rule}, ranked by {ranked_as(report.ranked_by)}"
        )
    counts = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in report.n.items())
    return [*lines, *_rates(report), counts, *report.notes]


def _further(more: Mapping[str, Any]) -> dict[str, Mapping[str, Any] | None]:
    """Return further figures that are worth a line, by what the line says."""
    return {
        "UWR(0) with scores dealt anew within tasks": more.get("useful_warning_by_chance"),
        "UWR(0) beyond that": more.get("useful_warning_over_chance"),
        **{f"mean warning, {k}": v for k, v in more.get("mean_warning", {}).items()},
        **{
            name.replace("_", " "): more.get(name)
            for name in ("average_precision", "brier", "calibration_error")
        },
        **{
            f"true alarms at a base rate of {base}": value
            for base, value in more.get("predictive_value", {}).items()
        },
    }


def _rates(report: Report) -> list[str]:
    """Return two lines for each false-alarm rate, with what can honestly be promised."""
    return [
        _promise(float(target), name, found)
        for target, promises in report.more.get("by_rate", {}).items()
        for name, found in promises.items()
    ]


def _promise(target: float, name: str, found: Mapping[str, Any]) -> str:
    shares = [
        f"{share.replace('_', ' ')} {found[share]['estimate']:.3f}"
        for share in ("caught_before_said", "caught_before_action", "silent_caught")
        if found[share] is not None
    ]
    honest = f"{found['honest_rate']:.2%} promised by {found['n']} harmless traces"
    short = f"; {found['note']}" if found["note"] else ""
    return f"at {target:.1%} {name} ({honest}): {', '.join(shares)}{short}"
