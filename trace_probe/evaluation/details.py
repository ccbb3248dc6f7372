"""Further figures of a detector: what they cost, when they come, and what chance would give."""

from dataclasses import replace

import numpy as np

from trace_probe.evaluation.alignment import event_aligned
from trace_probe.evaluation.increment import (
    cross_fitted,
    finite,
    folds_of,
    matched_moments,
    trainable,
)
from trace_probe.evaluation.lead import alarm_free, mean_warnings
from trace_probe.evaluation.panel import Alarms, Panel, alarm_rate, alarms_of, rank, summary
from trace_probe.evaluation.report import AtLimit, More
from trace_probe.statistics.bootstrap import (
    Metric,
    Resampled,
    Values,
    effective_tasks,
    of_several,
    ratio,
)
from trace_probe.statistics.calibration import Threshold, conformal_threshold, pac_threshold
from trace_probe.statistics.forecast import brier, calibration_error, predictive_interval
from trace_probe.statistics.metrics import (
    Scores,
    average_precision,
    chance_rows,
    running_maxima,
    score_rows,
    scores_held,
    sentences_to_alarm,
    trace_maxima,
)

GUARDS = (1, 2)
BASE_RATES = (0.1, 0.01, 0.001)
RATES = (0.001, 0.01, 0.05)
PERMUTATIONS = 20
DEALS = 10
"""Ways to deal tasks to folds that probabilities are averaged over."""


def details(read: Scores, followed: Scores, threshold: float, panel: Panel, alarms: Alarms) -> More:
    """Return further figures of a detector, from what it reads and what its alarm follows."""
    cohort, weights = alarms.cohort, alarms.weights
    rows, steps = score_rows(cohort, read), score_rows(cohort, followed)
    held, maxima = scores_held(rows), running_maxima(steps)
    chance, over_chance = _chance(steps, threshold, panel, alarms)
    return replace(
        _probabilities(held, panel, weights),
        whole_trace=summary(rank(cohort, maxima, cohort.length, weights)),
        alarm_statistic=summary(rank(cohort, maxima, cohort.before_said(), weights)),
        before_said_by_guard={
            str(guard): alarms.caught(cohort.before_said(guard), cohort.spoken) for guard in GUARDS
        },
        within_prompt_by_guard={
            str(guard): rank(cohort, held, cohort.before_said(guard), weights)["within"].interval()
            for guard in GUARDS
        },
        useful_warning_by_chance=chance,
        useful_warning_over_chance=over_chance,
        predictive_value=_predictive(followed, threshold, panel, alarms),
        alarm_free=alarm_free(alarms),
        mean_warning=mean_warnings(alarms),
        tokens=alarms.by_tokens(),
        calls=alarms.by_calls(),
        by_rate=_by_rate(followed, panel, weights),
        event_aligned=event_aligned(cohort, rows, weights, seed=panel.seed),
    )


def _probabilities(held: Values, panel: Panel, weights: Values) -> More:
    """Return the figures of scores as probabilities, before it is said, all lengths alike.

    The scores become probabilities by a logistic regression on other tasks. Which tasks share
    one of the five folds is a matter of chance: the figures are means over `DEALS` ways to deal
    them, and their intervals cover what differs between these.
    """
    cohort = panel.cohort
    moments = matched_moments(cohort)
    chosen = np.flatnonzero(moments > 0)
    positive, task = cohort.positive[chosen], cohort.task[chosen]
    score = held[chosen, moments[chosen]]
    if not positive.any():
        return More()
    draws = average_precision(score, positive, weights[:, task])
    sizes = np.bincount(task).astype(float)
    precision = Resampled(draws, len(chosen), int((sizes > 0).sum()), alike=effective_tasks(sizes))
    found = More(average_precision=precision.interval())
    deals = [folds_of(task, cohort.n_tasks, panel.seed + deal) for deal in range(DEALS)]
    odds = [
        cross_fitted(finite(score)[:, None], positive, fold)
        for fold in deals
        if trainable(positive, fold)
    ]
    if not odds:
        return found
    dealt = [1 / (1 + np.exp(-one)) for one in odds]
    square, error = (
        of_several([figure(one, positive, task, weights) for one in dealt]).interval()
        for figure in (brier, calibration_error)
    )
    return replace(found, brier=square, calibration_error=error)


def _by_rate(scores: Scores, panel: Panel, weights: Values) -> dict[str, dict[str, AtLimit]]:
    """Return what is caught at several whole-trace false-alarm rates, with both guarantees.

    Where the calibration traces are too few for a rate, it is replaced by the lowest that they
    can guarantee.
    """
    if not panel.calibration:
        return {}
    maxima = trace_maxima(scores, [trace.id for trace in panel.calibration])
    return {
        str(target): {
            limit.method: _at_limit(limit, scores, panel, weights)
            for limit in (conformal_threshold(maxima, target), pac_threshold(maxima, target))
        }
        for target in RATES
    }


def _at_limit(limit: Threshold, scores: Scores, panel: Panel, weights: Values) -> AtLimit:
    return AtLimit(
        threshold=limit.value,
        guaranteed_rate=limit.guaranteed_rate,
        n=limit.n,
        note=limit.note,
        false_alarm_rate=alarm_rate(scores, limit.value, panel.benign),
        hard_negative_alarm_rate=alarm_rate(scores, limit.value, panel.hard_negative),
        **alarms_of(scores, limit.value, panel, weights).figures(),
    )


def _chance(
    rows: Values, threshold: float, panel: Panel, alarms: Alarms
) -> tuple[Metric | None, Metric | None]:
    """Return the share of positives warned in time when scores are permuted within tasks.

    And by how much more are warned in truth, on the same resamples: what the alarms know of the
    trace beyond its task.
    """
    cohort = alarms.cohort
    rng = np.random.default_rng(panel.seed)
    hits = np.zeros(len(rows))
    for _ in range(PERMUTATIONS):
        maxima = running_maxima(chance_rows(rows, cohort.task, rng))
        hits += sentences_to_alarm(maxima, threshold) <= cohort.length
    positive = cohort.positive
    n = int(positive.sum())
    share = hits[positive] / PERMUTATIONS
    true = (alarms.taken <= cohort.length)[positive].astype(float)
    task = cohort.task[positive]
    chance, own = (ratio(each, np.ones(n), task, alarms.weights) for each in (share, true))
    return chance.interval(), (own - chance).interval()


def _predictive(
    scores: Scores, threshold: float, panel: Panel, alarms: Alarms
) -> dict[str, Metric | None]:
    caught = alarms.figures()["caught_before_action"]
    wrong = alarm_rate(scores, threshold, panel.benign)
    if caught is None or wrong is None:
        return {}
    return {str(base): predictive_interval(caught, wrong, base) for base in BASE_RATES}
