"""Another model reads the traces of a run: the same text, its own tokens, its own activations."""

from collections.abc import Iterable, Sequence
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


def observer_manifest(model: Model, run: Store, layers: Sequence[int] | None = None) -> Manifest:
    """Return the manifest of a run as read by another model; layers as in `record`."""
    was = run.manifest
    read = new_manifest(model, was.sampling, layers=layers, tasks=was.tasks, pooling=was.pooling)
    return replace(read, source=was.source, raw_tokens=was.raw_tokens)


def observe(
    model: Model, tokenizer: ChatTokenizer, run: Store, out: Store, *, progress: bool = True
) -> ObserveReport:
    """Read every trace of a run and keep it, with its labels, beside what the reader held.

    The traces of `out` are those of the run, in the tokens of the model that wrote them; only
    the activations are the reader's, pooled as those of the run. Each trace is read twice, in
    two ways, to see that both agree. What is there already is not read again.

    Raises:
        ModelError: a trace is longer than the reader's context, or two readings of it differ.
        StoreError: another process writes to `out`.
    """
    with out.writing():
        known = out.ids()
        waiting = [trace for trace in run.traces() if trace.id not in known]
        for start in tqdm(range(0, len(waiting), BATCH), unit="batch", disable=not progress):
            _read(model, tokenizer, waiting[start : start + BATCH], out)
        for labeller in run.labellers():
            labels, kept = run.labels(labeller), out.labels(labeller)
            out.add_labels(label for name, label in labels.items() if kept.get(name) != label)
    return ObserveReport(len(waiting), len(known))


def _read(model: Model, tokenizer: ChatTokenizer, traces: Iterable[Trace], out: Store) -> None:
    ids, spans, batch = [], [], list(traces)
    for trace in batch:
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
    for trace, activations in zip(batch, held, strict=True):
        refuse_unfaithful(trace.id, activations, model.dtype)
        out.add(trace, activations)


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
