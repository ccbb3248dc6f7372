"""Figures with their draws, and intervals that cover where there are few tasks."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.coverage import SHIFT, World, cost, false_claims
from trace_probe.errors import NotEnoughData
from trace_probe.files import plain
from trace_probe.statistics.bootstrap import (
    Metric,
    Resampled,
    effective_tasks,
    mean,
    of_several,
    rate,
    ratio,
    resample,
    share,
    stretch,
    wilson,
)
from trace_probe.storage.typed import from_plain, to_plain


def resampled(draws: list[float], tasks: int = 20, n: int = 9) -> Resampled:
    return Resampled(np.array(draws), n, tasks)


def test_the_first_row_of_a_resample_is_the_data() -> None:
    weights = resample(7, seed=3, draws=50)
    assert weights.shape == (51, 7)
    assert weights[0].tolist() == [1.0] * 7
    assert (weights.sum(axis=1) == 7).all()
    np.testing.assert_array_equal(weights, resample(7, seed=3, draws=50))
    with pytest.raises(NotEnoughData, match="no labelled task"):
        resample(0)


def test_intervals_cover_the_truth_when_traces_of_a_task_are_alike() -> None:
    rng = np.random.default_rng(5)
    covered = 0
    for trial in range(200):
        shares = rng.beta(2, 2, size=40)
        task = np.repeat(np.arange(40), 5)
        hit = rng.random(200) < shares[task]
        weights = resample(40, seed=trial, draws=300)
        found = rate(hit, np.ones(200, dtype=bool), task, weights)
        assert found is not None
        covered += found.lower <= 0.5 <= found.upper
    assert covered / 200 > 0.89  # nominal 0.95


def test_a_rate_that_cannot_vary_still_has_an_interval() -> None:
    task = np.repeat(np.arange(10), 3)
    every = np.ones(30, dtype=bool)
    found = rate(every, every, task, resample(10))
    assert found is not None
    assert (found.estimate, found.n) == (1.0, 30)
    assert found.upper == pytest.approx(1.0)
    assert found.lower == pytest.approx(0.7225, abs=1e-3)  # Wilson, 10 of 10
    assert rate(every, ~every, task, resample(10)) is None


@pytest.mark.parametrize("prompts", [4, 6, 10, 15, 30])
def test_where_nothing_is_to_be_found_few_intervals_claim_it(prompts: int) -> None:
    """800 trials each with ``python -m benchmarks.coverage``; nominal are .025."""
    ours, percentile = false_claims(World(), prompts, trials=250)
    assert ours <= 0.05
    if prompts == 4:
        assert percentile > 0.06  # so the trials do see an interval that does not cover


def test_an_interval_that_covers_is_hardly_wider_and_finds_what_is_there() -> None:
    width, power, percentile = cost(World(SHIFT), prompts=30, trials=100)
    assert 1.0 < width <= 1.15
    assert power >= percentile - 0.05


def test_tasks_of_unlike_size_count_for_fewer() -> None:
    assert effective_tasks(np.ones(7)) == pytest.approx(7)
    assert effective_tasks(np.array([10.0, 0.1, 0.1])) == pytest.approx(1.04, abs=0.01)
    assert stretch(30.0) == pytest.approx(1.061, abs=1e-3)
    assert stretch(4.0) > stretch(6.0) > stretch(30.0) > stretch(1e6) > 0.999


@pytest.mark.parametrize(("tasks", "has"), [(1, False), (3, False), (4, True)])
def test_below_four_tasks_there_is_no_interval(tasks: int, has: bool) -> None:
    rng = np.random.default_rng(0)
    values = rng.random(tasks)
    found = mean(values, [str(i) for i in range(tasks)]).interval()
    assert found is not None
    assert found.estimate == pytest.approx(values.mean())
    assert found.has_interval is has
    assert (found.above(-1.0), found.below(2.0)) == (has, has)
    assert ("(no interval)" in f"{found:.2f}") is not has
    raw = found.to_json()
    assert (raw["lower"] is None) is not has
    json.dumps(raw, allow_nan=False)


def test_no_interval_is_without_width() -> None:
    """Where all resamples agree, other tasks might differ: as many as Wilson's bound allows."""
    bound = wilson(0.0, 20, n=1).upper
    for value in (0.0, 0.5, 1.0):
        found = resampled([value] * 50).interval()
        assert found is not None
        assert found.lower == pytest.approx(value * (1 - bound))
        assert found.upper == pytest.approx(value + bound * (1 - value))
    same = resampled([0.7, 0.6, 0.8])
    nothing = (same - same).interval()
    assert nothing is not None
    assert (nothing.estimate, nothing.lower, nothing.upper) == (0.0, -bound, bound)
    gain = (resampled([1.0] * 50) - resampled([0.5] * 50)).interval()
    assert gain is not None
    assert (gain.estimate, gain.upper) == (0.5, 0.5)
    assert gain.lower == pytest.approx(0.5 - bound)


