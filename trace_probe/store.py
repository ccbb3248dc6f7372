"""Runs, on disk or behind a URL; the only module that knows their layout.

    <run>/run.json                     what was recorded, by what, how (Manifest)
    <run>/traces.jsonl                 a trace a line; the line is the commit mark
    <run>/labels.jsonl                 a label a line; the last of a (trace, labeller) wins
    <run>/activations/<id>.safetensors one tensor a layer, (row, width)
    <run>/raw/<id>.safetensors         the same of single tokens
    <run>/shards/                      activations after `trace-probe store pack`
    <run>/scores, reports, layers, maps, oracle, experiments, annotations, calls
                                       what is made of them: see `trace_probe.storage.artifacts`
    <run>/traces/<part>.jsonl          lines of one of many writers, or of a store without append
    <run>/cache/                       may be deleted at any time

Appended files survive a kill at any moment: a line counts when its newline is on disk, and
a torn last line is ignored by readers and cut off by the next writer. Whole files are
written under a temporary name, fsynced, and renamed. All of them carry checksums, which are
compared where they are read: see `trace_probe.storage.seals`.
"""

import contextlib
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from trace_probe.activations import ActivationMatrix, Activations, pooled_spans
from trace_probe.errors import NotEnoughData, StoreError
from trace_probe.files import TEMPORARY, absent, user_cache
from trace_probe.files import write_bytes as write_bytes
from trace_probe.files import write_json as write_json
from trace_probe.labels import Label
from trace_probe.storage import locks
from trace_probe.storage.artifacts import FORMS, Artifacts, rows_by_trace
from trace_probe.storage.journal import (
    LABELS,
    TRACES,
    Journal,
    about_label,
    about_trace,
    first_of_each,
)
from trace_probe.storage.lines import BrokenLine
from trace_probe.storage.matrix import LayerMatrix, cached_layer, read_matrix
from trace_probe.storage.place import Place, place_at
from trace_probe.storage.records import READABLE, checked_line, differences, manifest_fields
from trace_probe.storage.records import Manifest as Manifest
from trace_probe.storage.records import to_label as to_label
from trace_probe.storage.records import to_manifest as to_manifest
from trace_probe.storage.records import to_trace as to_trace
from trace_probe.storage.seals import JSON, Seals, check, opened_json, sealed_json
from trace_probe.storage.tensors import Values, content_key
from trace_probe.storage.vault import Vault
from trace_probe.trace import Span, Trace

EXPECTED = "cache/expected.json"

if TYPE_CHECKING:
    import pyarrow as pa


