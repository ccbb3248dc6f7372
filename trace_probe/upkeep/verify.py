"""Reads all of a run, compares every checksum, and says what is wrong with it."""

from collections.abc import Callable, Iterator, Mapping, Sized
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, TypeVar

from tqdm import tqdm

from trace_probe.activations import pooled_spans
from trace_probe.errors import StoreError, TraceProbeError
from trace_probe.labels import Label
from trace_probe.storage.artifacts import FORMS, Kind, rows_by_trace
from trace_probe.storage.lines import Fields, Lines
from trace_probe.storage.records import to_label, to_trace
from trace_probe.storage.seals import state
from trace_probe.storage.shards import ADVICE, INDEX
from trace_probe.storage.tensors import checksum_of_all, read_layers
from trace_probe.store import Store
from trace_probe.trace import Trace

T = TypeVar("T")


class Problem(NamedTuple):
    """One thing that is wrong with a run, and what has to go so that the rest can be used."""

    text: str
    file: str = ""
    """A whole file, if that is what is broken."""
    trace: str = ""
    """A trace, if its activations are."""


@dataclass(frozen=True)
class VerifyReport:
    """What is in a run, and whether all of it is as it was written."""

    run: str
    traces: int
    activations: int
    """Traces whose activations are there and whole."""
    packed: int
    unkeyed: int
    """Traces whose activations were kept before keys were: what they are of cannot be checked."""
    labels: int
    detectors: int
    problems: tuple[str, ...]
    leftovers: tuple[str, ...]
    """Files that interrupted writers left; no reader sees them, the next writer removes them."""
    unchecked: int = 0
    """Lines, files and activations of earlier versions that carry no checksum."""

    def __str__(self) -> str:
        """Return a report as text."""
        state = f"{len(self.problems)} problems" if self.problems else "clean"
        lines = [
            f"{self.run}: {state}",
            f"{self.traces} traces, {self.activations} with activations ({self.packed} packed), "
            f"{self.labels} labels, {self.detectors} detectors",
        ]
        if self.unkeyed:
            lines.append(
                f"{self.unkeyed} activations without a key: `trace-probe store pack` adds it"
            )
        if self.unchecked:
            lines.append(
                f"{self.unchecked} lines, files or activations of an earlier version are "
                f"unchecked: `trace-probe store migrate` gives them checksums"
            )
        if self.leftovers:
            lines.append(f"{len(self.leftovers)} leftover files, removed by the next writer")
        return "\n".join([*lines, *self.problems])


@dataclass
class Findings:
    """What was found in a run so far."""

    store: Store
    traces: dict[str, Trace] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    labels: int = 0
    whole: int = 0
    unkeyed: int = 0
    unchecked: int = 0


def examine(store: Store, *, progress: bool = True) -> Findings:
    """Read every line, file and tensor of a run, without trusting any index, and go on."""
    found = Findings(store)
    for trace in _lines(found, store.lines_of("traces"), to_trace):
        if found.traces.setdefault(trace.id, trace) != trace:
            text = f"trace {trace.id} is there twice, with different content"
            found.problems.append(Problem(text))
    for label in _lines(found, store.lines_of("labels"), to_label):
        _label(found, label)
    _activations(found, progress=progress)
    for kind, form in FORMS.items():
        for name in store.artifacts.names(kind):
            _artifact(found, kind, name, form)
    return found


def every_kind(store: Store) -> list[tuple[Lines, Callable[[Fields], object]]]:
    """Return all lines of a run, with what is made of each."""
    kinds: list[tuple[Lines, Callable[[Fields], object]]] = [
        (store.lines_of("traces"), to_trace),
        (store.lines_of("labels"), to_label),
    ]
    for kind, form in FORMS.items():
        names = store.artifacts.names(kind) if form == ".jsonl" else []
        kinds += [(store.artifacts.lines(kind, name), lambda row: row) for name in names]
    return kinds


def verify(store: Store, *, progress: bool = True) -> VerifyReport:
    """Read every line, file and tensor of a run and report on it."""
    found = examine(store, progress=progress)
    return VerifyReport(
        run=store.place.url,
        traces=len(found.traces),
        activations=found.whole,
        packed=_packed(store),
        unkeyed=found.unkeyed,
        labels=found.labels,
        detectors=len(store.detectors()),
        problems=tuple(problem.text for problem in found.problems),
        leftovers=tuple(_leftovers(store)),
        unchecked=found.unchecked,
    )


