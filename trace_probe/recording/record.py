"""Tasks to traces: sample, split, read the activations, commit; stop at any moment and resume."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray

from trace_probe.activations import ALL_POOLINGS, Activations
from trace_probe.engine.offline import EngineModel
from trace_probe.errors import ModelError
from trace_probe.model import continuation
from trace_probe.model.capture import Reading
from trace_probe.model.facts import ModelFacts
from trace_probe.model.facts import default_layers as default_layers
from trace_probe.model.fidelity import refuse_unfaithful
from trace_probe.model.local import Completion, Model
from trace_probe.model.naming import ORGANISM
from trace_probe.model.tokenizer import MOST_UNKNOWN
from trace_probe.recording.plan import (
    Planned,
    RecordReport,
    check_samples,
    planned_traces,
    refuse_tools,
)
from trace_probe.recording.progress import counted
from trace_probe.recording.reading import read_calls
from trace_probe.store import Manifest, Store
from trace_probe.text.written import read_back
from trace_probe.trace import Sampling, Span, Task, Trace, digest

Writer = Model | EngineModel
"""What writes traces and knows what it held: a model in transformers, or one in an engine."""


def new_manifest(
    model: ModelFacts,
    sampling: Sampling,
    *,
    layers: Sequence[int] | None = None,
    tasks: str = "",
    pooling: str = ALL_POOLINGS,
) -> Manifest:
    """Return the manifest of a run of this model; `layers` None means `default_layers`.

    `pooling` says how the tokens of a sentence become its row: ``last``, ``mean``, ``max``, or
    several joined by ``+``. `tasks` says where the tasks came from. No layers at all records
    text only. Replace `raw_tokens` to keep every token.

    Raises:
        ModelError: the model has no such layer.
    """
    if layers:
        model.check_layers(layers)
    return Manifest(
        model=model.name,
        base=model.base,
        layers=default_layers(model.n_layers) if layers is None else tuple(layers),
        n_layers=model.n_layers,
        d_model=model.d_model,
        dtype=model.dtype,
        dtype_chosen=model.dtype_chosen,
        tokenizer=model.tokenizer,
        sampling=sampling,
        tasks=tasks,
        version=version("trace-probe"),
        chat_template=digest(model.chat_template),
        pooling=pooling,
        row_end=model.row_end,
        engine=model.engine,
    )


def record(  # noqa: PLR0913 - what is recorded, and four settings that rarely change
    model: Writer,
    tasks: Iterable[Task],
    store: Store,
    *,
    samples: int = 1,
    batch_size: int = 32,
    progress: bool = True,
    tolerance: float | None = None,
) -> RecordReport:
    """Record `samples` traces of each task, with sampling and layers as the manifest says.

    Traces that the run already holds are not made again. Batches are cut from the whole plan,
    so that a resumed run writes each trace in the company in which it would have been written.
    The replay that gives the activations is checked against the log-probabilities noted while
    writing; one that is off by more than `tolerance` (None: by precision) is refused.

    Raises:
        ModelError: the run is of another model, greedy decoding was asked to vary, or a prompt
            and `max_new_tokens` exceed the model's context, or a replay is unfaithful.
        StoreError: another process writes to the run, or it cannot be written.
        TaskError: a task is to be done with tools: see `trace_probe.recording.agents`.
    """
    plan = plan_traces(model, tasks, store.manifest, samples)

    def make(batch: Sequence[Planned], known: set[str]) -> Iterator[Trace]:
        return record_batch(model, batch, store, known, tolerance)

    with store.writing():
        return record_plan(plan, store, make, batch_size=batch_size, progress=progress)


MakeBatch = Callable[[Sequence[Planned], set[str]], Iterator[Trace]]
"""Commits those traces of a batch that are not known yet, and yields each."""


def record_plan(
    plan: Sequence[Planned],
    store: Store,
    make: MakeBatch,
    *,
    batch_size: int,
    progress: bool,
    unit: str = "trace",
) -> RecordReport:
    """Record what is planned, a batch at a time, into a run that is open for writing."""
    known, ids = store.ids(), [planned.id for planned in plan]
    report = RecordReport(resumed=sum(one in known for one in ids))
    with counted(store, ids, known, unit, shown=progress) as bar:
        for start in range(0, len(plan), batch_size):
            for trace in make(plan[start : start + batch_size], known):
                report += RecordReport.of(trace)
                bar.update()
    return report


def check_same_model(model: ModelFacts, manifest: Manifest) -> None:
    """Raise ModelError unless a run is of this model, in this precision."""
    ours = new_manifest(model, manifest.sampling)
    for name in ("model", "tokenizer", "dtype", "n_layers", "d_model"):
        if getattr(ours, name) != getattr(manifest, name):
            raise ModelError(
                f"the run is of {name} {getattr(manifest, name)}, not {getattr(ours, name)}: "
                f"load what it was started with, or choose another folder"
            )


def plan_traces(
    model: ModelFacts,
    tasks: Iterable[Task],
    manifest: Manifest,
    samples: int,
    render: Callable[[Task], Sequence[int]] | None = None,
) -> list[Planned]:
    """Return all traces that a run is to hold, in the order in which they are recorded.

    `render` gives the prompt of a task; by default the model does.

    Raises:
        ModelError: as in `record`, or the model knows too few words of every task.
        TaskError: a task names tools, and `render` is that of no agent.
    """
    check_same_model(model, manifest)
    check_samples(manifest.sampling, samples)
    chosen = list(tasks)
    if render is None:
        refuse_tools(chosen)
    _refuse_unreadable(model, chosen)
    prompts = {task.prompt_key: (task, tuple((render or model.render)(task))) for task in chosen}
    in_order = sorted(prompts.items(), key=lambda item: (len(item[1][1]), item[0]))
    short_first = [prompt for _, prompt in in_order]
    plan = planned_traces(model.name, short_first, manifest.sampling, samples)
    longest = max((len(planned.prompt) for planned in plan), default=0)
    model.check_room(longest, manifest.sampling)  # before hours are spent on shorter ones
    return plan


def _refuse_unreadable(model: ModelFacts, tasks: Sequence[Task]) -> None:
    """Refuse tasks if not one is in words that an organism knows; most of them know no English.

    Raises:
        ModelError: more than `MOST_UNKNOWN` of the tokens of every task are unknown to it.
    """
    if not model.name.startswith(ORGANISM):
        return
    shares = [model.chat.unknown_share(task.prompt) for task in tasks]
    if shares and min(shares) > MOST_UNKNOWN:
        unknown = sum(shares) / len(shares)
        raise ModelError(
            f"{model.name} does not know {unknown:.0%} of the tokens of these tasks: "
            f"record one that reads them, such as smollm2 (`trace-probe fetch smollm2`). The small "
            f"organisms read `--tasks world:mine:20`"
        )


def complete(
    model: Writer, prompts: Sequence[Sequence[int]], seeds: Sequence[int], sampling: Sampling
) -> list[Completion]:
    """Complete prompts in one batch; each is a function of its prompt and seed, up to rounding.

    Raises:
        ModelError: a prompt and `max_new_tokens` do not fit the model's context.
    """
    if isinstance(model, EngineModel):
        return model.complete(prompts, seeds, sampling)
    return continuation.complete(model, prompts, seeds, sampling)


def record_batch(
    model: Writer,
    batch: Sequence[Planned],
    store: Store,
    known: set[str],
    tolerance: float | None = None,
) -> Iterator[Trace]:
    """Write a batch, read it again for its activations, and yield each trace once committed."""
    if all(planned.id in known for planned in batch):
        return
    manifest = store.manifest
    completions = complete(
        model,
        [planned.prompt for planned in batch],
        [planned.seed for planned in batch],
        manifest.sampling,
    )
    made = [
        (completed(model, planned, completion, manifest.sampling), completion.logprobs)
        for planned, completion in zip(batch, completions, strict=True)
        if planned.id not in known
    ]
    yield from commit(model, made, store, tolerance)


def commit(
    model: Writer,
    made: Sequence[tuple[Trace, Sequence[float]]],
    store: Store,
    tolerance: float | None = None,
) -> Iterator[Trace]:
    """Read traces again for their activations, and yield each once it is committed.

    With each come the log-probabilities noted for what the model wrote.

    Raises:
        ModelError: a replay is off by more than is tolerated; none of the traces is kept.
    """
    if not made:
        return
    manifest = store.manifest
    read = _replay(model, made, manifest) if manifest.layers else [None] * len(made)
    for (trace, _), activations in zip(made, read, strict=True):
        if activations is not None:
            refuse_unfaithful(trace.id, activations, model.dtype, tolerance)
    for (trace, _), activations in zip(made, read, strict=True):
        store.add(trace, activations)
        yield trace


def _replay(
    model: Writer, made: Sequence[tuple[Trace, Sequence[float]]], manifest: Manifest
) -> list[Activations]:
    """Read traces again, and compare that with the log-probabilities noted for each."""
    reading = Reading(manifest.pooling, manifest.raw_tokens)
    return read_calls(
        lambda ids, spans, noted: model.checked_replay(ids, spans, manifest.layers, reading, noted),
        [trace for trace, _ in made],
        row_end=manifest.row_end,
        raw_tokens=manifest.raw_tokens,
        logprobs=[logprobs for _, logprobs in made],
    )


def completed(
    model: ModelFacts, planned: Planned, completion: Completion, sampling: Sampling
) -> Trace:
    """Return the trace of one completion, cut into channels and sentences."""
    ids = (*planned.prompt, *completion.ids)
    written = read_back(model, ids, len(planned.prompt))
    return Trace(
        id=planned.id,
        task=planned.task,
        model=model.name,
        sampling=sampling,
        sample=planned.sample,
        token_ids=ids,
        tokenizer=model.tokenizer,
        finish=completion.finish,
        uncertainty=pooled_uncertainty(
            completion.uncertainty, written.sentences, len(planned.prompt)
        ),
        **written._asdict(),
    )


def pooled_uncertainty(
    noted: NDArray[np.float32] | None, sentences: Sequence[Span], start: int
) -> tuple[tuple[float, ...], ...]:
    """Return for each sentence what was noted of its tokens, pooled as a trace keeps it.

    `noted` is (token, measure) of the tokens from `start` on. Four digits are kept.
    """
    if noted is None:
        return ()
    parts = [noted[span.start - start : span.stop - start].astype(float) for span in sentences]
    rows = [np.concatenate([part[-1], part.mean(axis=0), part.max(axis=0)]) for part in parts]
    return tuple(tuple(float(f"{value:.4g}") for value in row) for row in rows)
