"""Figures with intervals, resampled by task because the traces of a task are alike.

A figure is computed for the data and for each of a thousand resamples of the tasks at once, and
kept with all of these draws: the difference of two figures on the same draws is a figure again.

Shapes: what is known of traces is (trace,); weights are (draw + 1, task), their first row the
data itself; a resampled figure is (draw + 1,), its estimate first.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trace_probe.errors import NotEnoughData

Values = NDArray[np.float64]
Mask = NDArray[np.bool_]
Index = NDArray[np.intp]
Bounds = tuple[float, float]

DRAWS = 1000
Z = 1.959963984540054
SAME = 1e-12
"""Draws that lie no further apart are equal but for rounding."""
LEAST_TASKS = 4
"""With fewer tasks the spread between them is not known well enough for an interval."""
SHARE: Bounds = (0.0, 1.0)
ANY: Bounds = (-math.inf, math.inf)


@dataclass(frozen=True)
class Metric:
    """A figure with its 95 % interval."""

    estimate: float
    lower: float
    """nan where there is no interval: see `Resampled.interval`."""
    upper: float
    n: int
    """What was counted: traces, or prompts for a within-prompt figure."""

    @classmethod
    def __get_pydantic_core_schema__(cls, *_: Any) -> Any:  # noqa: ANN401
        """Read and write it as JSON, in which the ends of an interval may be null."""
        from pydantic_core import core_schema as kinds

        end = kinds.nullable_schema(kinds.float_schema())
        parts = {
            "estimate": kinds.float_schema(),
            "lower": end,
            "upper": end,
            "n": kinds.int_schema(),
        }
        fields = {name: kinds.typed_dict_field(kind) for name, kind in parts.items()}
        return kinds.no_info_after_validator_function(
            cls.from_json,
            kinds.typed_dict_schema(fields),
            serialization=kinds.plain_serializer_function_ser_schema(cls.to_json),
        )

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> "Metric":
        """Return the figure that `to_json` wrote."""
        lower, upper = (math.nan if raw[end] is None else raw[end] for end in ("lower", "upper"))
        return cls(raw["estimate"], lower, upper, raw["n"])

    def to_json(self) -> dict[str, float | int | None]:
        """Return the four numbers by name; null for the ends of an interval that is not there."""
        ends = (self.lower, self.upper) if self.has_interval else (None, None)
        return {"estimate": self.estimate, "lower": ends[0], "upper": ends[1], "n": self.n}

    @property
    def has_interval(self) -> bool:
        """Return whether there were tasks enough for an interval."""
        return not math.isnan(self.lower)

    def above(self, value: float) -> bool:
        """Return whether the whole interval lies above a value; False without an interval."""
        return self.lower > value

    def below(self, value: float) -> bool:
        """Return whether the whole interval lies below a value; False without an interval."""
        return self.upper < value

    def __format__(self, spec: str) -> str:
        """Return estimate and interval, each number as `spec` says."""
        if not self.has_interval:
            return f"{self.estimate:{spec}} (no interval)"
        return f"{self.estimate:{spec}} [{self.lower:{spec}}, {self.upper:{spec}}]"


def shown(value: Metric | None, digits: int = 3, sign: str = "") -> str:
    """Return a figure with its interval, a dash where there is none."""
    return "-" if value is None else format(value, f"{sign}.{digits}f")


@dataclass(frozen=True)
class Resampled:
    """A figure with its draws; figures of the same resamples can be subtracted and divided.

    Example:
        >>> weights = resample(3, draws=2)
        >>> one = ratio(np.ones(3), np.ones(3), np.arange(3), weights)
        >>> (one - one).estimate
        0.0
    """

    draws: Values
    """(draw + 1,): the estimate, then one value for each resample; nan where there is none."""
    n: int
    """What was counted."""
    tasks: int
    """How many tasks it comes from."""
    bounds: Bounds = SHARE
    """The least and the most that the figure can be."""
    alike: float = math.inf
    """How many tasks of equal size would tell as much, where that is fewer."""

    @property
    def estimate(self) -> float:
        """Return the figure of the data."""
        return float(self.draws[0])

    @property
    def error(self) -> float:
        """Return the standard error; 0 if no resample has a value."""
        drawn = self.draws[1:]
        return float(np.nanstd(drawn)) if np.isfinite(drawn).any() else 0.0

    def __sub__(self, other: "Resampled") -> "Resampled":
        """Return the difference on the same resamples.

        A figure that is the same in all of them is taken for known, such as the AUROC of a half
        that whoever knows nothing of a trace gets.
        """
        (low, high), (least, most) = self.bounds, other.bounds
        if np.nanmax(other.draws, initial=-np.inf) - np.nanmin(other.draws, initial=np.inf) < SAME:
            least = most = other.estimate
        return self._with(other, self.draws - other.draws, (low - most, high - least))

    def __truediv__(self, other: "Resampled") -> "Resampled":
        """Return the ratio on the same resamples; a draw in which the other is not above 0 is nan.

        A ratio of two figures that cannot fall below 0 cannot either.
        """
        low = 0.0 if self.bounds[0] >= 0 and other.bounds[0] >= 0 else -math.inf
        return self._with(other, divide(self.draws, other.draws), (low, math.inf))

    def _with(self, other: "Resampled", draws: Values, bounds: Bounds) -> "Resampled":
        tasks, alike = min(self.tasks, other.tasks), min(self.alike, other.alike)
        return Resampled(draws, min(self.n, other.n), tasks, bounds, alike)

    def mapped(self, increasing: Callable[[Values], Values]) -> "Resampled":
        """Return an increasing function of the figure, such as its exponential."""
        low, high = increasing(np.array(self.bounds))
        return replace(self, draws=increasing(self.draws), bounds=(float(low), float(high)))

    def interval(self) -> Metric | None:
        """Return the estimate with its 95 % interval; None if it cannot be computed.

        The interval is the percentile interval of the bootstrap, each end moved away from the
        estimate by ``t * sqrt(m / (m - 1)) / z``: Student's quantile with ``m - 1`` degrees of
        freedom for that of the normal distribution, and the variance that resampling m tasks
        leaves out (Hesterberg 2015, The American Statistician 69:371). So it covers with few
        tasks as well. Below four tasks there is no interval. Where all resamples agree, the
        interval is that of the tasks that might differ and were not met: their share is at most
        Wilson's upper bound for none of m.
        """
        drawn = self.draws[1:][np.isfinite(self.draws[1:])]
        if self.n < 1 or not np.isfinite(self.draws[0]) or not len(drawn):
            return None
        lower, upper = np.percentile(drawn, [2.5, 97.5])
        if self.tasks < LEAST_TASKS:
            return Metric(self.estimate, math.nan, math.nan, self.n)
        if upper - lower < SAME:
            return self._unvaried()
        value, wider = self.estimate, stretch(min(self.tasks, self.alike))
        low = max(value - wider * (value - lower), self.bounds[0])
        high = min(value + wider * (upper - value), self.bounds[1])
        return Metric(value, float(low), float(high), self.n)

    def _unvaried(self) -> Metric:
        """Return the interval of a figure that is the same in every resample."""
        low, high = self.bounds
        if not (math.isfinite(low) and math.isfinite(high)):
            return Metric(self.estimate, math.nan, math.nan, self.n)
        met = wilson(0.0, self.tasks, n=1).upper
        value = self.estimate
        return Metric(value, value - met * (value - low), value + met * (high - value), self.n)


def of_several(runs: Sequence[Resampled]) -> Resampled:
    """Return the mean of a figure over several runs, its draws taken from the runs in turn.

    So its interval covers what differs between runs as well.
    """
    stacked = np.stack([one.draws for one in runs])
    every = np.arange(stacked.shape[1])
    draws = stacked[every % len(stacked), every]
    draws[0] = stacked[:, 0].mean()
    return replace(runs[0], draws=draws)


@lru_cache
def stretch(tasks: float) -> float:
    """Return by how much a percentile interval over so many tasks is too narrow."""
    from scipy.special import stdtrit

    m = max(tasks, 2.0)
    return float(stdtrit(m - 1, 0.975) * math.sqrt(m / (m - 1)) / Z)


def resample(n_tasks: int, *, seed: int = 0, draws: int = DRAWS) -> Values:
    """Return (draw + 1, task) bootstrap weights of tasks; the first row is the data itself.

    A statistic computed for all rows at once has its estimate first and its draws after. This is
    the bootstrap of clusters: a task is drawn with all its traces, or not at all (Davison and
    Hinkley 1997, section 3.8).

    Raises:
        NotEnoughData: there is no task.
    """
    if n_tasks < 1:
        raise NotEnoughData("no labelled task to evaluate on: label more traces of other tasks")
    drawn = np.random.default_rng(seed).multinomial(
        n_tasks, np.full(n_tasks, 1 / n_tasks), size=draws
    )
    return np.vstack([np.ones(n_tasks), drawn])


def effective_tasks(counts: Values) -> float:
    """Return how many tasks of equal size tell as much as these (Kish 1965).

    `counts` (task,) says how much of each task is counted. The number itself where all that count
    at all count alike.
    """
    square = float((counts**2).sum())
    return float(counts.sum()) ** 2 / square if square else 0.0


def ratio(
    hits: Values, counts: Values, task: Index, weights: Values, bounds: Bounds = SHARE
) -> Resampled:
    """Return the resampled ratio of two sums over traces (or pairs within a task).

    `hits`, `counts` and `task` are (trace,) or (pair,). A draw in which nothing is counted is nan.
    """
    n_tasks = weights.shape[1]
    counted = np.bincount(task, counts, n_tasks).astype(np.float64)
    draws = divide(weights @ np.bincount(task, hits, n_tasks), weights @ counted)
    there = int((counted > 0).sum())
    return Resampled(draws, len(hits), there, bounds, effective_tasks(counted))


def mean(values: Values, tasks: Sequence[str], *, seed: int = 0, bounds: Bounds = ANY) -> Resampled:
    """Return the resampled mean of values, `tasks` naming the task of each."""
    names, task = np.unique(np.asarray(tasks), return_inverse=True)
    return ratio(values, np.ones(len(values)), task, resample(len(names), seed=seed), bounds)


def share(hit: Mask, tasks: Sequence[str], *, seed: int = 0) -> Metric | None:
    """Return the share of hits, `tasks` naming the task of each; None of nothing. See `rate`."""
    if not len(hit):
        return None
    names, task = np.unique(np.asarray(tasks), return_inverse=True)
    return rate(hit, np.ones(len(hit), dtype=bool), task, resample(len(names), seed=seed))


def rate(hit: Mask, among: Mask, task: Index, weights: Values) -> Metric | None:
    """Return the share of hits among traces.

    The interval is Wilson's, with tasks for trials, where every task counts once, where all
    traces agree so that a bootstrap could not vary, and below four tasks: no share can vary more
    between tasks than one that is all or nothing in each. Else it is the bootstrap's.
    """
    chosen = task[among]
    if not len(chosen):
        return None
    hits = hit[among].astype(float)
    tasks = len(np.unique(chosen))
    if tasks == len(chosen) or hits.min() == hits.max() or tasks < LEAST_TASKS:
        return wilson(hits.mean(), tasks, n=len(chosen))
    return ratio(hits, np.ones(len(hits)), chosen, weights).interval()


def wilson(share: float, trials: float, *, n: int) -> Metric:
    """Return a share with Wilson's 95 % score interval for a number of independent trials.

    Wilson (1927); as a choice for small numbers see Brown, Cai and DasGupta (2001).
    """
    spread = Z**2 / trials
    middle = (share + spread / 2) / (1 + spread)
    half = Z * math.sqrt(share * (1 - share) / trials + spread / (4 * trials)) / (1 + spread)
    lower, upper = max(0.0, min(middle - half, share)), min(1.0, max(middle + half, share))
    return Metric(float(share), float(lower), float(upper), n)


def divide(top: Values, bottom: Values) -> Values:
    """Return the quotient of two arrays, nan where the second is not above 0."""
    quotient: Values = np.divide(top, bottom, out=np.full(len(top), np.nan), where=bottom > 0)
    return quotient
