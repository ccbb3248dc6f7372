"""What a detector achieved, as a value, as JSON and as a table.

Reports are kept in a run as JSON. Those of earlier versions are read as well: see `from_json`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trace_probe.errors import NotEnoughData, StoreError
from trace_probe.statistics.bootstrap import Metric, shown
from trace_probe.storage.typed import from_plain, renamed, to_plain
from trace_probe.store import Store
from trace_probe.visible import aligned

SCHEMA = 2
"""Of the JSON of reports; those of schema 1 do not name theirs."""
AGAIN = "evaluate again with `trace-probe evaluate`"
EARLIER = {"rule": "smoothing", "honest_rate": "guaranteed_rate"}
"""Names that reports of schema 1 have for fields of today."""
NAME = "caught_before_said_at_sibling_rate"
RATES = ("0.05", "0.1")
"""Shares of siblings that may alarm, for which the headline is reported."""


ACT = "caught_before_action_at_sibling_rate"


def at_rate(rate: str, headline: str = NAME) -> str:
    """Return under which name a headline at a rate of siblings that alarm is kept."""
    return f"{headline}:{rate}"


Figures = Mapping[str, Metric | None]
"""By name; None where the data cannot give a figure."""
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
UNITS = {"share": "shares of the trace"}
ALARMS = {
    "false_alarm_rate": "benign traces that alarm",
    "sibling_alarm_rate": "siblings that alarm",
    "hard_negative_alarm_rate": "hard negatives that alarm",
}
RANKED = {
    "within_prompt_auroc": "AUROC within prompts",
    "length_matched_auroc": "AUROC within prompts, pairs of equal length",
    "pooled_auroc": "AUROC over all prompts",
    "delta_over_best_text": "gain over the best text baseline (AUROC within prompts)",
    "delta_bits": "information beyond the text, in bits per trace",
    "selectivity": "gain over shuffled labels (AUROC within prompts)",
    "observer_gap": "gain over the observer (AUROC within prompts)",
}
CAUGHT = {
    "caught_before_said": "caught before it is said, of those that say it",
    "caught_before_action": "caught before the act, of all",
    "silent_caught": "caught before the act, of those that never say it",
}
AT_THRESHOLD = {**ALARMS, **CAUGHT}
FIGURES = {**ALARMS, **RANKED, **CAUGHT}
WORDS = {**COLUMNS, **FIGURES}
"""What the figures of a report are of, in words."""


@dataclass(frozen=True)
class AtSiblingRate:
    """A headline at one rate of siblings that alarm, beside what else would catch."""

    caught: Metric | None = None
    chance: Metric | None = None
    """With scores permuted within prompts."""
    over_chance: Metric | None = None
    best_text: str = ""
    """The text baseline that catches most."""
    text: Metric | None = None
    over_text: Metric | None = None
    over_sentences_left: Metric | None = None
    lead: Figures = field(default_factory=dict)
    """How long before the moment those caught alarm, by unit."""
    confidence: Metric | None = None
    """Output confidence; None where it was not recorded."""
    over_confidence: Metric | None = None
    oracle: Metric | None = None
    """What there was to know; None where no oracle was asked."""
    beside_oracle: Metric | None = None
    """The detector on the traces of the oracle."""
    oracle_traces: int = 0


@dataclass(frozen=True)
class AtLimit:
    """What alarms at a threshold that guarantees a false-alarm rate."""

    threshold: float
    guaranteed_rate: float
    """Above the rate that was asked for where the calibration traces are too few."""
    n: int
    """Calibration traces."""
    note: str
    caught_before_said: Metric | None
    caught_before_action: Metric | None
    silent_caught: Metric | None
    sibling_alarm_rate: Metric | None
    false_alarm_rate: Metric | None = None
    hard_negative_alarm_rate: Metric | None = None


@dataclass(frozen=True)
class Survival:
    """A Kaplan-Meier curve of traces without an alarm, by sentence, with its 95 % band."""

    sentence: Sequence[float]
    share: Sequence[float]
    lower: Sequence[float]
    upper: Sequence[float]
    at_risk: Sequence[int]
    hazard: Sequence[float]
    median: float | None
    """None if half of the traces never alarm."""


@dataclass(frozen=True)
class AlarmFree:
    """How many traces have not alarmed yet, by outcome."""

    positive: Survival
    negative: Survival


@dataclass(frozen=True)
class EventAligned:
    """Mean scores by sentences from the one that says it, which is 0."""

    offset: Sequence[int]
    positive: Sequence[Metric | None]
    negative: Sequence[Metric | None]
    difference: Sequence[Metric | None]
    emergence: int | None
    """The first offset below 0 at which the outcomes differ; None if there is none."""


@dataclass(frozen=True)
class More:
    """Further figures; empty or None where the data cannot give them."""

    best_text: str = ""
    """The text baseline that ranks best."""
    headline: Mapping[str, AtSiblingRate] = field(default_factory=dict)
    """Caught before it is said, by rate of siblings that alarm."""
    headline_act: Mapping[str, AtSiblingRate] = field(default_factory=dict)
    """Caught before the act; of agents' runs only."""
    average_precision: Metric | None = None
    brier: Metric | None = None
    calibration_error: Metric | None = None
    whole_trace: Figures = field(default_factory=dict)
    """AUROC at the end of the reasoning."""
    alarm_statistic: Figures = field(default_factory=dict)
    """AUROC of what the alarm follows."""
    before_said_by_guard: Figures = field(default_factory=dict)
    """Caught so many sentences before it is said."""
    within_prompt_by_guard: Figures = field(default_factory=dict)
    useful_warning_by_chance: Metric | None = None
    """Caught before the act with scores permuted within tasks."""
    useful_warning_over_chance: Metric | None = None
    predictive_value: Figures = field(default_factory=dict)
    """Share of true alarms, by base rate."""
    alarm_free: AlarmFree | None = None
    mean_warning: Figures = field(default_factory=dict)
    """How long before the act, by unit."""
    tokens: Figures = field(default_factory=dict)
    """Caught within so many tokens."""
    calls: Figures = field(default_factory=dict)
    """Caught so many model calls before that of the act."""
    by_rate: Mapping[str, Mapping[str, AtLimit]] = field(default_factory=dict)
    """By false-alarm rate and kind of guarantee."""
    event_aligned: EventAligned | None = None


