"""A generated run of any size, to measure the explorer on: empty words, planted alarms."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trace_probe.labels import Label
from trace_probe.store import Manifest, Store
from trace_probe.trace import Channel, Role, Sampling, Span, Task, Trace

WORDS = ("plan", "is", "due", "and", "two", "parts", "are", "still", "open", "so", "we", "look")
DETECTOR = "generated"
OTHER = "generated-text"
LONG = "0" * 16
THRESHOLD = 0.6
SENTENCE = 16
"""Tokens of a sentence."""
SHAPES = 50
"""Texts that differ; traces share them, since only their number and length are measured."""


@dataclass(frozen=True)
class Size:
    """How large a generated run is."""

    traces: int = 10_000
    tokens: int = 240
    """Of each trace but one."""
    long_tokens: int = 10_000
    """Of the one long trace, whose id is all zeros."""
    seed: int = 0


def generate(path: Path, size: Size) -> Store:
    """Write a labelled and scored run, with the thresholds of an evaluation."""
    draw = random.Random(size.seed)
    store = Store.create(path, Manifest(model="generated", layers=(4,), n_layers=8, d_model=64))
    shapes = [a_trace(draw, size.tokens, f"shape-{number}") for number in range(SHAPES)]
    labels, scores = [], dict[str, NDArray[np.float32]]()
    with store.writing():
        for trace in _traces(shapes, draw, size):
            store.add(trace)
            alarms = draw.random() < 0.3
            scores[trace.id] = a_curve(draw, trace, alarms=alarms)
            labels.append(a_label(draw, trace, instrumental=alarms != (draw.random() < 0.1)))
        store.add_labels(labels)
        store.write_scores(DETECTOR, scores)
        store.write_scores(OTHER, {name: row * 0.7 for name, row in scores.items()})
        for name in (DETECTOR, OTHER):
            store.write_report(name, a_report(name))
    return store


def _traces(shapes: list[Trace], draw: random.Random, size: Size) -> Iterator[Trace]:
    yield replace(a_trace(draw, size.long_tokens, "long"), id=LONG)
    for number in range(1, size.traces):
        shape = draw.choice(shapes)
        task = replace(shape.task, id=f"{shape.task.category}-{number // 8:04}")
        yield replace(shape, id=f"{number:016x}", task=task, sample=number % 8)


def a_trace(draw: random.Random, tokens: int, name: str) -> Trace:
    """Return a trace of about so many tokens, a tenth of them the answer."""
    category = draw.choice(["evading-shutdown", "making-copies", "hiding-behaviour"])
    condition = {"nudge": draw.choice(["none", "push"])}
    roles: list[Role] = ["test", "test", "benign"]
    role = draw.choice(roles)
    task = Task(name, category, "Look after the plan.", role=role, condition=condition)
    answer = max(tokens // 10, SENTENCE)
    parts: list[tuple[Channel, int]] = [("prompt", 4), ("markup", 1)]
    parts += [("reasoning", tokens - answer - 6), ("markup", 1), ("answer", answer)]
    spans: list[Span] = []
    for channel, length in parts:
        begin = spans[-1].stop if spans else 0
        spans.append(Span(begin, begin + length, channel))
    words = [f"{draw.choice(WORDS)} " for _ in range(spans[-1].stop)]
    offsets = np.concatenate([[0], np.cumsum([len(word) for word in words])[:-1]])
    return Trace(
        id=name,
        task=task,
        model="generated",
        sampling=Sampling(),
        sample=0,
        text="".join(words),
        offsets=tuple(int(start) for start in offsets),
        spans=tuple(spans),
        sentences=tuple(_sentences(spans)),
        tokenizer="words",
    )


def _sentences(spans: list[Span]) -> Iterator[Span]:
    for span in spans:
        if span.channel in ("reasoning", "answer"):
            for start in range(span.start, span.stop, SENTENCE):
                yield Span(start, min(start + SENTENCE, span.stop), span.channel)


def a_curve(draw: random.Random, trace: Trace, *, alarms: bool) -> NDArray[np.float32]:
    """Return a score a sentence; where it alarms, from a random place on."""
    noise = np.random.default_rng(draw.randrange(1 << 32))
    scores = noise.uniform(0.02, 0.4, len(trace.sentences)).astype(np.float32)
    if alarms:
        begin = draw.randrange(len(scores) // 2, len(scores) - 1)
        scores[begin:] = noise.uniform(THRESHOLD, 0.98, len(scores) - begin)
    return scores


def a_label(draw: random.Random, trace: Trace, *, instrumental: bool) -> Label:
    """Return a label that places what was said, in half of the traces, and what was done."""
    reasoning = [span for span in trace.sentences if span.channel == "reasoning"]
    answer = [span for span in trace.sentences if span.channel == "answer"]
    said = reasoning[-1] if instrumental and draw.random() < 0.5 else None
    return Label(trace.id, "generated", instrumental, said=said, acted=answer[0])


def a_report(name: str) -> dict[str, object]:
    """Return as much of an evaluation as a page asks for; its figures are made up as well."""
    figure = {"estimate": 0.01, "lower": 0.0, "upper": 0.02, "n": 1000}
    return {
        "detector": name,
        "labeller": "generated",
        "layer": 4,
        "n": {"traces": 1, "positives": 1, "tasks": 1, "mixed_prompts": 0, "benign": 1},
        "threshold": THRESHOLD,
        "target_false_alarm_rate": 0.01,
        "false_alarm_rate": figure,
        "baselines": {},
        "notes": ["Generated: no figure of it means anything."],
    }
