import json

import pytest

from benchmarks.store import StoreBench, StorePlan, bench_store, format_store_bench
from trace_probe.files import plain

PLAN = StorePlan(traces=6, rows=8, layers=2, width=16, listed=700, reads=4, rounds=3)


@pytest.fixture(scope="module")
def bench() -> StoreBench:
    return bench_store(PLAN, say=lambda _: None)


def test_every_way_of_reading_is_measured(bench: StoreBench) -> None:
    found = json.loads(json.dumps(plain(bench)))
    assert list(found["scan"]) == ["summed", "as words"]
    for way in found["scan"].values():
        later, first = list(way)[:4], list(way)[4:]
        assert later == ["raw memmap", "files", "packed", "matrix cache"]
        assert first == ["files, first scan", "packed, first scan"]
    assert list(found["read"]) == ["raw memmap", "files", "packed"]
    assert list(found["listing"]) == ["index", "all lines parsed"]
    groups = *found["scan"].values(), *found["scan_ratio"].values()
    for group in (*groups, found["read"], found["listing"]):
        for one in group.values():
            assert 0 < one["lowest"] <= one["median"] <= one["highest"]


def test_the_raw_memmap_is_what_the_others_are_held_against(bench: StoreBench) -> None:
    for ratios in bench.scan_ratio.values():
        raw = ratios["raw memmap"]
        assert (raw.lowest, raw.median, raw.highest) == (1, 1, 1)


def test_the_table_names_every_way(bench: StoreBench) -> None:
    text = format_store_bench(bench)
    assert all(name in text for name in ("raw memmap", "files", "packed", "matrix cache"))
    assert "700 traces listed and filtered" in text
