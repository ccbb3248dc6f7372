"""What the explorer lists and searches of all traces, kept in the cache of a large run.

A run is parsed line by line when it is opened for the first time. What was read is then kept in
``cache/explorer.parquet``, so that the next time only traces that were added since are parsed. That
file may be deleted at any time, and is not used where it is damaged or does not fit the run.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from trace_probe.errors import StoreError, TraceProbeError
from trace_probe.explorer.rows import Facts, facts_of
from trace_probe.explorer.search import written
from trace_probe.storage.seals import opened_table, sealed_table
from trace_probe.store import Store

if TYPE_CHECKING:
    import pyarrow as pa

FILE = "cache/explorer.parquet"
GROWING = "traces.jsonl"
WORTH_KEEPING = 1_000
"""Fewer traces are read faster than one notices."""
TAIL = 4096
EVERY = 500
"""Traces between two tellings of how far it is."""
WORDS = ("id", "task", "category", "role", "condition", "model", "thought")
NUMBERS = ("sample", "tokens", "begin", "calls")
PLACES = {"starts": "int32", "stops": "int32", "reasoning": "bool"}
"""Of a trace one value for each sentence."""

Progress = Callable[[int, int], None]
"""Is told how many traces were read, of how many."""


@dataclass
class Overview:
    """Facts and words of all traces, by trace id, in the order of recording."""

    facts: dict[str, Facts] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    """What the model wrote."""


def must_parse(store: Store) -> bool:
    """Return whether so much of a run has not been kept that one has to wait for it."""
    files = _files(store)
    large = sum(size for size, _ in files.values()) > WORTH_KEEPING * TAIL
    return large and not _known(store, files)[1]


def read_overview(store: Store, progress: Progress | None = None) -> Overview:
    """Return the overview of a run; what had to be parsed is kept, where the run can be written."""
    files = _files(store)
    found, known = _known(store, files)
    if known and len(found.facts) == known:
        return found
    total, before = len(store), len(found.facts)
    for trace in store.traces(skip=before):
        found.facts[trace.id], found.texts[trace.id] = facts_of(trace), written(trace)
        if progress is not None and len(found.facts) % EVERY == 0:
            progress(len(found.facts), total)
    if len(found.facts) - before >= WORTH_KEEPING and not store.broken():
        _keep(store, found, files)
    return found


def _files(store: Store) -> dict[str, tuple[int, int]]:
    """Return size and time of change of every file of traces, by name."""
    stamps = {name: store.place.stamp(name) for name in store.lines_of("traces").files()}
    return {name: (stamp[1], stamp[2]) for name, stamp in stamps.items() if stamp}


def _tail(store: Store, stop: int) -> str:
    """Return the digest of the last bytes of the growing file before a place in it."""
    data = store.place.read(GROWING, max(0, stop - TAIL), stop)
    return hashlib.sha256(data).hexdigest()


def _keep(store: Store, found: Overview, files: dict[str, tuple[int, int]]) -> None:
    covers: dict[str, Any] = {"files": files}
    if list(files) == [GROWING]:
        covers["tail"] = _tail(store, files[GROWING][0])
    table = _table(found).replace_schema_metadata({"covers": json.dumps(covers)})
    try:
        store.place.sweep("cache")
        store.place.write(FILE, [sealed_table(table)])
    except StoreError:
        return  # a run that cannot be written is read again each time


def _known(store: Store, files: dict[str, tuple[int, int]]) -> tuple[Overview, int]:
    """Return what is kept of these very traces, and how many there are if nothing is missing."""
    try:
        table = opened_table(store.place.read(FILE), FILE, seals="required")
        covers = json.loads(table.schema.metadata[b"covers"])
        kept = {name: tuple(state) for name, state in covers["files"].items()}
        if kept == files:
            return _opened(table), len(table)
        size = kept[GROWING][0]
        grown = list(files) == list(kept) == [GROWING] and size < files[GROWING][0]
        if grown and covers["tail"] == _tail(store, size):
            return _opened(table), 0
    except (FileNotFoundError, TraceProbeError, KeyError, TypeError, ValueError):
        pass  # it is made again
    return Overview(), 0


def _table(found: Overview) -> "pa.Table":
    import pyarrow as pa

    facts = list(found.facts.values())
    words = {name: [_bytes(getattr(one, name)) for one in facts] for name in WORDS}
    columns = {name: pa.array(values, pa.binary()) for name, values in words.items()}
    columns["text"] = pa.array(map(_bytes, found.texts.values()), pa.large_binary())
    for name in NUMBERS:
        columns[name] = pa.array([getattr(one, name) for one in facts], pa.int64())
    ends = np.cumsum([0, *(len(one.stops) for one in facts)]).astype(np.int64)
    for name, kind in PLACES.items():
        values = np.concatenate([getattr(one, name) for one in facts]).astype(kind)
        columns[name] = pa.LargeListArray.from_arrays(pa.array(ends), pa.array(values))
    return pa.table(columns)


def _opened(table: "pa.Table") -> Overview:
    table = table.combine_chunks()
    words = [map(_word, table[name].to_pylist()) for name in WORDS]
    numbers = [table[name].to_pylist() for name in NUMBERS]
    ends = table["stops"].combine_chunks().offsets.to_numpy()
    cuts = list(zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True))
    places = [_flat(table, name) for name in PLACES]
    found = Overview()
    for row in zip(*words, *numbers, cuts, table["text"].to_pylist(), strict=True):
        *values, (start, stop), text = row
        named: dict[str, Any] = dict(zip((*WORDS, *NUMBERS), values, strict=True))
        named |= {name: flat[start:stop] for name, flat in zip(PLACES, places, strict=True)}
        found.facts[named["id"]] = Facts(**named)
        found.texts[named["id"]] = _word(text)
    return found


def _flat(table: "pa.Table", name: str) -> np.ndarray:
    values: np.ndarray = table[name].combine_chunks().values.to_numpy(zero_copy_only=False)
    return values


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")  # foreign transcripts may hold half a pair


def _word(data: bytes) -> str:
    return data.decode(errors="surrogatepass")
