"""The activations of a run: a file a trace, or packed into shards; looked up by content.

activations/<trace>.safetensors    one tensor a layer, (row, width), key, checksums, fidelity
raw/<trace>.safetensors            the same of single tokens, (token, width); never packed
shards/                            see `trace_probe.storage.shards`
"""

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import NamedTuple

import numpy as np

from trace_probe.activations import Activations, Fidelity
from trace_probe.errors import StoreError
from trace_probe.files import NAME
from trace_probe.storage.place import Place, Stamp
from trace_probe.storage.seals import Seals
from trace_probe.storage.shards import ADVICE, INDEX, SHARD, Packed, read_index
from trace_probe.storage.tensors import (
    AGAIN,
    Header,
    Tensor,
    Values,
    all_finite,
    as_bytes,
    checksum,
    checksum_of,
    encode,
    on_disk,
    read_header,
    read_rows,
    view_rows,
)

MOST_KNOWN = 20_000
"""Headers that are kept in memory, about 2 KB each."""


class Found(NamedTuple):
    """Where the activations of a trace are, and what identifies them."""

    file: str
    header: Header
    start: int
    """Its first row in every tensor of the file."""
    rows: int
    key: str
    """Empty in files that were written before keys were kept."""
    checksum: str
    fidelity: str
    """In JSON; empty where nothing was compared."""


