"""A large run is parsed once; what was read of it is kept, and fits the run or is not used."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.generated import Size, generate
from trace_probe.errors import StoreError
from trace_probe.explorer import overview
from trace_probe.explorer.overview import Overview, must_parse, read_overview
from trace_probe.explorer.rows import Facts, facts_of
from trace_probe.storage import journal
from trace_probe.store import Store
from trace_probe.trace import Trace

FILE = "cache/explorer.parquet"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(overview, "LARGE", 2)
    monkeypatch.setattr(journal, "WORTH_KEEPING", {"lines": 2, "bytes": 1 << 20})
    generate(tmp_path / "run", Size(traces=12, tokens=60, long_tokens=200))
    return tmp_path / "run"


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the ids of the traces that are parsed from now on."""
    ids: list[str] = []
    whole = facts_of

    def parse(trace: Trace) -> Facts:
        ids.append(trace.id)
        return whole(trace)

    monkeypatch.setattr("trace_probe.explorer.overview.facts_of", parse)
    return ids


def values(found: Overview) -> list[dict[str, Any]]:
    plain = [asdict(facts) for facts in found.facts.values()]
    return [
        {key: one.tolist() if isinstance(one, np.ndarray) else one for key, one in row.items()}
        for row in plain
    ]


def test_a_large_run_is_parsed_once(run: Path, parsed: list[str]) -> None:
    assert must_parse(Store(run))
    told: list[tuple[int, int]] = []
    first = read_overview(Store(run), lambda done, of: told.append((done, of)))
    assert len(parsed) == 12
    assert not must_parse(Store(run))
    again = read_overview(Store(run))
    assert len(parsed) == 12
    assert (values(again), again.texts) == (values(first), first.texts)
    one, other = (next(iter(found.facts.values())) for found in (first, again))
    assert (one.starts.dtype, one.reasoning.dtype) == (other.starts.dtype, other.reasoning.dtype)


def test_of_a_run_that_grew_only_what_is_new_is_parsed(run: Path, parsed: list[str]) -> None:
    read_overview(Store(run))
    last = list(Store(run).traces())[-1]
    more = [replace(last, id=f"more-{number}") for number in range(3)]
    with Store(run).writing() as store:
        for trace in more:
            store.add(trace)
    parsed.clear()
    found = read_overview(Store(run))
    assert parsed == [trace.id for trace in more]
    assert list(found.facts) == [trace.id for trace in Store(run).traces()]
    parsed.clear()
    assert len(read_overview(Store(run)).facts) == 15
    assert parsed == []


@pytest.mark.parametrize("harm", ["another run", "damaged", "gone"])
def test_what_does_not_fit_the_run_is_not_used(run: Path, harm: str, parsed: list[str]) -> None:
    before = read_overview(Store(run))
    parsed.clear()
    file = run / FILE
    if harm == "another run":
        lines = (run / "traces.jsonl").read_bytes().splitlines(keepends=True)
        (run / "traces.jsonl").write_bytes(b"".join(lines[1:]))
    elif harm == "damaged":
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    else:
        file.unlink()
    found = read_overview(Store(run))
    assert parsed == list(found.facts)
    assert list(found.facts) == list(before.facts)[1 if harm == "another run" else 0 :]


def test_a_run_that_cannot_be_written_is_read_all_the_same(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise StoreError("read-only")

    monkeypatch.setattr(type(Store(run).place), "write", refuse)
    assert len(read_overview(Store(run)).facts) == 12
    assert not (run / FILE).exists()
