"""Tasks to traces: sample, split, read the activations, commit; stop at any moment and resume.

Of agents many episodes advance together, a call at a time.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from os.path import commonprefix
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trace_probe.activations import ALL_POOLINGS, Activations, pooled_spans
from trace_probe.engine.offline import EngineModel
from trace_probe.episode import calls_of
from trace_probe.errors import ModelError
from trace_probe.model import continuation
from trace_probe.model.capture import Reading
from trace_probe.model.facts import ModelFacts
from trace_probe.model.facts import default_layers as default_layers
from trace_probe.model.fidelity import refuse_unfaithful
from trace_probe.model.local import Completion, Model
from trace_probe.model.naming import ORGANISM
from trace_probe.model.tokenizer import MOST_UNKNOWN
from trace_probe.recording.course import Agent, Course, Log
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
    agent: Agent | None = None,
    *,
    samples: int = 1,
    batch_size: int = 32,
    progress: bool = True,
    tolerance: float | None = None,
) -> RecordReport:
    """Record `samples` traces of each task, with sampling and layers as the manifest says.

    With an agent each trace is an episode: the model calls tools until it answers without one. A
    recording that was interrupted goes on at the call at which it was; seeds follow from the
    episode and the number of the call.

    Traces that the run already holds are not made again. Batches are cut from the whole plan,
    so that a resumed run writes each trace in the company in which it would have been written.
    The replay that gives the activations is checked against the log-probabilities noted while
    writing; one that is off by more than `tolerance` (None: by precision) is refused.

    Raises:
        ModelError: the run is of another model, greedy decoding was asked to vary, or a prompt
            and `max_new_tokens` exceed the model's context, or a replay is unfaithful; a task of
            an agent has no environment, or the chat template no place for tools.
        StoreError: another process writes to the run, or it cannot be written.
        TaskError: a task is to be done with tools, and there is no agent.
    """
    makes = maker(model, store, agent, tolerance)
    plan = makes.plan(tasks, samples)
    ids = [planned.id for planned in plan]
    with store.writing():
        known = store.ids()
        report = RecordReport(resumed=sum(one in known for one in ids))
        with counted(store, ids, known, makes.unit, shown=progress) as bar:
            for start in range(0, len(plan), batch_size):
                for trace in makes.run(plan[start : start + batch_size], known):
                    report += RecordReport.of(trace)
                    bar.update()
                makes.forget()
    return report


class Maker:
    """Makes traces of one call, a batch at a time, and commits them."""

    unit = "trace"

    def __init__(self, model: Writer, store: Store, tolerance: float | None = None) -> None:
        """Take the run that is recorded, and by how much a replay may be off."""
        self.model, self.store, self._tolerance = model, store, tolerance

    def plan(self, tasks: Iterable[Task], samples: int) -> list[Planned]:
        """Return all traces that the run is to hold; see `plan_traces`."""
        return plan_traces(self.model, tasks, self.store.manifest, samples)

    def run(self, batch: Sequence[Planned], known: set[str]) -> Iterator[Trace]:
        """Yield the traces of a batch that are not known yet, each once it is committed."""
        if all(planned.id in known for planned in batch):
            return
        sampling = self.store.manifest.sampling
        prompts, seeds = [one.prompt for one in batch], [one.seed for one in batch]
        completions = complete(self.model, prompts, seeds, sampling)
        yield from self._commit(
            [
                (completed(self.model, planned, completion, sampling), completion.logprobs)
                for planned, completion in zip(batch, completions, strict=True)
                if planned.id not in known
            ]
        )

    def forget(self) -> None:
        """Remove what was kept for traces that are committed by now."""

    def _commit(self, made: Sequence[tuple[Trace, Sequence[float]]]) -> Iterator[Trace]:
        """Read traces again for their activations, and yield each once it is committed.

        With each come the log-probabilities noted for what the model wrote.

        Raises:
            ModelError: a replay is off by more than is tolerated; none of the traces is kept.
        """
        if not made:
            return
        read = self._replay(made) if self.store.manifest.layers else [None] * len(made)
        for (trace, _), activations in zip(made, read, strict=True):
            if activations is not None:
                refuse_unfaithful(trace.id, activations, self.model.dtype, self._tolerance)
        for (trace, _), activations in zip(made, read, strict=True):
            self.store.add(trace, activations)
            yield trace

    def _replay(self, made: Sequence[tuple[Trace, Sequence[float]]]) -> list[Activations]:
        """Read traces again, and compare that with the log-probabilities noted for each."""
        model, manifest = self.model, self.store.manifest
        reading = Reading(manifest.pooling, manifest.raw_tokens)
        return read_calls(
            lambda ids, spans, noted: model.checked_replay(
                ids, spans, manifest.layers, reading, noted
            ),
            [trace for trace, _ in made],
            row_end=manifest.row_end,
            raw_tokens=manifest.raw_tokens,
            logprobs=[logprobs for _, logprobs in made],
        )


def maker(
    model: Writer,
    store: Store,
    agent: Agent | None,
    tolerance: float | None,
    *,
    alone: bool = True,
) -> Maker:
    """Return what makes traces of one call, or the episodes of an agent.

    Unless it is `alone`, others record other batches of the run at the same time.
    """
    if agent is None:
        return Maker(model, store, tolerance)
    return Episodes(model, store, agent, tolerance, alone=alone)


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


def completed(
    model: ModelFacts, planned: Planned, completion: Completion, sampling: Sampling
) -> Trace:
    """Return the trace of one completion, cut into channels and sentences."""
    ids = (*planned.prompt, *completion.ids)
    written = read_back(model, ids, len(planned.prompt))
    trace = Trace(
        id=planned.id,
        task=planned.task,
        model=model.name,
        sampling=sampling,
        sample=planned.sample,
        token_ids=ids,
        tokenizer=model.tokenizer,
        finish=completion.finish,
        **written._asdict(),
    )
    spans = pooled_spans(trace, model.row_end)[1:]  # the tokens that a probe reads
    noted = pooled_uncertainty(completion.uncertainty, spans, len(planned.prompt))
    return replace(trace, uncertainty=noted)


def pooled_uncertainty(
    noted: NDArray[np.float32] | None, spans: Sequence[Span], start: int
) -> tuple[tuple[float, ...], ...]:
    """Return for each span what was noted of its tokens, pooled as a trace keeps it.

    `noted` is (token, measure) of the tokens from `start` on. Four digits are kept.
    """
    if noted is None:
        return ()
    parts = [noted[span.start - start : span.stop - start].astype(float) for span in spans]
    rows = [np.concatenate([part[-1], part.mean(axis=0), part.max(axis=0)]) for part in parts]
    return tuple(tuple(float(f"{value:.4g}") for value in row) for row in rows)


@dataclass
class _Way:
    """An episode of a batch: what is planned, and how far it has come."""

    planned: Planned
    course: Course
    noted: list[float]
    """Log-probabilities of what the model wrote in all calls."""
    there: Sequence[Trace] = ()
    """The calls of an episode that the run holds already."""

    def prompt(self, model: ModelFacts, number: int, room: int) -> tuple[int, ...] | None:
        """Return the ids that call `number` reads, None if the episode has no such call."""
        known = self.there or self.course.calls
        if number < len(known):
            return known[number].token_ids[: known[number].prompt_stop]
        if self.there or self.course.ended:
            return None
        return self.course.prompt(model.render, room, model.context)


class Episodes(Maker):
    """Makes the episodes of an agent."""

    unit = "episode"

    def __init__(
        self, model: Writer, store: Store, agent: Agent, tolerance: float | None, *, alone: bool
    ) -> None:
        """As `maker` is told."""
        super().__init__(model, store, tolerance)
        self._agent, self._alone = agent, alone

    def plan(self, tasks: Iterable[Task], samples: int) -> list[Planned]:
        """Return all episodes that the run is to hold; see `plan_traces`."""
        chosen = [self._agent.under(task) for task in tasks]
        return plan_traces(self.model, chosen, self.store.manifest, samples, self._first_prompt)

    def _first_prompt(self, task: Task) -> list[int]:
        tools = [tool.schema for tool in self._agent.place(task).tools(task)]
        return self.model.render(task, (), tools)

    def run(self, batch: Sequence[Planned], known: set[str]) -> Iterator[Trace]:
        """Yield the episodes of a batch that were not in the run, each once it is committed.

        What was left of unfinished ones is taken up.
        """
        self._log = Log(self.store, None if self._alone else {planned.id for planned in batch})
        if all(planned.id in known for planned in batch):
            return
        ways = [self._way(planned, known) for planned in batch]
        yield from self._ended(ways)
        number = 0
        while not all(way.there or way.course.ended for way in ways):
            yield from self._step(ways, number)
            number += 1

    def forget(self) -> None:
        """Remove what was kept of episodes that are committed."""
        self._log.forget(self.store.ids())

    def _way(self, planned: Planned, known: set[str]) -> _Way:
        chat = self.model.chat
        course = Course(planned.id, planned.task, self._agent, chat.dialect, chat.format)
        way = _Way(planned, course, [])
        if planned.id in known:
            way.there = tuple(calls_of(self.store.trace(planned.id)))
        else:
            self._log.resume(course, partial(self._read, way))
        return way

    def _step(self, ways: Sequence[_Way], number: int) -> Iterator[Trace]:
        """Make call `number` of all episodes that have one; yield those that it ended.

        All take part whose call has that number, also those that are known: so each is written
        in the company in which it would have been written without an interruption.
        """
        missing = [way for way in ways if self._lacks(way, number)]
        if not missing:
            return
        sampling = self.store.manifest.sampling
        room = sampling.max_new_tokens
        prompts = [(way, way.prompt(self.model, number, room)) for way in ways]
        company = [(way, ids) for way, ids in prompts if ids is not None]
        seeds = [way.course.seed(way.planned.seed, number) for way, _ in company]
        began = time.perf_counter()
        completions = (
            complete(self.model, [ids for _, ids in company], seeds, sampling) if company else []
        )
        seconds = time.perf_counter() - began
        taken = []
        for (way, ids), completion in zip(company, completions, strict=True):
            if self._lacks(way, number):
                written = _written(way, ids, completion)
                way.course.take(self._read(way, way.course, written), seconds)
                taken.append((way.course, written))
        self._log.keep(ways[0].planned.id, taken)
        yield from self._ended(missing)

    @staticmethod
    def _lacks(way: _Way, number: int) -> bool:
        return not way.there and number == len(way.course.calls) and not way.course.ended

    def _read(self, way: _Way, course: Course, written: Mapping[str, Any]) -> Trace:
        """Return a call as a trace of its own."""
        prompt, before = written["prompt"], course.calls[-1].token_ids if course.calls else ()
        uncertainty = np.array(written["uncertainty"], dtype=np.float32)
        completion = Completion(tuple(written["ids"]), written["finish"], uncertainty)
        way.noted += completion.logprobs
        ids = (*before[: prompt["kept"]], *prompt["ids"])
        planned = way.planned._replace(id=f"{way.planned.id}.{len(course.calls)}", prompt=ids)
        return completed(self.model, planned, completion, self.store.manifest.sampling)

    def _ended(self, ways: Sequence[_Way]) -> Iterator[Trace]:
        """Commit the episodes that have ended."""
        ended = [way for way in ways if way.course.ended and not way.there]
        return self._commit([(way.course.joined(), way.noted) for way in ended])


def _written(way: _Way, ids: tuple[int, ...], completion: Completion) -> dict[str, Any]:
    """Return all that a call can be made of again, without what its prompt repeats."""
    before = way.course.calls[-1].token_ids if way.course.calls else ()
    kept = len(commonprefix([before, ids]))
    assert completion.uncertainty is not None
    return {
        "prompt": {"kept": kept, "ids": ids[kept:]},
        "ids": completion.ids,
        "finish": completion.finish,
        "uncertainty": completion.uncertainty.tolist(),
    }
