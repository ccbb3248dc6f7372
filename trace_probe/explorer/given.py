"""The labels that one labeller gave: what lists need of all of them, and each where it is read."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trace_probe.errors import StoreError
from trace_probe.labels import Label
from trace_probe.storage.journal import encodable
from trace_probe.storage.lines import BrokenLine
from trace_probe.store import Store

if TYPE_CHECKING:
    import pyarrow as pa

FEW = 1_000
"""Labels that are read one by one; more are read at once."""
UNKNOWN, UNLABELLED = -1, -2
"""Outcomes that are no outcome."""


class GivenLabels(Mapping[str, Label]):
    """Labels by trace id; a later one of a trace replaces the earlier."""

    def __init__(self, store: Store, labeller: str, index: "pa.Table") -> None:
        """Take the rows of the index of labels that are about one labeller's."""
        self._store, self._labeller, self._index = store, labeller, index
        self._at = {name: row for row, name in enumerate(index["id"].to_pylist())}
        self._whole: dict[str, Label] | None = None

    def __getitem__(self, trace_id: str) -> Label:
        """Return the label of one trace; one whose line is damaged is named and not there."""
        row = self._at[trace_id]
        self.expect(1)
        if self._whole is not None:
            return self._whole[trace_id]
        file, start, size = (self._index[name][row].as_py() for name in ("file", "start", "size"))
        try:
            return self._store.label_at(file, start, size)
        except FileNotFoundError:  # its file was brought into another since
            self.expect(len(self))
            return self[trace_id]
        except BrokenLine as error:
            self._store.lines_of("labels").tell(error.line)
            raise KeyError(trace_id) from error

    def __iter__(self) -> Iterator[str]:
        """Return the ids of the traces that were labelled."""
        return iter(self._at)

    def __len__(self) -> int:
        """Return how many traces were labelled."""
        return len(self._at)

    def expect(self, reads: int) -> None:
        """Read all labels at once where there are few, or where so many are to be read."""
        if self._whole is None and (len(self) <= FEW or reads > FEW or reads == len(self)):
            every = self._store.every_label() if len(self) else ()
            whole = {
                one.trace_id: one for one in every if encodable(one.labeller) == self._labeller
            }
            self._whole = {name: whole[name] for name in self._at if name in whole}
            self._at = {name: row for name, row in self._at.items() if name in whole}

    def columns(self, ids: Sequence[str]) -> dict[str, NDArray[np.floating]]:
        """Return for each trace its outcome and where it was said and done, nan where nowhere.

        The outcome is 1, 0, `UNKNOWN` or `UNLABELLED`; *silent* is 1 or 0.
        """
        import pyarrow.compute as pc

        rows = np.array([self._at.get(name, -1) for name in ids], dtype=np.int64)
        found = {}
        missing = {"outcome": UNLABELLED, "silent": 0, "said_stop": np.nan, "acted": np.nan}
        for name, empty in missing.items():
            kept = pc.fill_null(pc.cast(self._index[name], "float64"), np.nan).to_numpy()
            found[name] = np.append(kept, empty)[rows]
        found["outcome"] = np.where(np.isnan(found["outcome"]), UNKNOWN, found["outcome"])
        return found


def by_labeller(store: Store) -> dict[str, GivenLabels]:
    """Return the labels of a run by labeller, the labeller who came last at the end."""
    index = store.label_index().combine_chunks()
    if len(index) > FEW:
        with contextlib.suppress(StoreError):  # a run that cannot be written is indexed again
            store.lines_of("labels").keep_index()
    names = np.array(index["labeller"].to_pylist(), dtype=object)
    last = {name: row for row, name in enumerate(names.tolist())}
    return {
        name: GivenLabels(store, name, index.take(np.flatnonzero(names == name)))
        for name in sorted(last, key=lambda name: last[name])
    }


def nobody(store: Store) -> GivenLabels:
    """Return the labels of a labeller who gave none."""
    return GivenLabels(store, "", store.label_index().slice(0, 0))


def disputed(judged: Mapping[str, GivenLabels], ids: Sequence[str]) -> frozenset[str]:
    """Return the traces that one labeller calls instrumental and another harmless."""
    outcomes = [labels.columns(ids)["outcome"] for labels in judged.values()]
    if len(outcomes) < 2:
        return frozenset()
    told = np.array(outcomes)
    differ = (told == 1).any(axis=0) & (told == 0).any(axis=0)
    return frozenset(ids[row] for row in np.flatnonzero(differ).tolist())
