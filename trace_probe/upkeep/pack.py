"""Many small files into a few large ones, without a moment at which a trace cannot be read."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tqdm import tqdm

from trace_probe.errors import StoreError
from trace_probe.storage.shards import LISTING, Packed, listing, write_index
from trace_probe.storage.tensors import Values, checksum, checksum_of_all, encode
from trace_probe.store import Store
from trace_probe.trace import digest

SHARD_BYTES = 256 * 2**20


@dataclass(frozen=True)
class PackReport:
    """What a call of `pack` did."""

    run: str
    packed: int
    """Traces."""
    shards: int
    bytes: int
    were_packed: int

    def __str__(self) -> str:
        """Return a report as text."""
        return (
            f"{self.run}: {self.packed} traces packed into {self.shards} shards "
            f"({self.bytes / 2**20:.1f} MiB), {self.were_packed} were packed before"
        )


class _Piece(NamedTuple):
    """The activations of one trace, on their way into a shard."""

    trace_id: str
    key: str
    checksum: str
    values: Values
    fidelity: str


def pack(store: Store, *, shard_bytes: int = SHARD_BYTES, progress: bool = True) -> PackReport:
    """Move activations into shards of about `shard_bytes`; what is packed stays as it is.

    Each shard is written, then named in the index, and only then are the files of its traces
    removed; interrupted anywhere, the next call goes on. About one shard is held in memory.

    Raises:
        StoreError: another process writes to the run, or a file is damaged.
    """
    shards = size = count = 0
    with store.writing():
        packed = dict(store.vault.packed())
        before = len(packed)
        with tqdm(total=len(store) - before, unit="trace", disable=not progress) as bar:
            for pieces in _shards(_pieces(store), shard_bytes):
                packed |= {one.trace_id: one for one in _write(store, pieces)}
                write_index(store.place, packed.values())
                for piece in pieces:
                    store.place.remove(store.vault.file(piece.trace_id))
                shards, count = shards + 1, count + len(pieces)
                size += sum(piece.values.nbytes for piece in pieces)
                bar.update(len(pieces))
    return PackReport(store.place.url, count, shards, size, before)


def _pieces(store: Store) -> Iterator[_Piece]:
    """Yield the activations that are not packed, in the order of the traces."""
    table = store.index()
    known = set(store.vault.packed())
    columns = (table[name].to_pylist() for name in ("id", "key", "rows"))
    for trace_id, key, rows in zip(*columns, strict=True):
        if trace_id in known or not store.has_activations(trace_id):
            continue
        known.add(trace_id)
        values = store.vault.load(trace_id, store.manifest.layers, key)
        found = store.vault.find(trace_id)
        whole = found.checksum.startswith("crc32:") or found.checksum in (
            "",
            checksum_of_all(values),  # of schema 1
        )
        if values.shape[1] != rows or not whole:
            raise StoreError(
                f"{found.file.url} is damaged: `trace-probe store verify` lists "
                f"what is; delete it and record the trace again"
            )
        sums = checksum(values, store.manifest.layers)
        yield _Piece(trace_id, key, sums, values, found.fidelity)


def _shards(pieces: Iterator[_Piece], limit: int) -> Iterator[list[_Piece]]:
    """Yield pieces in groups of one precision and of about `limit` bytes."""
    group: list[_Piece] = []
    size = 0
    for piece in pieces:
        other = group and group[0].values.dtype != piece.values.dtype
        if group and (other or size + piece.values.nbytes > limit):
            yield group
            group, size = [], 0
        group.append(piece)
        size += piece.values.nbytes
    if group:
        yield group


def _write(store: Store, pieces: Sequence[_Piece]) -> list[Packed]:
    """Write a shard and return where its traces are in it."""
    layers = store.manifest.layers
    name = f"shards/{digest([(one.trace_id, one.key) for one in pieces])}.safetensors"
    rows = sum(one.values.shape[1] for one in pieces)
    first = pieces[0].values
    tensors = (one.values[place] for place in range(len(layers)) for one in pieces)
    placed = list(_placed(name, pieces))
    metadata = {"traces": str(len(pieces)), LISTING: listing(placed)}
    chunks = encode(metadata, layers, (rows, first.shape[2]), first.dtype, tensors)
    store.place.write(name, chunks)
    return placed


def _placed(name: str, pieces: Sequence[_Piece]) -> Iterator[Packed]:
    """Yield where each piece is in the shard of that name, one after the other."""
    start = 0
    for one in pieces:
        stop = start + one.values.shape[1]
        yield Packed(one.trace_id, name, start, stop, one.key, one.checksum, one.fidelity)
        start = stop


def reseal_shards(store: Store) -> int:
    """Write every shard and the index anew, with checksums; return how many shards there are."""
    packed = dict(store.vault.packed())
    keys = {row["id"]: row["key"] for row in store.index().select(["id", "key"]).to_pylist()}
    by_shard: dict[str, list[Packed]] = {}
    for one in sorted(packed.values(), key=lambda one: one.start):
        by_shard.setdefault(one.shard, []).append(one)
    for inside in by_shard.values():  # one shard in memory at a time
        pieces = [_again(store, one, one.key or keys.get(one.trace_id, "")) for one in inside]
        packed |= {one.trace_id: one for one in _write(store, pieces)}
    if packed:
        write_index(store.place, packed.values())
    return len(by_shard)


def _again(store: Store, one: Packed, key: str) -> _Piece:
    values = store.vault.load(one.trace_id, store.manifest.layers, key)
    sums = checksum(values, store.manifest.layers)
    return _Piece(one.trace_id, key, sums, values, one.fidelity)
