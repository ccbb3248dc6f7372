"""From the scores of sentences to the statistic of an alarm.

A rule is causal: its value after a sentence uses the scores up to there. What it gives are
scores again, so thresholds and figures need not know which rule made them. The plain score is
the rule "max", since a trace alarms when its running maximum reaches the threshold.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trace_probe.statistics.bootstrap import Values
from trace_probe.statistics.metrics import Scores

Aggregation = Callable[[Values], Values]
"""From scores of consecutive sentences to the statistic after each of them."""


def plain(scores: Values) -> Values:
    """Return the (sentence,) scores as they are."""
    return scores


def top_mean(scores: Values, k: int) -> Values:
    """Return (sentence,) the mean of the k highest scores so far, of all while there are fewer."""
    ends = range(1, len(scores) + 1)
    return np.array([np.sort(scores[:end])[-k:].mean() for end in ends], dtype=np.float64)


def softmax_mean(scores: Values, temperature: float = 1.0) -> Values:
    """Return (sentence,) the mean so far, each score weighted by ``exp(score / temperature)``."""
    logs = np.logaddexp.accumulate(scores / temperature)
    found = np.empty(len(scores))
    mean = 0.0
    for i, score in enumerate(scores):
        mean += (score - mean) * np.exp(score / temperature - logs[i])
        found[i] = mean
    return found


def rolling_mean(scores: Values, width: int) -> Values:
    """Return (sentence,) the mean of the latest `width` scores, of all while there are fewer."""
    ends = range(1, len(scores) + 1)
    return np.array([scores[max(end - width, 0) : end].mean() for end in ends], dtype=np.float64)


AGGREGATIONS: Mapping[str, Aggregation] = {
    "max": plain,
    "top-3 mean": partial(top_mean, k=3),
    "softmax mean": softmax_mean,
    "rolling-3 mean": partial(rolling_mean, width=3),
}


def aggregate(scores: Scores, rule: Aggregation) -> Scores:
    """Return the statistic after each sentence that has a score; nan stays nan."""
    return {name: _aggregate(row, rule) for name, row in scores.items()}


def _aggregate(row: NDArray[np.floating[Any]], rule: Aggregation) -> Values:
    found = np.full(len(row), np.nan)
    given = np.isfinite(row)
    found[given] = rule(row[given].astype(np.float64))
    return found


def ensemble(members: Sequence[Scores], reference: Sequence[Scores]) -> Scores:
    """Return the mean of several detectors, each in deviations of its scores on known traces.

    `members` and `reference` are in the same order.
    """
    scaled = []
    for scores, known in zip(members, reference, strict=True):
        given = np.concatenate([row[np.isfinite(row)] for row in known.values()])
        centre, spread = float(given.mean()), float(given.std()) or 1.0
        scaled.append({name: (row - centre) / spread for name, row in scores.items()})
    return {
        name: np.mean([each[name] for each in scaled], axis=0, dtype=np.float64)
        for name in members[0]
    }
