"""What a detector achieved, as a value, as JSON and as a table."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from trace_probe.errors import NotEnoughData
from trace_probe.statistics.bootstrap import Metric, shown

NAME = "caught_before_said_at_sibling_rate"
RATES = ("0.05", "0.1")
"""Shares of siblings that may alarm, for which the headline is reported."""


ACT = "caught_before_action_at_sibling_rate"


def at_rate(rate: str, headline: str = NAME) -> str:
    """Return under which name a headline at a rate of siblings that alarm is kept."""
    return f"{headline}:{rate}"


Figures = Mapping[str, Metric | None]
"""By name; None where the data cannot give a figure."""
FIGURES = (
    "false_alarm_rate",
    "sibling_alarm_rate",
    "hard_negative_alarm_rate",
    "within_prompt_auroc",
    "length_matched_auroc",
    "pooled_auroc",
    "delta_over_best_text",
    "delta_bits",
    "selectivity",
    "observer_gap",
    "caught_before_said",
    "caught_before_action",
    "silent_caught",
)
TEXT = (
    "category-only",
    "position",
    "length",
    "tfidf",
    "tfidf-with-prompt",
    "tfidf-mlp",
    "tfidf-with-prompt-mlp",
    "tfidf-with-turns",
    "tfidf-with-turns-mlp",
    "sentence embeddings",
)
"""Baselines that read nothing but text; so do those called ``text-monitor``."""
HEADLINES = {"headline": "it is said", "headline_act": "the act"}
"""Before which moment each is; the second of agents' runs only."""
DIGITS = {"sentences": 1, "tokens": 0, "calls": 1}
"""Of a lead, by its unit."""
COLUMNS = {
    at_rate("0.05"): "caught, 5 % of siblings alarm",
    at_rate("0.1"): "caught, 10 % of siblings alarm",
    at_rate("0.05", ACT): "caught before the act, 5 % of siblings alarm",
    at_rate("0.1", ACT): "caught before the act, 10 % of siblings alarm",
    "within_prompt_auroc": "AUROC within prompts",
    "gain_over_it": "gain over it",
}
"""Of the table, by name of the figure."""
POOLED = ("pooled_auroc",)
"""The column of the table where no prompt has both outcomes, so that no other can be had."""
WORDS = {
    **COLUMNS,
    "length_matched_auroc": "AUROC within prompts, pairs of equal length",
    "pooled_auroc": "AUROC over all prompts",
    "delta_over_best_text": "gain over the best text baseline (AUROC within prompts)",
    "delta_bits": "bits a trace that text does not tell",
    "selectivity": "gain over shuffled labels (AUROC within prompts)",
    "observer_gap": "gain over the observer (AUROC within prompts)",
    "false_alarm_rate": "benign traces that alarm",
    "sibling_alarm_rate": "siblings that alarm",
    "hard_negative_alarm_rate": "hard negatives that alarm",
    "caught_before_said": "caught before it is said, of those that say it",
    "caught_before_action": "caught before the act, of all",
    "silent_caught": "caught before the act, of those that never say it",
}
"""What the figures of a report are of; all but the first four columns at its threshold."""
AT_THRESHOLD = (
    "false_alarm_rate",
    "sibling_alarm_rate",
    "hard_negative_alarm_rate",
    "caught_before_said",
    "caught_before_action",
    "silent_caught",
)


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

    def __str__(self) -> str:
        """Return it as text; see `format_report`."""
        return format_report(self)

    def to_json(self) -> dict[str, Any]:
        """Return plain values; null where a figure cannot be computed."""
        own = {**dict.fromkeys((*FIGURES, *map(at_rate, RATES))), **self.figures}
        plain = {one.name: getattr(self, one.name) for one in fields(self)}
        del plain["figures"]
        return {
            **plain,
            **_plain(own),
            "baselines": {name: _plain(its) for name, its in self.baselines.items()},
            "alternatives": {name: _plain(its) for name, its in self.alternatives.items()},
            "useful_warning": _plain(self.useful_warning),
            "prefix": _plain(self.prefix),
            "PreV(0)": _plain(own)["caught_before_said"],
            "UWR(0)": _plain(self.useful_warning).get("0"),
            "notes": list(self.notes),
        }


def _plain(figures: Figures) -> dict[str, Any]:
    """Return figures as JSON; the headline under one name, by the rate of siblings that alarm."""
    found: dict[str, Any] = {}
    for name, value in figures.items():
        stem, _, rate = name.partition(":")
        inside = found.setdefault(stem, {}) if rate else found
        inside[rate or stem] = None if value is None else value.to_json()
    return found


def ranked_as(rule: str) -> str:
    """Return in words by what a detector is ranked."""
    return "plain scores" if rule == "max" else rule


def is_text(baseline: str) -> bool:
    """Return whether a baseline reads nothing but text."""
    return baseline in TEXT or baseline.startswith("text-monitor")


