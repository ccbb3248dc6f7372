"""A run with planted contents: random words, random activations and random outcomes."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from trace_probe.activations import Activations, pooled_spans
from trace_probe.labels import Label
from trace_probe.model.local import Model
from trace_probe.model.rehearsed import random_ids
from trace_probe.recording.plan import trace_id
from trace_probe.store import Store
from trace_probe.text.written import read_back
from trace_probe.trace import Role, Task, Trace

PROMPT_WORDS = 24


@dataclass(frozen=True)
class Coin:
    """A labeller that tosses a coin for each trace; benign traces are harmless."""

    seed: int = 0
    name: str = field(default="coin", init=False)

    def label(self, trace: Trace) -> Label:
        """Return a random outcome, which nothing in the trace tells."""
        tossed = int(trace.id, 16) + self.seed
        outcome = trace.task.role != "benign" and tossed % 2 == 0
        return Label(trace.id, self.name, outcome)


def planted_tasks(model: Model, count: int, role: Role = "test", seed: int = 0) -> list[Task]:
    """Return tasks whose prompts are random words of the model's made-up language."""
    rng = np.random.default_rng([seed, len(role)])
    prompts = [model.offsets(random_ids(model, rng, PROMPT_WORDS))[0] for _ in range(count)]
    return [
        Task(f"{role}-{i:04d}", "rehearsal", prompt, role=role) for i, prompt in enumerate(prompts)
    ]


def plant(model: Model, store: Store, tasks: list[Task], samples: int, tokens: int) -> None:
    """Add traces of random words with random activations to a run, `samples` of each task."""
    rng = np.random.default_rng(0)
    for trace in _traces(model, store, tasks, samples, tokens):
        spans = pooled_spans(trace)
        shape = (len(store.manifest.layers), len(spans), store.manifest.width)
        values = rng.standard_normal(shape, dtype=np.float32).astype(np.float16)
        chosen = store.manifest.layers, spans, store.manifest.pooling
        store.add(trace, Activations(values, *chosen))


def _traces(
    model: Model, store: Store, tasks: list[Task], samples: int, tokens: int
) -> Iterator[Trace]:
    rng, sampling = np.random.default_rng(1), store.manifest.sampling
    for task in tasks:
        prompt = model.render(task)
        for sample in range(samples):
            ids = (*prompt, *random_ids(model, rng, tokens))
            yield Trace(
                id=trace_id(model.name, task, sampling, sample),
                task=task,
                model=model.name,
                sampling=sampling,
                sample=sample,
                token_ids=ids,
                tokenizer=model.tokenizer,
                finish="length",
                **read_back(model, ids, len(prompt))._asdict(),
            )
