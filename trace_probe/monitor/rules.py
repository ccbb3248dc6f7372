"""Alarm rules: from the scores of sentences, one at a time, to the statistic of an alarm.

A trace alarms at the first sentence whose statistic reaches the threshold, so the maximum of
the statistic over a whole trace is what a threshold is calibrated on. One definition serves
both modes: live it takes each score as its sentence ends, in bulk it takes them in turn.
"""

import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trace_probe.errors import ProbeError
from trace_probe.statistics.metrics import Scores, Values

Statistic = Callable[[float], float]
"""Takes the score of the next sentence; returns the statistic after it."""


@dataclass(frozen=True)
class Rule:
    """A named rule; `start` gives a fresh statistic for a new trace."""

    name: str
    start: Callable[[], Statistic]


def _maximum() -> Statistic:
    """Return the score itself: it reaches a threshold when the running maximum does."""
    return lambda score: score


def _moving_average(weight: float) -> Statistic:
    """Return an average in which the latest sentence weighs `weight`; the first counts whole."""
    mean: float | None = None

    def update(score: float) -> float:
        nonlocal mean
        mean = score if mean is None else mean + weight * (score - mean)
        return mean

    return update


def _kth_of_latest(k: int, n: int) -> Statistic:
    """Return the k-th highest of the latest n scores; it is -inf until there are k."""
    latest: deque[float] = deque(maxlen=n)

    def update(score: float) -> float:
        latest.append(score)
        return sorted(latest)[-k] if len(latest) >= k else -np.inf

    return update


MAX = Rule("max", _maximum)
DEFAULT_RULES = ("max", "ema:0.5", "2-of-3")
_EMA = re.compile(r"ema:(\d*\.?\d+)")
_K_OF_N = re.compile(r"(\d+)-of-(\d+)")


def parse_rule(text: str) -> Rule:
    """Return the rule of a name: ``max``, ``ema:WEIGHT`` or ``K-of-N``.

    Raises:
        ProbeError: no rule has such a name.
    """
    if text == MAX.name:
        return MAX
    average, several = _EMA.fullmatch(text), _K_OF_N.fullmatch(text)
    if average and 0 < float(average[1]) <= 1:
        weight = float(average[1])
        return Rule(text, lambda: _moving_average(weight))
    if several and 1 <= int(several[1]) <= int(several[2]):
        k, n = int(several[1]), int(several[2])
        return Rule(text, lambda: _kth_of_latest(k, n))
    raise ProbeError(
        f"no alarm rule {text!r}: use max, ema:WEIGHT with 0 < WEIGHT <= 1 (such as ema:0.5), "
        f"or K-of-N with 1 <= K <= N (such as 2-of-3)"
    )


def statistics(scores: Scores, rule: Rule) -> Scores:
    """Return the statistic after each sentence that has a score; nan stays nan."""
    return {name: _statistics(row, rule) for name, row in scores.items()}


def _statistics(row: NDArray[np.floating[Any]], rule: Rule) -> Values:
    update = rule.start()
    found = np.full(len(row), np.nan)
    for i, score in enumerate(row):
        if np.isfinite(score):
            found[i] = update(float(score))
    return found
