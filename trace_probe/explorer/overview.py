"""What the explorer lists and searches of all traces, kept in the cache of a large run.

A run is parsed line by line when it is opened for the first time. What was read is then kept in
``cache/explorer.parquet``, so that the next time only traces that were added since are parsed. That
file may be deleted at any time, and is not used where it is damaged or does not fit the run.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

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


@dataclass(frozen=True)
class Overview:
    """Facts and words of all traces, by trace id, in the order of recording."""

    facts: "KnownFacts"
    texts: "KnownTexts"
    """What the model wrote."""

    @classmethod
    def of(cls, table: "pa.Table") -> "Overview":
        """Return the overview that a table holds, of which nothing is read yet."""
        table = table.combine_chunks()
        facts = KnownFacts(table)
        return cls(facts, KnownTexts(facts.at, table["text"]))


class KnownFacts(Mapping[str, Facts]):
    """Facts as columns; those of one trace are put together where they are asked for."""

    def __init__(self, table: "pa.Table") -> None:
        """Take the columns of a table; of the words, each that differs is read once."""
        self.at = {_word(name): row for row, name in enumerate(table["id"].to_pylist())}
        """The row of each trace."""
        self.codes, self.words = dict[str, NDArray[np.integer]](), dict[str, list[str]]()
        """For each column of words the number of each row's word, and the words by number."""
        for name in WORDS[1:]:
            coded = table[name].combine_chunks().dictionary_encode()
            self.codes[name] = coded.indices.to_numpy(zero_copy_only=False)
            self.words[name] = [_word(word) for word in coded.dictionary.to_pylist()]
        self.numbers = {name: table[name].to_numpy() for name in NUMBERS}
        self.cuts = table["stops"].combine_chunks().offsets.to_numpy()
        """Where the sentences of each trace begin in the columns of places, and where all end."""
        self.places = {name: _flat(table, name) for name in PLACES}

    def __getitem__(self, trace_id: str) -> Facts:
        """Return the facts of one trace."""
        row = self.at[trace_id]
        start, stop = self.cuts[row], self.cuts[row + 1]
        named: dict[str, Any] = {"id": trace_id}
        named |= {name: self.word(name, row) for name in self.words}
        named |= {name: int(column[row]) for name, column in self.numbers.items()}
        named |= {name: flat[start:stop] for name, flat in self.places.items()}
        return Facts(**named)

    def word(self, name: str, row: int) -> str:
        """Return what a column of words holds of one trace."""
        return self.words[name][int(self.codes[name][row])]

    def __iter__(self) -> Iterator[str]:
        """Return the ids in the order of recording."""
        return iter(self.at)

    def __len__(self) -> int:
        """Return how many traces there are."""
        return len(self.at)


class KnownTexts(Mapping[str, str]):
    """What the model wrote, read from its bytes where it is asked for."""

    def __init__(self, at: Mapping[str, int], texts: "pa.ChunkedArray") -> None:
        """Take the texts of the rows that `at` names."""
        self._at, self._texts = at, texts.combine_chunks()

    def __getitem__(self, trace_id: str) -> str:
        """Return what the model wrote in one trace."""
        return _word(self._texts[self._at[trace_id]].as_py())

    def __iter__(self) -> Iterator[str]:
        """Return the ids in the order of recording."""
        return iter(self._at)

    def __len__(self) -> int:
        """Return how many traces there are."""
        return len(self._at)

    @cached_property
    def lower(self) -> list[str]:
        """Return every text in small letters, in the order of recording; made once."""
        return [_word(text).lower() for text in self._texts.to_pylist()]


def must_parse(store: Store) -> bool:
    """Return whether so much of a run has not been kept that one has to wait for it."""
    files = _files(store)
    large = sum(size for size, _ in files.values()) > WORTH_KEEPING * TAIL
    return large and not _known(store, files)[1]


