import json

import pytest

from benchmarks.capture import (
    CaptureBench,
    CapturePlan,
    bench_capture,
    format_capture,
)
from trace_probe.model.devices import STATUS

PLAN = CapturePlan(
    layers=4,
    width=64,
    traces=2,
    tokens=64,
    repeats=3,
    long_tokens=64,
    memory_tokens=(64, 2048),
)


@pytest.fixture(scope="module")
def bench() -> CaptureBench:
    return bench_capture(PLAN, say=lambda _: None)


def test_every_way_is_timed_in_every_round(bench: CaptureBench) -> None:
    assert set(bench.seconds) == {
        "bare pass",
        "4 layers",
        "all layers",
        "stop half-way",
        "TransformerLens, 4 layers",
    }
    for taken in bench.seconds.values():
        assert len(taken) == PLAN.repeats
        assert min(taken) > 0


def test_ratios_are_taken_round_by_round(bench: CaptureBench) -> None:
    found = json.loads(json.dumps(bench.to_json()))
    assert found["ratios"]["bare pass"] == {"median": 1.0, "lowest": 1.0, "highest": 1.0}
    mine, theirs = found["long_seconds"]["4 layers"], found["long_seconds"]
    ratio = theirs["TransformerLens, 4 layers"][0] / mine[0]
    assert found["transformer_lens"]["long"]["median"] == pytest.approx(ratio)


def test_four_layers_are_also_read_in_bfloat16(bench: CaptureBench) -> None:
    assert set(bench.half_seconds) == {"short", "long"}
    assert {len(taken) for taken in bench.half_seconds["short"].values()} == {PLAN.repeats}
    taken = bench.half_seconds["long"]
    ratio = taken["4 layers"][0] / taken["bare pass"][0]
    assert bench.half_ratios["long"].median == pytest.approx(ratio)


def test_all_that_was_measured_is_printed(bench: CaptureBench) -> None:
    text = format_capture(bench)
    for word in ("stop half-way", "run_with_cache", "bfloat16", "gpt_oss", "2048 tokens"):
        assert word in text


def test_both_ways_read_the_same_activations() -> None:
    import numpy as np

    from benchmarks.capture import made_up
    from trace_probe.model.blocks import HookedBlocks
    from trace_probe.model.bridge import bridged_blocks
    from trace_probe.model.capture import Reading, replay
    from trace_probe.model.peers import Sizes, cached_and_pooled, random_network

    network = random_network(Sizes(layers=4, width=64))
    ids, spans = made_up(PLAN, 2, 64)
    ours = replay(HookedBlocks(network, "random"), ids, spans, (1, 3), Reading())
    theirs = cached_and_pooled(bridged_blocks(network, "random"), ids, spans, (1, 3))
    for one, other in zip(ours, theirs, strict=True):
        assert np.abs(one.values - other).max() < 1e-5 * np.abs(one.values).max()


def test_memory_that_is_held_is_seen(bench: CaptureBench) -> None:
    """More tokens hold more, measured in a fresh process each."""
    if not STATUS.exists():
        pytest.skip("the peak of memory is read from /proc")
    for peaks in bench.peak_bytes.values():
        assert 0 <= peaks[64] < peaks[2048]
