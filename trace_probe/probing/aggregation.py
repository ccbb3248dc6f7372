"""Means of the scores of sentences so far, and of several detectors, shown beside a probe.

The value after a sentence uses the scores up to there, and is a score again. Alarms do not follow
these: see `statistics.smoothing`.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from trace_probe.statistics.bootstrap import Values
from trace_probe.statistics.metrics import Scores

Aggregation = Callable[[Values], Values]
"""From scores of consecutive sentences to the statistic after each of them."""


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


AGGREGATIONS: Mapping[str, Aggregation] = {
    "top-3 mean": partial(top_mean, k=3),
    "softmax mean": softmax_mean,
}


def aggregate(scores: Scores, aggregation: Aggregation) -> Scores:
    """Return the statistic after each sentence that has a score; nan stays nan."""
    found = {name: np.full(len(row), np.nan) for name, row in scores.items()}
    for name, row in scores.items():
        given = np.isfinite(row)
        found[name][given] = aggregation(row[given].astype(np.float64))
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