def read_overview(store: Store, progress: Progress | None = None) -> Overview:
    """Return the overview of a run; what had to be parsed is kept, where the run can be written."""
    files = _files(store)
    table, whole = _known(store, files)
    if whole:
        return Overview.of(table)
    total, before = len(store), len(table)
    facts, texts = [], []
    for trace in store.traces(skip=before):
        facts.append(facts_of(trace))
        texts.append(written(trace))
        if progress is not None and len(facts) % EVERY == 0:
            progress(before + len(facts), total)
    table = _longer(table, facts, texts)
    if len(facts) >= WORTH_KEEPING and not store.broken():
        _keep(store, table, files)
    return Overview.of(table)


def overview_of(facts: Sequence[Facts], texts: Sequence[str] | None = None) -> Overview:
    """Return the overview of traces whose facts are known, and their texts if they matter."""
    return Overview.of(_longer(_empty(), facts, texts or [""] * len(facts)))


def _files(store: Store) -> dict[str, tuple[int, int]]:
    """Return size and time of change of every file of traces, by name."""
    stamps = {name: store.place.stamp(name) for name in store.lines_of("traces").files()}
    return {name: (stamp[1], stamp[2]) for name, stamp in stamps.items() if stamp}


def _tail(store: Store, stop: int) -> str:
    """Return the digest of the last bytes of the growing file before a place in it."""
    data = store.place.read(GROWING, max(0, stop - TAIL), stop)
    return hashlib.sha256(data).hexdigest()


def _keep(store: Store, table: "pa.Table", files: dict[str, tuple[int, int]]) -> None:
    covers: dict[str, Any] = {"files": files}
    if list(files) == [GROWING]:
        covers["tail"] = _tail(store, files[GROWING][0])
    table = table.replace_schema_metadata({"covers": json.dumps(covers)})
    try:
        store.place.sweep("cache")
        store.place.write(FILE, [sealed_table(table)])
    except StoreError:
        return  # a run that cannot be written is read again each time


def _known(store: Store, files: dict[str, tuple[int, int]]) -> tuple["pa.Table", bool]:
    """Return what is kept of these very traces, and whether that is all of them."""
    try:
        table = opened_table(store.place.read(FILE), FILE, seals="required")
        covers = json.loads(table.schema.metadata[b"covers"])
        kept = {name: tuple(state) for name, state in covers["files"].items()}
        table = table.replace_schema_metadata(None).cast(_empty().schema)
        if kept == files:
            return table, True
        size = kept[GROWING][0]
        grown = list(files) == list(kept) == [GROWING] and size < files[GROWING][0]
        if grown and covers["tail"] == _tail(store, size):
            return table, False
    except (FileNotFoundError, TraceProbeError, KeyError, TypeError, ValueError):
        pass  # it is made again
    return _empty(), False


def _longer(table: "pa.Table", facts: Sequence[Facts], texts: Iterable[str]) -> "pa.Table":
    """Return a table with rows for more traces."""
    import pyarrow as pa

    columns = {
        name: pa.array([_bytes(getattr(one, name)) for one in facts], pa.binary()) for name in WORDS
    }
    columns["text"] = pa.array(map(_bytes, texts), pa.large_binary())
    for name in NUMBERS:
        columns[name] = pa.array([getattr(one, name) for one in facts], pa.int64())
    ends = np.cumsum([0, *(len(one.stops) for one in facts)]).astype(np.int64)
    for name, kind in PLACES.items():
        flat = np.concatenate([np.array([], kind), *(getattr(one, name) for one in facts)])
        columns[name] = pa.LargeListArray.from_arrays(pa.array(ends), pa.array(flat.astype(kind)))
    return pa.concat_tables([table, pa.table(columns)]).combine_chunks()


def _empty() -> "pa.Table":
    import pyarrow as pa

    kinds = {name: pa.binary() for name in WORDS} | {"text": pa.large_binary()}
    kinds |= {name: pa.int64() for name in NUMBERS}
    places = {"int32": pa.int32(), "bool": pa.bool_()}
    kinds |= {name: pa.large_list(places[kind]) for name, kind in PLACES.items()}
    return pa.schema(kinds).empty_table()


def _flat(table: "pa.Table", name: str) -> np.ndarray:
    values: np.ndarray = table[name].combine_chunks().values.to_numpy(zero_copy_only=False)
    return values


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")  # foreign transcripts may hold half a pair


def _word(data: bytes) -> str:
    return data.decode(errors="surrogatepass")
