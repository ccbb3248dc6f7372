"""A figure before and after a change: whether it moved, and how many tasks it takes to know."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

from trace_probe.statistics.bootstrap import SAME, Metric, Resampled, Values, rate, ratio

WIDER = 3.2905 / 1.96
"""How many times as wide a 99.9 % interval is as a 95 % one, of what is about normal."""


@dataclass(frozen=True)
class Shift:
    """A figure before and after a change."""

    before: Metric | None
    after: Metric | None
    shift: Metric | None
    """The second less the first, on the same resamples; None where one of them is not known."""
    guaranteed: float | None = None
    """What a rate may be; None of other figures."""

    def broken(self) -> bool:
        """Return whether a rate is above its guarantee, and the change brought it there."""
        return (
            self.guaranteed is not None
            and self.after is not None
            and self.shift is not None
            and self.after.above(self.guaranteed)
            and _surely(self.shift) > 0
        )

    def holds(self, margin: float) -> bool:
        """Return whether a rate is within its guarantee, or rose by no more than a margin.

        A rate that is not guaranteed has nothing to hold.
        """
        if self.guaranteed is None:
            return True
        if self.after is None:
            return False
        within = self.after.has_interval and self.after.upper <= self.guaranteed
        return within or (self.shift is not None and self.shift.upper <= margin)

    def fell(self, loss: float) -> bool:
        """Return whether a figure fell by so much, and surely fell."""
        return self.shift is not None and self.shift.estimate <= -loss and _surely(self.shift) < 0

    def stayed(self, loss: float) -> bool:
        """Return whether a figure surely fell by no more than so much."""
        return self.shift is not None and self.shift.lower >= -loss

    def times(self, limit: float) -> float:
        """Return how many times as many tasks would tell a move by a limit from none.

        Then the interval reaches half as far as the limit; or all the way where nothing moved:
        that of none in n tasks is narrower by n, others by the root of n. inf if it is not known.
        """
        if self.shift is None or not self.shift.has_interval:
            return inf
        value = self.shift.estimate
        reach = max(value - self.shift.lower, self.shift.upper - value)
        return reach / limit if value == 0 else (2 * reach / limit) ** 2


def _surely(shift: Metric) -> float:
    """Return the end that is nearer to 0 of the 99.9 % interval, 0 if it holds 0 or is not known.

    Each recheck looks at four figures, and a change that did nothing must not be called one.
    """
    if not shift.has_interval:
        return 0.0
    lower = shift.estimate - WIDER * (shift.estimate - shift.lower)
    upper = shift.estimate + WIDER * (shift.upper - shift.estimate)
    return max(lower, 0.0) or min(upper, 0.0)


@dataclass(frozen=True)
class Figure:
    """A figure of one side of a change."""

    value: Resampled | None
    metric: Metric | None
    above: Values | None = None
    """(trace,) by how much what the alarm follows rises above the threshold; of rates only."""
    task: NDArray[np.intp] | None = None


def share(above: Values, task: NDArray[np.intp], weights: Values) -> Figure:
    """Return the share of traces that reach the threshold; nothing of no traces."""
    if not len(above):
        return Figure(None, None)
    hit, among = above >= 0, np.ones(len(above), dtype=bool)
    value = ratio(hit.astype(float), np.ones(len(hit)), task, weights)
    return Figure(value, rate(hit, among, task, weights), above, task)


def shift_of(
    sides: Sequence[Figure], guaranteed: float | None, weights: Values, unmet: float | None
) -> Shift:
    """Return a figure of both sides; `unmet` as in `_unchanged`, None without the same traces."""
    old, new = sides
    if not (old.value and new.value):
        return Shift(old.metric, new.metric, None, guaranteed)
    moved = new.value - old.value
    found = None
    if unmet is not None and not moved.estimate and not _varies(moved):
        found = _unchanged(old, new, weights, unmet)
    return Shift(old.metric, new.metric, found or moved.interval(), guaranteed)


def _varies(moved: Resampled) -> bool:
    return float(np.nanmax(moved.draws) - np.nanmin(moved.draws)) >= SAME


def _unchanged(old: Figure, new: Figure, weights: Values, unmet: float) -> Metric | None:
    """Return the shift of a rate of which no alarm changed, from how close the scores are to it.

    `unmet` is the largest share of tasks in which scores may move as was not met in any.
    """
    from scipy.special import ndtr

    if old.above is None or new.above is None or old.task is None or new.task is None:
        return None
    known = old.above[np.isfinite(old.above)]
    width = 1.3 * float(np.std(known)) * len(known) ** (-1 / 3) if len(known) else 0.0
    if not width:
        return None
    soft = [
        ratio(ndtr(above / width), np.ones(len(task)), task, weights)
        for above, task in ((old.above, old.task), (new.above, new.task))
    ]
    moved = soft[1] - soft[0]
    ends = moved.interval() if _varies(moved) else Metric(0.0, 0.0, 0.0, moved.n)
    if ends is None or not ends.has_interval:
        return None
    return Metric(0.0, min(ends.lower, 0.0) - unmet, max(ends.upper, 0.0) + unmet, ends.n)