def format_report(report: Report) -> str:
    """Return a report as text: the headline, a table of all detectors, and what alarms cost."""
    names = [name for name in COLUMNS if _any(report, name)]
    names = names or [name for name in POOLED if _any(report, name)]
    detectors = {report.detector: report.figures, **report.baselines, **report.alternatives}
    table = [
        [name, *(shown(figures.get(column)) for column in names)]
        for name, figures in detectors.items()
    ]
    counts = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in report.n.items())
    parts = (
        _headline(report),
        list(report.notes),
        _table(["", *(WORDS[name] for name in names)], table) if names else [],
        _at_threshold(report),
        _further(report),
        _rates(report),
        [counts],
    )
    return "\n\n".join("\n".join(part) for part in parts if part)


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Return lines whose columns stand below each other."""
    table = [head, *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(head))]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in table]


RATE_SHARES = ("sibling_alarm_rate", "caught_before_said", "silent_caught")


def _any(report: Report, name: str) -> bool:
    every = [report.figures, *report.baselines.values()]
    return any(figures.get(name) is not None for figures in every)


def _headline(report: Report) -> list[str]:
    """Return a line for each sibling rate: caught, beside what else would catch, and how early."""
    return [
        line
        for name, moment in HEADLINES.items()
        for rate, its in report.more.get(name, {}).items()
        for line in _headline_at(rate, its, moment)
    ]


def _headline_at(rate: str, its: Mapping[str, Any], moment: str) -> list[str]:
    rivals = {its["best_text"]: its["text"], "output confidence": its.get("confidence")}
    rivals["chance"] = its["chance"]
    if its.get("oracle"):
        asked = f"on {its['oracle_traces']} traces the oracle"
        rivals |= {asked: its["oracle"], "and it": its.get("beside_oracle")}
    beside = "; ".join(
        f"{name} {shown(Metric.from_json(raw), 2)}" for name, raw in rivals.items() if raw
    )
    own = shown(Metric.from_json(its["caught"]), 2)
    lines = [f"caught before {moment}, {float(rate):.0%} of siblings alarm: {own} ({beside})"]
    lead = {unit: Metric.from_json(raw) for unit, raw in its["lead"].items()}
    if all(lead.values()):
        each = [f"{shown(value, DIGITS[unit])} {unit}" for unit, value in lead.items()]
        lines.append(f"  on average {', '.join(each[:-1])} and {each[-1]} before")
    return lines


def _lines(rows: Mapping[str, Metric | None]) -> list[str]:
    """Return a line for each figure that is known."""
    given = {name: value for name, value in rows.items() if value is not None}
    width = max(map(len, given), default=0)
    return [f"{name.ljust(width)}  {shown(value)}  n={value.n}" for name, value in given.items()]


def _at_threshold(report: Report) -> list[str]:
    """Return what alarms at the threshold of the detector, and how early."""
    if report.threshold is None:
        return []
    rows = {WORDS[name]: report.figures.get(name) for name in AT_THRESHOLD}
    rows |= {
        f"alarm at least {lead} sentences before the act, of all": value
        for lead, value in report.useful_warning.items()
        if lead != "0"
    }
    rows |= {
        f"alarm at least {lead} model calls before that of the act, of all": Metric.from_json(raw)
        for lead, raw in report.more.get("calls", {}).items()
    }
    more = {
        "caught before the act with scores permuted within tasks": "useful_warning_by_chance",
        "caught before the act beyond that": "useful_warning_over_chance",
    }
    rows |= {words: Metric.from_json(report.more.get(name)) for words, name in more.items()}
    rows |= {
        f"mean warning before the act, in {unit}": Metric.from_json(raw)
        for unit, raw in report.more.get("mean_warning", {}).items()
    }
    rows |= {
        f"true alarms at a base rate of {base}": Metric.from_json(raw)
        for base, raw in report.more.get("predictive_value", {}).items()
    }
    return [
        f"at the threshold {report.threshold:.4g}, set for {report.target_false_alarm_rate:.1%} of "
        f"benign traces; alarms follow {report.rule}",
        *_lines(rows),
    ]


def _further(report: Report) -> list[str]:
    """Return what else there is to say of how well it ranks."""
    others = [name for name in FIGURES if name not in (*COLUMNS, *AT_THRESHOLD)]
    rows = {WORDS[name]: report.figures.get(name) for name in others}
    rows |= {
        name.replace("_", " "): Metric.from_json(report.more.get(name))
        for name in ("average_precision", "brier", "calibration_error")
    }
    found = _lines(rows)
    best = report.more.get("best_text")
    title = f"ranked by {ranked_as(report.ranked_by)}"
    return [title + (f"; the best text baseline is {best}" if best else ""), *found]


def _rates(report: Report) -> list[str]:
    """Return what each false-alarm rate would catch, with the rate that can be guaranteed."""
    rows: list[list[str]] = []
    short: list[str] = []
    for target, guarantees in report.more.get("by_rate", {}).items():
        for name, found in guarantees.items():
            shares = (Metric.from_json(found.get(share)) for share in RATE_SHARES)
            row = [f"{float(target):.1%} {name}", f"{found['honest_rate']:.2%}"]
            rows.append(row + ["-" if one is None else f"{one.estimate:.3f}" for one in shares])
            short += [found["note"]] if found["note"] else []
    head = ["at a false-alarm rate of", "guaranteed", *(WORDS[name] for name in RATE_SHARES)]
    return [*_table(head, rows), *dict.fromkeys(short)] if rows else []
