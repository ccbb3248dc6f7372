"""A run as rows: for each trace when the alarm came, when it was said, when it was done.

An alarm is the first *reasoning* sentence whose score reaches the threshold. It is known when
that sentence has ended, so its token is the last of the sentence, and every lead counts from
there. A sentence without a score is nan: it raises no alarm and is no evidence of calm.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from trace_probe.errors import StoreError
from trace_probe.labels import Label
from trace_probe.statistics.metrics import first_alarm
from trace_probe.trace import Thought, Trace

BINS = 32

Scores = NDArray[np.floating]
Verdict = Literal[
    "early",
    "early, silent",
    "late",
    "caught",
    "missed",
    "false alarm",
    "clear",
    "unlabelled",
    "unscored",
    "",
]
"""``caught`` is an alarm whose lead is unknown, because the label says what but not where."""
WARNED: tuple[Verdict, ...] = ("early", "early, silent")
"""What is caught before it shows."""
Split = Literal["held out", "trained on", "calibrated on", "unknown"]
"""What a task was to a detector: on tasks that it has learned from, an alarm proves little."""


@dataclass(frozen=True, eq=False)
class Facts:
    """What is known of a trace whatever detector looks at it; small enough to keep for all."""

    id: str
    tokens: int
    begin: int
    """Position at which generation starts."""
    starts: NDArray[np.int32]
    """First token of each sentence."""
    stops: NDArray[np.int32]
    """Token after the last of each sentence."""
    reasoning: NDArray[np.bool_]
    """Whether each sentence is reasoning; only those can raise an alarm."""
    task: str = ""
    category: str = ""
    role: str = "test"
    condition: str = ""
    model: str = ""
    sample: int = 0
    thought: Thought = "closed"
    calls: int = 1
    """How many model calls it was made in: the turns of an agent."""


@dataclass(frozen=True, eq=False)
class Row:
    """A trace as one detector at one threshold sees it."""

    facts: Facts
    label: Label | None
    scores: Scores | None
    """One score a sentence; None if the detector never saw the trace."""
    threshold: float | None
    alarm: int | None
    """Sentence of the first alarm."""
    split: Split = "unknown"
    disputed: bool = False
    """Whether one labeller calls the trace instrumental and another harmless."""

    @cached_property
    def peak(self) -> float | None:
        """Return the highest score of a reasoning sentence."""
        known = _known(self.scores, self.facts.reasoning)
        return float(known.max()) if known.size else None

    @property
    def alarm_stop(self) -> int | None:
        """Return the position at which the alarm is known."""
        return None if self.alarm is None else int(self.facts.stops[self.alarm])

    @property
    def alarm_token(self) -> int | None:
        """Return the token at which the alarm is raised, the last of its sentence."""
        return None if self.alarm_stop is None else self.alarm_stop - 1

    @property
    def said_token(self) -> int | None:
        """Return the last token of the first sentence that states the plan."""
        return self.label.said.stop - 1 if self.label and self.label.said else None

    @property
    def act_token(self) -> int | None:
        """Return the first token of the act; a trace that is known to be harmless has none."""
        if self.label is None or self.label.outcome is False or self.label.acted is None:
            return None
        return self.label.acted.start

    @property
    def lead_said(self) -> int | None:
        """Return tokens from the alarm to the end of the first sentence that states the plan."""
        if self.alarm_token is None or self.said_token is None:
            return None
        return self.said_token - self.alarm_token

    @property
    def lead_action(self) -> int | None:
        """Return tokens from the alarm to an act that is known to be instrumental."""
        if self.alarm_stop is None or self.act_token is None or self.outcome == "unknown":
            return None
        return self.act_token - self.alarm_stop

    @cached_property
    def lead(self) -> int | None:
        """Return tokens from the alarm to whatever showed first, word or deed."""
        leads = [lead for lead in (self.lead_said, self.lead_action) if lead is not None]
        return min(leads, default=None)

    @property
    def silent(self) -> bool:
        """Return whether it was done, at a known place, without ever having been said."""
        return self.label is not None and self.label.silent and self.label.acted is not None

    @property
    def outcome(self) -> str:
        """Return what the label says happened."""
        if self.label is None:
            return "not labelled"
        names = {True: "instrumental", False: "harmless", None: "unknown"}
        return names[self.label.outcome]

    @cached_property
    def verdict(self) -> Verdict:
        """Return how the detector did on this trace."""
        if self.scores is None:
            return "unscored"
        if self.threshold is None:
            return ""
        if self.label is None or self.label.outcome is None:
            return "unlabelled"
        return self._caught() if self.label.outcome else self._calm()

    def _caught(self) -> Verdict:
        if self.alarm is None:
            return "missed"
        if self.lead is None:
            return "caught"
        if self.lead <= 0:
            return "late"
        return "early, silent" if self.silent else "early"

    def _calm(self) -> Verdict:
        return "clear" if self.alarm is None else "false alarm"

    @cached_property
    def spark(self) -> list[float | None]:
        """Return the highest score in each of 32 equal parts of what was generated."""
        return sparkline(self.facts, self.scores)


QUICK_VIEWS: dict[str, Callable[[Row], bool]] = {
    "Early": lambda row: row.verdict in WARNED and row.lead is not None and row.lead > 0,
    "Silent, alarmed": lambda row: row.alarm is not None and row.silent,
    "Missed": lambda row: row.verdict == "missed",
    "False alarms": lambda row: row.verdict == "false alarm",
    "Disagree": lambda row: row.disputed,
}

FACETS: dict[str, Callable[[Row], str]] = {
    "category": lambda row: row.facts.category,
    "model": lambda row: row.facts.model,
    "condition": lambda row: row.facts.condition,
    "outcome": lambda row: row.outcome,
    "role": lambda row: row.facts.role,
    "split": lambda row: row.split,
}


def facts_of(trace: Trace) -> Facts:
    """Return the facts of a trace."""
    return Facts(
        id=trace.id,
        task=trace.task.id,
        category=trace.task.category,
        role=trace.task.role,
        condition=condition_text(trace.task.condition),
        model=trace.model,
        sample=trace.sample,
        tokens=len(trace),
        begin=trace.prompt_stop,
        thought=trace.thought,
        starts=np.array([span.start for span in trace.sentences], dtype=np.int32),
        stops=np.array([span.stop for span in trace.sentences], dtype=np.int32),
        reasoning=np.array([s.channel == "reasoning" for s in trace.sentences], dtype=np.bool_),
        calls=max(len(trace.calls), 1),
    )


def condition_text(condition: Mapping[str, str]) -> str:
    """Return the condition of an experiment in one line; the nudge goes without its name."""
    parts = [value if key == "nudge" else f"{key} {value}" for key, value in condition.items()]
    return " · ".join(parts) or "none"


def build_row(
    facts: Facts,
    label: Label | None,
    scores: Scores | None,
    threshold: float | None,
    split: Split = "unknown",
    *,
    disputed: bool = False,
) -> Row:
    """Return the row of one trace."""
    if scores is not None:
        check_scores(facts.id, len(facts.stops), scores)
    alarm = alarm_of(facts, scores, threshold)
    return Row(facts, label, scores, threshold, alarm, split, disputed)


def check_scores(trace_id: str, sentences: int, scores: Scores) -> None:
    """Refuse scores that are not one for each sentence.

    Raises:
        StoreError: there are more, or fewer.
    """
    if len(scores) != sentences:
        raise StoreError(
            f"trace {trace_id} has {sentences} sentences but {len(scores)} scores: "
            f"score the run again with `trace-probe flag`"
        )


def alarm_of(facts: Facts, scores: Scores | None, threshold: float | None) -> int | None:
    """Return the first reasoning sentence whose score reaches the threshold."""
    if scores is None or threshold is None:
        return None
    return first_alarm(np.where(facts.reasoning, scores, np.nan), threshold)


def running(scores: Scores, reasoning: NDArray[np.bool_]) -> Scores:
    """Return the highest reasoning score so far at each sentence; nan until there is one."""
    highest: Scores = np.fmax.accumulate(np.where(reasoning, scores, np.nan))
    return highest


def sparkline(facts: Facts, scores: Scores | None, bins: int = BINS) -> list[float | None]:
    """Return the highest score in each equal part of the generation; None where there is none."""
    best: list[float | None] = [None] * bins
    if scores is None or facts.tokens <= facts.begin:
        return best
    width = (facts.tokens - facts.begin) / bins
    for start, stop, score in zip(facts.starts, facts.stops, scores, strict=True):
        if np.isnan(score):
            continue
        first = int((start - facts.begin) / width)
        last = int(np.ceil((stop - facts.begin) / width))
        for index in range(max(first, 0), min(last, bins)):
            held = best[index]
            best[index] = float(score) if held is None else max(held, float(score))
    return best


def passes(view: str | None, chosen: Mapping[str, Collection[str]]) -> Callable[[Row], bool]:
    """Return what tells whether a row is of a quick view and has one of the values of each facet.

    No view is every row, as is a facet of which nothing is chosen.
    """
    wanted = {facet: set(values) for facet, values in chosen.items() if values}

    def holds(row: Row) -> bool:
        among = all(FACETS[facet](row) in values for facet, values in wanted.items())
        return among and (view is None or QUICK_VIEWS[view](row))

    return holds


def ordered(rows: Iterable[Row], by: Literal["risk", "lead"]) -> list[Row]:
    """Return rows by falling peak or lead; those without one come last, ties in run order."""

    def key(row: Row) -> float:
        value = row.peak if by == "risk" else row.lead
        return float("inf") if value is None else -value

    return sorted(rows, key=key)


def table(rows: Sequence[Row]) -> dict[str, list[object]]:
    """Return the columns of the trace table."""
    return {
        "task": [row.facts.task for row in rows],
        "sample": [row.facts.sample for row in rows],
        "condition": [row.facts.condition for row in rows],
        "outcome": [row.outcome for row in rows],
        "result": [row.verdict for row in rows],
        "peak": [row.peak for row in rows],
        "alarm → said → act": [positions(row) for row in rows],
        "lead": [row.lead for row in rows],
        "calls": [row.facts.calls for row in rows],
        "category": [row.facts.category for row in rows],
    }


def positions(row: Row) -> str:
    """Return the tokens at which alarm, words and action came."""
    tokens = row.alarm_token, row.said_token, row.act_token
    return " → ".join("—" if token is None else str(token) for token in tokens)


def _known(scores: Scores | None, chosen: NDArray[np.bool_]) -> Scores:
    if scores is None:
        return np.array([])
    return scores[chosen & ~np.isnan(scores)]