class Vault:
    """Activations by trace id; read from anywhere, at any time."""

    def __init__(
        self, place: Place, width: int, raw_width: int, *, seals: Seals = "compared"
    ) -> None:
        """Open it without reading anything.

        `width` is that of a row, `raw_width` that of a single token; for `seals` see
        `trace_probe.storage.seals.Seals`.
        """
        self._place, self._url = place, place.url
        self.width, self._raw_width, self.seals = width, raw_width, seals
        self._checked: dict[str, set[tuple[int, int]]] = {}
        """First row and layer of what was found to be whole, by file."""
        self._packed: dict[str, Packed] = {}
        self._index_size: int | None = None
        self._headers: dict[str, Header] = {}
        """Of shards."""
        self._known: dict[str, tuple[Stamp, Header]] = {}
        """Of files of one trace, as long as they are not replaced."""
        self._maps: dict[str, memoryview | None] = {}
        self._views: dict[int, dict[str, tuple[Packed, Values]]] = {}
        """Rows in mapped shards that were found to be whole, by layer and trace."""

    @staticmethod
    def file(trace_id: str) -> str:
        """Return the name of the file of a trace that is not packed."""
        return f"activations/{trace_id}.safetensors"

    @staticmethod
    def raw_file(trace_id: str) -> str:
        """Return the name of the file of the raw tokens of a trace."""
        return f"raw/{trace_id}.safetensors"

    def packed(self) -> dict[str, Packed]:
        """Return the packed traces by id, as they are now."""
        size = self._place.size(INDEX)
        if size != self._index_size:
            self._packed = read_index(self._place, seals=self.seals)
            self._index_size = size
        return self._packed

    def has(self, trace_id: str) -> bool:
        """Return whether activations of a trace are kept."""
        return trace_id in self.packed() or self._place.size(self.file(trace_id)) is not None

    def write(self, trace_id: str, key: str, activations: Activations) -> None:
        """Keep the activations of a trace under the key of their content.

        Raises:
            StoreError: they hold inf or nan, or cannot be written.
        """
        about = activations.fidelity
        fidelity = "" if about is None else json.dumps(asdict(about))
        parts = {
            self.raw_file(trace_id): activations.tokens,
            self.file(trace_id): activations.values,
        }
        for file, given in parts.items():
            if given is not None:
                values = on_disk(trace_id, given)
                sums = checksum(values, activations.layers)
                metadata = {"key": key, "checksum": sums, "fidelity": fidelity}
                shape = (values.shape[1], values.shape[2])
                chunks = encode(metadata, activations.layers, shape, values.dtype, values)
                self._place.write(file, chunks)
                self._checked.pop(file, None)

    def raw(self, trace_id: str, layer: int) -> Values:
        """Return (token, d_model) of a trace: each token from the last of its prompt on.

        Raises:
            StoreError: they are not kept.
        """
        file = self.raw_file(trace_id)
        try:
            header = self._header(file)
        except FileNotFoundError as error:
            raise StoreError(
                f"no raw activations of trace {trace_id} in {self._url}: record with --raw-tokens"
            ) from error
        values: Values = self.read(self._alone(file, header), (layer,))[0]
        return values

    def fidelity(self, trace_id: str) -> Fidelity | None:
        """Return how faithful the reading of a trace was; None where nothing was compared.

        Raises:
            StoreError: there are no activations of it.
        """
        text = self.find(trace_id).fidelity
        try:
            return Fidelity(**json.loads(text)) if text else None
        except (ValueError, TypeError, RecursionError) as error:
            raise StoreError(f"the fidelity of trace {trace_id} cannot be read: {AGAIN}") from error

    def find(self, trace_id: str) -> Found:
        """Return where the activations of a trace are.

        Raises:
            StoreError: there are none.
        """
        if trace_id not in self._packed:
            file = self.file(trace_id)
            try:
                return self._alone(file, self._header(file))
            except FileNotFoundError:
                self.packed()  # it may have been packed since
        if trace_id not in self._packed:
            lost = (
                f": {unnamed[0]} is not in {INDEX}: {ADVICE}" if (unnamed := self.unnamed()) else ""
            )
            raise StoreError(f"no activations of trace {trace_id} in {self._url}{lost}")
        return self._in_shard(self._packed[trace_id])

    def _header(self, file: str) -> Header:
        """Return the header of a file; it is read again only if the file was replaced."""
        stamp = self._place.stamp(file)
        known = self._known.get(file)
        if known is not None and known[0] == stamp:
            return known[1]
        header = read_header(self._place, file, seals=self.seals)
        self._checked.pop(file, None)
        if stamp is not None:
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
            self._known[file] = stamp, header
        return header

    def _alone(self, file: str, header: Header) -> Found:
        """Return a file that holds one trace."""
        rows = max((tensor.shape[0] for tensor in header.tensors.values()), default=0)
        about = [header.metadata.get(n, "") for n in ("key", "checksum", "fidelity")]
        return Found(file, header, 0, rows, *about)

    def _in_shard(self, packed: Packed) -> Found:
        if packed.shard not in self._headers:
            try:
                self._headers[packed.shard] = self._header(packed.shard)
            except FileNotFoundError as error:
                raise StoreError(f"{self._url}/{packed.shard} is missing: restore it") from error
        header = self._headers[packed.shard]
        rows = packed.stop - packed.start
        about = packed.key, packed.checksum, packed.fidelity
        return Found(packed.shard, header, packed.start, rows, *about)

    def load(self, trace_id: str, layers: Sequence[int], key: str) -> Values:
        """Return (layer, row, d_model) of a trace, if they are the content of that key.

        Raises:
            StoreError: there are none, they are of other content, or their file is damaged.
        """
        try:
            return self.read(self._expect(trace_id, key), layers)
        except FileNotFoundError:  # packed between the two looks
            return self.read(self._expect(trace_id, key), layers)

    def _expect(self, trace_id: str, key: str) -> Found:
        found = self.find(trace_id)
        if found.key not in ("", key):
            raise StoreError(
                f"{self._url}/{found.file} holds other activations of trace {trace_id} than "
                f"those asked for: model, template, tokens, precision, pooling or layers have "
                f"changed; record it again"
            )
        return found

    def read(self, found: Found, layers: Sequence[int]) -> Values:
        """Return (layer, row, d_model) of what was found.

        Raises:
            FileNotFoundError: it was packed since.
            StoreError: its file is damaged.
        """
        tensors = [self._tensor(found, layer) for layer in layers]
        if len({tensor.dtype for tensor in tensors}) > 1:
            raise StoreError(f"the layers of {found.file} differ in kind: {AGAIN}")
        values = np.empty((len(layers), found.rows, tensors[0].shape[1]), tensors[0].dtype)
        for layer, into, tensor in zip(layers, values, tensors, strict=True):
            read_rows(self._place, found.file, tensor, into, found.start)
            self._check(found, layer, into)
        return values

    def _tensor(self, found: Found, layer: int) -> Tensor:
        """Return where a layer of what was found lies, if its rows can be there."""
        tensor = found.header.of(layer, found.file)
        width = self._raw_width if found.file.startswith("raw/") else self.width
        if tensor.shape[1] != width or found.start + found.rows > tensor.shape[0]:
            raise StoreError(
                f"{self._url}/{found.file} is damaged: layer {layer} has shape "
                f"{list(tensor.shape)}, rows are {width} wide: {AGAIN}"
            )
        return tensor

    def _check(self, found: Found, layer: int, values: Values) -> None:
        """Compare values with their checksum where they are used for the first time.

        Raises:
            StoreError: they are not those that were written, or hold inf or nan.
        """
        known = self._checked.setdefault(found.file, set())
        if (found.start, layer) in known:
            return
        file = f"{self._url}/{found.file}"
        expected = None if self.seals == "ignored" else checksum_of(found.checksum, layer)
        if expected is None and self.seals == "required":
            raise StoreError(f"{file} is damaged: layer {layer} has no checksum: {AGAIN}")
        if expected is not None and expected != zlib.crc32(as_bytes(values)):
            raise StoreError(
                f"{file} is damaged: the checksum of layer {layer} does not fit: {AGAIN}"
            )
        if not all_finite(values):
            raise StoreError(f"{file} holds inf or nan in layer {layer}: {AGAIN}")
        known.add((found.start, layer))

    def scan(
        self, wanted: Mapping[str, tuple[str, int]], layer: int
    ) -> Iterator[tuple[str, Values]]:
        """Yield (row, width) of a layer for each trace, if it has that key and so many rows.

        Shards of this machine are mapped: their values are read-only, and no copy. A file of
        one trace is read, which is as fast, and needs no handle for as long as its values live.

        Raises:
            StoreError: as `load` does.
        """
        packed = self.packed()
        views = self._views.setdefault(layer, {})
        for trace_id, (key, rows) in wanted.items():
            place = packed.get(trace_id)
            seen = views.get(trace_id)
            if seen is not None and seen[0] is place and seen[0].key in ("", key):
                values = seen[1]
            elif place is not None:
                values = self._view(self._expect(trace_id, key), layer)
                if self._maps.get(place.shard) is not None:
                    views[trace_id] = place, values
            else:
                values = self.load(trace_id, (layer,), key)[0]
            if len(values) != rows:
                raise StoreError(
                    f"{self._url} has {len(values)} rows of trace {trace_id}, not {rows}: {AGAIN}"
                )
            yield trace_id, values

    def _view(self, found: Found, layer: int) -> Values:
        """Return (row, d_model) of a trace in a shard, mapped where it can be."""
        tensor = self._tensor(found, layer)
        if found.file not in self._maps:
            self._maps[found.file] = self._place.mapped(found.file)
        data = self._maps[found.file]
        if data is None:
            fetched: Values = self.read(found, (layer,))[0]
            return fetched
        try:
            rows = view_rows(data, tensor, found.start, found.start + found.rows)
        except ValueError as error:
            raise StoreError(
                f"{self._url}/{found.file} ends too early: it is damaged: restore it"
            ) from error
        self._check(found, layer, rows)
        return rows

    def unnamed(self) -> list[str]:
        """Return the shards that the index does not name; all of them if the index is missing."""
        named = {one.shard for one in self.packed().values()}
        names = (f"shards/{name}" for name in self._place.names("shards"))
        return [name for name in names if SHARD.fullmatch(name) and name not in named]

    def complete(self, committed: set[str]) -> bool:
        """Return whether each trace has activations, packed or in a file of its own."""
        alone = {name.rpartition(".")[0] for name in self._place.names("activations")}
        return committed <= alone | self.packed().keys()

    def leftovers(self, committed: set[str]) -> Iterator[str]:
        """Yield files that an interrupted writer left: of no trace, or packed already.

        Only files whose names have the form of ours; anything else is left alone. A shard that
        the index does not name is kept if a trace has no other activations: its entry may be lost.
        """
        packed = self.packed()
        for folder, gone in (("activations", packed.keys()), ("raw", set[str]())):
            for name in self._place.names(folder):
                trace_id, _, kind = name.rpartition(".")
                ours = kind == "safetensors" and NAME.fullmatch(trace_id)
                if ours and (trace_id not in committed or trace_id in gone):
                    yield f"{folder}/{name}"
        if (unnamed := self.unnamed()) and self.complete(committed):
            yield from unnamed
