"""Further figures of a detector: what they cost, when they come, and what chance would give."""

from typing import Any

import numpy as np

from trace_probe.evaluation.alignment import event_aligned
from trace_probe.evaluation.panel import Alarms, Panel, alarm_rate, alarms_of, rank, summary
from trace_probe.statistics.calibration import Threshold, conformal_threshold, pac_threshold
from trace_probe.statistics.metrics import (
    Metric,
    Scores,
    Values,
    auroc,
    average_precision,
    brier,
    calibration_error,
    chance_rows,
    heard,
    kaplan_meier,
    metric,
    predictive_value,
    ratio,
    running_maxima,
    score_rows,
    trace_maxima,
)

GUARDS = (1, 2)
BASE_RATES = (0.1, 0.01, 0.001)
RATES = (0.001, 0.01, 0.05)
PERMUTATIONS = 20


def details(scores: Scores, threshold: float, panel: Panel, alarms: Alarms) -> dict[str, Any]:
    """Return further figures of a detector as JSON."""
    cohort = alarms.cohort
    rows = score_rows(cohort, scores)
    maxima = running_maxima(rows)
    final = maxima[:, -1]
    precision = average_precision(final, cohort.positive, alarms.weights[:, cohort.task])
    probability = 0.5 * (1 + np.tanh(final / 2))
    said = cohort.positive & (cohort.said >= 0)
    return {
        "average_precision": _json(metric(precision, len(cohort.ids))),
        "whole_trace_auroc": _number(auroc(final, cohort.positive)),
        "brier": brier(probability, cohort.positive),
        "calibration_error": calibration_error(probability, cohort.positive),
        "before_said_by_guard": {
            str(guard): _json(alarms.caught(cohort.before_said(guard), said)) for guard in GUARDS
        },
        "within_prompt_by_guard": {
            str(guard): _json(
                summary(rank(cohort, maxima, cohort.before_said(guard), alarms.weights), cohort)[
                    "within_prompt_auroc"
                ]
            )
            for guard in GUARDS
        },
        "useful_warning_by_chance": _json(_chance(rows, threshold, panel, alarms)),
        "predictive_value": _predictive(scores, threshold, panel, alarms),
        "alarm_free": _survival(alarms),
        "tokens": {name: _json(value) for name, value in alarms.by_tokens().items()},
        "by_rate": _by_rate(scores, panel, alarms.weights),
        "event_aligned": event_aligned(cohort, rows, alarms.weights, seed=panel.seed),
    }


def _by_rate(scores: Scores, panel: Panel, weights: Values) -> dict[str, Any]:
    """Return what is caught at several whole-trace false-alarm rates, in both promises.

    A rate that the calibration traces are too few for is replaced by the one they can promise.
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


def _at_limit(limit: Threshold, scores: Scores, panel: Panel, weights: Values) -> dict[str, Any]:
    caught = alarms_of(scores, limit.value, panel, weights).figures()
    return {
        "threshold": limit.value,
        "honest_rate": limit.honest_rate,
        "n": limit.n,
        "note": limit.note,
        **{name: _json(value) for name, value in caught.items()},
        "false_alarm_rate": _json(alarm_rate(scores, limit.value, panel.benign)),
        "hard_negative_alarm_rate": _json(alarm_rate(scores, limit.value, panel.hard_negative)),
    }


def _chance(rows: Values, threshold: float, panel: Panel, alarms: Alarms) -> Metric | None:
    """Return the share of positives warned in time when scores are dealt anew within tasks."""
    cohort = alarms.cohort
    rng = np.random.default_rng(panel.seed)
    hits = np.zeros(len(rows))
    for _ in range(PERMUTATIONS):
        maxima = running_maxima(chance_rows(rows, cohort.task, rng))
        hits += heard(maxima, threshold) <= cohort.length
    positive = cohort.positive
    n = int(positive.sum())
    share = hits[positive] / PERMUTATIONS
    return metric(ratio(share, np.ones(n), cohort.task[positive], alarms.weights), n)


def _predictive(
    scores: Scores, threshold: float, panel: Panel, alarms: Alarms
) -> dict[str, float | None]:
    caught = alarms.figures()["caught_before_action"]
    wrong = alarm_rate(scores, threshold, panel.benign)
    if caught is None or wrong is None:
        return {}
    return {
        str(base): _number(predictive_value(caught.estimate, wrong.estimate, base))
        for base in BASE_RATES
    }


def _survival(alarms: Alarms) -> dict[str, dict[str, list[float]]]:
    """Return Kaplan-Meier curves and hazards of the first alarm by outcome; the action censors."""
    length = alarms.cohort.length
    event = alarms.taken <= length
    time = np.where(event, alarms.taken, length)
    groups = {"positive": alarms.cohort.positive, "negative": ~alarms.cohort.positive}
    curves = {}
    for name, group in groups.items():
        sentence, share = kaplan_meier(time[group], event[group])
        before = np.concatenate([[1.0], share[:-1]])
        curves[name] = {
            "sentence": sentence.tolist(),
            "share": share.tolist(),
            "hazard": (1 - share / before).tolist(),
        }
    return curves


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _json(value: Metric | None) -> dict[str, float | int] | None:
    return None if value is None else value.to_json()
