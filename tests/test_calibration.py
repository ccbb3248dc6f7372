import math

import numpy as np
import pytest

from trace_probe.errors import NotEnoughData
from trace_probe.statistics.calibration import Threshold, conformal_threshold, pac_threshold


def binomial_cdf(k: int, n: int, p: float) -> float:
    return sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1))


@pytest.mark.parametrize(("n", "rate"), [(99, 0.01), (199, 0.05), (150, 0.1)])
def test_the_realised_rate_keeps_the_promise_over_200_calibrations(n: int, rate: float) -> None:
    rng = np.random.default_rng(1)
    wrong = trials = 0
    guaranteed = []
    for _ in range(200):
        threshold = conformal_threshold(rng.normal(size=n), rate)
        wrong += int((rng.normal(size=50) >= threshold.value).sum())
        trials += 50
        guaranteed.append(threshold.guaranteed_rate)
    honest = guaranteed[0]
    assert honest <= rate
    # Calibration sets differ: the share of one of them varies as a beta(k, n + 1 - k) does.
    spread = math.sqrt(honest * (1 - honest) * (1 / trials + 1 / (200 * (n + 2))))
    assert abs(wrong / trials - honest) < 3 * spread


def test_the_threshold_is_just_above_the_order_statistic() -> None:
    threshold = conformal_threshold(np.arange(1, 100, dtype=float), 0.01)
    assert threshold.value == np.nextafter(np.float32(99), np.float32(np.inf))
    assert conformal_threshold(np.arange(1, 100, dtype=float), 0.05).value == np.nextafter(
        np.float32(95), np.float32(np.inf)
    )
    assert threshold == Threshold(threshold.value, 0.01, 0.01, 99, "conformal")


def test_ties_do_not_alarm() -> None:
    maxima = np.ones(99)
    assert not (maxima >= conformal_threshold(maxima, 0.05).value).any()
    assert not (maxima >= pac_threshold(maxima, 0.05).value).any()


def test_scores_of_double_precision_do_not_slip_over_a_threshold_of_single() -> None:
    maxima = np.full(99, 0.1)  # not a float32
    assert not (maxima >= conformal_threshold(maxima, 0.01).value).any()


@pytest.mark.parametrize(("n", "rate", "needed"), [(98, 0.01, 99), (18, 0.05, 19), (9, 0.001, 999)])
def test_too_few_traces_give_the_honest_rate_and_say_how_many_are_needed(
    n: int, rate: float, needed: int
) -> None:
    threshold = conformal_threshold(np.arange(n, dtype=float), rate)
    assert threshold.guaranteed_rate == pytest.approx(1 / (n + 1))
    assert threshold.guaranteed_rate > rate
    assert f"needs {needed}" in threshold.note
    assert not conformal_threshold(np.arange(needed, dtype=float), rate).note


@pytest.mark.parametrize(("n", "k"), [(230, 0), (388, 1), (531, 2), (926, 5)])
def test_the_pac_threshold_allows_as_many_alarms_as_the_binomial_does(n: int, k: int) -> None:
    assert binomial_cdf(k, n, 0.01) <= 0.1 < binomial_cdf(k + 1, n, 0.01)
    maxima = np.arange(n, dtype=float)
    threshold = pac_threshold(maxima, 0.01)
    assert int((maxima >= threshold.value).sum()) == k
    assert (threshold.guaranteed_rate, threshold.note) == (0.01, "")


def test_a_pac_rate_out_of_reach_is_replaced_by_the_reachable_one() -> None:
    threshold = pac_threshold(np.arange(100, dtype=float), 0.01)
    assert binomial_cdf(0, 100, threshold.guaranteed_rate) == pytest.approx(0.1)
    assert "needs 230" in threshold.note


def test_the_pac_threshold_of_very_many_traces_lets_no_more_alarm() -> None:
    maxima = np.arange(5000, dtype=float)  # 0.85 to that power is 0 to a float
    assert int((maxima >= pac_threshold(maxima, 0.15).value).sum()) == 717


def test_the_pac_promise_holds_for_nine_thresholds_in_ten() -> None:
    rng = np.random.default_rng(2)
    broken = sum(
        pac_threshold(rng.random(105), 0.05).value < 1 - 0.05 for _ in range(400)
    )  # the true rate of a threshold t on uniform scores is 1 - t
    assert broken / 400 <= 0.1 + 3 * math.sqrt(0.09 / 400)


@pytest.mark.parametrize("maxima", [[], [-np.inf, -np.inf], [1.0, np.nan]])
def test_no_scored_harmless_trace_is_an_error_that_says_what_to_record(
    maxima: list[float],
) -> None:
    with pytest.raises(NotEnoughData, match="role `benign`"):
        conformal_threshold(np.array(maxima), 0.01)


def test_a_harmless_trace_without_reasoning_counts_as_one_that_cannot_alarm() -> None:
    maxima = np.array([2.0, -np.inf, 1.0])
    threshold = conformal_threshold(maxima, 0.5)
    assert threshold.value == np.nextafter(np.float32(1.0), np.float32(np.inf))
    assert threshold.guaranteed_rate == 0.5


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1])
def test_an_impossible_rate_is_refused(rate: float) -> None:
    with pytest.raises(NotEnoughData, match="cannot be calibrated"):
        conformal_threshold(np.arange(5, dtype=float), rate)
