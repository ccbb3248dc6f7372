import json

import pytest

from benchmarks.sweep import SweepBench, SweepPlan, bench_sweep, format_bench


@pytest.fixture(scope="module")
def bench() -> SweepBench:
    return bench_sweep(SweepPlan(layers=2, rows=2000, width=64), say=lambda _: None)


def test_both_ways_choose_cells_that_are_as_good(bench: SweepBench) -> None:
    for ours, theirs in zip(bench.sweep, bench.scikit_learn, strict=True):
        assert ours.auroc == pytest.approx(theirs.auroc, abs=0.01)
        assert 0.6 < ours.auroc < 1.0


def test_the_layers_are_not_the_same_data(bench: SweepBench) -> None:
    first, second = bench.sweep
    assert first.auroc != second.auroc


def test_memory_is_that_of_the_moments(bench: SweepBench) -> None:
    few, many = bench.peak_bytes.values()
    assert list(bench.peak_bytes) == [2000, 8000]
    assert many < 1.05 * few


def test_the_whole_grid_is_the_median_layer_times_the_layers(bench: SweepBench) -> None:
    found = json.loads(json.dumps(bench.to_json()))
    seconds = [grid["seconds"] for grid in found["sweep"]]
    assert found["extrapolated_seconds"]["sweep"] == pytest.approx(32 * sum(seconds) / 2)
    assert found["ratio"]["lowest"] <= found["ratio"]["median"] <= found["ratio"]["highest"]
    assert "by multiplication" in format_bench(bench)
