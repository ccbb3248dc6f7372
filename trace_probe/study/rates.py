"""Instrumental rates as the paper counts them, by task, and two sets of tasks paired."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from trace_probe.statistics.metrics import Metric, Values, metric, resample, wilson

NEUTRAL = {"nudge": "none", "suffix": "none", "mode": "baseline"}
"""Conditions that push for or against the goal, and their level that does neither."""


class Row(NamedTuple):
    """One labelled trace of a test task."""

    task: str
    category: str
    condition: dict[str, str]
    facts: dict[str, str]
    """The condition and what the labeller knows."""
    instrumental: bool
    silent: bool


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

    def difference(self, seed: int) -> Metric:
        """Return the mean over tasks of first minus second."""
        weights = resample(len(self.first), seed=seed)
        found = metric(weights @ (self.first - self.second) / len(self.first), len(self.first))
        assert found is not None  # a mean of finite gaps is finite
        return found

    def explained(self, seed: int) -> Metric | None:
        """Return the share of the first rate that the second lacks, None if that rate is 0."""
        weights = resample(len(self.first), seed=seed)
        rate, gap = weights @ self.first, weights @ (self.first - self.second)
        share = np.divide(gap, rate, out=np.full(len(gap), np.nan), where=rate > 0)
        return metric(share, len(self.first))

    def mcnemar(self) -> McNemar:
        """Return McNemar's exact test."""
        from scipy.stats import binomtest

        yes, no = (self.first > 0.5, self.second > 0.5), (self.first < 0.5, self.second < 0.5)
        one, other = int((yes[0] & no[1]).sum()), int((no[0] & yes[1]).sum())
        p = float(binomtest(one, one + other).pvalue) if one + other else 1.0
        return McNemar(one, other, int((yes[0] & yes[1]).sum()), int((no[0] & no[1]).sum()), p)


def at(rows: Iterable[Row], fact: str, level: str) -> list[Row]:
    """Return the rows at one level of a fact."""
    return [row for row in rows if row.facts.get(fact) == level]


def pair(
    first: Sequence[Row], second: Sequence[Row], *, ignore: Collection[str] = ()
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


def _cells(rows: Iterable[Row], ignore: Collection[str]) -> dict[tuple[str, str], float]:
    found: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for row in rows:
        kept = {name: level for name, level in row.condition.items() if name not in ignore}
        found[row.task, named(kept)].append(row.instrumental)
    return {key: float(np.mean(outcomes)) for key, outcomes in found.items()}


def task_rates(run: str, rows: Sequence[Row], seed: int) -> Iterable[TaskRate]:
    """Yield IR and each CIR of a run under each of its conditions."""
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        for category in ("all", row.category or "none"):
            groups[named(row.condition), category].append(row)
    for (condition, category), chosen in sorted(groups.items()):
        yield TaskRate(run, condition, category, _by_task(chosen, seed))


def _by_task(rows: Sequence[Row], seed: int) -> Metric:
    """Return the mean over tasks; Wilson's interval where every task is all or nothing."""
    found: dict[str, list[bool]] = defaultdict(list)
    for row in rows:
        found[row.task].append(row.instrumental)
    values = np.array([np.mean(outcomes) for outcomes in found.values()])
    if set(values) <= {0.0, 1.0}:
        return wilson(float(values.mean()), len(values), n=len(values))
    resampled = metric(resample(len(values), seed=seed) @ values / len(values), len(values))
    assert resampled is not None  # a mean of finite rates is finite
    return resampled


def named(condition: dict[str, str]) -> str:
    """Return a condition as text."""
    return ", ".join(f"{name}={level}" for name, level in sorted(condition.items())) or "none"
