"""How long before the action the first alarm comes, those that never alarm counted in."""

import numpy as np

from trace_probe.evaluation.panel import Alarms
from trace_probe.evaluation.report import AlarmFree, Survival
from trace_probe.statistics.bootstrap import Mask, Metric
from trace_probe.statistics.survival import hazard, kaplan_meier, mean_warning, survival_draws

MOST_SENTENCES = 10
MOST_TOKENS = 1024
MOST_CALLS = 10
"""What a warning counts for at most, so that one long trace cannot carry the mean."""


def mean_warnings(alarms: Alarms) -> dict[str, Metric | None]:
    """Return the mean warning of a positive in sentences and tokens, and as share of the whole.

    From the end of the sentence that alarms to the action; a miss counts as 0. The share is the
    area under the curve of what is caught by prefix. Of episodes in model calls too.
    """
    cohort, weights = alarms.cohort, alarms.weights
    positive = cohort.positive
    if not positive.any():
        return dict.fromkeys(("sentences", "tokens", "share"))
    task, length = cohort.task[positive], cohort.length[positive].astype(float)
    taken = np.minimum(alarms.taken[positive], length)
    ends = [
        np.concatenate([[0], row])
        for row, chosen in zip(cohort.tokens, positive, strict=True)
        if chosen
    ]
    heard = np.array([row[int(k)] for row, k in zip(ends, taken, strict=True)], dtype=float)
    every = np.array([row[-1] for row in ends], dtype=float)
    share = taken / np.maximum(length, 1)
    found = {
        "sentences": mean_warning(taken, length, task, weights, MOST_SENTENCES),
        "tokens": mean_warning(heard, every, task, weights, MOST_TOKENS),
        "share": mean_warning(share, np.minimum(length, 1), task, weights, 1.0),
    }
    if cohort.calls:
        rows = [row for row, chosen in zip(cohort.calls, positive, strict=True) if chosen]
        at = [row[max(int(k) - 1, 0)] for row, k in zip(rows, taken, strict=True)]
        hit = alarms.taken[positive] <= cohort.length[positive]
        end = np.array([row[-1] for row in rows], dtype=float)
        held = np.where(hit, np.array(at, dtype=float), end)
        found["calls"] = mean_warning(held, end, task, weights, MOST_CALLS)
    return {name: values.interval() for name, values in found.items()}


def alarm_free(alarms: Alarms) -> AlarmFree:
    """Return Kaplan-Meier curves and hazards of the first alarm by outcome; the action censors.

    With 95 % bands over tasks, how many are at risk, and the median (None if never reached).
    """
    positive = alarms.cohort.positive
    return AlarmFree(_curve(alarms, positive), _curve(alarms, ~positive))


def _curve(alarms: Alarms, group: Mask) -> Survival:
    length, task = alarms.cohort.length[group], alarms.cohort.task[group]
    event = alarms.taken[group] <= length
    time = np.where(event, alarms.taken[group], length)
    at, share = kaplan_meier(time, event)
    draws = survival_draws(time, event, task, alarms.weights, at.astype(np.intp))
    lower, upper = np.percentile(draws[1:], [2.5, 97.5], axis=0)
    reached = at[share <= 0.5]
    return Survival(
        sentence=at.tolist(),
        share=share.tolist(),
        lower=lower.tolist(),
        upper=upper.tolist(),
        at_risk=(time[None, :] >= at[:, None]).sum(axis=1).tolist(),
        hazard=hazard(time, event).tolist(),
        median=float(reached[0]) if len(reached) else None,
    )
