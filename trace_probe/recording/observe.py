"""Another model reads the traces of a run: the same text, its own tokens, its own activations.

The traces of a run, read again by the model that wrote them: for other layers or poolings.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from trace_probe.activations import (
    ALL_POOLINGS,
    Activations,
    Fidelity,
    RowEnd,
    parse_poolings,
    pooled_spans,
    with_row_end,
)
from trace_probe.errors import ModelError, StoreError
from trace_probe.model.capture import Reading
from trace_probe.model.fidelity import refuse_unfaithful
from trace_probe.model.local import Model
from trace_probe.recording.plan import ObserveReport
from trace_probe.recording.reading import read_calls
from trace_probe.recording.record import check_same_model, new_manifest
from trace_probe.storage.place import place_at
from trace_probe.store import Manifest, Store
from trace_probe.trace import Span, Trace

BATCH = 32


def observer_manifest(
    model: Model, run: Store, layers: Sequence[int] | None = None, pooling: str | None = None
) -> Manifest:
    """Return the manifest of a run as read by another model; layers as in `record`.

    Without a `pooling` it stays that of the run, if the run has activations.
    """
    was = run.manifest
    chosen = _pooling(was, pooling)
    read = new_manifest(model, was.sampling, layers=layers, tasks=was.tasks, pooling=chosen)
    return replace(read, source=was.source, raw_tokens=was.raw_tokens)


def _pooling(was: Manifest, wanted: str | None) -> str:
    """Return the pooling that is wanted, or that of a run; all of them if the run has none."""
    return wanted or (was.pooling if was.layers else ALL_POOLINGS)


def check_observable(
    run: Store, out: Path, layers: Sequence[int] | None = None, pooling: str | None = None
) -> None:
    """Refuse what no model could read into `out`, before one is loaded.

    Raises:
        ModelError: what a call of an agent read is not known as its model had it.
        StoreError: `out` holds a run of other settings, or other files.
    """
    was, same = run.manifest, ("sampling", "tasks", "source", "raw_tokens")
    chosen = _pooling(was, pooling)
    parse_poolings(chosen)
    given = {name: getattr(was, name) for name in same} | {"pooling": chosen}
    if layers is not None:
        given["layers"] = tuple(layers)
    Store.check_settings(out, lambda there: replace(there, **given))
    if run.place.url == place_at(out).url:
        raise StoreError(f"{out} is the run itself: name another folder for what the reader holds")
    for trace in run.traces():
        _check_prompts(trace)


def observe(
    model: Model, run: Store, out: Store, *, tolerance: float | None = None, progress: bool = True
) -> ObserveReport:
    """Read every trace of a run and keep it, with its labels, beside what the reader held.

    The traces of `out` are those of the run, in the tokens of the model that wrote them; only
    the activations are the reader's. The longest of every 32 traces
    is read twice, in two ways; where both differ by more than `tolerance` (None: by precision)
    none of the 32 is kept. What is there already is not read again.

    Raises:
        ModelError: a trace is longer than the reader's context, or two readings of it differ; or
            what a call of an agent read is not known as its model had it.
        StoreError: another process writes to `out`.
    """
    for trace in run.traces():  # before hours are spent on others
        _check_prompts(trace)

    def read(traces: Sequence[Trace]) -> Iterator[Activations]:
        wanted = out.manifest
        reading = Reading(wanted.pooling, wanted.raw_tokens)
        yield from read_calls(
            lambda ids, spans, _: model.checked_replay(ids, spans, wanted.layers, reading),
            traces,
            row_end=wanted.row_end,
            place=partial(_as_read, model, wanted.row_end),
            raw_tokens=wanted.raw_tokens,
        )

    return read_again(run, out, read, dtype=model.dtype, tolerance=tolerance, progress=progress)


def read_again(
    run: Store,
    out: Store,
    read: Callable[[Sequence[Trace]], Iterator[Activations]],
    *,
    dtype: str,
    tolerance: float | None = None,
    progress: bool = True,
) -> ObserveReport:
    """Keep the traces and labels of a run in another, beside what `read` gives for a batch.

    What is there already is not read again. A reading that is off by more than `tolerance`
    (None: by precision) is refused, and nothing of its batch is kept.
    """
    checked = 0
    with out.writing():
        known = out.ids()
        waiting = [trace for trace in run.traces() if trace.id not in known]
        with tqdm(total=len(waiting), unit="trace", smoothing=0, disable=not progress) as bar:
            for start in range(0, len(waiting), BATCH):
                batch = waiting[start : start + BATCH]
                held = list(zip(batch, read(batch), strict=True))
                for trace, activations in held:
                    refuse_unfaithful(trace.id, activations, dtype, tolerance)
                    checked += activations.fidelity is not None
                for trace, activations in held:
                    out.add(trace, activations)
                bar.update(len(batch))
        out.copy_labels(run)
    return ObserveReport(len(waiting), len(known), checked)


def _check_prompts(trace: Trace) -> None:
    """Refuse an agent's run in words: its prompts are ours, no model has read them."""
    if trace.calls and not trace.token_ids:
        raise ModelError(
            f"trace {trace.id} is an agent's run in words, whose prompts are not those that its "
            f"model read: import it, or record it, with --tokenizer and the model that wrote it"
        )


