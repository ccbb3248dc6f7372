"""Smoothing: what an alarm follows, made of the scores of the sentences so far.

A trace alarms at the first sentence whose smoothed score reaches the threshold, so a threshold
is set on the highest smoothed score of each harmless trace. ``max`` leaves the scores as they
are. The same definition serves both ways of scoring: live it takes one score at a time, in bulk
those of a whole trace.
"""

import re
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trace_probe.errors import ProbeError
from trace_probe.statistics.bootstrap import Values
from trace_probe.statistics.metrics import Scores

Update = Callable[[float], float]
"""Takes the score of the next sentence; returns the smoothed score after it."""


@dataclass(frozen=True)
class Smoothing:
    """A way to smooth the scores of a trace, known by its name.

    Example:
        >>> import numpy as np
        >>> parse_smoothing("mean:2").follow(np.array([1.0, 3.0, np.nan, 5.0]))
        array([ 1.,  2., nan,  4.])
    """

    name: str
    start: Callable[[], Update] = field(compare=False, repr=False)
    """Begins a new trace: returns a function that takes one score after the other."""

    def follow(self, row: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        """Return (sentence,) the smoothed scores of one trace; nan stays nan."""
        if self.name == "max":
            return row
        update = self.start()
        found: Values = np.full(len(row), np.nan)
        for i, score in enumerate(row):
            if np.isfinite(score):
                found[i] = update(float(score))
        return found

    def apply(self, scores: Scores) -> Scores:
        """Return the smoothed scores of several traces, by trace id."""
        if self.name == "max":
            return scores
        return {name: self.follow(row) for name, row in scores.items()}


def _maximum() -> Update:
    """Return the score itself: it reaches a threshold when the running maximum does."""
    return lambda score: score


def _moving_average(weight: float) -> Update:
    """Return an average in which the latest sentence weighs `weight`; the first counts whole."""
    mean: float | None = None

    def update(score: float) -> float:
        nonlocal mean
        mean = score if mean is None else mean + weight * (score - mean)
        return mean

    return update


def _mean_of_latest(n: int) -> Update:
    """Return the mean of the latest n scores, of all while there are fewer."""
    latest: deque[float] = deque(maxlen=n)

    def update(score: float) -> float:
        latest.append(score)
        return sum(latest) / len(latest)

    return update


def _kth_of_latest(k: int, n: int) -> Update:
    """Return the k-th highest of the latest n scores; it is -inf until there are k."""
    latest: deque[float] = deque(maxlen=n)

    def update(score: float) -> float:
        latest.append(score)
        return sorted(latest)[-k] if len(latest) >= k else -np.inf

    return update


def _cumulative_sum(drift: float) -> Update:
    """Return the sum of what scores are above `drift` since it was last 0: Page's (1954) CUSUM.

    It sees a lasting change from harmless scores, of which `drift` is above the mean, to others,
    of which it is below the mean, sooner than any filter that is as seldom wrong (Lorden 1971).
    """
    total = 0.0

    def update(score: float) -> float:
        nonlocal total
        total = max(0.0, total + score - drift)
        return total

    return update


MAX = Smoothing("max", _maximum)
CUSUM = "cusum"
"""A smoothing whose drift training has to learn before it is ``cusum:DRIFT``."""
CANDIDATES = ("max", "mean:3", "mean:5", "ema:0.5", "ema:0.3", "2-of-3")
"""Of these and of a CUSUM training chooses, the simplest first."""
DEFAULT_SMOOTHINGS = ("max", "ema:0.5", "2-of-3")
_EMA = re.compile(r"ema:(\d*\.?\d+)")
_MEAN = re.compile(r"mean:(\d{1,4})")
_K_OF_N = re.compile(r"(\d{1,4})-of-(\d{1,4})")
_CUSUM = re.compile(r"cusum:(-?\d*\.?\d+(?:e[+-]?\d+)?)")
_LARGEST_DRIFT = 1e9
"""Scores are of the size of 1; beyond this a sum of them would never, or always, alarm."""


def parse_smoothing(text: str) -> Smoothing:
    """Return the smoothing of a name.

    Names are ``max``, ``mean:N``, ``ema:WEIGHT``, ``K-of-N`` and ``cusum:DRIFT``.

    Raises:
        ProbeError: there is no smoothing of that name.
    """
    if text == MAX.name:
        return MAX
    if (latest := _MEAN.fullmatch(text)) and int(latest[1]) >= 1:
        return Smoothing(text, partial(_mean_of_latest, int(latest[1])))
    average, several = _EMA.fullmatch(text), _K_OF_N.fullmatch(text)
    if average and 0 < float(average[1]) <= 1:
        return Smoothing(text, partial(_moving_average, float(average[1])))
    if several and 1 <= int(several[1]) <= int(several[2]):
        return Smoothing(text, partial(_kth_of_latest, int(several[1]), int(several[2])))
    change = _CUSUM.fullmatch(text)
    if change and abs(float(change[1])) <= _LARGEST_DRIFT:
        return Smoothing(text, partial(_cumulative_sum, float(change[1])))
    raise ProbeError(
        f"no smoothing {text!r:.60}: use max, mean:N with 1 <= N <= 9999 (such as mean:3), "
        f"ema:WEIGHT with 0 < WEIGHT <= 1 (such as ema:0.5), K-of-N with 1 <= K <= N <= 9999 (such "
        f"as 2-of-3), or cusum:DRIFT with a drift of at most 1e9 (such as cusum:0.5)"
    )


def smoothing_of(report: Mapping[str, Any] | None) -> Smoothing:
    """Return the smoothing that the threshold of a report belongs to; ``max`` if none is named."""
    return parse_smoothing((report or {}).get("smoothing") or MAX.name)
