"""One layer of a whole run as one array on disk, so that training reads it without copying.

    <run>/cache/matrix/layer.<l>-<key>.npy    (row, width), trace after trace

The key names the traces, their order and their content: a run that has changed has another,
and what was cached before it changed is removed. For a run behind a URL the array is kept on
this machine.
"""

import io
import mmap
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from trace_probe.errors import StoreError
from trace_probe.files import sweep, write_chunks
from trace_probe.storage.tensors import AGAIN, DTYPES, Values, as_bytes
from trace_probe.storage.vault import Vault
from trace_probe.trace import digest

WORTH_CACHING = 32 * 2**20
"""Bytes of a layer below which reading trace by trace costs nothing."""
Chunks = Iterator[bytes | memoryview]
Contents = Mapping[str, tuple[str, int]]
"""For each trace of a run its key and how many rows it has, in order."""


@dataclass(frozen=True)
class LayerMatrix:
    """A layer of all traces of a run."""

    values: Values
    """(row, width), mapped from disk."""
    start: Mapping[str, int]
    """For each trace its first row: the last prompt token; its sentences follow."""


def read_matrix(
    vault: Vault,
    cache: Path,
    wanted: Sequence[tuple[str, str, int]],
    layers: Sequence[int],
    contents: Callable[[], Contents] | None,
) -> tuple[Values, NDArray[np.intp]]:
    """Return (layer, row, width) of the traces that are wanted, and (trace,) their first rows.

    Of each trace `wanted` holds the id, the key and the number of rows. Where `contents` are given
    and a layer is large, whole layers are read from the cache; a single one is not copied.

    Raises:
        StoreError: a trace has no activations, or has changed since it was read.
    """
    rows = [count for *_, count in wanted]
    if contents is not None and _worth_caching(cache, sum(rows) * vault.width):
        every = contents()
        held = [cached_layer(vault, cache, every, layer) for layer in layers]
        for name, key, _ in wanted:
            if every.get(name, ("", 0))[0] != key:
                vault.load(name, layers, key)  # says what is wrong with it
                raise StoreError(f"trace {name} has changed since it was read: read it again")
        start = np.array([held[0].start[name] for name, *_ in wanted], dtype=np.intp)
        one = held[0].values[None]
        return (one if len(held) == 1 else np.stack([each.values for each in held])), start
    parts = [vault.load(name, layers, key) for name, key, _ in wanted]
    for part, (name, _, count) in zip(parts, wanted, strict=True):
        if part.shape[1] != count:
            raise StoreError(f"trace {name} has {part.shape[1]} rows, not {count}: {AGAIN}")
    return np.concatenate(parts, axis=1), np.cumsum([0, *rows])[:-1].astype(np.intp)


def _worth_caching(cache: Path, numbers: int) -> bool:
    """Return whether a layer of so many numbers is large, and this process may keep it."""
    if numbers * 2 < WORTH_CACHING:
        return False
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError:  # a run that can only be read
        return False
    return os.access(cache, os.W_OK)


def cached_layer(
    vault: Vault,
    cache: Path,
    contents: Contents,
    layer: int,
    *,
    progress: bool = True,
) -> LayerMatrix:
    """Return a layer of a run from the cache, after building it if there is none of this run.

    Raises:
        StoreError: a trace has no activations, or the cache cannot be written.
    """
    keys = {name: key for name, (key, _) in contents.items()}
    starts = np.cumsum([0, *(rows for _, rows in contents.values())], dtype=np.int64).tolist()
    folder, name = cache / "matrix", f"layer.{layer}-{digest(list(keys.items()))}.npy"
    file, shape = folder / name, (starts[-1], vault.width)
    values = _cached(file, shape)
    if values is None:
        kinds = {vault.find(one).file.header.of(layer, one).dtype for one in keys}
        kind = max(kinds, key=lambda each: each.itemsize, default=np.dtype("<f2"))
        rows = tqdm(
            vault.scan(contents, layer), total=len(keys), unit="trace", disable=not progress
        )
        of_layer = re.compile(rf"layer\.{layer}-[0-9a-f]{{16}}\.npy")
        sweep(folder, lambda other: other != name and bool(of_layer.fullmatch(other)))
        write_chunks(file, _checked(_npy((one for _, one in rows), kind, shape)))
        values = _cached(file, shape)
    if values is None:
        raise StoreError(f"{file} was damaged while it was written: is the disk whole?")
    return LayerMatrix(values, dict(zip(keys, starts, strict=False)))


def _npy(rows: Iterable[Values], kind: np.dtype[Any], shape: tuple[int, int]) -> Chunks:
    """Yield an npy file in pieces: its header, then the rows of one trace after another."""
    head = io.BytesIO()
    about = {"descr": kind.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(head, about)
    yield head.getvalue()
    for values in rows:
        yield as_bytes(values.astype(kind, copy=False))


def _checked(chunks: Chunks) -> Chunks:
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