def _as_read(
    model: Model, row_end: RowEnd, trace: Trace, spans: Sequence[Span]
) -> tuple[Sequence[int], list[Span]]:
    """Return the reader's tokens of a trace, and spans of the trace in them."""
    tokens, ends = model.chat.pieces(trace.text)
    if model.context is not None and len(tokens) > model.context:
        raise ModelError(
            f"trace {trace.id} is {len(tokens)} tokens to {model.name}, which reads "
            f"{model.context}: choose an observer with a longer context"
        )
    starts = [0, *ends[:-1]]
    return tokens, with_row_end(row_end, trace.text, starts, reader_spans(trace, ends, spans))


def reader_spans(
    trace: Trace, ends: Sequence[int], spans: Sequence[Span] | None = None
) -> list[Span]:
    """Return spans of a trace, or else its pooled rows, in the tokens of a reader.

    `ends` says after which character each of the reader's tokens ends. A token belongs to the
    sentence in which it ends, so that no row reads ahead; a sentence in which none ends gets
    the last one before.
    """
    characters = [*trace.offsets, len(trace.text)]
    edges = np.maximum.accumulate(np.array(ends, dtype=np.intp))
    found = []
    for span in pooled_spans(trace) if spans is None else spans:
        start, stop = (
            int(np.searchsorted(edges, characters[token], "right"))
            for token in (span.start, span.stop)
        )
        stop = max(stop, 1)
        found.append(Span(min(start, stop - 1), stop, span.channel))
    return found


def recapture_manifest(
    model: Model, run: Store, layers: Sequence[int] | None = None, pooling: str = ALL_POOLINGS
) -> Manifest:
    """Return the manifest of a run that is read again; without `layers` they stay the same.

    A run without activations, from a server or imported, knows its model by a name only, which
    may leave the revision away. So the manifest names the model that reads it.
    """
    was = run.manifest
    chosen = layers if layers is not None else was.layers or None
    read = new_manifest(model, was.sampling, layers=chosen, tasks=was.tasks, pooling=pooling)
    if was.layers:
        read = replace(read, model=was.model, base=was.base)
    return replace(read, raw_tokens=was.raw_tokens)


def recapture(
    model: Model, run: Store, out: Store, *, tolerance: float | None = None, progress: bool = True
) -> ObserveReport:
    """Read the recorded token ids of a run again and keep them, with their labels, in `out`.

    The run itself is left as it is. What is there already is not read again. Where both runs
    hold the same pooling of the same layer, the two must agree; where they share nothing, the
    longest of every 32 traces is read twice, in two ways, to see that both agree.

    Raises:
        ModelError: the model is not the one that wrote the run, a trace has no token ids, or what
            is read differs from what was recorded by more than `tolerance` (None: by precision).
        StoreError: another process writes to `out`.
    """
    check_ids(run)
    _check(model, run)

    def read(traces: Sequence[Trace]) -> Iterator[Activations]:
        wanted = out.manifest
        reading, shared = Reading(wanted.pooling, wanted.raw_tokens), _shared(run.manifest, wanted)
        passed = model.replay if shared else model.checked_replay
        for trace, held in zip(
            traces,
            read_calls(
                lambda ids, spans, _: passed(ids, spans, wanted.layers, reading),
                traces,
                row_end=wanted.row_end,
                raw_tokens=wanted.raw_tokens,
            ),
            strict=True,
        ):
            yield replace(held, fidelity=_against_recorded(run, trace, held)) if shared else held

    return read_again(run, out, read, dtype=model.dtype, tolerance=tolerance, progress=progress)


def _check(model: Model, run: Store) -> None:
    """Refuse a model that did not write the run; of a served run only its tokens are known."""
    if run.manifest.layers:
        check_same_model(model, run.manifest)
    elif run.manifest.tokenizer != model.tokenizer:
        raise ModelError(
            f"{run.path} is in the tokens of another tokenizer than {model.name}: load the model "
            f"that wrote it"
        )


def check_ids(run: Store) -> None:
    """Raise ModelError if a trace of a run is in words alone, so that it cannot be recaptured."""
    for trace in run.traces():
        if not trace.token_ids:
            raise ModelError(
                f"trace {trace.id} has no token ids, so it cannot be read as it was written. Read "
                f"its text: `trace-probe observe {run.path} MODEL NEW_RUN`, with --layers and "
                f"--pooling as here; or import it anew, with `--tokenizer MODEL`"
            )


def _shared(ours: Manifest, theirs: Manifest) -> bool:
    """Return whether two runs hold the same pooling of the same layer, over the same rows."""
    layers, poolings = set(ours.layers) & set(theirs.layers), {*ours.poolings} & {*theirs.poolings}
    return bool(layers and poolings) and ours.row_end == theirs.row_end


def _against_recorded(run: Store, trace: Trace, held: Activations) -> Fidelity:
    """Compare what was read with what the run holds of the trace, as far as it holds the same."""
    layers = [layer for layer in held.layers if layer in run.manifest.layers]
    recorded, error = run.activations(trace, layers), 0.0
    for layer in layers:
        for pooling in set(recorded.poolings) & set(held.poolings):
            old, new = (one.part(layer, pooling).astype(np.float32) for one in (recorded, held))
            scale = max(float(np.abs(old).max(initial=0.0)), 1e-30)
            error = max(error, float(np.abs(new - old).max(initial=0.0)) / scale)
    return Fidelity("recorded-rows", error)
