"""The bench of false alarms, on scores whose truth is known."""

from dataclasses import replace

import numpy as np
import pytest
from made_probes import planted_probe

from benchmarks.false_alarms import (
    FalseAlarmPlan,
    count_alarms,
    format_false_alarms,
    noisy_range,
    plain_range,
)
from trace_probe.statistics.calibration import conformal_threshold


@pytest.mark.parametrize("rate", [0.01, 0.05])
def test_the_expected_range_holds_the_alarms_of_thresholds_set_on_samples(rate: float) -> None:
    rng = np.random.default_rng(3)
    low, high = noisy_range(1000, conformal_threshold(rng.random(500), rate).guaranteed_rate, 500)
    alarms = np.array(
        [
            (rng.random(1000) >= conformal_threshold(rng.random(500), rate).value).sum()
            for _ in range(2000)
        ]
    )
    assert 0.94 < ((alarms >= low) & (alarms <= high)).mean() < 0.985
    plain = plain_range(1000, rate)
    assert low <= plain[0] < plain[1] <= high
    assert ((alarms >= plain[0]) & (alarms <= plain[1])).mean() < 0.92


def test_a_kept_promise_and_a_broken_one_are_told_apart() -> None:
    rng = np.random.default_rng(0)
    groups = {"calibration": 8000, "held-out": 1000, "authorised": 50, "no-lever": 50}
    ids = {name: [f"{name}-{i}" for i in range(n)] for name, n in groups.items()}
    scores = {i: rng.normal(size=6) for each in ids.values() for i in each}
    plan = FalseAlarmPlan(guarantees=("conformal",))
    found = count_alarms(plan, planted_probe(), scores, ids)
    assert all(row.kept for row in found.rows)
    assert len(found.rows) == 6
    assert not found.drift
    shifted = {i: row + (0.8 if i.startswith("held") else 0.0) for i, row in scores.items()}
    broken = count_alarms(plan, planted_probe(), shifted, ids)
    assert not any(row.kept for row in broken.rows)
    assert "left the calibrated range" in broken.drift
    assert "NOT KEPT" in format_false_alarms(broken)


def test_the_card_s_own_threshold_is_put_to_the_test_as_it_is() -> None:
    rng = np.random.default_rng(0)
    groups = {"calibration": 1000, "held-out": 1000, "authorised": 20, "no-lever": 20}
    ids = {name: [f"{name}-{i}" for i in range(n)] for name, n in groups.items()}
    scores = {i: rng.normal(size=6) for each in ids.values() for i in each}
    tasks = tuple(map(str, range(500)))

    def kept(limit: float) -> bool:
        saved = planted_probe(limit)
        saved = replace(saved, card=replace(saved.card, calibration_tasks=tasks))
        row = count_alarms(FalseAlarmPlan(), saved, scores, ids).rows[0]
        assert (row.smoothing, row.alarms) == (
            "card max",
            sum(scores[i].max() >= limit for i in ids["held-out"]),
        )
        return row.kept

    assert kept(2.95)
    assert not kept(2.0)
