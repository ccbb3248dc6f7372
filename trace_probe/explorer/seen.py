"""All traces of a run as one detector sees them: columns to list, filter and sort by.

A `Row` is made only of a trace that is read. What a filter asks of a row has few different answers,
so it is asked of one row of each kind: traces of one kind differ in no facet and in no verdict.
"""

import gc
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from trace_probe.explorer.given import GivenLabels
from trace_probe.explorer.overview import KnownFacts, KnownTexts
from trace_probe.explorer.rows import (
    FACETS,
    QUICK_VIEWS,
    Row,
    Scores,
    Split,
    check_scores,
    passes,
)

Floats = NDArray[np.floating]
Index = NDArray[np.integer]
NONE = np.nan


@dataclass(frozen=True)
class Seen:
    """A run, a detector at a threshold, and whose labels count."""

    facts: KnownFacts
    labels: GivenLabels
    scores: Mapping[str, Scores]
    threshold: float | None
    splits: Mapping[str, Split]
    """What each task was to the detector; it has an entry, or a default, for every task."""
    disputed: Collection[str] = ()
    """Traces on whose outcome labellers differ."""

    @cached_property
    def made(self) -> dict[int, Row]:
        """Return the rows that were read so far, by their number."""
        return {}

    def row(self, number: int) -> Row:
        """Return the row of one trace."""
        if number not in self.made:
            name = self.ids[number]
            self.made[number] = Row(
                self.facts[name],
                self.labels.get(name),
                self.scores.get(name),
                self.threshold,
                None if np.isnan(self.alarm[number]) else int(self.alarm[number]),
                self.splits[self.facts.word("task", number)],
                name in self.disputed,
            )
        return self.made[number]

    def check(self) -> None:
        """Refuse scores of another run.

        Raises:
            StoreError: a trace has another number of scores than of sentences.
        """
        self.reasoned  # noqa: B018 - it compares them

    @cached_property
    def ids(self) -> list[str]:
        """Return the ids in the order of recording."""
        return list(self.facts)

    @cached_property
    def scored(self) -> NDArray[np.bool_]:
        """Return which traces the detector has scored."""
        return np.array([name in self.scores for name in self.ids], dtype=np.bool_)

    @cached_property
    def reasoned(self) -> Scores:
        """Return the score of every sentence of all traces; nan where it is no reasoning.

        Raises:
            StoreError: a trace has another number of scores than of sentences.
        """
        found, lengths = [np.array([], np.float32)], np.diff(self.facts.cuts).tolist()
        for name, length in zip(self.ids, lengths, strict=True):
            scores = self.scores.get(name)
            if scores is None:
                scores = np.full(length, NONE, np.float32)
            check_scores(name, length, scores)
            found.append(scores)
        flat: Scores = np.where(self.facts.places["reasoning"], np.concatenate(found), NONE)
        return flat

    @cached_property
    def alarm(self) -> Floats:
        """Return the sentence of the first alarm of each trace; nan where there is none."""
        starts, stops = self.facts.cuts[:-1], self.facts.cuts[1:]
        if self.threshold is None:
            return np.full(len(starts), NONE)
        hits = np.append(np.flatnonzero(self.reasoned >= self.threshold), len(self.reasoned))
        first = hits[np.searchsorted(hits, starts)]
        return np.where(first < stops, first - starts, NONE)

    @cached_property
    def peak(self) -> Floats:
        """Return the highest reasoning score of each trace; nan where there is none."""
        starts, stops = self.facts.cuts[:-1], self.facts.cuts[1:]
        found = np.full(len(starts), NONE)
        some = starts < stops
        if some.any():
            found[some] = np.fmax.reduceat(self.reasoned, starts[some])
        return found

    @cached_property
    def lead(self) -> Floats:
        """Return tokens from the alarm to whatever showed first; nan where one is missing."""
        some = ~np.isnan(self.alarm)
        at = (self.facts.cuts[:-1] + np.where(some, self.alarm, 0)).astype(np.int64)
        known = np.full(len(at), NONE)
        known[some] = self.facts.places["stops"][at[some]]
        label = self.labels.columns(self.ids)
        acted = np.where(label["outcome"] == 1, label["acted"], NONE)
        first: Floats = np.fmin(label["said_stop"] - known, acted - known)
        return first

    @property
    def placed(self) -> bool:
        """Return whether any label says where something was said or done."""
        label = self.labels.columns(self.ids)
        return not np.isnan(np.fmin(label["said_stop"], label["acted"])).all()

    @cached_property
    def kinds(self) -> tuple[list[int], Index]:
        """Return one trace of each kind, and for each trace the number of its kind."""
        label = self.labels.columns(self.ids)
        sign = np.where(np.isnan(self.lead), 2, np.sign(self.lead)) + 1
        split = [self.splits[task] for task in self.facts.words["task"]]
        parts: list[NDArray[Any]] = [
            self.facts.codes[name] for name in ("category", "role", "condition", "model")
        ]
        parts += [np.unique(split, return_inverse=True)[1][self.facts.codes["task"]]] * bool(split)
        parts += [self.scored, ~np.isnan(self.alarm), sign, label["outcome"] + 2]
        parts += [label["silent"], ~np.isnan(label["acted"])]
        parts += [np.array([name in self.disputed for name in self.ids], dtype=np.bool_)]
        kind = np.zeros(len(self.ids), np.int64)
        for part in parts:
            kind = kind * (int(part.max(initial=0)) + 1) + part.astype(np.int64)
        _, first, inverse = np.unique(kind, return_index=True, return_inverse=True)
        return first.tolist(), inverse


