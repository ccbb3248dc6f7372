"""What is in a run, and which runs there are, without reading a text."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trace_probe.storage.journal import first_of_each
from trace_probe.storage.place import place_at
from trace_probe.store import Store

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Wanted:
    """Which traces to list; None is any."""

    category: str | None = None
    role: str | None = None
    task: str | None = None
    thought: str | None = None
    finish: str | None = None
    outcome: bool | None = None
    silent: bool | None = None


def list_traces(
    store: Store, wanted: Wanted | None = None, labeller: str | None = None
) -> "pa.Table":
    """Return a row for each trace, with what a labeller holds of it, in the order of recording.

    Columns are those of `trace_probe.storage.journal`; those of the labels are null for traces
    without one. The labeller is the one that labelled last, unless one is named.
    """
    import pyarrow.compute as pc

    table = _labelled(store.index(), store.label_index(), labeller)
    for name, value in vars(wanted or Wanted()).items():
        if value is not None:
            table = table.filter(pc.equal(table[name], value))
    return table


def _labelled(traces: "pa.Table", labels: "pa.Table", labeller: str | None) -> "pa.Table":
    """Join traces with the last label that one labeller gave each."""
    import pyarrow as pa
    import pyarrow.compute as pc

    traces = first_of_each(traces)
    chosen = labels["labeller"][-1].as_py() if labeller is None and len(labels) else labeller
    labels = labels.filter(pc.equal(labels["labeller"], chosen)) if chosen else labels
    last = {name: row for row, name in enumerate(labels["id"].to_pylist())}
    rows = pa.array([last.get(name) for name in traces["id"].to_pylist()], pa.int64())
    for name in ("labeller", "outcome", "said", "acted", "silent"):
        traces = traces.append_column(name, labels[name].take(rows))
    return traces


def runs_in(root: Path | str) -> list[str]:
    """Return the runs below a folder or URL, by name; the place itself, if it is a run."""
    place = place_at(root)
    if place.size("run.json") is not None:
        return [place.url]
    names = sorted(place.names())
    return [f"{place.url}/{n}" for n in names if place.size(f"{n}/run.json") is not None]
