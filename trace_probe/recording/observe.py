"""Another model reads the traces of a run: the same text, its own tokens, its own activations."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from tqdm import tqdm

from trace_probe.activations import pooled_spans
from trace_probe.errors import ModelError
from trace_probe.model.capture import Reading
from trace_probe.model.fidelity import refuse_unfaithful
from trace_probe.model.local import Model
from trace_probe.model.tokenizer import ChatTokenizer
from trace_probe.recording.record import new_manifest
from trace_probe.store import Manifest, Store
from trace_probe.trace import Span, Trace

BATCH = 32


@dataclass(frozen=True)
class ObserveReport:
    """What a call of `observe` did."""

    read: int
    resumed: int
    """Traces that had been read before."""
    checked: int
    """Traces that were read a second time, in another way, to see that both readings agree."""


def observer_manifest(model: Model, run: Store, layers: Sequence[int] | None = None) -> Manifest:
    """Return the manifest of a run as read by another model; layers as in `record`."""
    was = run.manifest
    read = new_manifest(model, was.sampling, layers=layers, tasks=was.tasks, pooling=was.pooling)
    return replace(read, source=was.source, raw_tokens=was.raw_tokens)


def observe(
    model: Model,
    tokenizer: ChatTokenizer,
    run: Store,
    out: Store,
    *,
    tolerance: float | None = None,
    progress: bool = True,
) -> ObserveReport:
    """Read every trace of a run and keep it, with its labels, beside what the reader held.

    The traces of `out` are those of the run, in the tokens of the model that wrote them; only
    the activations are the reader's, pooled as those of the run. The longest of every 32 traces
    is read twice, in two ways; where both differ by more than `tolerance` (None: by precision)
    none of the 32 is kept. What is there already is not read again.

    Raises:
        ModelError: a trace is longer than the reader's context, or two readings of it differ.
        StoreError: another process writes to `out`.
    """
    checked = 0
    with out.writing():
        known = out.ids()
        waiting = [trace for trace in run.traces() if trace.id not in known]
        with tqdm(total=len(waiting), unit="trace", disable=not progress) as bar:
            for start in range(0, len(waiting), BATCH):
                batch = waiting[start : start + BATCH]
                checked += _read(model, tokenizer, batch, out, tolerance)
                bar.update(len(batch))
        for labeller in run.labellers():
            labels, kept = run.labels(labeller), out.labels(labeller)
            out.add_labels(label for name, label in labels.items() if kept.get(name) != label)
    return ObserveReport(len(waiting), len(known), checked)


def _read(
    model: Model,
    tokenizer: ChatTokenizer,
    traces: Sequence[Trace],
    out: Store,
    tolerance: float | None,
) -> int:
    """Read traces, keep them, and return how many were read twice."""
    ids, spans = [], []
    for trace in traces:
        tokens, ends = tokenizer.pieces(trace.text)
        if model.context is not None and len(tokens) > model.context:
            raise ModelError(
                f"trace {trace.id} is {len(tokens)} tokens to {model.name}, which reads "
                f"{model.context}: choose an observer with a longer context"
            )
        ids.append(tokens)
        spans.append(reader_spans(trace, ends))
    reading = Reading(out.manifest.pooling, out.manifest.raw_tokens)
    held = model.checked_replay(ids, spans, out.manifest.layers, reading)
    for trace, activations in zip(traces, held, strict=True):
        refuse_unfaithful(trace.id, activations, model.dtype, tolerance)
    for trace, activations in zip(traces, held, strict=True):
        out.add(trace, activations)
    return sum(activations.fidelity is not None for activations in held)


def reader_spans(trace: Trace, ends: Sequence[int]) -> list[Span]:
    """Return the pooled rows of a trace in the tokens of a reader.

    `ends` says after which character each of the reader's tokens ends. A token belongs to the
    sentence in which it ends, so that no row reads ahead; a sentence in which none ends gets
    the last one before.
    """
    characters = [*trace.offsets, len(trace.text)]
    edges = np.maximum.accumulate(np.array(ends, dtype=np.intp))
    found = []
    for span in pooled_spans(trace):
        start, stop = (
            int(np.searchsorted(edges, characters[token], "right"))
            for token in (span.start, span.stop)
        )
        stop = max(stop, 1)
        found.append(Span(min(start, stop - 1), stop, span.channel))
    return found
