"""Which traces belong side by side, and how two of them lie on one axis."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import attrgetter
from typing import Literal

import numpy as np

from trace_probe.episode import alike
from trace_probe.explorer.figures import Figure
from trace_probe.explorer.rows import Row
from trace_probe.statistics.bootstrap import mean
from trace_probe.trace import Trace

Align = Literal["start", "call", "alarm", "action"]
"""What lies over what; by ``call`` two agents are followed turn by turn."""
ALIGNMENTS: tuple[Align, ...] = ("start", "call", "alarm", "action")
NEUTRAL = ("none", "neutral", "baseline")


@dataclass(frozen=True, eq=False)
class Pair:
    """Two traces, or one trace as two detectors see it."""

    first: Row
    second: Row

    @property
    def alarms(self) -> str:
        """Return which of the two raised an alarm."""
        raised = self.first.alarm is not None, self.second.alarm is not None
        words = {(True, True): "both", (True, False): "only A", (False, True): "only B"}
        return words.get(raised, "neither")

    @property
    def difference(self) -> float | None:
        """Return the peak of the second less that of the first."""
        if self.first.peak is None or self.second.peak is None:
            return None
        return self.second.peak - self.first.peak

    @property
    def gap(self) -> float:
        """Return how far the peaks lie apart; 0 where that is not known."""
        return abs(self.difference or 0.0)


def by_outcome(rows: Iterable[Row], texts: Mapping[str, str]) -> list[Pair]:
    """Return for each prompt with both outcomes a harmless sample and one that acted.

    Of all such samples of a prompt they are the two that go together longest: `texts` holds what
    was written, by trace id. So what follows is what chance alone decided.
    """
    found = []
    for group in _groups(rows, _facts("model", "task", "condition")):
        judged = [row for row in group if row.outcome in ("harmless", "instrumental")]
        # Of texts in order, neighbours share the longest beginnings.
        judged.sort(key=lambda row: (texts[row.facts.id], row.facts.sample))
        there = [pair for pair in pairwise(judged) if pair[0].outcome != pair[1].outcome]
        if there:
            two = max(there, key=lambda pair: alike(*(texts[row.facts.id] for row in pair)))
            found.append(Pair(*sorted(two, key=lambda row: row.outcome)))
    return found


def by_nudge(rows: Iterable[Row]) -> list[Pair]:
    """Return for each task and sample the trace without a nudge and each with one."""
    found = []
    for group in _groups(rows, _facts("model", "task", "sample")):
        plain = next((row for row in group if _plain(row)), None)
        if plain is not None:
            found += [Pair(plain, row) for row in group if _nudge(row) != _nudge(plain)]
    return found


def across(first: Iterable[Row], second: Iterable[Row]) -> list[Pair]:
    """Return the traces of two runs that share task, condition and sample."""
    return _matched(first, second, _facts("task", "condition", "sample"))


def same_trace(first: Iterable[Row], second: Iterable[Row]) -> list[Pair]:
    """Return every trace as two detectors see it."""
    return _matched(first, second, _facts("id"))


def _facts(*names: str) -> Callable[[Row], Hashable]:
    """Return what gives some facts of a row: rows that agree in them belong together."""
    return lambda row: attrgetter(*names)(row.facts)


def _matched(
    first: Iterable[Row], second: Iterable[Row], key: Callable[[Row], Hashable]
) -> list[Pair]:
    others = {key(row): row for row in second}
    return [Pair(row, others[key(row)]) for row in first if key(row) in others]


def _groups(rows: Iterable[Row], key: Callable[[Row], Hashable]) -> Iterable[list[Row]]:
    found: defaultdict[Hashable, list[Row]] = defaultdict(list)
    for row in rows:
        found[key(row)].append(row)
    return found.values()


def _nudge(row: Row) -> str:
    """Return the nudge of a trace, which `condition_text` writes first."""
    return row.facts.condition.split(" · ")[0]


def _plain(row: Row) -> bool:
    """Return whether nothing was done to make a trace act one way or the other."""
    return _nudge(row).rpartition(" ")[2] in NEUTRAL


def mean_difference(pairs: Sequence[Pair], *, seed: int = 0) -> Figure:
    """Return the mean difference of peaks, B less A, resampled over tasks."""
    known = [(pair.first.facts.task, pair.difference) for pair in pairs]
    held = [(task, value) for task, value in known if value is not None]
    if not held:
        return Figure(None, None, None, 0)
    tasks, values = zip(*held, strict=True)
    return Figure.of(mean(np.array(values), tasks, seed=seed).interval(), len(held))


def origin(row: Row, align: Align) -> int | None:
    """Return the token at which the axis of a trace is 0; None if it lacks that event."""
    if align == "alarm":
        return row.alarm_stop
    return row.act_token if align == "action" else row.facts.begin


def parting(first: Trace, second: Trace) -> int | None:
    """Return the first sentence in which two traces differ; None if one is the other's start."""
    for index, (one, other) in enumerate(zip(first.sentences, second.sentences, strict=False)):
        if first.text_of(one).strip() != second.text_of(other).strip():
            return index
    return None
