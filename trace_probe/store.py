"""Runs on disk; the only module that knows their layout.

    <run>/run.json                     what was recorded, by what, how (Manifest)
    <run>/traces.jsonl                 a trace a line; the line is the commit mark
    <run>/labels.jsonl                 a label a line; the last of a (trace, labeller) wins
    <run>/activations/<id>.safetensors one tensor a layer, (row, d_model)
    <run>/scores/<detector>.parquet    a trace a row, a score a sentence
    <run>/reports/<detector>.json      the evaluation of that detector on this run
    <run>/maps/layer-<n>.parquet       its sentences as points of a plane (probing.sentence_map)

Appended files survive a kill at any moment: a line counts when its newline is on disk, and
a torn last line is ignored by readers and cut off by the next writer. Whole files are
written under a temporary name, fsynced, and renamed.
"""

import contextlib
import fcntl
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from trace_probe.activations import Activations, Pooling, pooled_spans
from trace_probe.errors import StoreError
from trace_probe.files import append, cut_torn_line, file_names, load_json, read_lines
from trace_probe.files import write_bytes as write_bytes
from trace_probe.files import write_json as write_json
from trace_probe.labels import Label
from trace_probe.trace import Sampling, Span, Task, Trace

SCHEMA = 1
FLOAT16_MAX = 65504.0


@dataclass(frozen=True)
class Manifest:
    """What a run is, fixed when it is created."""

    model: str
    """Name and revision of the model that was recorded or that wrote the transcripts."""
    source: Literal["recorded", "imported"] = "recorded"
    layers: tuple[int, ...] = ()
    """Recorded blocks, 0-based; empty if there are no activations."""
    n_layers: int = 0
    d_model: int = 0
    pooling: Pooling = "mean"
    dtype: str = ""
    tokenizer: str = ""
    sampling: Sampling = field(default_factory=Sampling)
    tasks: str = ""
    """Where the tasks came from, for example ``instrumentaleval@26967816``."""
    version: str = ""
    """Version of trace_probe."""
    schema: int = SCHEMA


