"""Many traces in one file: what `trace-probe store pack` makes of a run's activations.

    shards/<name>.safetensors   one tensor a layer, (row, d_model), trace after trace
    shards/index.parquet        for each trace its shard, its rows, its key and checksum

The index is the commit mark: a shard that it does not name is not there. Layers are contiguous,
so that reading one layer of all traces reads nothing else.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from trace_probe.errors import StoreError
from trace_probe.storage.place import Place

INDEX = "shards/index.parquet"


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


def read_index(place: Place) -> dict[str, Packed]:
    """Return the packed traces by id, in the order of packing; none if there is no index.

    Raises:
        StoreError: the index is damaged.
    """
    if place.size(INDEX) is None:
        return {}
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(pa.BufferReader(place.read(INDEX))).to_pylist()
        return {row["trace_id"]: Packed(**row) for row in rows}
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{place.url}/{INDEX} is damaged: restore it ({error})") from error


def write_index(place: Place, packed: Iterable[Packed]) -> None:
    """Commit an index."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([asdict(one) for one in packed]), sink)
    place.write(INDEX, [sink.getvalue().to_pybytes()])