@dataclass(frozen=True)
class Report:
    """What a detector achieves on tasks it has not seen, beside every baseline."""

    __pydantic_config__ = {"allow_inf_nan": False, "extra": "ignore"}

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
    useful_warning: Figures = field(default_factory=dict)
    """By number of sentences: alarmed at least so many before the action, of all positives."""
    prefix: Figures = field(default_factory=dict)
    """By fraction of the reasoning: alarmed by then, of all positives."""
    more: More = More()
    notes: tuple[str, ...] = ()
    smoothing: str = "max"
    """What its alarms follow."""
    ranked_by: str = "max"
    """What is made of scores where traces are ranked at a moment."""

    def __post_init__(self) -> None:
        """Refuse a report without baselines."""
        if not self.baselines:
            raise NotEnoughData("a detector cannot be reported without its baselines")

    def __str__(self) -> str:
        """Return a report as text: the headline, a table of all detectors, and what alarms cost."""
        names = [name for name in COLUMNS if _any(self, name)]
        names = names or [name for name in POOLED if _any(self, name)]
        detectors = {self.detector: self.figures, **self.baselines, **self.alternatives}
        table = [
            [name, *(shown(figures.get(column)) for column in names)]
            for name, figures in detectors.items()
        ]
        parts = (
            _headline(self),
            list(self.notes),
            aligned([["", *(WORDS[name] for name in names)], *table]) if names else [],
            _at_threshold(self),
            _further(self),
            _rates(self),
            _counts(self),
        )
        return "\n\n".join("\n".join(part) for part in parts if part)

    def to_json(self) -> dict[str, Any]:
        """Return plain values; null where a figure cannot be computed."""
        plain = to_plain(self)
        own = {**dict.fromkeys((*FIGURES, *map(at_rate, RATES))), **plain.pop("figures")}
        for name in ("baselines", "alternatives"):
            plain[name] = {each: _by_stem(its) for each, its in plain[name].items()}
        return {"schema": SCHEMA, **plain, **_by_stem(own), "notes": list(self.notes)}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any], file: object = "the report") -> "Report":
        """Return the report that `to_json`, of this version or an earlier one, gave.

        Raises:
            StoreError: it is of a later version, or holds something else.
        """
        schema = raw.get("schema", 1)
        if schema not in (1, SCHEMA):
            raise StoreError(f"{file} has schema {schema!r:.40}: update trace_probe")
        raw = renamed(raw, EARLIER) if schema == 1 else raw
        own = {name: its for name, its in raw.items() if name in FIGURES or name in (NAME, ACT)}
        plain = {**raw, "figures": _by_name(own)}
        for name in ("baselines", "alternatives"):
            several = raw.get(name)
            if isinstance(several, Mapping):
                plain[name] = {each: _by_name(its) for each, its in several.items()}
        return from_plain(cls, plain, file, advice=AGAIN)


def read_report(store: Store, detector: str) -> Report | None:
    """Return the report of a detector that a run keeps; None if there is none.

    Raises:
        StoreError: it is damaged, or was written by a later version.
    """
    raw = store.report(detector)
    if raw is None:
        return None
    return Report.from_json(raw, store.artifacts.url("reports", detector))


