"""What each step of the road costs on this machine, measured on random weights.

A run with planted contents: random words, random activations and random outcomes.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from trace_probe.activations import Activations, pooled_spans
from trace_probe.evaluation.held_out import evaluate_probe
from trace_probe.labelling.runs import label_run
from trace_probe.labels import Label
from trace_probe.model.devices import forget_peak, memory_peak
from trace_probe.model.local import Model
from trace_probe.model.rehearsed import (
    CHECKED_ROWS,
    FEW,
    Shape,
    build,
    head_seconds,
    random_ids,
    read_seconds,
    step_seconds,
)
from trace_probe.model.shapes import WORDS_A_SENTENCE
from trace_probe.monitor.flagging import flag
from trace_probe.monitor.live import Monitor
from trace_probe.probing.probe import SavedProbe
from trace_probe.recording.plan import trace_id
from trace_probe.recording.record import default_layers, new_manifest, record
from trace_probe.store import Store
from trace_probe.text.written import read_back
from trace_probe.trace import Role, Sampling, Span, Task, Trace
from trace_probe.training import train

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
        spans = pooled_spans(trace, store.manifest.row_end)
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


Say = Callable[[str], None]
SHORT, LONG = 48, 1024
"""Contexts at which writing is timed; between and beyond them its cost grows evenly."""
RECORDED = 16
"""Tokens of each trace that is recorded for a trial."""
TASKS, SAMPLES, BENIGN = 24, 2, 70
"""Of the planted runs that are trained on: as few as training accepts."""
SENTENCES = (8, 24)
"""Of each planted trace, in the small and in the large planted run."""
WATCHED = 12
RATE = 0.05


@dataclass(frozen=True)
class RehearsalPlan:
    """What is to be forecast, and with how much of the model."""

    model: str
    traces: int = 1000
    tokens: int = 2048
    """Written in each trace."""
    layers: int | None = None
    """Recorded blocks; as `record` chooses them without it."""
    dtype: str | None = None
    blocks: int | None = None
    batch_size: int = 32
    device: str | None = None


@dataclass
class Rates:
    """Seconds and bytes as measured, for the blocks that were built."""

    shape: Shape
    recorded_layers: int
    """Of the trial runs."""
    base_bytes: int = 0
    """Taken by this process before the model was built."""
    loaded_bytes: int = 0
    step: float = 0.0
    """Seconds in which a batch writes one token each, in a short context."""
    step_a_token: float = 0.0
    """How much longer that takes for each token of context, a row."""
    read: float = 0.0
    """Seconds in which one trace of the wanted length is read again."""
    store: float = 0.0
    """Seconds in which a trace of one sentence more is kept."""
    heads: dict[int, float] = field(default_factory=dict)
    """Seconds of the head, by rows."""
    write_bytes: int = 0
    """Peak above the loaded model while a batch writes in a short context."""
    read_bytes: int = 0
    disk: tuple[tuple[int, int], ...] = ()
    """Rows and bytes of the planted runs."""
    stored: tuple[tuple[int, float], ...] = ()
    learned: dict[str, tuple[tuple[int, float], ...]] = field(default_factory=dict)
    """Rows and seconds of each step after recording, for both planted runs."""
    watch: float = 0.0
    """Seconds a token while watching one text being written."""


def measure(plan: RehearsalPlan, say: Say) -> Rates:
    """Go the whole road with random weights in a temporary folder, and time each step.

    Raises:
        ModelError: the model cannot be built, or cannot be recorded in this precision.
    """
    forget_peak(plan.device or "cpu")
    before = memory_peak(plan.device or "cpu")
    say(f"building {plan.model} with random weights")
    shape, model = build(plan.model, plan.device, plan.dtype, plan.blocks)
    say(f"{shape.built} of {shape.blocks} blocks, {shape.dtype}, {shape.parameters / 1e6:,.0f} M")
    wanted = plan.layers or len(default_layers(shape.blocks))
    layers = default_layers(shape.built)[-wanted:]
    rates = Rates(shape, len(layers), base_bytes=before)
    with tempfile.TemporaryDirectory(prefix="trace-probe-rehearsal-") as folder:
        _writing(plan, rates, model, Path(folder), layers, say)
        _reading(plan, rates, model, layers, say)
        saved = _learning(rates, model, Path(folder), layers, say)
    say("watch")
    rates.watch = _watching(model, saved)
    return rates


def _writing(
    plan: RehearsalPlan,
    rates: Rates,
    model: Model,
    folder: Path,
    layers: tuple[int, ...],
    say: Say,
) -> None:
    device = rates.shape.device
    say(f"record: {plan.batch_size} traces of {RECORDED} tokens, to see that it works")
    tasks = planted_tasks(model, plan.batch_size)
    manifest = new_manifest(model, Sampling(max_new_tokens=RECORDED), layers=layers)
    with _peak(device) as peak:
        store = Store.create(folder / "recorded", manifest)
        record(model, tasks, store, batch_size=plan.batch_size, progress=False)
    rates.loaded_bytes, rates.write_bytes = peak[0], peak[1] - peak[0]
    long = min(LONG, max(plan.tokens, 2 * SHORT))
    say(f"write: {plan.batch_size} rows behind {SHORT} tokens, {FEW} behind {SHORT} and {long}")
    rates.step = step_seconds(model, plan.batch_size, SHORT)
    near, far = (step_seconds(model, FEW, context) for context in (SHORT, long))
    rates.step_a_token = max(far - near, 0.0) / (long - SHORT) / FEW
    rates.heads = {rows: head_seconds(model, rows) for rows in (plan.batch_size, CHECKED_ROWS, 1)}


def _reading(
    plan: RehearsalPlan, rates: Rates, model: Model, layers: tuple[int, ...], say: Say
) -> None:
    say(f"read again: one trace of {plan.tokens} tokens")
    ids = random_ids(model, np.random.default_rng(0), SHORT + plan.tokens)
    ends = range(SHORT, len(ids), WORDS_A_SENTENCE)
    spans = [Span(at, min(at + WORDS_A_SENTENCE, len(ids))) for at in ends]
    pooling = new_manifest(model, Sampling()).pooling
    with _peak(rates.shape.device) as peak:
        rates.read = read_seconds(model, ids, spans, layers, pooling)
    rates.read_bytes = peak[1] - peak[0]


def _learning(
    rates: Rates, model: Model, folder: Path, layers: tuple[int, ...], say: Say
) -> SavedProbe:
    tasks = [*planted_tasks(model, TASKS), *planted_tasks(model, BENIGN, "benign")]
    found: dict[str, list[tuple[int, float]]] = {}
    for sentences in SENTENCES:
        say(f"label, train, evaluate, flag: traces of {sentences} sentences, planted at random")
        tokens = sentences * WORDS_A_SENTENCE
        manifest = new_manifest(model, Sampling(max_new_tokens=tokens), layers=layers)
        store = Store.create(folder / f"planted-{sentences}", manifest)
        rows = sentences * (TASKS * SAMPLES + BENIGN)

        @contextmanager
        def timed(name: str, rows: int = rows) -> Iterator[None]:
            start = time.perf_counter()
            yield
            found.setdefault(name, []).append((rows, time.perf_counter() - start))

        with timed("store"), store.writing():
            plant(model, store, tasks[:TASKS], SAMPLES, tokens)
            plant(model, store, tasks[TASKS:], 1, tokens)
        with timed("label"):
            label_run(store, Coin(), progress=False)
        with timed("train"):
            saved = train(store, name="rehearsal", target_rate=RATE)
        with timed("evaluate"):
            evaluate_probe(store, saved)
        with timed("flag"):
            flag(store, saved)
        rates.disk = (*rates.disk, (rows, _size(folder / store.name)))
    rates.learned = {name: tuple(points) for name, points in found.items()}
    return saved


def _watching(model: Model, saved: SavedProbe) -> float:
    """Return the seconds of a token, without the prompt and the first token, which warm up."""
    (task,) = planted_tasks(model, 1, seed=1)
    watched = Monitor(model, saved).watch(task, Sampling(max_new_tokens=WATCHED))
    at = [time.perf_counter() for _ in watched]
    return (at[-1] - at[0]) / max(len(at) - 1, 1)


@contextmanager
def _peak(device: str) -> Iterator[list[int]]:
    """Yield a list that holds, at the end, the memory before and its peak within."""
    forget_peak(device)
    found = [memory_peak(device)]
    yield found
    found.append(memory_peak(device))


def _size(folder: Path) -> int:
    return sum(
        file.stat().st_size
        for file in folder.rglob("*")
        if file.is_file() and "cache" not in file.relative_to(folder).parts
    )
