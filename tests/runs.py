"""Small runs made in a moment, for tests of how runs are kept."""

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from trace_probe.activations import Activations, pooled_spans
from trace_probe.labels import Label
from trace_probe.storage.artifacts import Artifacts
from trace_probe.storage.place import place_at
from trace_probe.storage.seals import sealed_json
from trace_probe.store import Manifest, Store
from trace_probe.trace import Sampling, Span, Task, Trace, digest

LAYERS, WIDTH = (1, 3), 5
MANIFEST = Manifest(
    model="m@1",
    layers=LAYERS,
    n_layers=4,
    d_model=WIDTH,
    dtype="float32",
    tokenizer="0123",
    sampling=Sampling(seed=2),
    chat_template="abcd",
)


def make_trace(number: int, sentences: int = 3) -> Trace:
    """Return a trace of some sentences of two tokens each; the last one is the answer."""
    stop = 2 + 2 * sentences
    parts = [Span(at, at + 2, "reasoning") for at in range(2, stop - 2, 2)]
    answer = Span(stop - 2, stop, "answer")
    return Trace(
        id=digest("trace", number),
        task=Task(f"t-{number % 7:02d}", f"c-{number % 3}", "what ?", condition={"nudge": "push"}),
        model=MANIFEST.model,
        sampling=MANIFEST.sampling,
        sample=number,
        text="x" * stop,
        offsets=tuple(range(stop)),
        spans=(Span(0, 2, "prompt"), Span(2, stop - 2, "reasoning"), answer),
        sentences=(*parts, answer),
        token_ids=tuple((number * 31 + i) % 1000 for i in range(stop)),
        tokenizer=MANIFEST.tokenizer,
    )


def held_by(trace: Trace, scale: float = 1.0) -> Activations:
    """Return activations that are a function of the trace."""
    spans = pooled_spans(trace)
    rng = np.random.default_rng(int(trace.id, 16))
    values = rng.normal(size=(len(LAYERS), len(spans), WIDTH)).astype(np.float32) * scale
    return Activations(values, LAYERS, spans)


def fill(store: Store, numbers: Iterable[int]) -> list[Trace]:
    """Add traces with their activations and return them."""
    traces = [make_trace(number, 2 + number % 4) for number in numbers]
    for trace in traces:
        store.add(trace, held_by(trace))
    return traces


def make_run(path: Path | str, numbers: Iterable[int], **changes: object) -> Store:
    """Return a run with traces, activations and labels."""
    manifest = replace(MANIFEST, **changes)  # type: ignore[arg-type]
    store = Store.create(path, manifest)
    with store.writing():
        traces = fill(store, numbers)
        store.add_labels(label_of(trace) for trace in traces)
    return store


def label_of(trace: Trace, labeller: str = "rule") -> Label:
    """Return a label that is a function of the trace: every second one is instrumental."""
    odd = trace.sample % 2 == 1
    said = trace.sentences[0] if odd and trace.sample % 4 == 1 else None
    return Label(trace.id, labeller, odd, said=said, acted=trace.sentences[-1])


def artifacts_at(folder: Path) -> Artifacts:
    """Return the artifacts of a folder that need not be a run."""
    return Artifacts(place_at(folder), seals="required")


def edit_run(folder: Path, **changes: object) -> None:
    """Write other settings into ``run.json``, with the checksum that fits them."""
    raw = json.loads((folder / "run.json").read_text())
    raw.pop("seal", None)
    (folder / "run.json").write_bytes(sealed_json({**raw, **changes}))


def contents(store: Store) -> dict[str, object]:
    """Return all that a run holds, to be compared."""
    traces = list(store.traces())
    return {
        "traces": traces,
        "labels": store.labels(),
        "values": {t.id: store.activations(t).values.tobytes() for t in traces},
    }
