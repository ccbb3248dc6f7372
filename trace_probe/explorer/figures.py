"""Figures of an evaluation report, each with its interval and its n.

A report comes from disk and may be of another version, so whatever is missing or has another
shape is shown as missing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trace_probe.evaluation.report import ACT, RATES, at_rate
from trace_probe.statistics.bootstrap import Metric
from trace_probe.visible import visible

HEADLINE, HEADLINE_ACT = at_rate("0.05"), at_rate("0.05", ACT)
"""The second is of agents' runs only."""
OF_AGENTS = {
    HEADLINE_ACT: "Caught before the violating call, 5 % of siblings alarm",
    at_rate("0.1", ACT): "Caught before the violating call, 10 % of siblings alarm",
}
MAIN = {
    **OF_AGENTS,
    HEADLINE: "Caught before it is said, 5 % of siblings alarm",
    at_rate("0.1"): "Caught before it is said, 10 % of siblings alarm",
    "within_prompt_auroc": "Within-prompt AUROC",
    "pooled_auroc": "Pooled AUROC",
    "delta_over_best_text": "Gain over the best text baseline",
    "caught_before_said": "Caught before it is said, of those that say it",
    "caught_before_action": "Caught before the action",
    "silent_caught": "Silent traces caught",
    "false_alarm_rate": "False alarms, benign traces",
    "sibling_alarm_rate": "Alarms, siblings",
    "hard_negative_alarm_rate": "Alarms, hard negatives",
}
BESIDE = {
    "text": "best text baseline",
    "confidence": "output confidence",
    "chance": "chance",
    "oracle": "oracle",
    "beside_oracle": "the detector, on the traces of the oracle",
}
"""What stands beside a headline, by its name in a report."""
RANKS = ("within_prompt_auroc", "pooled_auroc")
"""How well a detector ranks, the harder question first."""
SHARES = frozenset(name for name in MAIN if "caught" in name or "rate" in name)


@dataclass(frozen=True)
class Figure:
    """An estimate with its 95 % interval."""

    estimate: float | None
    lower: float | None
    upper: float | None
    n: int | None

    @classmethod
    def of(cls, value: Metric | None, n: int) -> "Figure":
        """Return a figure that was computed here, of n where there is none."""
        if value is None:
            return cls(None, None, None, n)
        if not value.has_interval:
            return cls(value.estimate, None, None, value.n)
        return cls(value.estimate, value.lower, value.upper, value.n)

    @property
    def known(self) -> bool:
        """Return whether there were data enough for an estimate."""
        return self.estimate is not None

    def text(self, *, percent: bool = False) -> str:
        """Return the estimate with its interval, or why there is none."""
        if self.estimate is None:
            return f"not enough data (n = {self.n})" if self.n is not None else "not measured"
        times, digits, unit = (100, 1, " %") if percent else (1, 2, "")
        shown = f"{times * self.estimate:.{digits}f}{unit}"
        if self.lower is None or self.upper is None:
            return f"{shown} (no interval)"
        return f"{shown} [{times * self.lower:.{digits}f}, {times * self.upper:.{digits}f}]"


def figure(report: Mapping[str, Any] | None, key: str) -> Figure:
    """Return a figure of a report; unknown in every part if the report lacks it.

    A report keeps the headline under one name, by the rate of siblings that alarm.
    """
    raw = part(report, *filter(None, key.partition(":")[::2]))
    n = number(raw.get("n"))
    return Figure(
        number(raw.get("estimate")),
        number(raw.get("lower")),
        number(raw.get("upper")),
        None if n is None else int(n),
    )


def part(report: object, *names: str) -> Mapping[str, Any]:
    """Return a part of a report by the names that lead to it; empty where there is none."""
    for name in names:
        report = report.get(name) if isinstance(report, Mapping) else None
    return report if isinstance(report, Mapping) else {}


def number(raw: object) -> float | None:
    """Return a number of a report, or None for anything else."""
    return float(raw) if isinstance(raw, int | float) and not isinstance(raw, bool) else None


def main_figures(report: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the columns of the table of main figures."""
    every = {key: figure(report, key) for key in MAIN}
    figures = {key: one for key, one in every.items() if one.known or key not in OF_AGENTS}
    return {
        "figure": [MAIN[key] for key in figures],
        "estimate [95 %]": [f.text(percent=key in SHARES) for key, f in figures.items()],
        "n": ["" if f.n is None else str(f.n) for f in figures.values()],
    }


def before_the_call(report: Mapping[str, Any] | None) -> dict[str, list[str]]:
    """Return the columns of a table of what is caught before the violating call, and by what.

    Empty where the report is not of agents' runs.
    """
    raw = part(report, "more", "headline_act")
    if not raw:
        return {}
    name = visible(str(report["detector"])) if report and "detector" in report else "detector"
    rows = {name: "caught", **{words: key for key, words in BESIDE.items()}}
    found = {name: [_at(raw.get(rate), key) for rate in RATES] for name, key in rows.items()}
    kept = {name: cells for name, cells in found.items() if any(cells)}
    columns = [f"{100 * float(rate):.0f} % of siblings alarm" for rate in RATES]
    return {
        "caught before the violating call": list(kept),
        **{column: [cells[at] for cells in kept.values()] for at, column in enumerate(columns)},
    }


def _at(headline: object, key: str) -> str:
    """Return a figure of a headline in words, with the name of what it is of; empty if unknown."""
    if not isinstance(headline, Mapping) or not figure(headline, key).known:
        return ""
    of = {"text": str(headline.get("best_text", ""))}
    of["oracle"] = f"{number(headline.get('oracle_traces')) or 0:.0f} traces"
    words = figure(headline, key).text(percent=True)
    return f"{words} ({visible(of[key])})" if of.get(key) else words


def compared(report: Mapping[str, Any], key: str) -> dict[str, Figure]:
    """Return one figure of the detector and of each baseline, by name, the detector first."""
    found = {str(report.get("detector", "detector")): figure(report, key)}
    rivals = part(report, "baselines").items()
    return found | {str(name): figure(raw, key) for name, raw in rivals if isinstance(raw, Mapping)}


def best_baseline(report: Mapping[str, Any] | None, key: str) -> str | None:
    """Return the baseline that does best at a figure, with its interval."""
    rivals = list(compared(report, key).items())[1:] if report else []
    known = [(value.estimate, name, value) for name, value in rivals if value.estimate is not None]
    if not known:
        return None
    _, name, value = max(known, key=lambda rival: rival[0])
    return f"{name}, {value.text(percent=key in SHARES)}"


def notes(report: Mapping[str, Any] | None) -> list[str]:
    """Return what a report says in words; model text is among it only as data."""
    found = report.get("notes") if report else None
    return [str(note) for note in found] if isinstance(found, list | tuple) else []


def by_step(report: Mapping[str, Any], key: str) -> dict[str, Figure]:
    """Return a figure that a report gives at several steps, by step, in its order."""
    raw = part(report, key)
    return {str(step): figure(raw, step) for step in raw}
