"""When alarms come: equal to lifelines, and to hand-made cases."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trace_probe.evaluation.details import mean_warnings
from trace_probe.evaluation.panel import Alarms
from trace_probe.statistics.bootstrap import resample
from trace_probe.statistics.metrics import NEVER, Cohort
from trace_probe.statistics.survival import hazard, mean_warning, survival_draws

survival = st.lists(st.tuples(st.integers(1, 6), st.booleans()), min_size=1, max_size=30)


@given(survival)
def test_kaplan_meier_is_that_of_lifelines(rows: list[tuple[int, bool]]) -> None:
    estimate = pytest.importorskip("lifelines").KaplanMeierFitter
    time, event = (np.array(column) for column in zip(*rows, strict=True))
    fitted = estimate().fit(time, event)
    at = np.unique(time[event])
    (share,) = survival_draws(time, event, np.zeros_like(time), np.ones((1, 1)), at)
    expected = fitted.survival_function_at_times(at).to_numpy() if len(at) else np.zeros(0)
    np.testing.assert_allclose(share, expected, atol=1e-9)
    before = np.concatenate([[1.0], share[:-1]])
    np.testing.assert_allclose(before * (1 - hazard(time, event)), share, atol=1e-9)


@given(survival, st.integers(0, 5))
def test_a_resampled_curve_is_that_of_lifelines_on_repeated_tasks(
    rows: list[tuple[int, bool]], seed: int
) -> None:
    estimate = pytest.importorskip("lifelines").KaplanMeierFitter
    time, event = (np.array(column) for column in zip(*rows, strict=True))
    task = np.arange(len(rows)) % 3
    weights = resample(int(task.max()) + 1, seed=seed, draws=3)
    at = np.unique(time[event])
    for weight, found in zip(weights, survival_draws(time, event, task, weights, at), strict=True):
        times = weight[task].astype(int)
        if not times.sum():
            continue
        fitted = estimate().fit(np.repeat(time, times), np.repeat(event, times))
        expected = fitted.survival_function_at_times(at).to_numpy() if len(at) else np.zeros(0)
        np.testing.assert_allclose(found, expected, atol=1e-9)


def test_a_trace_that_never_alarms_is_censored_and_no_alarm_at_all_gives_no_curve() -> None:
    time, event, task = np.array([1, 2, 2]), np.array([True, False, True]), np.zeros(3, np.intp)
    (share,) = survival_draws(time, event, task, np.ones((1, 1)), np.array([1, 2]))
    assert share.tolist() == pytest.approx([2 / 3, 1 / 3])
    none = np.zeros(0, np.intp)
    assert survival_draws(time, event, task, np.ones((1, 1)), none).shape == (1, 0)


def test_one_long_trace_warns_by_no_more_than_ten_sentences() -> None:
    lengths = [14, 8]
    cohort = Cohort(
        ids=("long", "short"),
        positive=np.array([True, True]),
        task=np.array([0, 1]),
        prompt=np.array([0, 1]),
        sentences=tuple(np.arange(n) for n in lengths),
        said=np.array([NEVER, NEVER]),
        tokens=tuple(5 * np.arange(1, n + 1) for n in lengths),
    )
    alarms = Alarms(cohort, np.array([1, 1]), resample(2, draws=20))
    found = {name: one.estimate for name, one in mean_warnings(alarms).items() if one}
    assert found["sentences"] == (10 + 7) / 2  # 13 sentences are left of the long one
    assert found["tokens"] == (13 * 5 + 7 * 5) / 2


def test_a_mean_warning_counts_misses_and_no_more_than_the_most() -> None:
    taken, length = np.array([1.0, 9.0, 2.0]), np.array([4.0, 9.0, 40.0])
    task = np.array([0, 0, 1])
    found = mean_warning(taken, length, task, resample(2, draws=0), most=10)
    assert found.estimate == pytest.approx((3 + 0 + 10) / 3)