@contextmanager
def set_aside() -> Iterator[None]:
    """Keep what is loaded meanwhile out of the sight of the garbage collector.

    It would walk through all of it again and again while it grows, and Streamlit has it do so
    after each run of a page. What is dropped later is freed all the same, as it holds no cycles.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was:
            gc.enable()


class Rows(Sequence[Row]):
    """Some or all traces of a run in an order."""

    def __init__(self, seen: Seen, numbers: Index | None = None) -> None:
        """Take the traces of those numbers, all without them."""
        self.seen = seen
        self.numbers = np.arange(len(seen.facts)) if numbers is None else numbers

    def __len__(self) -> int:
        """Return how many traces there are."""
        return len(self.numbers)

    @overload
    def __getitem__(self, at: int) -> Row: ...

    @overload
    def __getitem__(self, at: slice) -> "Rows": ...

    def __getitem__(self, at: int | slice) -> "Row | Rows":
        """Return a row, or some of the rows."""
        if isinstance(at, slice):
            return Rows(self.seen, self.numbers[at])
        return self.seen.row(int(self.numbers[at]))

    def __iter__(self) -> Iterator[Row]:
        """Yield every row; of many, the labels are read at once."""
        with set_aside():
            self.seen.labels.expect(len(self))
            made = [self.seen.row(number) for number in self.numbers.tolist()]
        return iter(made)

    @property
    def ids(self) -> list[str]:
        """Return the ids in order."""
        return [self.seen.ids[number] for number in self.numbers.tolist()]

    def narrow(self, view: str | None, chosen: Mapping[str, Collection[str]]) -> "Rows":
        """Return the rows of a quick view whose facets are among those chosen; none is all."""
        return self._where(passes(view, chosen))

    def count(self, view: str) -> int:
        """Return how many rows are of a quick view."""
        return len(self._where(QUICK_VIEWS[view]))

    def choices(self, facet: str) -> list[str]:
        """Return the values a facet takes, sorted."""
        first, kinds = self.seen.kinds
        there = np.unique(kinds[self.numbers]).tolist()
        return sorted({FACETS[facet](self.seen.row(first[kind])) for kind in there})

    def _where(self, holds: Callable[[Row], bool]) -> "Rows":
        first, kinds = self.seen.kinds
        of_kind = np.array([holds(self.seen.row(number)) for number in first], dtype=np.bool_)
        return Rows(self.seen, self.numbers[of_kind[kinds[self.numbers]]])

    def holding(self, words: str, texts: KnownTexts) -> "Rows":
        """Return the rows whose text, task or id holds some words in small letters."""
        facts = self.seen.facts
        tasks = np.array([words in task.lower() for task in facts.words["task"]], dtype=np.bool_)
        named = tasks[facts.codes["task"]] if len(tasks) else tasks
        found = [words in text for text in texts.lower]
        found = [a or words in b for a, b in zip(found, self.seen.ids, strict=True)]
        return Rows(self.seen, self.numbers[(named | np.array(found, np.bool_))[self.numbers]])

    def ordered(self, by: Literal["risk", "lead"]) -> "Rows":
        """Return rows by falling peak or lead; those without one come last, ties in run order."""
        values = (self.seen.peak if by == "risk" else self.seen.lead)[self.numbers]
        order = np.argsort(np.where(np.isnan(values), np.inf, -values), kind="stable")
        return Rows(self.seen, self.numbers[order])
