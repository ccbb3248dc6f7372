"""A detector as an estimate of P(act | prefix), against an oracle that itself is counted.

A share of K continuations strays from P by P (1 - P) / K on average. With
s = mean(share (1 - share)) / (K - 1), which estimates that without bias, the part of P's
variance that a detector explains is R2_observed Var(share) / (Var(share) - s).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trace_probe.emergence.curve import OraclePoint
from trace_probe.statistics.bootstrap import (
    Index,
    Metric,
    Resampled,
    Values,
    effective_tasks,
    resample,
)
from trace_probe.statistics.metrics import Scores
from trace_probe.trace import Trace


@dataclass(frozen=True)
class Estimator:
    """How well the logistic of a detector's score estimates P."""

    points: int
    brier: float
    """Mean squared distance from the oracle's share, less what chance in counting adds."""
    constant: float
    """The same of the best constant: the variance of P."""
    explained: Metric | None
    """Part of P's variance that the best line through the estimate explains, without noise."""
    within: Metric | None
    """The same within prompts: both as deviations from their mean over a prompt."""


def as_estimator(
    traces: Sequence[Trace], points: Mapping[str, Sequence[OraclePoint]], scores: Scores
) -> Estimator:
    """Compare a detector with the oracle at every measured sentence that it has scored."""
    rows = [
        (scores[trace.id][point.sentence], point.instrumental, point.known, at)
        for at, trace in enumerate(traces)
        for point in points[trace.id]
        if point.sentence >= 0 and point.known > 1
    ]
    table = np.array(rows, dtype=float)
    table = table[np.isfinite(table[:, 0])]
    score, hits, count, at = table.T
    where = at.astype(np.intp)
    task = _codes([trace.task.id for trace in traces])[where]
    prompt = _codes([trace.task.prompt_key for trace in traces])[where]
    estimate, share = 0.5 * (1 + np.tanh(score / 2)), hits / count
    noise = share * (1 - share) / (count - 1)
    tasks = int(task.max()) + 1
    weights = resample(tasks)[:, task]
    sizes = effective_tasks(np.bincount(task).astype(float))

    def part(own: Values, its: Values) -> Metric | None:
        draws = _explained(own, its, noise, weights)
        return Resampled(draws, len(share), tasks, (0.0, np.inf), sizes).interval()

    spread = float(np.var(share) - noise.mean())
    return Estimator(
        points=len(share),
        brier=float(np.mean((estimate - share) ** 2) - noise.mean()),
        constant=spread,
        explained=part(estimate, share),
        within=part(_centred(estimate, prompt), _centred(share, prompt)),
    )


def _codes(names: Sequence[str]) -> Index:
    return np.unique(np.array(names), return_inverse=True)[1].astype(np.intp)


def _centred(values: Values, group: Index) -> Values:
    centred: Values = values - (np.bincount(group, values) / np.bincount(group))[group]
    return centred


def _explained(estimate: Values, share: Values, noise: Values, weights: Values) -> Values:
    """Return the noise-corrected squared correlation for each row of (draw, point) weights."""
    total = weights.sum(axis=1)

    def mean(values: Values) -> Values:
        found: Values = weights @ values / total
        return found

    spread = mean(share**2) - mean(share) ** 2
    own = mean(estimate**2) - mean(estimate) ** 2
    together = mean(estimate * share) - mean(estimate) * mean(share)
    true = spread - mean(noise)
    usable = (own > 0) & (true > 0)
    found: Values = np.divide(
        together**2, own * true, out=np.full(len(total), np.nan), where=usable
    )
    return found