class Store:
    """A run. Readers need no lock; write under `writing`, or `joined` beside other writers.

    Example:
        >>> run = Store("traces/demo")
        >>> len(run), run.labellers()
        (804, ['rules'])
        >>> trace = next(run.traces())
        >>> run.activations(trace).values.shape[2] == run.manifest.width  # (layer, row, width)
        True
    """

    def __init__(self, path: Path | str, seals: Seals | None = None) -> None:
        """Open an existing run, in a folder or behind a URL such as ``s3://bucket/run``.

        `seals` says whether checksums must be there and fit; they must in runs of schema 2.

        Raises:
            StoreError: there is no run, or one of another schema, at `path`.
        """
        self.place = place_at(path)
        self.path = self.place.folder or Path(path)
        file = f"{self.place.url}/run.json"
        try:
            data = self.place.read("run.json")
        except (FileNotFoundError, NotADirectoryError) as error:
            made = "make one with `trace-probe demo`"
            text = f"no run at {self.place.url}: {made}"
            raise StoreError(
                absent(self.place.folder, "run") if self.place.folder else text
            ) from error
        raw = opened_json(data, file, seals=seals or "compared")
        if raw.get("schema") not in READABLE:
            raise StoreError(
                f"{file} has schema {raw.get('schema')}, this version reads "
                f"{' and '.join(map(str, READABLE))}: update trace_probe or record the run again"
            )
        self.manifest = to_manifest(raw, file)
        checked = seals or ("required" if self.manifest.schema > 1 else "compared")
        check(data, JSON, file, seals=checked)
        self.vault = Vault(self.place, self.manifest.width, self.manifest.d_model, seals=checked)
        self.artifacts = Artifacts(self.place, seals=checked)
        about = about_trace(self.manifest)
        self._traces = Journal(self.place, "traces", about, TRACES, seals=checked)
        self._labels = Journal(self.place, "labels", about_label, LABELS, seals=checked)
        self._waiting: dict[str, bytes] | None = None

    @classmethod
    def create(cls, path: Path | str, manifest: Manifest) -> "Store":
        """Make a run, or open it if one with the same manifest is there.

        Raises:
            StoreError: the folder holds a run of other settings, or other files.
        """
        place = place_at(path)
        if place.size("run.json") is not None:
            store = cls(path)
            if (source := store.manifest.source) != manifest.source:
                raise StoreError(
                    f"{place.url} holds a run that was {source}: choose another folder"
                )
            differing = differences(store.manifest, manifest)
            if differing:
                raise StoreError(
                    f"{place.url} holds a run with other settings ({differing}): "
                    f"choose another folder, or repeat the settings to resume it"
                )
            return store
        _check_vacant(place)
        place.write("run.json", [sealed_json(manifest_fields(manifest))])
        return cls(path)

    @classmethod
    def check_settings(cls, path: Path | str, asked: Callable[[Manifest], Manifest]) -> None:
        """Refuse a place that cannot take a run, as far as that is known before a model is loaded.

        Of the manifest of a run that is there, `asked` returns what it would have to be.

        Raises:
            StoreError: the folder holds a run of other settings, or other files.
        """
        place = place_at(path)
        if place.size("run.json") is None:
            _check_vacant(place)
        else:
            cls.create(path, asked(cls(path).manifest))

    def note_models(self, names: Iterable[str]) -> None:
        """Say in the manifest of an imported run that traces of these models are in it."""
        held = self.manifest.model
        every = ", ".join(sorted({*filter(None, held.split(", ")), *names}))
        if self.manifest.source == "imported" and every != held:
            self.manifest = replace(self.manifest, model=every)
            self.place.write("run.json", [sealed_json(manifest_fields(self.manifest))])

    @property
    def name(self) -> str:
        """Return the name of the folder."""
        return self.path.resolve().name

    @property
    def cache(self) -> Path:
        """Return a folder of this machine for what can be made again."""
        if self.place.folder is not None:
            return self.place.folder / "cache"
        return user_cache("runs", self.place.url.replace("/", "_"))

    @contextlib.contextmanager
    def writing(self) -> Iterator["Store"]:
        """Hold the run's write lock; tidy up what interrupted writers left half done.

        Raises:
            StoreError: another process is writing, or the folder is read-only.
        """
        with locks.alone(self.place.folder):
            with locks.tidying(self.place.folder):
                self._tidy()
            yield self
            self.keep_indexes()

    @contextlib.contextmanager
    def joined(self, order: str = "") -> Iterator["Store"]:
        """Write beside others: what is added is committed in one piece when the context ends.

        `order` says where it stands among what others add, in the order of strings.

        Raises:
            StoreError: a writer is tidying up, or the run cannot be written.
        """
        with locks.joined(self.place.folder):
            self._waiting = {}
            try:
                yield self
            finally:
                lines, self._waiting = self._waiting, None
                self._traces.put(lines.values(), order or next(iter(lines), ""))

    def _tidy(self) -> None:
        """Cut torn lines, bring parts together, remove temporary and uncommitted files."""
        if self.place.folder is None:
            return  # without locks nobody can know whether others are still writing
        self._traces.fold()
        self._labels.fold()
        for name in list(self.leftovers()):
            self.place.remove(name)

    def leftovers(self) -> Iterator[str]:
        """Yield the names of files that interrupted writers left and no reader sees."""
        for folder in ("", *FORMS, "traces", "labels", "cache", "activations", "raw", "shards"):
            for name in self.place.abandoned(folder):
                yield f"{folder}/{name}".lstrip("/")
        ids = self.ids()
        if not self._traces.broken:  # else what belongs to a broken line would be taken for it
            yield from self.vault.leftovers(ids)

    def keep_indexes(self) -> None:
        """Write the indexes of traces and labels, if they have grown much."""
        self._traces.keep_index()
        self._labels.keep_index()

    def expect(self, traces: int) -> None:
        """Note how many traces the run will hold when what is being recorded is there."""
        if self.place.folder is not None:
            self.place.write(EXPECTED, [sealed_json({"traces": traces})])

    @property
    def expected(self) -> int | None:
        """Return how many traces the run will hold, as the last recording noted; None if none."""
        try:
            noted = opened_json(self.place.read(EXPECTED), EXPECTED)["traces"]
        except (FileNotFoundError, StoreError, KeyError):
            return None
        return noted if isinstance(noted, int) else None

    def add(self, trace: Trace, activations: Activations | None = None) -> None:
        """Commit a trace: its activations first, then its line. A known id is left alone.

        Raises:
            StoreError: it, or its activations, could not be read again.
        """
        self._traces.refresh()
        if trace.id in self._traces.at or trace.id in (self._waiting or ()):
            return
        line = checked_line(trace)
        if activations is not None:
            self.vault.write(trace.id, self.key(trace), activations)
        if self._waiting is None:
            self._traces.append([line])
        else:
            self._waiting[trace.id] = line

    def add_labels(self, labels: Iterable[Label]) -> None:
        """Append labels; a later label of the same trace and labeller replaces the earlier."""
        self._labels.append(map(checked_line, labels))

    def copy_labels(self, source: "Store", traces: Container[str] | None = None) -> None:
        """Append the labels of another run that are not there, perhaps of some traces only.

        Who labelled last there did so here.
        """
        for labeller in source.labellers():
            known, labels = self.labels(labeller), source.labels(labeller)
            self.add_labels(
                label
                for name, label in labels.items()
                if (traces is None or name in traces) and known.get(name) != label
            )

    def ids(self) -> set[str]:
        """Return the ids of all committed traces."""
        self._traces.refresh()
        return set(self._traces.at)

    def __len__(self) -> int:
        """Return the number of committed traces."""
        self._traces.refresh()
        return len(self._traces.at)

    def traces(self) -> Iterator[Trace]:
        """Yield the committed traces in the order of recording.

        One whose line is damaged is named on standard error and passed over.
        """
        self._traces.refresh()
        if self.place.folder is None:
            yield from self._streamed()
            return
        for trace_id in list(self._traces.at):
            try:
                yield self.trace(trace_id)
            except BrokenLine as error:
                self._traces.tell(error.line)

    def _streamed(self) -> Iterator[Trace]:
        """Yield every trace, reading whole files: a request for each trace would be slow."""
        seen = set()
        for trace in self._traces.values(to_trace):
            if trace.id not in seen:
                seen.add(trace.id)
                yield trace

    def trace(self, trace_id: str) -> Trace:
        """Return one trace.

        Raises:
            StoreError: there is no such trace.
        """
        if trace_id not in self._traces.at:
            self._traces.refresh()
        if trace_id not in self._traces.at:
            raise StoreError(f"no trace {trace_id} in {self.place.url}")
        return to_trace(self._traces.line(trace_id))

    def lines_of(self, kind: Literal["traces", "labels"]) -> Journal:
        """Return the lines of traces or labels as they are, repeated and broken ones too."""
        return self._traces if kind == "traces" else self._labels

    def broken(self) -> list[str]:
        """Return what is wrong with lines that were met so far; all others can be read."""
        return [*self._traces.broken.values(), *self._labels.broken.values()]

    def index(self) -> "pa.Table":
        """Return a row for each line of a trace, in order: see `trace_probe.storage.journal`."""
        return self._traces.table()

    def label_index(self) -> "pa.Table":
        """Return a row for each line of a label, in order, replaced ones too."""
        return self._labels.table()

    def label_at(self, file: str, start: int, size: int) -> Label:
        """Return the label whose line stands where `label_index` says.

        Raises:
            BrokenLine: it is damaged.
        """
        return to_label(self._labels.line_at(file, start, size))

    def every_label(self) -> Iterator[Label]:
        """Yield all labels in the order in which they came, replaced ones too."""
        return self._labels.values(to_label)

    def labels(self, labeller: str | None = None) -> dict[str, Label]:
        """Return the labels by trace id: of one labeller, or of the one that labelled last."""
        every = list(self.every_label())
        if not every:
            return {}
        chosen = every[-1].labeller if labeller is None else labeller
        return {label.trace_id: label for label in every if label.labeller == chosen}

    def labellers(self) -> list[str]:
        """Return the names of all labellers, the latest last."""
        names = [label.labeller for label in self.every_label()]
        return list(dict.fromkeys(reversed(names)))[::-1]

    def key(self, trace: Trace) -> str:
        """Return what identifies the activations of a trace in this run, by content."""
        return content_key(self.manifest, trace, self._rows(trace))

    def _rows(self, trace: Trace) -> tuple[Span, ...]:
        return pooled_spans(trace, self.manifest.row_end)

    def has_activations(self, trace_id: str) -> bool:
        """Return whether activations of a trace are stored."""
        return self.vault.has(trace_id)

    def activations(self, trace: Trace, layers: Iterable[int] | None = None) -> Activations:
        """Return the activations of a trace, of all recorded layers or of those named.

        Raises:
            StoreError: none were recorded, not of that layer, or of other tokens, another
                model, precision, pooling or template than those of `trace` and this run.
        """
        chosen = self.known_layers(layers)
        values = self.vault.load(trace.id, chosen, self.key(trace))
        return Activations(values, chosen, self._rows(trace), self.manifest.pooling)

    def kept(self, trace: Trace, layers: Iterable[int] | None = None) -> Activations | None:
        """Return all that is kept of a trace beside its line, raw tokens and fidelity too.

        None where there are no activations of it; of all recorded layers or of those named.

        Raises:
            StoreError: as `activations`.
        """
        if not self.has_activations(trace.id):
            return None
        found = self.activations(trace, layers)
        raw = [self.vault.raw(trace.id, one) for one in found.layers if self.manifest.raw_tokens]
        tokens = np.stack(raw) if raw else None
        return replace(found, tokens=tokens, fidelity=self.vault.fidelity(trace.id))

    def known_layers(self, layers: Iterable[int] | None) -> tuple[int, ...]:
        """Return the layers that are asked for, all that were recorded if None is.

        Raises:
            StoreError: one was not recorded.
        """
        chosen = self.manifest.layers if layers is None else tuple(layers)
        missing = set(chosen) - set(self.manifest.layers)
        if missing:
            raise StoreError(
                f"layer {min(missing)} was not recorded in {self.place.url}; "
                f"there are {list(self.manifest.layers)}"
            )
        return chosen

    def scan(self, layer: int) -> Iterator[tuple[str, Values]]:
        """Return an iterator over (row, width) of a layer of each trace, without reading texts.

        Values of packed runs are read-only: they are mapped, not copied.

        Raises:
            StoreError: the layer was not recorded, or a file does not fit its trace.
        """
        (chosen,) = self.known_layers((layer,))
        return self.vault.scan(self._contents(), chosen)

    def _contents(self) -> dict[str, tuple[str, int]]:
        """Return the key and the number of rows of each trace, in order."""
        table = first_of_each(self.index())
        columns = (table[name].to_pylist() for name in ("id", "key", "rows"))
        return {one: (key, rows) for one, key, rows in zip(*columns, strict=True)}

    def matrix(
        self, traces: Sequence[Trace], layers: Iterable[int] | None = None
    ) -> ActivationMatrix:
        """Return the activations of many traces in one array; of all recorded layers if None.

        Most traces of a large run are read from whole layers, which are kept in `cache`.

        Raises:
            NotEnoughData: there are no traces.
            StoreError: a trace has no activations, or a layer was not recorded.
        """
        if not traces:
            raise NotEnoughData(f"no labelled traces in {self.path}: record and label some first")
        wanted = [(trace.id, self.key(trace), len(trace.sentences) + 1) for trace in traces]
        chosen, most = self.known_layers(layers), 2 * len(traces) >= len(self)
        values, start = read_matrix(
            self.vault, self.cache, wanted, chosen, self._contents if most else None
        )
        was = self.manifest
        return ActivationMatrix(values, chosen, start, was.pooling, was.row_end)

    def layer_matrix(self, layer: int, *, progress: bool = True) -> LayerMatrix:
        """Return a whole layer of the run, mapped from `cache`, where it is kept.

        Raises:
            StoreError: the layer was not recorded, a trace has no activations, or the cache
                cannot be written.
        """
        self.known_layers((layer,))
        return cached_layer(self.vault, self.cache, self._contents(), layer, progress=progress)

    def write_scores(self, detector: str, scores: Mapping[str, NDArray[np.floating]]) -> None:
        """Keep the scores of a detector: for each trace id one score a sentence, nan = none.

        Where those that are kept are equal up to rounding, they stay, byte for byte.
        """
        self.artifacts.write_scores(detector, scores)

    def scores(self, detector: str) -> dict[str, NDArray[np.float32]]:
        """Return the kept scores of a detector by trace id, one score a sentence.

        Raises:
            StoreError: that detector has not scored this run, or the file is damaged.
        """
        run = f"`trace-probe evaluate {self.place.url} PROBE`"
        table = self.artifacts.read_table("scores", detector, f"score the run again with {run}")
        if table is None:
            there = f"; there are scores of {', '.join(self.detectors())}" * bool(self.detectors())
            raise StoreError(
                f"{self.place.url} holds no scores of {detector!r}{there}: run {run}, which scores "
                f"it with a probe and its baselines"
            )
        return rows_by_trace(table, self.artifacts.url("scores", detector))

    def detectors(self) -> list[str]:
        """Return the names of the detectors that have scored this run, sorted."""
        return self.artifacts.names("scores")

    def write_report(self, detector: str, report: Mapping[str, Any]) -> None:
        """Keep the evaluation of a detector on this run."""
        self.artifacts.write_json("reports", detector, report)

    def report(self, detector: str) -> dict[str, Any] | None:
        """Return the kept evaluation of a detector, or None if there is none."""
        return self.artifacts.read_json("reports", detector)


def _check_vacant(place: Place) -> None:
    """Raise StoreError if there is something in a place where a run is to be made."""
    others = [name for name in place.names() if not TEMPORARY.fullmatch(name)]
    folder = place.folder
    if others or (folder is not None and folder.exists() and not folder.is_dir()):
        raise StoreError(f"{place.url} is not empty and not a run: choose another folder")
