"""Tensor files in the format of safetensors, read by ranges, and the key that names their content.

The format is eight bytes of length, a JSON header with the bytes of each tensor, and the
tensors. Reading it here and not by the library lets one layer be fetched from an object store
without the others, into memory that is already there.
"""

import hashlib
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trace_probe.errors import StoreError
from trace_probe.storage.place import Place, Stamp
from trace_probe.storage.records import Manifest
from trace_probe.storage.seals import BLANK, HEADER, KEY, Seals, check, sealed
from trace_probe.trace import Span, Trace, digest

FLOAT16_MAX, FLOAT32_MAX = 65504.0, float(np.finfo(np.float32).max)
DTYPES: dict[str, np.dtype[Any]] = {"F16": np.dtype("<f2"), "F32": np.dtype("<f4")}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
HEAD = 1 << 13
"""Bytes that are fetched at once in the hope that the header is no longer."""
AGAIN = "`trace-probe store repair` sets it aside, so that the others can be used"
LONGEST = 100_000_000
"""Bytes that the format allows a header."""

Values = NDArray[np.floating[Any]]


def content_key(manifest: Manifest, trace: Trace, spans: Sequence[Span]) -> str:
    """Return what identifies the activations of a trace: all that they are a function of.

    Model and revision, tokenizer and template, precision, pooling, layers, the tokens that were
    read, and the spans that were pooled. If one of them changes, so does the key. What later
    calls of an episode read counts too.
    """
    hasher = hashlib.sha256(np.array(trace.token_ids, dtype="<i8").tobytes())
    for call in trace.calls[1:]:
        read = (call.start, call.kept, len(call.token_ids), *call.token_ids)
        hasher.update(np.array(read, dtype="<i8").tobytes())
    ids = hasher.hexdigest()
    rows = np.array([(span.start, span.stop) for span in spans], dtype="<i8").tobytes()
    return digest(
        manifest.model,
        manifest.tokenizer,
        manifest.chat_template,
        manifest.dtype,
        manifest.pooling,
        manifest.layers,
        ids,
        hashlib.sha256(rows).hexdigest(),
    )


def as_bytes(values: Values) -> memoryview:
    """Return the bytes of an array of any shape; a view of them where it is contiguous."""
    flat: memoryview = np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
    return flat


def checksum(values: Iterable[Values], layers: Iterable[int]) -> str:
    """Return a CRC-32 for each layer of (row, width) values, such as ``crc32:1=0a1b2c3d,...``."""
    sums = (f"{n}={zlib.crc32(as_bytes(v)):08x}" for n, v in zip(layers, values, strict=True))
    return "crc32:" + ",".join(sums)


def checksum_of(text: str, layer: int) -> int | None:
    """Return the CRC-32 of a layer from what `checksum` returned; None where it has none."""
    found = re.search(rf"[:,]{layer}=([0-9a-f]{{8}})(?:,|$)", text)
    return int(found[1], 16) if found else None


def checksum_of_all(layers: Iterable[Values]) -> str:
    """Return the checksum that schema 1 kept: BLAKE2b over all layers, 16 digits."""
    hasher = hashlib.blake2b(digest_size=8)
    for values in layers:
        hasher.update(as_bytes(values))
    return hasher.hexdigest()


def all_finite(values: Values) -> bool:
    """Return whether no value is inf or nan; they have all bits of the exponent set."""
    if values.dtype == np.float16:
        return not bool(((values.view(np.uint16) & 0x7C00) == 0x7C00).any())
    return bool(np.isfinite(values).all())


