import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from trace_probe.errors import ProbeError
from trace_probe.statistics.bootstrap import Values, resample
from trace_probe.statistics.metrics import (
    NEVER,
    UNKNOWN,
    Cohort,
    auroc,
    average_precision,
    chance_rows,
    first_alarm,
    pairs_across,
    pairs_within,
    running_maxima,
    score_rows,
    scores_held,
    sentences_to_alarm,
    trace_maxima,
)


def cohort(
    outcomes: list[int],
    prompts: list[int],
    lengths: list[int] | None = None,
    said: list[int] | None = None,
) -> Cohort:
    n = len(outcomes)
    lengths = lengths or [3] * n
    return Cohort(
        ids=tuple(f"t{i}" for i in range(n)),
        positive=np.array(outcomes, dtype=bool),
        task=np.array(prompts),
        prompt=np.array(prompts),
        sentences=tuple(np.arange(length) for length in lengths),
        said=np.array(said or [-1] * n),
    )


def ranked(group: Cohort, rows: Values, *, guard: int = 0) -> tuple[float, float]:
    at = group.before_said(guard)
    held = scores_held(rows)
    plain = resample(group.n_tasks, draws=0)
    within, across = pairs_within(group, at), pairs_across(group, at)
    return (
        float(within.auroc(held, plain).estimate),
        float(across.auroc(held, plain).estimate),
    )


scored = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.5, 0.5000001, 2.0]), st.booleans()), min_size=1
)


@given(scored)
def test_auroc_is_that_of_scikit_learn_ties_included(rows: list[tuple[float, bool]]) -> None:
    from sklearn.metrics import roc_auc_score

    score, positive = (np.array(column) for column in zip(*rows, strict=True))
    if positive.all() or not positive.any():
        assert math.isnan(auroc(score, positive))
    else:
        assert auroc(score, positive) == pytest.approx(roc_auc_score(positive, score), abs=1e-9)


@given(scored)
def test_average_precision_is_that_of_scikit_learn(rows: list[tuple[float, bool]]) -> None:
    from sklearn.metrics import average_precision_score

    score, positive = (np.array(column) for column in zip(*rows, strict=True))
    weights = np.vstack([np.ones(len(rows)), np.arange(1.0, len(rows) + 1)])
    found = average_precision(score, positive, weights)
    if not positive.any():
        assert np.isnan(found).all()
        return
    for weight, value in zip(weights, found, strict=True):
        expected = average_precision_score(positive, score, sample_weight=weight)
        assert value == pytest.approx(expected, abs=1e-9)


