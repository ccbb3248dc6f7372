import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trace_probe.evaluation.alternatives import (
    AGGREGATIONS,
    aggregate,
    ensemble,
    softmax_mean,
    top_mean,
)

SCORES = st.lists(st.floats(-50, 50), min_size=1, max_size=12).map(np.array)


@pytest.mark.parametrize("name", AGGREGATIONS)
@given(scores=SCORES, cut=st.integers(1, 12))
def test_a_mean_never_looks_ahead(name: str, scores: np.ndarray, cut: int) -> None:
    mean = AGGREGATIONS[name]
    np.testing.assert_allclose(mean(scores)[:cut], mean(scores[:cut]), atol=1e-9)


@pytest.mark.parametrize("name", AGGREGATIONS)
@given(scores=SCORES)
def test_a_statistic_lies_between_the_extremes_so_far(name: str, scores: np.ndarray) -> None:
    found = AGGREGATIONS[name](scores)
    assert (found <= np.maximum.accumulate(scores) + 1e-9).all()
    assert (found >= np.minimum.accumulate(scores) - 1e-9).all()


@given(scores=SCORES)
def test_the_softmax_mean_is_that_of_its_formula(scores: np.ndarray) -> None:
    for end in range(1, len(scores) + 1):
        weight = np.exp(scores[:end] - scores[:end].max())
        expected = (weight * scores[:end]).sum() / weight.sum()
        assert softmax_mean(scores)[end - 1] == pytest.approx(expected, abs=1e-6)


def test_means_of_few_scores_are_known() -> None:
    scores = np.array([1.0, 5.0, 3.0, 0.0])
    np.testing.assert_allclose(top_mean(scores, k=2), [1.0, 3.0, 4.0, 4.0])


def test_sentences_without_a_score_have_no_statistic_and_do_not_count() -> None:
    found = aggregate({"a": np.array([2.0, np.nan, 4.0])}, AGGREGATIONS["top-3 mean"])
    np.testing.assert_allclose(found["a"], [2.0, np.nan, 3.0])


def test_an_ensemble_weighs_its_members_alike_whatever_their_units() -> None:
    rng = np.random.default_rng(0)
    one = {str(i): rng.normal(size=5) for i in range(9)}
    other = {name: 1000 * rng.normal(size=5) + 7 for name in one}
    found = ensemble([one, other], [one, other])
    bent = {name: row / 3 - 1 for name, row in one.items()}
    moved = ensemble([bent, other], [bent, other])
    for name in one:
        np.testing.assert_allclose(found[name], moved[name], atol=1e-12)
    values = np.concatenate(list(found.values()))
    for member in (one, other):
        each = np.concatenate(list(member.values()))
        assert np.corrcoef(values, each)[0, 1] > 0.5


def test_an_ensemble_is_standardised_by_the_reference_alone() -> None:
    known = {"known": np.array([0.0, 2.0])}
    found = ensemble([{"new": np.array([100.0, np.nan])}], [known])
    np.testing.assert_allclose(found["new"], [99.0, np.nan])