def verify_at(path: Path | str, *, progress: bool = True) -> VerifyReport:
    """Read a run and report on it, even if its ``run.json`` does not fit its checksum.

    Raises:
        StoreError: there is no run, or nothing can be made of its ``run.json``.
    """
    try:
        store = Store(path)
    except StoreError as error:
        report = verify(Store(path, "ignored"), progress=progress)
        return replace(report, problems=(str(error), *report.problems))
    return verify(store, progress=progress)


def _lines(found: Findings, lines: Lines, make: Callable[[Fields], T]) -> Iterator[T]:
    """Yield what is made of each line that is whole, and note what is wrong with the others."""
    for line in lines.walk():
        if line.why:
            found.problems.append(Problem(lines.complaint(line)))
        if line.value is None:
            continue
        found.unchecked += state(lines.bytes_of(line)) == "unsealed"
        try:
            yield make(line.value)
        except TraceProbeError as error:
            found.problems.append(Problem(lines.complaint(line._replace(why=str(error)))))


def _label(found: Findings, label: Label) -> None:
    if label.trace_id in found.traces:
        found.labels += 1
    else:
        found.problems.append(Problem(f"labels: {label.trace_id} is not here"))


def _activations(found: Findings, *, progress: bool) -> None:
    """Read the activations of all traces, and note what is wrong with them."""
    store = found.store
    if not store.manifest.layers:
        return
    try:
        lost = [] if store.vault.complete(set(found.traces)) else store.vault.unnamed()
    except StoreError as error:  # once, not for each trace in it
        found.problems.append(Problem(str(error)))
        return
    found.problems += [
        Problem(f"{store.place.url}/{one} is not in {INDEX}: {ADVICE}") for one in lost
    ]
    traces = [t for t in found.traces.values() if not lost or store.has_activations(t.id)]
    for trace in tqdm(traces, unit="trace", disable=not progress):
        try:
            wrong = list(_wrong(found, trace))
        except (TraceProbeError, OSError) as error:
            wrong = [str(error)]
        found.problems += [Problem(text, trace=trace.id) for text in wrong]
        found.whole += not wrong


def _wrong(found: Findings, trace: Trace) -> Iterator[str]:
    """Yield what is wrong with the activations of a trace."""
    store, layers = found.store, found.store.manifest.layers
    kept = store.vault.find(trace.id)
    if kept.key not in ("", store.key(trace)):
        yield f"{kept.file.name}: other activations of trace {trace.id} than those of this run"
        return
    values = read_layers(kept, layers)
    expected = (len(layers), len(pooled_spans(trace)), store.manifest.width)
    if values.shape != expected:
        yield f"{kept.file.name}: trace {trace.id} has shape {values.shape}, not {expected}"
    old = not kept.checksum.startswith("crc32:")
    if old and kept.checksum and kept.checksum != checksum_of_all(values):
        yield f"{kept.file.name}: trace {trace.id} is damaged: its checksum does not fit"
    if store.manifest.raw_tokens:
        for layer in layers:
            store.vault.raw(trace.id, layer)
    found.unkeyed += not kept.key
    found.unchecked += old


def _artifact(found: Findings, kind: Kind, name: str, form: str) -> None:
    """Read one artifact, and the settings beside it, and note what is wrong with it."""
    artifacts, file = found.store.artifacts, ""
    try:
        file = artifacts.file(kind, name)
        if form == ".jsonl":
            for _ in _lines(found, artifacts.lines(kind, name), lambda row: row):
                pass
            file = artifacts.file(kind, name, ".json")
        if form == ".parquet":
            table = artifacts.read_table(kind, name)
            if kind == "scores" and table is not None:
                _scores(found, name, rows_by_trace(table, file))
        else:
            artifacts.read_json(kind, name)
    except TraceProbeError as error:
        found.problems.append(Problem(str(error), file=file))
        return
    found.unchecked += artifacts.unsealed(file)


def _scores(found: Findings, name: str, scores: Mapping[str, Sized]) -> None:
    """Note if scores are of traces that are not here, or of other sentences."""
    for one, row in scores.items():
        if one not in found.traces or len(row) != len(found.traces[one].sentences):
            text = f"scores of {name}: trace {one} is not here, or has other sentences"
            found.problems.append(Problem(text))
            return


def _packed(store: Store) -> int:
    try:
        return len(store.vault.packed())
    except StoreError:  # it has been reported
        return 0


def _leftovers(store: Store) -> Iterator[str]:
    try:
        yield from store.leftovers()
    except TraceProbeError:
        return  # what is broken has been reported; without it nothing can be called left over
