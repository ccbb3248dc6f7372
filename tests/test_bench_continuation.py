"""The bench of continuations: both ways draw the same, and the ratio is taken round by round."""

import json
from pathlib import Path

import pytest

from benchmarks.continuation import (
    SHARED,
    TEXT,
    ContinuationBench,
    ContinuationPlan,
    bench_continuation,
    format_continuation,
)

DEMO = Path(__file__).parents[1] / "traces" / "demo"


@pytest.fixture(scope="module")
def bench() -> ContinuationBench:
    plan = ContinuationPlan(
        (16, 40), new_tokens=6, continuations=3, layers=2, width=64, run=DEMO, traces=1, rounds=2
    )
    return bench_continuation(plan, say=lambda _: None)


def test_both_ways_draw_the_same_tokens(bench: ContinuationBench) -> None:
    assert [race.same for race in bench.races] == [1.0] * 3
    assert all(race.drawn > 0 for race in bench.races)


def test_a_run_is_continued_from_its_own_prefixes(bench: ContinuationBench) -> None:
    from trace_probe.emergence.curve import prefixes
    from trace_probe.store import Store

    made_up, _, recorded = bench.races
    assert made_up.prefixes == (16,)
    ends = {tuple(token for _, token in prefixes(trace)) for trace in Store(DEMO).traces()}
    assert any(set(recorded.prefixes) <= set(its) for its in ends)
    assert recorded.model.startswith("organism:rl-s0@")


def test_ratios_are_taken_round_by_round(bench: ContinuationBench) -> None:
    found = json.loads(json.dumps(bench.to_json(), default=str))
    for race in found["races"]:
        pairs = zip(race["seconds"][TEXT], race["seconds"][SHARED], strict=True)
        ratios = [text / shared for text, shared in pairs]
        assert len(ratios) == 2
        assert race["ratio"]["lowest"] == pytest.approx(min(ratios))
        tokens = sum(race["prefixes"])
        assert race["in_tokens"] == pytest.approx(
            (3 * tokens + race["drawn"]) / (tokens + race["drawn"])
        )
    assert "times" in format_continuation(bench)
