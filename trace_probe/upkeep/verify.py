"""Reads all of a run and says what is wrong with it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from tqdm import tqdm

from trace_probe.activations import pooled_spans
from trace_probe.errors import TraceProbeError
from trace_probe.labels import Label
from trace_probe.storage.lines import Lines, Row
from trace_probe.storage.records import to_label, to_trace
from trace_probe.storage.tensors import checksum
from trace_probe.storage.vault import Found
from trace_probe.store import Store
from trace_probe.trace import Trace

T = TypeVar("T")


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


def verify(store: Store, *, progress: bool = True) -> VerifyReport:
    """Read every line and every tensor of a run, without trusting any index."""
    traces, problems = dict[str, Trace](), list[str]()
    labels = whole = unkeyed = 0
    for found in _traces(store):
        if isinstance(found, str):
            problems.append(found)
        elif traces.setdefault(found.id, found) != found:
            problems.append(f"trace {found.id} is there twice, with different content")
    if store.manifest.layers:
        for trace in tqdm(traces.values(), unit="trace", disable=not progress):
            try:
                kept = store.vault.find(trace.id)
                wrong = list(_wrong(store, trace, kept))
            except (TraceProbeError, OSError) as error:
                wrong = [str(error)]
            problems += wrong
            whole += not wrong
            unkeyed += not wrong and not kept.key
    for label in _labels(store, traces):
        problems += [label] if isinstance(label, str) else []
        labels += not isinstance(label, str)
    problems += _detectors(store, traces)
    return VerifyReport(
        run=store.place.url,
        traces=len(traces),
        activations=whole,
        packed=len(store.vault.packed()),
        unkeyed=unkeyed,
        labels=labels,
        detectors=len(store.detectors()),
        problems=tuple(problems),
        leftovers=tuple(_leftovers(store)),
    )


def _traces(store: Store) -> Iterator[Trace | str]:
    """Yield every trace, or what is wrong with its line."""
    return _made(store.lines_of("traces"), to_trace)


def _labels(store: Store, traces: Mapping[str, Trace]) -> Iterator[Label | str]:
    """Yield every label, or what is wrong with it."""
    for label in _made(store.lines_of("labels"), to_label):
        lost = not isinstance(label, str) and label.trace_id not in traces
        yield f"labels: {label.trace_id} is not here" if lost else label  # type: ignore[union-attr]


def _made(lines: Lines, make: Callable[[Row], T]) -> Iterator[T | str]:
    """Yield what is made of each line, or what is wrong with it."""
    for line in lines.walk():
        if line.value is None:
            yield lines.complaint(line)
            continue
        try:
            yield make(line.value)
        except TraceProbeError as error:
            yield lines.complaint(line._replace(why=str(error)))


def _wrong(store: Store, trace: Trace, kept: Found) -> Iterator[str]:
    """Yield what is wrong with the activations of a trace."""
    layers = store.manifest.layers
    if kept.key not in ("", store.key(trace)):
        yield f"{kept.file}: other activations of trace {trace.id} than those of this run"
        return
    values = store.vault.read(kept, layers)
    expected = (len(layers), len(pooled_spans(trace)), store.manifest.width)
    if values.shape != expected:
        yield f"{kept.file}: trace {trace.id} has shape {values.shape}, not {expected}"
    if not np.isfinite(values).all():
        yield f"{kept.file}: trace {trace.id} holds inf or nan"
    if kept.checksum and kept.checksum != checksum(values):
        yield f"{kept.file}: trace {trace.id} is damaged, its checksum differs"


def _detectors(store: Store, traces: dict[str, Trace]) -> Iterator[str]:
    """Yield what is wrong with scores and reports."""
    for name in store.detectors():
        try:
            store.report(name)
            scores = store.scores(name)
        except TraceProbeError as error:
            yield str(error)
            continue
        strange = [one for one in scores if one not in traces]
        long = [
            one
            for one, row in scores.items()
            if one in traces and len(row) != len(traces[one].sentences)
        ]
        for one in (strange + long)[:1]:
            yield f"scores of {name}: trace {one} is not here, or has other sentences"


def _leftovers(store: Store) -> Iterator[str]:
    try:
        yield from store.leftovers()
    except TraceProbeError:
        return  # a broken line has been reported; without it nothing can be called left over


def format_verify(report: VerifyReport) -> str:
    """Return a report as text."""
    state = f"{len(report.problems)} problems" if report.problems else "clean"
    lines = [
        f"{report.run}: {state}",
        f"{report.traces} traces, {report.activations} with activations ({report.packed} packed), "
        f"{report.labels} labels, {report.detectors} detectors",
    ]
    if report.unkeyed:
        lines.append(
            f"{report.unkeyed} activations without a key: `trace-probe store pack` adds it"
        )
    if report.leftovers:
        lines.append(f"{len(report.leftovers)} leftover files, removed by the next writer")
    return "\n".join([*lines, *report.problems])
