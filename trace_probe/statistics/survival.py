"""When alarms come, where a trace that ends without one has only been watched until then."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trace_probe.statistics.bootstrap import Index, Mask, Resampled, Values, ratio


def kaplan_meier(time: NDArray[Any], event: Mask) -> tuple[Values, Values]:
    """Return event times and the share that has not alarmed after each, (event time,) both.

    `time` and `event` are (trace,): how many sentences a trace was watched, and whether it
    alarmed then; one that did not is censored there. The product-limit estimate of Kaplan and
    Meier (1958).
    """
    share = np.cumprod(1 - hazard(time, event), dtype=np.float64)
    return np.unique(time[event]).astype(np.float64), share


def hazard(time: NDArray[Any], event: Mask) -> Values:
    """Return (event time,) the share of those still at risk that alarm then.

    `time` and `event` as in `kaplan_meier`.
    """
    times = np.unique(time[event])
    at_risk = (time[None, :] >= times[:, None]).sum(axis=1)
    events = ((time[None, :] == times[:, None]) & event[None, :]).sum(axis=1)
    share: Values = events / at_risk
    return share


def survival_draws(time: Index, event: Mask, task: Index, weights: Values, times: Index) -> Values:
    """Return (draw + 1, time) the resampled Kaplan-Meier share at some times.

    The product-limit estimate of each resample of tasks: what has not alarmed by then.
    `time`, `event` and `task` are (trace,).
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
