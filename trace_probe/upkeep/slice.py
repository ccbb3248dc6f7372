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

TABLES: tuple[Kind, ...] = ("scores", "layers")
"""Kinds of artifacts that hold a row, or several, of each trace."""
LINES: tuple[Kind, ...] = ("oracle", "annotations")
"""Kinds that hold lines, of a trace each."""
OBJECTS: tuple[Kind, ...] = ("reports", "oracle")
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
        for labeller in reversed(store.labellers()):
            known = out.labels(labeller)
            labels = store.labels(labeller).items()
            out.add_labels(one for name, one in labels if name in ids and known.get(name) != one)
        _copy_artifacts(store, out, ids)
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


def _copy_artifacts(store: Store, out: Store, ids: Collection[str]) -> None:
    """Copy what was made of some traces."""
    for kind in TABLES:
        for name in store.artifacts.names(kind):
            _copy_table(store, out, (kind, name), ids)
    for kind in OBJECTS:
        for name in store.artifacts.names(kind):
            if (value := store.artifacts.read_json(kind, name)) is not None:
                out.artifacts.write_json(kind, name, value)
    for kind in LINES:
        for name in store.artifacts.names(kind):
            _copy_lines(store, out, (kind, name), ids)


def _copy_table(store: Store, out: Store, which: tuple[Kind, str], ids: Collection[str]) -> None:
    import pyarrow.compute as pc

    table = store.artifacts.read_table(*which)
    if table is not None:
        mine = table.filter(pc.field("trace_id").isin(list(ids)))
        out.artifacts.write_table(*which, mine, group=GROUP)


def _copy_lines(store: Store, out: Store, which: tuple[Kind, str], ids: Collection[str]) -> None:
    into = out.artifacts.lines(*which)
    there = list(into.raw())
    mine = (one for one in store.artifacts.lines(*which).raw() if _of(one) in ids)
    if new := [one for one in mine if one not in there]:
        into.append((json.dumps(one, ensure_ascii=False) + "\n").encode() for one in new)


def _of(line: dict[str, object]) -> object:
    return line.get("trace", line.get("trace_id"))


def format_slice(report: SliceReport) -> str:
    """Return a report as text."""
    layers = ", ".join(map(str, report.layers)) or "no"
    return (
        f"{report.run}: {report.traces} of {report.of} traces, layers {layers}, {report.pooling}; "
        f"a map of them is made by `trace-probe map`"
    )