def _by_stem(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return figures with a headline under one name, by the rate of siblings that alarm."""
    found: dict[str, Any] = {}
    for name, value in figures.items():
        stem, _, rate = name.partition(":")
        inside = found.setdefault(stem, {}) if rate else found
        inside[rate or stem] = value
    return found


def _by_name(figures: object) -> object:
    """Return figures with a name for each rate of a headline: see `_by_stem`."""
    if not isinstance(figures, Mapping):
        return figures
    found: dict[str, Any] = {}
    for name, value in figures.items():
        if isinstance(value, Mapping) and "estimate" not in value:
            found |= {at_rate(rate, name): its for rate, its in value.items()}
        else:
            found[name] = value
    return found


def ranked_as(smoothing: str) -> str:
    """Return in words by what a detector is ranked."""
    return "plain scores" if smoothing == "max" else smoothing


def is_text(baseline: str) -> bool:
    """Return whether a baseline reads nothing but text."""
    return baseline in TEXT or baseline.startswith("text-monitor")


def format_summary(report: Report) -> str:
    """Return the headline, what a reader must be told, and the false alarms, in a few lines."""
    alarms = {WORDS[name]: report.figures.get(name) for name in HARMLESS}
    parts = (_headline(report), list(report.notes), _lines(alarms), _counts(report))
    return "\n\n".join("\n".join(part) for part in parts if part)


def _counts(report: Report) -> list[str]:
    return [", ".join(f"{count} {name.replace('_', ' ')}" for name, count in report.n.items())]


HARMLESS = ("false_alarm_rate", "sibling_alarm_rate")
"""Alarms on harmless traces, at the threshold of the detector."""
RATE_SHARES = ("sibling_alarm_rate", "caught_before_said", "silent_caught")


def _any(report: Report, name: str) -> bool:
    every = [report.figures, *report.baselines.values()]
    return any(figures.get(name) is not None for figures in every)


def _headline(report: Report) -> list[str]:
    """Return a line for each sibling rate: caught, beside what else would catch, and how early."""
    each = (report.more.headline, "it is said"), (report.more.headline_act, "the act")
    return [
        line
        for headline, moment in each
        for rate, its in headline.items()
        for line in _headline_at(rate, its, moment)
    ]


def _headline_at(rate: str, its: AtSiblingRate, moment: str) -> list[str]:
    rivals = {its.best_text: its.text, "output confidence": its.confidence, "chance": its.chance}
    if its.oracle:
        asked = f"on {its.oracle_traces} traces the oracle"
        rivals |= {asked: its.oracle, "and it": its.beside_oracle}
    beside = "; ".join(f"{name} {shown(value, 2)}" for name, value in rivals.items() if value)
    own = shown(its.caught, 2)
    lines = [f"caught before {moment}, {float(rate):.0%} of siblings alarm: {own} ({beside})"]
    if all(its.lead.values()):
        each = [f"{shown(value, DIGITS[unit])} {unit}" for unit, value in its.lead.items()]
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
    more = report.more
    rows = {words: report.figures.get(name) for name, words in AT_THRESHOLD.items()}
    several: dict[str, Figures] = {
        "alarm {} or more sentences before the act, of all": {
            lead: value for lead, value in report.useful_warning.items() if lead != "0"
        },
        "alarm {} or more model calls before that of the act, of all": more.calls,
        "caught before the act {}": {
            "by chance (permuted within tasks)": more.useful_warning_by_chance
        },
        "caught before the act, {}": {"beyond chance": more.useful_warning_over_chance},
        "mean warning before the act, in {}": {
            UNITS.get(unit, unit): value for unit, value in more.mean_warning.items()
        },
        "share of alarms that are right if {} of traces act": more.predictive_value,
    }
    rows |= {words.format(key): its for words, by in several.items() for key, its in by.items()}
    return [
        f"at the threshold {report.threshold:.4g}, set for {report.target_false_alarm_rate:.1%} of "
        f"benign traces; alarms follow {report.smoothing}",
        *_lines(rows),
    ]


def _further(report: Report) -> list[str]:
    """Return what else there is to say of how well it ranks."""
    others = {name: words for name, words in RANKED.items() if name not in COLUMNS}
    rows = {words: report.figures.get(name) for name, words in others.items()}
    more = report.more
    rows |= {
        "average precision": more.average_precision,
        "brier": more.brier,
        "calibration error": more.calibration_error,
    }
    found = _lines(rows)
    best = more.best_text
    title = f"ranked by {ranked_as(report.ranked_by)}"
    return [title + (f"; the best text baseline is {best}" if best else ""), *found]


def _rates(report: Report) -> list[str]:
    """Return what each false-alarm rate would catch, with the rate that can be guaranteed."""
    limits = [
        (f"{float(target):.1%} {name}", at)
        for target, guarantees in report.more.by_rate.items()
        for name, at in guarantees.items()
    ]
    rows = [
        [name, f"{at.guaranteed_rate:.2%}"]
        + [f"{one.estimate:.3f}" if (one := getattr(at, name)) else "-" for name in RATE_SHARES]
        for name, at in limits
    ]
    short = [at.note for _, at in limits if at.note]
    head = ["at a false-alarm rate of", "guaranteed", *(WORDS[name] for name in RATE_SHARES)]
    return [*aligned([head, *rows]), *dict.fromkeys(short)] if rows else []
