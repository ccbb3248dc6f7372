"""How good probabilities are, and what an alarm is worth at a base rate."""

import math

import numpy as np

from trace_probe.statistics.bootstrap import (
    Index,
    Mask,
    Metric,
    Resampled,
    Values,
    effective_tasks,
    ratio,
)

BINS = 10


def brier(probability: Values, positive: Mask, task: Index, weights: Values) -> Resampled:
    """Return the resampled mean squared error of (trace,) probabilities (Brier 1950)."""
    error = (probability - positive) ** 2
    return ratio(error, np.ones(len(error)), task, weights)


def calibration_error(
    probability: Values, positive: Mask, task: Index, weights: Values
) -> Resampled:
    """Return the resampled expected calibration error over ten bins of equal width.

    The distance of mean probability and share of positives in a bin, weighted by the traces in
    it (Naeini, Cooper and Hauskrecht 2015; Guo et al. 2017, arXiv 1706.04599).
    Sampling noise alone makes it positive, and resampling adds as much again, which is taken
    off the draws.
    """
    bin_ = np.minimum((probability * BINS).astype(int), BINS - 1)
    n_tasks = weights.shape[1]
    cell = task * BINS + bin_
    gap = np.bincount(cell, probability - positive, n_tasks * BINS).reshape(n_tasks, BINS)
    count = weights @ np.bincount(task, minlength=n_tasks)
    total = np.abs(weights @ gap).sum(axis=1)
    error: Values = np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)
    if len(error) > 1 and np.isfinite(error[1:]).any():
        error[1:] = np.maximum(error[1:] - (np.nanmean(error[1:]) - error[0]), 0.0)
    sizes = np.bincount(task, minlength=n_tasks).astype(float)
    return Resampled(error, len(task), int((sizes > 0).sum()), alike=effective_tasks(sizes))


def predictive_value(caught: float, false_alarms: float, base_rate: float) -> float:
    """Return the share of alarms that are true at a base rate, by Bayes' rule.

    All four are shares of traces; nan if nothing alarms.
    """
    true = caught * base_rate
    every = true + false_alarms * (1 - base_rate)
    return true / every if every else math.nan


def predictive_interval(caught: Metric, false_alarms: Metric, base_rate: float) -> Metric | None:
    """Return the predictive value, its interval from the worst and the best of both intervals.

    That is wider than 95 % needs, but does not call a rate zero that was not seen to be higher.
    """
    value = predictive_value(caught.estimate, false_alarms.estimate, base_rate)
    lower = predictive_value(caught.lower, false_alarms.upper, base_rate)
    upper = predictive_value(caught.upper, false_alarms.lower, base_rate)
    if math.isnan(value):
        return None
    worst, best = (0.0 if math.isnan(lower) else lower), (1.0 if math.isnan(upper) else upper)
    return Metric(value, worst, best, min(caught.n, false_alarms.n))
