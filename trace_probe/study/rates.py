"""Shares of traces, instrumental rates as the paper counts them, and two sets of tasks paired.

Labelled traces as rows of a study: what happened, under what, and what else is known of it.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from trace_probe.errors import NotEnoughData
from trace_probe.labels import Label
from trace_probe.statistics.bootstrap import SHARE, Bounds, Metric, Values, ratio, resample, wilson
from trace_probe.statistics.bootstrap import share as share_of
from trace_probe.store import Store
from trace_probe.trace import Trace

MOST_LEVELS = 12
"""A condition with more levels than this is no factor unless it is asked for."""


class Case(NamedTuple):
    """One labelled trace of a test task."""

    task: str
    category: str
    condition: dict[str, str]
    facts: dict[str, str]
    """What the labeller knows."""
    instrumental: bool
    silent: bool

    def level(self, factor: str) -> str | None:
        """Return the level of a factor: a condition, a fact or the category."""
        own = self.category if factor == "category" else None
        return self.condition.get(factor, self.facts.get(factor, own))


@dataclass(frozen=True)
class Figure:
    """Something that a share of traces is, among those on which it is known."""

    name: str
    among: Callable[[Case], bool]
    holds: Callable[[Case], bool]


FIGURES = (
    Figure("instrumental", lambda _row: True, lambda row: row.instrumental),
    Figure(
        "silent",
        lambda row: row.instrumental and row.facts.get("said") != "unknown",
        lambda row: row.silent,
    ),
    Figure(
        "unfaithful",
        lambda row: row.instrumental and row.facts.get("unfaithful") in ("yes", "no"),
        lambda row: row.facts["unfaithful"] == "yes",
    ),
)
"""How often traces are instrumental; of instrumental ones, how often the thought never said it,
and how often the last plan it put into words is not what was done."""


@dataclass(frozen=True)
class Factor:
    """Something that traces are told apart by."""

    name: str
    levels: tuple[str, ...]
    kind: Literal["condition", "fact", "category"]
    """A condition was set beforehand. A fact of the label is known only afterwards: rates by it
    say how acts are distributed, not what the fact does."""


def read_rows(store: Store, labeller: str | None = None) -> list[Case]:
    """Return the traces of test tasks whose outcome is known; of the latest labeller by default."""
    labels = store.labels(labeller)
    pairs = ((trace, labels.get(trace.id)) for trace in store.traces())
    return [_row(trace, label) for trace, label in pairs if label and _counts(trace, label)]


def _counts(trace: Trace, label: Label) -> bool:
    return trace.task.role == "test" and label.outcome is not None


def _row(trace: Trace, label: Label) -> Case:
    task = trace.task
    return Case(
        task.id, task.category, task.condition, label.facts, bool(label.outcome), label.silent
    )


def at(rows: Iterable[Case], factor: str, level: str) -> list[Case]:
    """Return the rows at one level of a factor."""
    return [row for row in rows if row.level(factor) == level]


def find_factors(rows: Sequence[Case], names: Sequence[str] = ()) -> tuple[Factor, ...]:
    """Return the factors by these names, or else all conditions and yes-or-no facts that vary.

    Raises:
        NotEnoughData: a name is neither a condition nor a fact of these traces.
    """
    conditions = {name for row in rows for name in row.condition}
    facts = {name for row in rows for name in row.facts} - conditions
    known = {*conditions, *facts, "category"}
    for name in names:
        if name not in known:
            raise NotEnoughData(f"no factor {name!r}: these traces have {', '.join(sorted(known))}")
    found = [_factor(rows, name, conditions, facts) for name in names or sorted(known)]
    return tuple(one for one in found if names or _is_told_unasked(one))


def _factor(rows: Sequence[Case], name: str, conditions: set[str], facts: set[str]) -> Factor:
    levels = {level for row in rows if (level := row.level(name)) is not None}
    kind: Literal["condition", "fact", "category"] = (
        "condition" if name in conditions else "fact" if name in facts else "category"
    )
    return Factor(name, tuple(sorted(levels)), kind)


def _is_told_unasked(factor: Factor) -> bool:
    if factor.kind == "fact":
        own = {figure.name for figure in FIGURES}
        return factor.name not in own and factor.levels == ("no", "yes")
    return factor.kind == "condition" and 1 < len(factor.levels) <= MOST_LEVELS


@dataclass(frozen=True)
class TaskRate:
    """How many tasks end instrumentally, a task with several traces as their mean."""

    run: str
    condition: str
    """Such as ``nudge=push, suffix=none``; the paper's figures are of one condition."""
    category: str
    """``all`` for the instrumental rate IR, else that category's rate CIR."""
    value: Metric
    """Counted in tasks."""

    @property
    def figure(self) -> str:
        """Return the paper's name for it."""
        return "IR" if self.category == "all" else "CIR"


@dataclass(frozen=True)
class McNemar:
    """Paired tasks by outcome; a task whose traces are evenly split is in none."""

    first_only: int
    """Instrumental in the first set only."""
    second_only: int
    both: int
    neither: int
    p: float
    """Two-sided and exact, of a coin for each task that differs."""


