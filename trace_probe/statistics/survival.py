"""When alarms come, where a trace that ends without one has only been watched until then."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trace_probe.statistics.bootstrap import Index, Mask, Resampled, Values, ratio


def hazard(time: NDArray[Any], event: Mask) -> Values:
    """Return (event time,) the share of those still at risk that alarm then.

    `time` and `event` are (trace,): how many sentences a trace was watched, and whether it
    alarmed then; one that did not is censored there.
    """
    times = np.unique(time[event])
    at_risk = (time[None, :] >= times[:, None]).sum(axis=1)
    events = ((time[None, :] == times[:, None]) & event[None, :]).sum(axis=1)
    share: Values = events / at_risk
    return share


def survival_draws(time: Index, event: Mask, task: Index, weights: Values, times: Index) -> Values:
    """Return (draw + 1, time) the resampled share that has not alarmed by some times.

    The product-limit estimate of Kaplan and Meier (1958) for each resample of tasks. `time`,
    `event` and `task` are (trace,), as in `hazard`.
    """
    if not len(times):
        return np.ones((len(weights), 0))
    at_risk, events = (
        np.stack([weights @ np.bincount(task, each, weights.shape[1]) for each in rows], axis=1)
        for rows in (
            (time[None, :] >= times[:, None]).astype(float),
            ((time[None, :] == times[:, None]) & event[None, :]).astype(float),
        )
    )
    kept = 1 - np.divide(events, at_risk, out=np.zeros_like(events), where=at_risk > 0)
    share: Values = np.cumprod(kept, axis=1)
    return share


def mean_warning(
    taken: Values, length: Values, task: Index, weights: Values, most: float
) -> Resampled:
    """Return the resampled mean of ``min(max(length - taken, 0), most)``, all in one unit.

    Of all traces, not of those that alarm: a miss warns by nothing, and no trace by more than
    `most`, so that one long trace cannot carry the mean (restricted mean lead time).
    """
    lead = np.clip(length - taken, 0.0, most)
    return ratio(lead, np.ones(len(lead)), task, weights, (0.0, most))
