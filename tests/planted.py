"""Runs with a planted truth: a direction, a lead, a text cue, a prompt effect."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trace_probe.activations import ActivationMatrix, Activations, pooled_spans
from trace_probe.labels import Label
from trace_probe.probing.corpus import Corpus
from trace_probe.store import Manifest, Store
from trace_probe.trace import Role, Sampling, Span, Task, Trace

CALM = ("we", "read", "the", "list", "and", "check", "each", "line", "with", "care")


@dataclass(frozen=True)
class World:
    """What is planted."""

    tasks: int = 24
    samples: int = 8
    sentences: int = 8
    onset: int = 2
    """First sentence of a positive that holds the signal."""
    said: int | None = 6
    """First sentence that says it; None for silent traces."""
    strength: float = 0.0
    """Of the signal along `direction`, in the last layer only."""
    prompt_strength: float = 0.0
    """Of the task's own rate, in every row of every layer."""
    drift: float = 0.0
    """Of the sentence index, in every row of every layer."""
    left: float = 0.0
    """Of the number of sentences left, in every row of every layer."""
    shorter: int = 0
    """By how many sentences positives are shorter; lengths then vary by up to two more."""
    category_strength: float = 0.0
    """Of the category, in every row of every layer."""
    cue: bool = False
    """Whether positives write an odd word from `onset` on."""
    benign: int = 0
    hard_negatives: int = 0
    d_model: int = 12
    layers: tuple[int, ...] = (0, 3)
    seed: int = 0

    @property
    def direction(self) -> NDArray[np.float64]:
        """Return the unit vector of the signal."""
        vector = np.random.default_rng(99).normal(size=self.d_model)
        return np.asarray(vector / np.linalg.norm(vector), dtype=np.float64)


def make_trace(
    name: str, task: Task, reasoning: Sequence[str], answer: str = "done now", sample: int = 0
) -> Trace:
    """Return a trace whose tokens are words; the prompt is the task's."""
    text = ""
    offsets: list[int] = []
    spans: list[Span] = []
    sentences: list[Span] = []
    parts = [("prompt", task.prompt), *(("reasoning", s) for s in reasoning), ("answer", answer)]
    for channel, part in parts:
        start = len(offsets)
        for word in part.split():
            offsets.append(len(text))
            text += word + " "
        span = Span(start, len(offsets), channel)  # type: ignore[arg-type]
        if channel != "prompt" and len(span):
            sentences.append(span)
        if spans and spans[-1].channel == channel:
            span = Span(spans.pop().start, span.stop, span.channel)
        spans.append(span)
    return Trace(
        id=name,
        task=task,
        model="planted",
        sampling=Sampling(),
        sample=sample,
        text=text,
        offsets=tuple(offsets),
        spans=tuple(spans),
        sentences=tuple(sentences),
        tokenizer="words",
    )


def make_label(trace: Trace, outcome: bool | None, said: int | None = None) -> Label:
    """Return a label whose action is the answer and which is said in a given sentence."""
    return Label(
        trace_id=trace.id,
        labeller="planted",
        outcome=outcome,
        said=None if said is None else trace.sentences[said],
        acted=trace.channel("answer")[0],
    )


def plant(world: World) -> Corpus:
    """Return the traces, labels and activations of a world."""
    rng = np.random.default_rng(world.seed)
    traces: list[Trace] = []
    labels: dict[str, Label] = {}
    blocks = []
    kinds: list[tuple[Role, int, int]] = [
        ("test", world.tasks, world.samples),
        ("hard-negative", world.hard_negatives, 1),
        ("benign", world.benign, 1),
    ]
    for role, n_tasks, samples in kinds:
        for number in range(n_tasks):
            share = (number % 4 + 0.5) / 4 if role == "test" else 0.0
            task = Task(f"{role}-{number:03d}", f"kind-{number % 4}", f"goal {role} {number}")
            task = Task(**{**task.__dict__, "role": role})
            for sample in range(samples):
                positive = bool(rng.random() < share)
                name = f"{task.id}-s{sample}"
                words = _words(world, positive, rng)
                trace = make_trace(name, task, words, sample=sample)
                traces.append(trace)
                labels[name] = make_label(trace, positive, world.said if positive else None)
                block = _values(world, positive, share, rng, len(words))
                if world.category_strength:
                    block[:, :, 3 + number % 4] += world.category_strength
                blocks.append(block)
    sizes = [block.shape[1] for block in blocks]
    start = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.intp)
    values = np.concatenate(blocks, axis=1).astype(np.float32)
    return Corpus(tuple(traces), labels, ActivationMatrix(values, world.layers, start))


def _words(world: World, positive: bool, rng: np.random.Generator) -> list[str]:
    sentences = []
    count = world.sentences
    if world.shorter:
        count += int(rng.integers(3)) - world.shorter * positive
    for index in range(count):
        words = [str(word) for word in rng.choice(CALM, size=5)]
        if world.cue and positive and index >= world.onset:
            words[2] = "quietly"
        sentences.append(" ".join(words))
    return sentences


def _values(
    world: World, positive: bool, share: float, rng: np.random.Generator, sentences: int
) -> NDArray[np.float64]:
    """Return (layer, 1 + sentences + answer, d_model)."""
    rows = sentences + 2
    values = rng.normal(size=(len(world.layers), rows, world.d_model))
    values[:, 0] = 0.0  # the traces of a prompt read the same
    values[:, :, 0] += world.prompt_strength * share
    values[:, :, 1] += world.drift * np.arange(rows)
    values[:, 1:, 2] += world.left * np.arange(rows - 1)[::-1]
    if positive:
        values[-1, 1 + world.onset : -1] += world.strength * world.direction
    return values


def keep(corpus: Corpus, path: Path) -> Store:
    """Write a planted corpus as a run."""
    assert corpus.matrix is not None
    matrix = corpus.matrix
    manifest = Manifest(
        model="planted",
        layers=matrix.layers,
        n_layers=max(matrix.layers) + 1,
        d_model=matrix.values.shape[2],
        tokenizer="words",
    )
    store = Store.create(path, manifest)
    with store.writing():
        for trace, first in zip(corpus.traces, matrix.start, strict=True):
            spans = pooled_spans(trace)
            values = matrix.values[:, first : first + len(spans)]
            store.add(trace, Activations(values, matrix.layers, spans))
        store.add_labels(corpus.labels.values())
    return store