def on_disk(trace_id: str, values: Values) -> Values:
    """Return activations as they are kept, (layer, row, d_model): float16 where all fit.

    Raises:
        StoreError: they hold inf or nan, as what float32 cannot hold is there, or are no numbers.
    """
    if values.dtype.kind not in "fiub":
        raise StoreError(
            f"activations of trace {trace_id} are of type {values.dtype}: give float32 or float16"
        )
    largest = float(np.abs(values).max()) if values.size else 0.0
    if not largest <= FLOAT32_MAX:
        raise StoreError(
            f"activations of trace {trace_id} hold inf or nan: load the model in float32 "
            f"or bfloat16 and record again"
        )
    fits = largest <= FLOAT16_MAX
    return values.astype(np.float16 if fits else np.float32)


def layer_name(layer: int) -> str:
    """Return the name of the tensor of a layer."""
    return f"layer.{layer}"


@dataclass(frozen=True)
class Tensor:
    """Where a tensor lies in its file."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int
    """First byte, counted from the start of the file."""


@dataclass(frozen=True)
class Header:
    """What a file says of itself."""

    metadata: Mapping[str, str]
    tensors: Mapping[str, Tensor]

    def of(self, layer: int, file: str) -> Tensor:
        """Return where a layer lies.

        Raises:
            StoreError: the file has none of that layer.
        """
        if layer_name(layer) not in self.tensors:
            raise StoreError(f"{file} has no layer {layer}: record the trace again")
        return self.tensors[layer_name(layer)]


def read_header(place: Place, name: str, *, seals: Seals = "compared") -> Header:
    """Read the header of a tensor file; see `Seals`.

    Raises:
        FileNotFoundError: it is not there.
        StoreError: it is no such file, or is damaged.
    """
    head = place.read(name, 0, HEAD)
    where = f"{place.url}/{name}"
    size = int.from_bytes(head[:8], "little")
    if len(head) < 8 or size > LONGEST:
        raise StoreError(f"{where} is damaged: it has no header: {AGAIN}")
    data = head[: 8 + size] if size <= HEAD - 8 else place.read(name, 0, 8 + size)
    check(data, HEADER, where, seals=seals, advice=AGAIN)
    try:
        raw = json.loads(data[8:])
        metadata = {str(key): _text(value) for key, value in raw.pop("__metadata__", {}).items()}
        tensors = {key: _tensor(value, 8 + size) for key, value in raw.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StoreError(f"{where} is damaged: its header is not ours: {AGAIN}") from error
    return Header(metadata, tensors)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value


def _tensor(raw: dict[str, Any], start: int) -> Tensor:
    """Return where a tensor lies, if what the header says of it can be so."""
    dtype, (rows, width), (first, end) = DTYPES[raw["dtype"]], raw["shape"], raw["data_offsets"]
    numbers = (rows, width, first, end)
    if {type(number) for number in numbers} != {int} or min(numbers) < 0 or max(numbers) >= 2**48:
        raise ValueError("no such shape")
    if end - first != rows * width * dtype.itemsize:
        raise ValueError("shape and bytes differ")
    return Tensor(dtype, (rows, width), start + first)


@dataclass(eq=False)
class TensorFile:
    """A file of tensors, as it was when its header was read."""

    place: Place
    name: str
    width: int
    """Of a row of each tensor."""
    seals: Seals
    stamp: Stamp | None
    header: Header
    whole: set[tuple[int, int]] = field(default_factory=set)
    """First row and layer of what was compared with its checksum."""

    @property
    def url(self) -> str:
        """Return where it lies, for messages."""
        return f"{self.place.url}/{self.name}"

    @cached_property
    def memory(self) -> memoryview | None:
        """Return its bytes, mapped; None where they have to be fetched."""
        return self.place.mapped(self.name)


class Found(NamedTuple):
    """Where the activations of a trace are, and what identifies them."""

    file: TensorFile
    start: int
    """Its first row in every tensor of the file."""
    rows: int
    key: str
    """Empty in files that were written before keys were kept."""
    checksum: str
    fidelity: str
    """In JSON; empty where nothing was compared."""


def open_tensors(place: Place, name: str, width: int, *, seals: Seals) -> TensorFile:
    """Open a file of tensors whose rows are so wide; see `read_header`."""
    stamp = place.stamp(name)
    return TensorFile(place, name, width, seals, stamp, read_header(place, name, seals=seals))


def read_layers(found: Found, layers: Sequence[int]) -> Values:
    """Return (layer, row, width) of what was found.

    Raises:
        FileNotFoundError: it was packed since.
        StoreError: its file is damaged.
    """
    file = found.file
    tensors = [_placed(found, layer) for layer in layers]
    if len({tensor.dtype for tensor in tensors}) > 1:
        raise StoreError(f"the layers of {file.name} differ in kind: {AGAIN}")
    values = np.empty((len(layers), found.rows, file.width), tensors[0].dtype)
    for layer, into, tensor in zip(layers, values, tensors, strict=True):
        file.place.read_into(file.name, tensor.start, as_bytes(into))
        _compare(found, layer, into)
    return values


def view_layer(found: Found, layer: int) -> Values:
    """Return (row, width) of a layer, mapped and read-only where the file can be mapped.

    Raises:
        StoreError: its file is damaged.
    """
    file, tensor = found.file, _placed(found, layer)
    if file.memory is None:
        values: Values = read_layers(found, (layer,))[0]
        return values
    try:
        flat = np.frombuffer(file.memory, tensor.dtype, found.rows * file.width, tensor.start)
    except ValueError as error:
        raise StoreError(f"{file.url} ends too early: it is damaged: restore it") from error
    rows = flat.reshape(found.rows, file.width)
    _compare(found, layer, rows)
    return rows


def _placed(found: Found, layer: int) -> Tensor:
    """Return where the rows of a layer lie, if they can be there."""
    file = found.file
    whole = file.header.of(layer, file.name)
    if whole.shape[1] != file.width or found.start + found.rows > whole.shape[0]:
        raise StoreError(
            f"{file.url} is damaged: layer {layer} has shape {list(whole.shape)}, rows are "
            f"{file.width} wide: {AGAIN}"
        )
    start = whole.start + found.start * file.width * whole.dtype.itemsize
    return Tensor(whole.dtype, (found.rows, file.width), start)


def _compare(found: Found, layer: int, values: Values) -> None:
    """Compare values with their checksum where they are used for the first time.

    Raises:
        StoreError: they are not those that were written, or hold inf or nan.
    """
    file = found.file
    if (found.start, layer) in file.whole:
        return
    expected = None if file.seals == "ignored" else checksum_of(found.checksum, layer)
    if expected is None and file.seals == "required":
        raise StoreError(f"{file.url} is damaged: layer {layer} has no checksum: {AGAIN}")
    if expected is not None and expected != zlib.crc32(as_bytes(values)):
        raise StoreError(
            f"{file.url} is damaged: the checksum of layer {layer} does not fit: {AGAIN}"
        )
    if not all_finite(values):
        raise StoreError(f"{file.url} holds inf or nan in layer {layer}: {AGAIN}")
    file.whole.add((found.start, layer))


def encode(
    metadata: Mapping[str, str],
    layers: Sequence[int],
    shape: tuple[int, int],
    dtype: np.dtype[Any],
    values: Iterable[Values],
) -> Iterator[bytes | memoryview]:
    """Yield a tensor file in pieces: its header, then `values`, which fill layer after layer.

    `shape` is (row, d_model) of each layer; a layer may come in any number of pieces.
    """
    size = shape[0] * shape[1] * dtype.itemsize
    header: dict[str, Any] = {"__metadata__": {**metadata, KEY: BLANK}}
    for place, layer in enumerate(layers):
        offsets = [place * size, (place + 1) * size]
        header[layer_name(layer)] = {
            "dtype": NAMES[dtype],
            "shape": list(shape),
            "data_offsets": offsets,
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield sealed(len(text).to_bytes(8, "little") + text, HEADER)
    for piece in values:
        yield as_bytes(piece)