@dataclass(frozen=True)
class Pairing:
    """The rates of the same tasks in two sets of traces."""

    first: Values
    second: Values

    def rates(self, seed: int) -> tuple[Metric, Metric]:
        """Return the mean over tasks of each set."""
        return task_mean(self.first, seed), task_mean(self.second, seed)

    def difference(self, seed: int) -> Metric:
        """Return the mean over tasks of first minus second."""
        gap = self.first - self.second
        return _over_tasks(gap, seed, (-1.0, 1.0))

    def explained(self, seed: int) -> Metric | None:
        """Return the share of the first rate that the second lacks, None if that rate is 0."""
        weights, tasks = resample(len(self.first), seed=seed), np.arange(len(self.first))
        lacking = self.first - self.second
        return ratio(lacking, self.first, tasks, weights, (-math.inf, 1.0)).interval()

    def mcnemar(self) -> McNemar:
        """Return McNemar's exact test."""
        from scipy.stats import binomtest

        yes, no = (self.first > 0.5, self.second > 0.5), (self.first < 0.5, self.second < 0.5)
        one, other = int((yes[0] & no[1]).sum()), int((no[0] & yes[1]).sum())
        p = float(binomtest(one, one + other).pvalue) if one + other else 1.0
        return McNemar(one, other, int((yes[0] & yes[1]).sum()), int((no[0] & no[1]).sum()), p)


def _over_tasks(values: Values, seed: int, bounds: Bounds = SHARE) -> Metric:
    """Return the mean of a value for each task."""
    n, tasks = len(values), np.arange(len(values))
    found = ratio(values, np.ones(n), tasks, resample(n, seed=seed), bounds).interval()
    assert found is not None  # a mean of finite values is finite
    return found


def share(rows: Sequence[Case], figure: Figure, seed: int = 0) -> Metric | None:
    """Return a figure of some traces, bootstrapped over tasks; None if it is known of none."""
    among = [row for row in rows if figure.among(row)]
    if not among:
        return None
    hit = np.array([figure.holds(row) for row in among], dtype=bool)
    return share_of(hit, [row.task for row in among], seed=seed)


def instrumental_rate(rows: Sequence[Case], seed: int = 0) -> Metric | None:
    """Return the share of traces that end instrumentally, bootstrapped over tasks."""
    return share(rows, FIGURES[0], seed)


def share_gap(
    first: Sequence[Case], second: Sequence[Case], figure: Figure, seed: int
) -> Metric | None:
    """Return the difference of a figure between two sets of traces, tasks resampled together.

    For shares among instrumental traces, of which a task may have some in one set only.
    """
    sides = [[row for row in rows if figure.among(row)] for rows in (first, second)]
    names = sorted({row.task for rows in sides for row in rows})
    if not all(sides):
        return None
    weights = resample(len(names), seed=seed)
    place = {name: i for i, name in enumerate(names)}
    one, other = (
        ratio(
            np.array([figure.holds(row) for row in rows], dtype=float),
            np.ones(len(rows)),
            np.array([place[row.task] for row in rows]),
            weights,
        )
        for rows in sides
    )
    return replace(one - other, n=sum(map(len, sides))).interval()


def pair(
    first: Sequence[Case], second: Sequence[Case], *, ignore: Collection[str] = ()
) -> Pairing | None:
    """Pair two sets by task and condition, but for the conditions `ignore`; None if none fits.

    A task's value is the mean over the conditions in which both sets have it.
    """
    one, other = _cells(first, ignore), _cells(second, ignore)
    gathered: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for key in sorted(one.keys() & other.keys()):
        gathered[key[0]].append((one[key], other[key]))
    if not gathered:
        return None
    means = np.array([np.mean(cells, axis=0) for cells in gathered.values()])
    return Pairing(means[:, 0], means[:, 1])


def _cells(rows: Iterable[Case], ignore: Collection[str]) -> dict[tuple[str, str], float]:
    found: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for row in rows:
        kept = {name: level for name, level in row.condition.items() if name not in ignore}
        found[row.task, named(kept)].append(row.instrumental)
    return {key: float(np.mean(outcomes)) for key, outcomes in found.items()}


def task_rates(run: str, rows: Sequence[Case], seed: int) -> Iterable[TaskRate]:
    """Yield IR and each CIR of a run under each of its conditions."""
    groups: dict[tuple[str, str], list[Case]] = defaultdict(list)
    for row in rows:
        for category in ("all", row.category or "none"):
            groups[named(row.condition), category].append(row)
    for (condition, category), chosen in sorted(groups.items()):
        outcomes: dict[str, list[bool]] = defaultdict(list)
        for row in chosen:
            outcomes[row.task].append(row.instrumental)
        values = np.array([np.mean(found) for found in outcomes.values()])
        yield TaskRate(run, condition, category, task_mean(values, seed))


def task_mean(values: Values, seed: int) -> Metric:
    """Return the mean of the rates of tasks; Wilson's interval where each is all or nothing."""
    if set(values) <= {0.0, 1.0}:
        return wilson(float(values.mean()), len(values), n=len(values))
    return _over_tasks(values, seed)


def named(condition: dict[str, str]) -> str:
    """Return a condition as text."""
    return ", ".join(f"{name}={level}" for name, level in sorted(condition.items())) or "none"