def test_an_interval_does_not_leave_what_is_possible() -> None:
    draws = [0.98, *np.linspace(0.9, 1.0, 101)]
    found = resampled(draws, tasks=5).interval()
    assert found is not None
    assert found.upper == 1.0
    assert found.lower == pytest.approx(0.98 - stretch(5) * 0.0775, abs=1e-3)


def test_figures_of_the_same_draws_are_subtracted_and_divided() -> None:
    first, second = resampled([0.8, 0.7, 0.9], tasks=9, n=5), resampled([0.4, 0.0, 0.3], tasks=6)
    gap, part = first - second, second / first
    assert gap.draws.tolist() == pytest.approx([0.4, 0.7, 0.6])
    assert (gap.n, gap.tasks, gap.bounds) == (5, 6, (-1.0, 1.0))
    assert part.draws.tolist() == pytest.approx([0.5, 0.0, 1 / 3])
    assert (part.bounds[0], math.isinf(part.bounds[1])) == (0.0, True)
    assert math.isnan((first / second).draws[1])
    assert gap.error == pytest.approx(0.05)


def test_a_figure_of_several_runs_has_draws_of_each() -> None:
    one, other = resampled([0.0, 0.1, 0.1, 0.1]), resampled([1.0, 0.9, 0.9, 0.9])
    assert of_several([one, other]).draws.tolist() == [0.5, 0.9, 0.1, 0.9]


def test_an_increasing_function_keeps_the_interval_in_order() -> None:
    tasks = [str(i) for i in range(12)]
    found = mean(np.arange(12.0), tasks).mapped(np.exp).interval()
    assert found is not None
    assert found.lower < found.estimate == pytest.approx(np.exp(5.5))
    assert found.estimate < found.upper


def test_a_figure_without_data_is_none() -> None:
    assert resampled([math.nan, 1.0, 2.0]).interval() is None
    assert resampled([0.5, math.nan]).interval() is None
    assert resampled([0.5, 0.4, 0.6], n=0).interval() is None
    empty = ratio(np.zeros(0), np.zeros(0), np.zeros(0, dtype=np.intp), resample(2, draws=3))
    assert np.isnan(empty.draws).all()
    assert share(np.zeros(0, dtype=bool), []) is None


def test_a_share_of_few_tasks_has_the_interval_of_tasks_that_are_all_or_nothing() -> None:
    hit = np.array([True, False, True, True])
    found = share(hit, ["a", "a", "b", "b"])
    assert found == wilson(0.75, 2, n=4)


@given(st.floats(0, 1), st.integers(1, 400))
def test_wilson_s_interval_holds_the_share(value: float, trials: int) -> None:
    found = wilson(value, trials, n=trials)
    assert 0 <= found.lower <= value <= found.upper <= 1


def test_json_knows_no_nan() -> None:
    value = {"a": [math.nan, 1.0], "b": (2, math.nan), "c": "nan"}
    assert plain(value) == {"a": [None, 1.0], "b": [2, None], "c": "nan"}
    found = Metric(0.5, math.nan, math.nan, 3)
    again = from_plain(Metric, to_plain(found), "a figure", advice="none")
    assert not again.has_interval
