"""One layer of a whole run as one array on disk, so that training reads it without copying.

    <run>/cache/matrix/layer.<l>-<key>.npy    (row, width), trace after trace

The key names the traces, their order and their content: a run that has changed has another,
and what was cached before it changed is removed. For a run behind a URL the array is kept on
this machine.
"""

import contextlib
import io
import mmap
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from trace_probe.errors import StoreError
from trace_probe.files import file_names, sweep, write_chunks
from trace_probe.storage.journal import first_of_each
from trace_probe.storage.tensors import DTYPES, Values, as_bytes
from trace_probe.store import Store
from trace_probe.trace import Trace, digest

WORTH_CACHING = 32 * 2**20
"""Bytes of a layer below which reading trace by trace costs nothing."""


@dataclass(frozen=True)
class LayerMatrix:
    """A layer of all traces of a run."""

    values: Values
    """(row, width), mapped from disk."""
    start: Mapping[str, int]
    """For each trace its first row: the last prompt token; its sentences follow."""
    keys: Mapping[str, str]
    """For each trace what identifies its content; see `Store.key`."""


def layer_matrix(store: Store, layer: int, *, progress: bool = True) -> LayerMatrix:
    """Return a layer of a run from the cache, after building it if there is none of this run.

    Raises:
        StoreError: the layer was not recorded, a trace has no activations, or the cache
            cannot be written.
    """
    store.known_layers((layer,))
    keys, rows = _contents(store)
    starts = np.concatenate([[0], np.cumsum(list(rows.values()), dtype=np.int64)])
    name = f"layer.{layer}-{digest(list(keys.items()))}.npy"
    folder = store.cache / "matrix"
    shape = (int(starts[-1]), store.manifest.width)
    file = folder / name
    values = _cached(file, shape)
    if values is None:
        sweep(folder)
        write_chunks(file, _checked(_chunks(store, layer, shape, progress)))
        _forget_others(folder, name)
        values = _cached(file, shape)
    if values is None:
        raise StoreError(f"{file} was damaged while it was written: is the disk whole?")
    return LayerMatrix(values, dict(zip(keys, starts[:-1].tolist(), strict=True)), keys)


def _checked(chunks: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    """Yield chunks, and after them the checksum of all: 8 hexadecimal digits."""
    total = 0
    for chunk in chunks:
        total = zlib.crc32(chunk, total)
        yield chunk
    yield b"%08x" % total


def _cached(file: Path, shape: tuple[int, int]) -> Values | None:
    """Return what is cached; None if it is not there or is damaged, so that it is made again."""
    try:
        about = os.stat(file)
        if not _whole(file, about.st_mtime_ns, about.st_size):
            return None
        values: Values = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return values if values.shape == shape and values.dtype in DTYPES.values() else None


@lru_cache(maxsize=64)
def _whole(file: Path, changed: int, size: int) -> bool:
    """Return whether a file fits the checksum at its end; looked at once for each change."""
    del changed
    if size < 8:
        return False
    with (
        open(file, "rb") as held,
        mmap.mmap(held.fileno(), 0, access=mmap.ACCESS_READ) as data,
        memoryview(data) as view,
    ):
        return b"%08x" % zlib.crc32(view[:-8]) == bytes(view[-8:])


def worth_caching(store: Store, traces: Sequence[Trace]) -> bool:
    """Return whether these traces are better read from whole layers of their run.

    They are if they are most of it, and it is large, and this process may write beside it.
    """
    if not store.manifest.layers or 2 * len(traces) < len(store):
        return False
    rows = sum(len(trace.sentences) + 1 for trace in traces)
    if rows * store.manifest.width * 2 < WORTH_CACHING:
        return False
    try:
        store.cache.mkdir(parents=True, exist_ok=True)
    except OSError:  # a run that can only be read
        return False
    return os.access(store.cache, os.W_OK)


def _contents(store: Store) -> tuple[dict[str, str], dict[str, int]]:
    """Return the keys and the numbers of rows of all traces, in order."""
    table = first_of_each(store.index())
    ids, keys, rows = (table[name].to_pylist() for name in ("id", "key", "rows"))
    return dict(zip(ids, keys, strict=True)), dict(zip(ids, rows, strict=True))


def _chunks(
    store: Store, layer: int, shape: tuple[int, int], progress: bool
) -> Iterator[bytes | memoryview]:
    """Yield an npy file in pieces: its header, then the rows of one trace after another."""
    kinds = {store.vault.find(name).header.of(layer, name).dtype for name in _contents(store)[0]}
    dtype: np.dtype[Any] = max(kinds, key=lambda kind: kind.itemsize, default=np.dtype("<f2"))
    head = io.BytesIO()
    about = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(head, about)
    yield head.getvalue()
    traces = tqdm(store.scan(layer), total=len(store), unit="trace", disable=not progress)
    for _, values in traces:
        yield as_bytes(values.astype(dtype, copy=False))


def _forget_others(folder: Path, name: str) -> None:
    """Remove what was cached of the same layer before the run changed."""
    layer = re.compile(rf"{re.escape(name.split('-')[0])}-[0-9a-f]{{16}}\.npy")
    for other in file_names(folder):
        if other != name and layer.fullmatch(other):
            with contextlib.suppress(FileNotFoundError):  # another process may have done it
                (folder / other).unlink()
