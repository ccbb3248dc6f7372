"""The traces of a run, read again by the model that wrote them: for other layers or poolings."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from trace_probe.activations import ALL_POOLINGS, Activations, Fidelity
from trace_probe.errors import ModelError
from trace_probe.model.capture import Reading
from trace_probe.model.local import Model
from trace_probe.recording.observe import read_again
from trace_probe.recording.plan import ObserveReport
from trace_probe.recording.reading import read_calls
from trace_probe.recording.record import check_same_model, new_manifest
from trace_probe.store import Manifest, Store
from trace_probe.trace import Trace


def recapture_manifest(
    model: Model, run: Store, layers: Sequence[int] | None = None, pooling: str = ALL_POOLINGS
) -> Manifest:
    """Return the manifest of a run that is read again; without `layers` they stay the same."""
    was = run.manifest
    chosen = layers if layers is not None else was.layers or None
    read = new_manifest(model, was.sampling, layers=chosen, tasks=was.tasks, pooling=pooling)
    return replace(read, model=was.model, base=was.base, raw_tokens=was.raw_tokens)


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
    _check(model, run)

    def read(traces: Sequence[Trace]) -> Iterator[Activations]:
        wanted = out.manifest
        reading, shared = Reading(wanted.pooling, wanted.raw_tokens), _shared(run.manifest, wanted)
        _check_ids(traces)
        passed = model.replay if shared else model.checked_replay
        for trace, held in zip(
            traces,
            read_calls(
                lambda ids, spans, _: passed(ids, spans, wanted.layers, reading),
                traces,
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


def _check_ids(traces: Sequence[Trace]) -> None:
    for trace in traces:
        if not trace.token_ids:
            raise ModelError(
                f"trace {trace.id} has no token ids, so it cannot be read as it was written: use "
                f"`trace-probe observe`, which reads its text"
            )


def _shared(ours: Manifest, theirs: Manifest) -> bool:
    """Return whether two runs hold the same pooling of the same layer."""
    return bool(set(ours.layers) & set(theirs.layers) and set(ours.poolings) & set(theirs.poolings))


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
