"""The bench of false alarms, on scores whose truth is known."""

import numpy as np
from scipy.stats import binom
from test_flagging import probe

from trace_probe.bench.false_alarms import (
    FalseAlarmPlan,
    binomial_range,
    count_alarms,
    format_false_alarms,
)


def test_the_range_is_the_binomials() -> None:
    for n, share in ((1000, 0.01), (1000, 0.05), (998, 0.01)):
        low, high = binomial_range(n, share)
        assert (low, high) == (binom.ppf(0.025, n, share), binom.ppf(0.975, n, share))


def test_a_kept_promise_and_a_broken_one_are_told_apart() -> None:
    rng = np.random.default_rng(0)
    groups = {"calibration": 8000, "held-out": 1000, "authorised": 50, "no-lever": 50}
    ids = {name: [f"{name}-{i}" for i in range(n)] for name, n in groups.items()}
    scores = {i: rng.normal(size=6) for each in ids.values() for i in each}
    plan = FalseAlarmPlan(promises=("conformal",))
    found = count_alarms(plan, probe(), scores, ids)
    assert all(row.kept for row in found.rows)
    assert len(found.rows) == 6
    assert not found.drift
    shifted = {i: row + (0.8 if i.startswith("held") else 0.0) for i, row in scores.items()}
    broken = count_alarms(plan, probe(), shifted, ids)
    assert not any(row.kept for row in broken.rows)
    assert "left the calibrated range" in broken.drift
    assert "NOT KEPT" in format_false_alarms(broken)
