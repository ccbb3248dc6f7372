"""What the explorer lists and searches of all traces, kept in the cache of a large run.

A run is parsed line by line when it is opened for the first time. What was read is then kept in
``cache/explorer.parquet``, so that the next time only traces that were added since are parsed. That
file may be deleted at any time, and is not used where it is damaged or does not fit the run.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trace_probe.errors import StoreError
from trace_probe.explorer.rows import Facts, facts_of
from trace_probe.explorer.search import written
from trace_probe.storage.journal import Journal, first_of_each
from trace_probe.store import Store, to_trace

if TYPE_CHECKING:
    import pyarrow as pa

LARGE = 4 << 20
"""Bytes of lines; fewer are read faster than one notices."""
EVERY = 500
"""Traces between two tellings of how far it is."""
WORDS = ("task", "category", "role", "condition", "model", "thought")
NUMBERS = ("sample", "tokens", "begin", "calls")
PLACES = {"starts": "list of int32", "stops": "list of int32", "reasoning": "list of bool"}
"""Of a trace one value for each sentence."""
COLUMNS = {
    "id": "string",
    **dict.fromkeys(WORDS, "binary"),  # foreign transcripts may hold half a surrogate pair
    **dict.fromkeys(NUMBERS, "int64"),
    **PLACES,
    "text": "large_binary",
}

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
        self.at = {name: row for row, name in enumerate(table["id"].to_pylist())}
        """The row of each trace."""
        self.codes, self.words = dict[str, NDArray[np.integer]](), dict[str, list[str]]()
        """For each column of words the number of each row's word, and the words by number."""
        for name in WORDS:
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
    return _kept(store).unread() > LARGE


def read_overview(store: Store, progress: Progress | None = None) -> Overview:
    """Return the overview of a run; what had to be parsed is kept, where the run can be written."""
    kept = _kept(store, progress)
    table = first_of_each(kept.table())
    with contextlib.suppress(StoreError):  # a run that cannot be written is read again each time
        kept.keep_index()
    return Overview.of(table)


def _kept(store: Store, progress: Progress | None = None) -> Journal:
    """Return the lines of the traces with an index of what the explorer wants to know of each."""

    def about(raw: dict[str, Any]) -> dict[str, Any]:
        trace = to_trace(raw)
        facts = facts_of(trace)
        if progress is not None and len(kept.at) % EVERY == EVERY - 1:
            progress(len(kept.at) + 1, len(store))
        row = {name: getattr(facts, name) for name in (*NUMBERS, *PLACES)}
        row |= {name: _bytes(getattr(facts, name)) for name in WORDS}
        return {"id": facts.id, **row, "text": _bytes(written(trace))}

    kept = store.lines_of("traces").indexed_beside("explorer", about, COLUMNS)
    return kept


def _flat(table: "pa.Table", name: str) -> np.ndarray:
    values: np.ndarray = table[name].combine_chunks().values.to_numpy(zero_copy_only=False)
    return values


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


def _word(data: bytes) -> str:
    return data.decode(errors="surrogatepass")