def test_pooled_concordance_of_silent_traces_is_the_auroc_of_their_last_scores() -> None:
    rng = np.random.default_rng(0)
    group = cohort(rng.integers(0, 2, 40).tolist(), (np.arange(40) // 4).tolist())
    rows = rng.integers(0, 4, (40, 3)).astype(float)
    assert ranked(group, rows)[1] == pytest.approx(auroc(rows[:, -1], group.positive), abs=1e-9)


def test_within_prompt_auroc_weighs_each_prompt_by_its_pairs() -> None:
    group = cohort([1, 0, 1, 0, 0, 1, 1], [0, 0, 1, 1, 1, 2, 2])
    rows = np.repeat([[1.0], [2.0], [5.0], [4.0], [4.0], [9.0], [9.0]], 3, axis=1)
    assert ranked(group, rows)[0] == pytest.approx((0 * 1 + 1.0 * 2) / 3)


def test_a_signal_of_the_prompt_ranks_tasks_and_not_traces() -> None:
    group = cohort([1, 1, 1, 0, 1, 0, 0, 0], [0] * 4 + [1] * 4)
    rows = np.repeat([[2.0]] * 4 + [[1.0]] * 4, 3, axis=1)
    within, across = ranked(group, rows)
    assert within == 0.5
    assert across > 0.7


def test_position_and_length_leak_nothing_into_a_time_matched_comparison() -> None:
    group = cohort([1, 0, 1, 0], [0, 0, 0, 0], [6, 6, 6, 6], said=[1, -1, 4, -1])
    position = np.tile(np.arange(6.0), (4, 1))
    assert ranked(group, position) == (0.5, 0.5)


def test_what_comes_after_it_is_said_does_not_count() -> None:
    group = cohort([1, 0], [0, 0], said=[1, -1])
    rows = np.array([[0.0, 9.0, 9.0], [1.0, 1.0, 1.0]])
    assert ranked(group, rows) == (0.0, 0.0)


def test_both_traces_are_read_only_as_far_as_the_shorter_goes() -> None:
    group = cohort([1, 0], [0, 0], lengths=[3, 1])
    assert ranked(group, np.array([[0.0, 0.0, 1.0], [0.5, np.nan, np.nan]])) == (0.0, 0.0)
    assert ranked(group, np.array([[1.0, 0.0, 0.0], [0.5, np.nan, np.nan]])) == (1.0, 1.0)
    assert ranked(group, np.array([[0.0, 9.0, 9.0], [0.5, np.nan, np.nan]])) == (0.0, 0.0)
    shorter = cohort([1, 0], [0, 0], lengths=[1, 3])
    assert ranked(shorter, np.array([[0.5, np.nan, np.nan], [0.0, 0.0, 1.0]])) == (1.0, 1.0)


def test_pairs_with_nothing_before_it_is_said_are_left_out_and_counted() -> None:
    group = cohort([1, 1, 0], [0, 0, 0], said=[0, 2, -1])
    pairs = pairs_within(group, group.before_said())
    assert (pairs.n, pairs.excluded) == (1, 1)
    assert pairs_within(group, group.before_said(guard=2)).n == 0
    assert all(math.isnan(value) for value in ranked(group, np.zeros((3, 3)), guard=2))


def test_a_negative_that_says_it_is_read_no_further_than_that_either() -> None:
    group = cohort([1, 0], [0, 0], said=[-1, 1])
    assert ranked(group, np.array([[1.0, 0.0, 0.0], [0.0, 9.0, 9.0]])) == (1.0, 1.0)


def test_unknown_is_neither_silent_nor_said_and_no_pair_is_made_of_it() -> None:
    group = cohort([1, 1, 1, 0], [0] * 4, said=[NEVER, UNKNOWN, 2, NEVER])
    assert group.silent.tolist() == [True, False, False, False]
    assert group.spoken.tolist() == [False, False, True, False]
    assert group.before_said(1).tolist() == [3, 0, 1, 3]
    pairs = pairs_within(group, group.before_said())
    assert (pairs.n, pairs.excluded) == (2, 1)
    assert group.silence()["unknown_whether_said"] == 1


def test_the_score_held_is_the_latest_that_there_was() -> None:
    rows = np.array([[np.nan, 2.0, np.nan, 1.0], [0.5, np.nan, np.nan, np.nan]])
    assert scores_held(rows).tolist() == [
        [-np.inf, -np.inf, 2.0, 2.0, 1.0],
        [-np.inf, 0.5, 0.5, 0.5, 0.5],
    ]
    assert scores_held(np.zeros((2, 0))).tolist() == [[-np.inf]] * 2
    group = cohort([1, 0], [0, 0])
    assert ranked(group, np.array([[9.0, 0.0, 0.0], [1.0, 1.0, 1.0]])) == (0.0, 0.0)


def test_one_sided_prompts_have_no_within_prompt_figure() -> None:
    group = cohort([1, 1, 0, 0], [0, 0, 1, 1])
    within, across = ranked(group, np.eye(4)[:, :3])
    assert math.isnan(within)
    assert not math.isnan(across)


def test_missing_scores_never_win_and_missing_traces_are_refused() -> None:
    group = cohort([1, 0], [0, 0])
    scores = {"t0": np.array([np.nan, 2.0, np.nan]), "t1": np.full(3, np.nan)}
    rows = score_rows(group, scores)
    assert running_maxima(rows).tolist() == [[-np.inf, -np.inf, 2.0, 2.0], [-np.inf] * 4]
    assert trace_maxima(scores, ["t0", "t1"]).tolist() == [2.0, -np.inf]
    with pytest.raises(ProbeError, match="trace t1 has no scores"):
        score_rows(group, {"t0": scores["t0"]})


def test_an_alarm_is_the_first_score_at_or_above_the_threshold() -> None:
    scores = np.array([np.nan, 0.4, 0.5, 0.1, 0.9])
    assert first_alarm(scores, 0.5) == 2
    assert first_alarm(scores, 1.0) is None
    maxima = running_maxima(scores[None, :])
    assert sentences_to_alarm(maxima, 0.5).tolist() == [3]
    assert sentences_to_alarm(maxima, 1.0).tolist() == [6]


def test_traces_without_a_score_come_last_and_together() -> None:
    score = np.array([-np.inf, 1.0, -np.inf, 2.0])
    positive = np.array([True, False, False, True])
    found = average_precision(score, positive, np.ones((1, 4)))
    assert found[0] == pytest.approx((1 + 2 / 4) / 2)
    assert auroc(score, positive) == pytest.approx((2 + 0.5 + 0) / 4)


def test_chance_keeps_the_scores_of_each_task_and_position() -> None:
    rng = np.random.default_rng(1)
    rows: NDArray[Any] = rng.normal(size=(30, 4))
    rows[5:12, 3] = np.nan
    task = rng.permutation(np.repeat(np.arange(3), 10))
    shuffled = chance_rows(rows, task, rng)
    assert not np.array_equal(shuffled, rows, equal_nan=True)
    for code in range(3):
        for column in range(4):
            chosen = task == code
            np.testing.assert_array_equal(
                np.sort(shuffled[chosen, column]), np.sort(rows[chosen, column])
            )
