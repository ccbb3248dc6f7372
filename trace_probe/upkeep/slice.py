"""A part of a run as a run of its own: some tasks, some layers, and what was made of them."""

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import numpy as np
from tqdm import tqdm

from trace_probe.activations import Activations
from trace_probe.errors import NotEnoughData
from trace_probe.storage.artifacts import Kind
from trace_probe.store import Store
from trace_probe.trace import Trace

Which = tuple[Kind, str]
GROUP = 4096
"""Rows of a table that are read at once."""


@dataclass(frozen=True)
class SliceReport:
    """What a call of `slice_run` did."""

    run: str
    traces: int
    of: int
    layers: tuple[int, ...]
    pooling: str

    def __str__(self) -> str:
        """Return a report as text."""
        layers = ", ".join(map(str, self.layers)) or "no"
        return (
            f"{self.run}: {self.traces} of {self.of} traces, layers {layers}, {self.pooling}; "
            f"a map of them is made by `trace-probe map`"
        )


def slice_run(
    store: Store,
    out: Store,
    wanted: Callable[[Trace], bool],
    *,
    progress: bool = True,
) -> SliceReport:
    """Copy the wanted traces of a run into `out`, with what was made of them; rerun to resume.

    `out` has the settings of the run, with fewer layers or poolings. Labels, scores, scores of
    layers, oracles and verdicts of the wanted traces come with them, and all reports, which are
    figures of the whole run. Maps do not: neighbours are others in a part.

    Raises:
        NotEnoughData: no trace is wanted.
        StoreError: a layer was not recorded, or another process writes to `out`.
        ProbeError: a pooling was not recorded.
    """
    chosen = [trace for trace in store.traces() if wanted(trace)]
    if not chosen:
        raise NotEnoughData(f"{store.place.url} holds no trace that is wanted")
    with out.writing():
        for trace in tqdm(chosen, unit="trace", disable=not progress):
            out.add(trace, _kept(store, out, trace))
        ids = {trace.id for trace in chosen}
        out.copy_labels(store, ids)
        for kind, copy in COPIED:
            for name in store.artifacts.names(kind):
                copy(store, out, (kind, name), ids)
    return SliceReport(
        out.place.url, len(chosen), len(store), out.manifest.layers, out.manifest.pooling
    )


def _kept(store: Store, out: Store, trace: Trace) -> Activations | None:
    """Return the layers and poolings of a trace that the other run is to hold."""
    wanted = out.manifest
    held = store.kept(trace, wanted.layers) if wanted.layers else None
    if held is None:
        return None
    rows = [
        np.concatenate([held.part(layer, pooling) for pooling in wanted.poolings], axis=1)
        for layer in wanted.layers
    ]
    return replace(held, values=np.stack(rows), pooling=wanted.pooling)


def _copy_table(store: Store, out: Store, which: Which, ids: Collection[str]) -> None:
    """Copy the rows of some traces; a table holds a row, or several, of each."""
    import pyarrow.compute as pc

    table = store.artifacts.read_table(*which)
    if table is not None:
        mine = table.filter(pc.field("trace_id").isin(list(ids)))
        out.artifacts.write_table(*which, mine, group=GROUP)


def _copy_object(store: Store, out: Store, which: Which, _ids: Collection[str]) -> None:
    if (value := store.artifacts.read_json(*which)) is not None:
        out.artifacts.write_json(*which, value)


def _copy_lines(store: Store, out: Store, which: Which, ids: Collection[str]) -> None:
    """Copy the lines of some traces; each is of one."""
    into = out.artifacts.lines(*which)
    there = list(into.raw())
    mine = (one for one in store.artifacts.lines(*which).raw() if _of(one) in ids)
    if new := [one for one in mine if one not in there]:
        into.append((json.dumps(one, ensure_ascii=False) + "\n").encode() for one in new)


COPIED: tuple[tuple[Kind, Callable[[Store, Store, Which, Collection[str]], None]], ...] = (
    ("scores", _copy_table),
    ("layers", _copy_table),
    ("reports", _copy_object),
    ("oracle", _copy_object),
    ("oracle", _copy_lines),
    ("annotations", _copy_lines),
)


def _of(line: dict[str, object]) -> object:
    return line.get("trace", line.get("trace_id"))