class Store:
    """A run folder. Readers need no lock; one writer at a time (`with store.writing():`)."""

    def __init__(self, path: Path | str) -> None:
        """Open an existing run.

        Raises:
            StoreError: there is no run, or one of another schema, at `path`.
        """
        self.path = Path(path)
        file = self.path / "run.json"
        if not file.is_file():
            raise StoreError(
                f"no run at {self.path}: make one with `trace-probe demo`, "
                f"`trace-probe record` or `trace-probe import`"
            )
        raw = load_json(file)
        if raw.get("schema") != SCHEMA:
            raise StoreError(
                f"{file} has schema {raw.get('schema')}, this version reads schema {SCHEMA}: "
                f"update trace_probe or record the run again"
            )
        self.manifest = to_manifest(raw, file)
        self._lines = 0
        self._index: dict[str, tuple[int, int]] = {}

    @classmethod
    def create(cls, path: Path | str, manifest: Manifest) -> "Store":
        """Make a run, or open it if one with the same manifest is there.

        Raises:
            StoreError: the folder holds a run of other settings, or other files.
        """
        path = Path(path)
        if (path / "run.json").is_file():
            store = cls(path)
            differing = _differences(store.manifest, manifest)
            if differing:
                raise StoreError(
                    f"{path} holds a run with other settings ({differing}): "
                    f"choose another folder, or repeat the settings to resume it"
                )
            return store
        others = [name for name in file_names(path) if not name.endswith(".tmp")]
        if others or (path.exists() and not path.is_dir()):
            raise StoreError(f"{path} is not empty and not a run: choose another folder")
        write_json(path / "run.json", asdict(manifest))
        return cls(path)

    @property
    def name(self) -> str:
        """Return the name of the folder."""
        return self.path.resolve().name

    @contextlib.contextmanager
    def writing(self) -> Iterator["Store"]:
        """Hold the run's write lock; cut off what an interrupted writer left half done.

        Raises:
            StoreError: another process is writing, or the folder is read-only.
        """
        try:
            lock = open(self.path / ".lock", "w", encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            raise StoreError(f"cannot write to {self.path}: {error.strerror}") from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise StoreError(f"another process is writing to {self.path}") from error
            self._clean()
            yield self

    def _clean(self) -> None:
        """Cut torn last lines and remove temporary and uncommitted files."""
        for name in ("traces.jsonl", "labels.jsonl"):
            cut_torn_line(self.path / name)
        self._refresh()
        kept = {f"{trace_id}.safetensors" for trace_id in self._index}
        for folder in ("", "activations", "scores", "reports"):
            for name in file_names(self.path / folder):
                if name.endswith(".tmp") or (folder == "activations" and name not in kept):
                    (self.path / folder / name).unlink()

    def add(self, trace: Trace, activations: Activations | None = None) -> None:
        """Commit a trace: its activations first, then its line. A known id is left alone."""
        self._refresh()
        if trace.id in self._index:
            return
        if activations is not None:
            self._write_activations(trace.id, activations)
        append(self.path / "traces.jsonl", [_to_line(trace)])

    def add_labels(self, labels: Iterable[Label]) -> None:
        """Append labels; a later label of the same trace and labeller replaces the earlier."""
        append(self.path / "labels.jsonl", [_to_line(label) for label in labels])

    def ids(self) -> set[str]:
        """Return the ids of all committed traces."""
        self._refresh()
        return set(self._index)

    def __len__(self) -> int:
        """Return the number of committed traces."""
        self._refresh()
        return len(self._index)

    def traces(self) -> Iterator[Trace]:
        """Yield every committed trace in the order of recording."""
        self._refresh()
        for trace_id in list(self._index):
            yield self.trace(trace_id)

    def trace(self, trace_id: str) -> Trace:
        """Return one trace.

        Raises:
            StoreError: there is no such trace.
        """
        self._refresh()
        if trace_id not in self._index:
            raise StoreError(f"no trace {trace_id} in {self.path}")
        start, size = self._index[trace_id]
        with open(self.path / "traces.jsonl", "rb") as file:
            file.seek(start)
            return to_trace(json.loads(file.read(size)))

    def _refresh(self) -> None:
        """Index the lines that were appended since the last look."""
        file = self.path / "traces.jsonl"
        if not file.is_file() or file.stat().st_size <= self._lines:
            return
        with open(file, "rb") as handle:
            handle.seek(self._lines)
            for line in handle:
                if not line.endswith(b"\n"):
                    break
                try:
                    trace_id = json.loads(line)["id"]
                except (ValueError, KeyError) as error:
                    raise StoreError(
                        f"{file} is broken at byte {self._lines}: restore it or record again"
                    ) from error
                self._index.setdefault(trace_id, (self._lines, len(line)))
                self._lines += len(line)

    def every_label(self) -> Iterator[Label]:
        """Yield all labels in the order in which they came, replaced ones too."""
        return map(to_label, read_lines(self.path / "labels.jsonl"))

    def labels(self, labeller: str | None = None) -> dict[str, Label]:
        """Return the labels by trace id: of one labeller, or of the one that labelled last."""
        every = list(self.every_label())
        if not every:
            return {}
        chosen = every[-1].labeller if labeller is None else labeller
        return {label.trace_id: label for label in every if label.labeller == chosen}

    def labellers(self) -> list[str]:
        """Return the names of all labellers, the latest last."""
        names = [raw["labeller"] for raw in read_lines(self.path / "labels.jsonl")]
        return list(dict.fromkeys(reversed(names)))[::-1]

    def has_activations(self, trace_id: str) -> bool:
        """Return whether activations of a trace are stored."""
        return self._activation_file(trace_id).is_file()

    def activations(self, trace: Trace, layers: Iterable[int] | None = None) -> Activations:
        """Return the activations of a trace, of all recorded layers or of those named.

        Raises:
            StoreError: none were recorded, or not of that layer.
        """
        from safetensors import safe_open

        file = self._activation_file(trace.id)
        if not file.is_file():
            raise StoreError(f"no activations of trace {trace.id} in {self.path}")
        chosen = self.manifest.layers if layers is None else tuple(layers)
        missing = set(chosen) - set(self.manifest.layers)
        if missing:
            raise StoreError(
                f"layer {min(missing)} was not recorded in {self.path}; "
                f"there are {list(self.manifest.layers)}"
            )
        with safe_open(file, framework="numpy") as tensors:
            values = [tensors.get_tensor(f"layer.{layer}") for layer in chosen]
        return Activations(np.stack(values), chosen, pooled_spans(trace), self.manifest.pooling)

    def _activation_file(self, trace_id: str) -> Path:
        return self.path / "activations" / f"{trace_id}.safetensors"

    def _write_activations(self, trace_id: str, activations: Activations) -> None:
        from safetensors.numpy import save

        if not np.isfinite(activations.values).all():
            raise StoreError(
                f"activations of trace {trace_id} hold inf or nan: load the model in float32 "
                f"or bfloat16 and record again"
            )
        fits = float(np.abs(activations.values).max(initial=0.0)) <= FLOAT16_MAX
        dtype = np.float16 if fits else np.float32
        tensors = {
            f"layer.{layer}": np.ascontiguousarray(activations.at(layer).astype(dtype))
            for layer in activations.layers
        }
        write_bytes(self._activation_file(trace_id), save(tensors))

    def write_scores(self, detector: str, scores: Mapping[str, NDArray[np.floating]]) -> None:
        """Keep the scores of a detector: for each trace id one score a sentence, nan = none."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.table(
            {
                "trace_id": list(scores),
                "scores": [np.asarray(row, dtype=np.float32) for row in scores.values()],
            }
        )
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        write_bytes(self.path / "scores" / f"{detector}.parquet", sink.getvalue().to_pybytes())

    def scores(self, detector: str) -> dict[str, NDArray[np.float32]]:
        """Return the kept scores of a detector by trace id, one score a sentence.

        Raises:
            StoreError: that detector has not scored this run.
        """
        import pyarrow.parquet as pq

        file = self.path / "scores" / f"{detector}.parquet"
        if not file.is_file():
            raise StoreError(
                f"{detector} has not scored {self.path}: "
                f"run `trace-probe flag {self.path} {detector}`"
            )
        try:
            table = pq.read_table(file)
        except ValueError as error:
            raise StoreError(
                f"{file} is broken: score the run again with `trace-probe flag`"
            ) from error
        rows = zip(table["trace_id"].to_pylist(), table["scores"].to_pylist(), strict=True)
        return {name: np.asarray(row, dtype=np.float32) for name, row in rows}

    def detectors(self) -> list[str]:
        """Return the names of the detectors that have scored this run, sorted."""
        return sorted(file.stem for file in (self.path / "scores").glob("*.parquet"))

    def write_report(self, detector: str, report: Mapping[str, Any]) -> None:
        """Keep the evaluation of a detector on this run."""
        write_json(self.path / "reports" / f"{detector}.json", dict(report))

    def report(self, detector: str) -> dict[str, Any] | None:
        """Return the kept evaluation of a detector, or None if there is none."""
        file = self.path / "reports" / f"{detector}.json"
        return load_json(file) if file.is_file() else None


def _to_line(value: Trace | Label) -> bytes:
    # Foreign transcripts may hold half a surrogate pair; json reads back what this writes.
    return (json.dumps(asdict(value), ensure_ascii=False) + "\n").encode(errors="surrogatepass")


def to_manifest(raw: dict[str, Any], file: Path) -> Manifest:
    """Return the manifest that a JSON object holds.

    Raises:
        StoreError: it holds none.
    """
    try:
        sampling = Sampling(**raw["sampling"])
        return Manifest(**{**raw, "layers": tuple(raw["layers"]), "sampling": sampling})
    except (KeyError, TypeError) as error:
        raise StoreError(f"{file} is not a manifest: {error}") from error


def _differences(ours: Manifest, theirs: Manifest) -> str:
    """Return the names of the settings in which two manifests differ; versions may."""
    left, right = asdict(ours), asdict(theirs)
    return ", ".join(key for key in left if key != "version" and left[key] != right[key])


def to_trace(raw: dict[str, Any]) -> Trace:
    """Return the trace that a JSON object holds.

    Raises:
        StoreError: it holds none.
    """
    try:
        return _trace(raw)
    except (KeyError, TypeError) as error:
        raise StoreError(
            f"trace {raw.get('id')} is not as this version wrote it: {error}"
        ) from error


def _trace(raw: dict[str, Any]) -> Trace:
    return Trace(
        **{
            **raw,
            "task": Task(**raw["task"]),
            "sampling": Sampling(**raw["sampling"]),
            "offsets": tuple(raw["offsets"]),
            "token_ids": tuple(raw["token_ids"]),
            "spans": tuple(Span(**span) for span in raw["spans"]),
            "sentences": tuple(Span(**span) for span in raw["sentences"]),
        }
    )


def to_label(raw: dict[str, Any]) -> Label:
    """Return the label that a JSON object holds.

    Raises:
        StoreError: it holds none.
    """
    try:
        return _label(raw)
    except (KeyError, TypeError) as error:
        raise StoreError(
            f"label of trace {raw.get('trace_id')} is not as this version wrote it: {error}"
        ) from error


def _label(raw: dict[str, Any]) -> Label:
    spans = {
        key: Span(**raw[key]) if raw[key] else None
        for key in ("said", "acted", "considered", "rejected")
    }
    return Label(**{**raw, **spans, "quotes": tuple(raw["quotes"])})
