"""Alarm rules: from the scores of sentences, one at a time, to the statistic of an alarm.

A trace alarms at the first sentence whose statistic reaches the threshold, so the maximum of
the statistic over a whole trace is what a threshold is calibrated on. Which rule a probe follows
stands on its card. One definition serves
both modes: live it takes each score as its sentence ends, in bulk it takes them in turn.
"""

import re
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trace_probe.errors import ProbeError
from trace_probe.statistics.bootstrap import Values
from trace_probe.statistics.metrics import Scores

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


def _mean_of_latest(n: int) -> Statistic:
    """Return the mean of the latest n scores, of all while there are fewer."""
    latest: deque[float] = deque(maxlen=n)

    def update(score: float) -> float:
        latest.append(score)
        return sum(latest) / len(latest)

    return update


def _kth_of_latest(k: int, n: int) -> Statistic:
    """Return the k-th highest of the latest n scores; it is -inf until there are k."""
    latest: deque[float] = deque(maxlen=n)

    def update(score: float) -> float:
        latest.append(score)
        return sorted(latest)[-k] if len(latest) >= k else -np.inf

    return update


MAX = Rule("max", _maximum)
CANDIDATES = ("max", "mean:3", "mean:5", "ema:0.5", "ema:0.3")
"""Of these training chooses: all have a value from the first sentence on."""
DEFAULT_RULES = ("max", "ema:0.5", "2-of-3")
_EMA = re.compile(r"ema:(\d*\.?\d+)")
_MEAN = re.compile(r"mean:(\d+)")
_K_OF_N = re.compile(r"(\d+)-of-(\d+)")


def parse_rule(text: str) -> Rule:
    """Return the rule of a name: ``max``, ``mean:N``, ``ema:WEIGHT`` or ``K-of-N``.

    Raises:
        ProbeError: no rule has such a name.
    """
    if text == MAX.name:
        return MAX
    if (latest := _MEAN.fullmatch(text)) and int(latest[1]) >= 1:
        return Rule(text, partial(_mean_of_latest, int(latest[1])))
    average, several = _EMA.fullmatch(text), _K_OF_N.fullmatch(text)
    if average and 0 < float(average[1]) <= 1:
        return Rule(text, partial(_moving_average, float(average[1])))
    if several and 1 <= int(several[1]) <= int(several[2]):
        return Rule(text, partial(_kth_of_latest, int(several[1]), int(several[2])))
    raise ProbeError(
        f"no alarm rule {text!r}: use max, mean:N with N >= 1 (such as mean:3), ema:WEIGHT with "
        f"0 < WEIGHT <= 1 (such as ema:0.5), or K-of-N with 1 <= K <= N (such as 2-of-3)"
    )


def rule_of(report: Mapping[str, Any] | None) -> Rule:
    """Return the rule that the threshold of a report belongs to; max where none is named."""
    return parse_rule((report or {}).get("rule") or MAX.name)


def statistics(scores: Scores, rule: Rule) -> Scores:
    """Return the statistic after each sentence that has a score; nan stays nan."""
    if rule is MAX:
        return scores
    return {name: followed(row, rule) for name, row in scores.items()}


def followed(row: NDArray[np.floating[Any]], rule: Rule) -> NDArray[np.floating[Any]]:
    """Return what the alarm of one trace follows, sentence by sentence, from its scores."""
    if rule is MAX:
        return row
    update = rule.start()
    found: Values = np.full(len(row), np.nan)
    for i, score in enumerate(row):
        if np.isfinite(score):
            found[i] = update(float(score))
    return found
