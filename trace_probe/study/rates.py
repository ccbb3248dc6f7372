"""Shares of traces, instrumental rates as the paper counts them, and two sets of tasks paired."""

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from trace_probe.statistics.bootstrap import (
    SHARE,
    Bounds,
    Metric,
    Values,
    ratio,
    resample,
    wilson,
)
from trace_probe.statistics.bootstrap import share as share_of
from trace_probe.study.rows import FIGURES, Case, Figure


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
