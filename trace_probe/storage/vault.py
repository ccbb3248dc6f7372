"""The activations of a run: a file a trace, or packed into shards; looked up by content.

activations/<trace>.safetensors    one tensor a layer, (row, width), key, checksums, fidelity
raw/<trace>.safetensors            the same of single tokens, (token, width); never packed
shards/                            see `trace_probe.storage.shards`
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict

from trace_probe.activations import Activations, Fidelity
from trace_probe.errors import StoreError
from trace_probe.files import NAME
from trace_probe.storage.place import Place
from trace_probe.storage.seals import Seals
from trace_probe.storage.shards import ADVICE, INDEX, SHARD, Packed, read_index
from trace_probe.storage.tensors import (
    AGAIN,
    Found,
    TensorFile,
    Values,
    checksum,
    encode,
    on_disk,
    open_tensors,
    read_layers,
    view_layer,
)

MOST_KNOWN = 20_000
"""Files whose headers are kept in memory, about 2 KB each."""


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
        self._packed: dict[str, Packed] = {}
        self._index_size: int | None = None
        self._files: dict[str, TensorFile] = {}
        """Those of one trace as long as they are not replaced."""
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
                self._files.pop(file, None)

    def raw(self, trace_id: str, layer: int) -> Values:
        """Return (token, d_model) of a trace: each token from the last of its prompt on.

        Raises:
            StoreError: they are not kept.
        """
        file = self.raw_file(trace_id)
        try:
            found = _alone(self._open(file))
        except FileNotFoundError as error:
            raise StoreError(
                f"no raw activations of trace {trace_id} in {self._url}: record with --raw-tokens"
            ) from error
        values: Values = read_layers(found, (layer,))[0]
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
                return _alone(self._open(file))
            except FileNotFoundError:
                self.packed()  # it may have been packed since
        if trace_id not in self._packed:
            lost = (
                f": {unnamed[0]} is not in {INDEX}: {ADVICE}" if (unnamed := self.unnamed()) else ""
            )
            raise StoreError(f"no activations of trace {trace_id} in {self._url}{lost}")
        return self._in_shard(self._packed[trace_id])

    def _open(self, name: str) -> TensorFile:
        """Return a file; its header is read again only if the file was replaced."""
        known = self._files.get(name)
        if known is None or known.stamp is None or known.stamp != self._place.stamp(name):
            width = self._raw_width if name.startswith("raw/") else self.width
            known = open_tensors(self._place, name, width, seals=self.seals)
            if len(self._files) >= MOST_KNOWN:
                self._files.clear()
            self._files[name] = known
        return known

    def _in_shard(self, packed: Packed) -> Found:
        try:
            file = self._files.get(packed.shard) or self._open(packed.shard)
        except FileNotFoundError as error:
            raise StoreError(f"{self._url}/{packed.shard} is missing: restore it") from error
        rows = packed.stop - packed.start
        return Found(file, packed.start, rows, packed.key, packed.checksum, packed.fidelity)

    def load(self, trace_id: str, layers: Sequence[int], key: str) -> Values:
        """Return (layer, row, d_model) of a trace, if they are the content of that key.

        Raises:
            StoreError: there are none, they are of other content, or their file is damaged.
        """
        try:
            return read_layers(self._expect(trace_id, key), layers)
        except FileNotFoundError:  # packed between the two looks
            return read_layers(self._expect(trace_id, key), layers)

    def _expect(self, trace_id: str, key: str) -> Found:
        found = self.find(trace_id)
        if found.key not in ("", key):
            raise StoreError(
                f"{found.file.url} holds other activations of trace {trace_id} than "
                f"those asked for: model, template, tokens, precision, pooling or layers have "
                f"changed; record it again"
            )
        return found

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
                found = self._expect(trace_id, key)
                values = view_layer(found, layer)
                if found.file.memory is not None:
                    views[trace_id] = place, values
            else:
                values = self.load(trace_id, (layer,), key)[0]
            if len(values) != rows:
                raise StoreError(
                    f"{self._url} has {len(values)} rows of trace {trace_id}, not {rows}: {AGAIN}"
                )
            yield trace_id, values

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


def _alone(file: TensorFile) -> Found:
    """Return what a file of one trace holds."""
    rows = max((tensor.shape[0] for tensor in file.header.tensors.values()), default=0)
    key, sums, fidelity = (
        file.header.metadata.get(name, "") for name in ("key", "checksum", "fidelity")
    )
    return Found(file, 0, rows, key, sums, fidelity)
