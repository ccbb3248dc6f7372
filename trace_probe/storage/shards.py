"""Many traces in one file: what `trace-probe store pack` makes of a run's activations.

    shards/<name>.safetensors   one tensor a layer, (row, d_model), trace after trace
    shards/index.parquet        for each trace its shard, its rows, its key and checksums

The index is the commit mark: a shard that it does not name is not there. Layers are contiguous,
so that reading one layer of all traces reads nothing else. The header of a shard repeats what
the index says of its traces, so that an index that is damaged or lost can be made again.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, astuple, dataclass, fields
from typing import Any

from trace_probe.errors import StoreError
from trace_probe.files import checked_name
from trace_probe.storage.place import Place
from trace_probe.storage.seals import Seals, opened_table, sealed_table
from trace_probe.storage.tensors import read_header

INDEX = "shards/index.parquet"
SHARD = re.compile(r"shards/[0-9a-f]{16}\.safetensors")
"""Names of shards; nothing else in the folder is ever deleted."""
LISTING = "index"
"""Name in the metadata of a shard for the rows of the index that are about it."""
ADVICE = "`trace-probe store repair` makes it again from the shards"


@dataclass(frozen=True)
class Packed:
    """Where the rows of one trace are."""

    trace_id: str
    shard: str
    """Name of the file, such as ``shards/0f3a.safetensors``."""
    start: int
    stop: int
    """Its rows in every tensor of the shard: ``[start, stop)``."""
    key: str
    checksum: str
    fidelity: str = ""


COLUMNS = {one.name: "int64" if one.type is int else "string" for one in fields(Packed)}
"""Of the index, with their types."""


def read_index(place: Place, *, seals: Seals = "compared") -> dict[str, Packed]:
    """Return the packed traces by id, in the order of packing; none if there is no index.

    For `seals` see `trace_probe.storage.seals.Seals`.

    Raises:
        StoreError: the index is damaged.
    """
    if place.size(INDEX) is None:
        return {}
    where = f"{place.url}/{INDEX}"
    table = opened_table(place.read(INDEX), where, seals=seals, advice=ADVICE)
    try:
        return {row["trace_id"]: _packed(row) for row in table.to_pylist()}
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{where} is damaged: {error}: {ADVICE}") from error


def _packed(row: dict[str, Any]) -> Packed:
    """Return a row of the index, if it can be so."""
    one = Packed(**row)
    checked_name(one.trace_id, "a trace in the index of shards")
    if not SHARD.fullmatch(one.shard):
        raise ValueError(f"{one.shard!r:.60} is no shard of ours")
    if not 0 <= one.start <= one.stop:
        raise ValueError(f"trace {one.trace_id} has no rows [{one.start}, {one.stop})")
    return one


def write_index(place: Place, packed: Iterable[Packed]) -> None:
    """Commit an index."""
    import pyarrow as pa

    schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in COLUMNS.items()])
    table = pa.Table.from_pylist([asdict(one) for one in packed], schema)
    place.write(INDEX, [sealed_table(table)])


def listing(packed: Iterable[Packed]) -> str:
    """Return what the header of a shard says of its traces."""
    return json.dumps([astuple(one) for one in packed], separators=(",", ":"))


def index_of_shards(place: Place, *, seals: Seals) -> tuple[dict[str, Packed], list[str]]:
    """Return the index as the headers of the shards tell it, and the names of damaged shards.

    Raises:
        StoreError: a shard is of an earlier version, which does not say what it holds.
    """
    found, damaged = dict[str, Packed](), list[str]()
    for name in (f"shards/{name}" for name in sorted(place.names("shards"))):
        if not SHARD.fullmatch(name):
            continue
        try:
            text = read_header(place, name, seals=seals).metadata.get(LISTING)
        except StoreError:
            damaged.append(name)
            continue
        try:
            rows = [dict(zip(COLUMNS, row, strict=True)) for row in json.loads(text or "")]
            found |= {one.trace_id: one for one in map(_packed, rows)}
        except (ValueError, TypeError, RecursionError) as error:
            raise StoreError(
                f"{place.url}/{name} does not say which traces it holds: restore {INDEX} from a "
                f"copy, or record the run again"
            ) from error
    return found, damaged
