"""Probabilities and alarms at a base rate, by hand-made cases and by another implementation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trace_probe.statistics.bootstrap import Metric, resample
from trace_probe.statistics.forecast import (
    brier,
    calibration_error,
    predictive_interval,
    predictive_value,
)

PLAIN = resample(1, draws=0)


def test_probabilities_are_judged_by_hand_made_cases() -> None:
    probability = np.array([0.1, 0.1, 0.9, 1.0])
    positive = np.array([False, True, True, True])
    task = np.zeros(4, dtype=np.intp)
    assert brier(probability, positive, task, PLAIN).estimate == pytest.approx(
        (0.01 + 0.81 + 0.01 + 0) / 4
    )
    assert calibration_error(probability, positive, task, PLAIN).estimate == pytest.approx(
        (abs(0.2 - 1) + abs(1.9 - 2)) / 4
    )


forecasts = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40)


@given(forecasts, st.integers(0, 3))
def test_brier_is_that_of_scikit_learn_on_repeated_tasks(
    rows: list[tuple[float, bool]], seed: int
) -> None:
    from sklearn.metrics import brier_score_loss

    probability, positive = (np.array(column) for column in zip(*rows, strict=True))
    task = np.arange(len(rows)) % 3
    weights = resample(int(task.max()) + 1, seed=seed, draws=3)
    draws = brier(probability, positive, task, weights).draws
    for weight, found in zip(weights, draws, strict=True):
        if weight[task].sum():
            theirs = brier_score_loss(
                positive, probability, sample_weight=weight[task], pos_label=True
            )
            assert found == pytest.approx(theirs, abs=1e-9)


def test_the_interval_of_a_calibration_error_lies_around_it() -> None:
    rng = np.random.default_rng(0)
    probability = rng.random(600)
    positive = rng.random(600) < probability  # calibrated: all that is left is noise
    found = calibration_error(probability, positive, np.arange(600) // 5, resample(120)).draws
    lower, upper = np.percentile(found[1:], [2.5, 97.5])
    assert 0 <= lower < found[0] < upper < 0.1
    wrong = calibration_error(probability, ~positive, np.arange(600) // 5, resample(120)).draws
    assert np.percentile(wrong[1:], 2.5) > 0.3


def test_predictive_value_falls_with_the_base_rate() -> None:
    assert predictive_value(0.6, 0.01, 0.1) == pytest.approx(0.06 / (0.06 + 0.009))
    assert predictive_value(0.6, 0.01, 0.001) == pytest.approx(0.0006 / (0.0006 + 0.00999))
    assert math.isnan(predictive_value(0.0, 0.0, 0.1))


def test_no_false_alarm_seen_is_not_none_at_all() -> None:
    caught, wrong = Metric(0.6, 0.5, 0.7, 50), Metric(0.0, 0.0, 0.02, 200)
    found = predictive_interval(caught, wrong, 0.01)
    assert found is not None
    assert (found.estimate, found.upper, found.n) == (1.0, 1.0, 50)
    assert found.lower == pytest.approx(predictive_value(0.5, 0.02, 0.01))
    assert predictive_interval(Metric(0, 0, 0.1, 9), Metric(0, 0, 0.1, 9), 0.1) is None
