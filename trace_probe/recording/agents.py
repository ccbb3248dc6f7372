"""Agents on models that are loaded here: many episodes advance together, a call at a time."""

import time
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from os.path import commonprefix
from typing import Any

import numpy as np

from trace_probe.episode import calls_of
from trace_probe.model.facts import ModelFacts
from trace_probe.model.local import Completion
from trace_probe.recording.course import Agent, Course, Log
from trace_probe.recording.plan import Planned, RecordReport
from trace_probe.recording.record import (
    Writer,
    commit,
    complete,
    completed,
    plan_traces,
    record_plan,
)
from trace_probe.store import Store
from trace_probe.trace import Task, Trace


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


def record_agents(  # noqa: PLR0913 - as `record`, and the agent
    model: Writer,
    tasks: Iterable[Task],
    store: Store,
    agent: Agent,
    *,
    samples: int = 1,
    batch_size: int = 32,
    progress: bool = True,
    tolerance: float | None = None,
) -> RecordReport:
    """Record `samples` episodes of each task: the model calls tools until it answers without one.

    As `record`, but each trace is an episode. A recording that was interrupted goes on at the
    call at which it was; seeds follow from the episode and the number of the call.

    Raises:
        ModelError: as `record`; or a task has no environment, or the chat template no place for
            tools.
        StoreError: another process writes to the run, or it cannot be written.
    """
    plan = plan_episodes(model, tasks, store, agent, samples)
    with store.writing():
        recorder = Recorder(model, store, agent, tolerance)

        def make(batch: Sequence[Planned], known: set[str]) -> Iterator[Trace]:
            yield from recorder.run(batch, known)
            recorder.forget()

        return record_plan(
            plan, store, make, batch_size=batch_size, progress=progress, unit="episode"
        )


def plan_episodes(
    model: ModelFacts, tasks: Iterable[Task], store: Store, agent: Agent, samples: int
) -> list[Planned]:
    """Return all episodes that a run is to hold, as `plan_traces` does.

    Raises:
        ModelError: as in `record_agents`.
    """
    chosen = [agent.under(task) for task in tasks]
    render = partial(_first_prompt, model, agent)
    return plan_traces(model, chosen, store.manifest, samples, render)


def _first_prompt(model: ModelFacts, agent: Agent, task: Task) -> list[int]:
    tools = [tool.schema for tool in agent.place(task).tools(task)]
    return model.render(task, (), tools)


class Recorder:
    """Records batches of episodes."""

    def __init__(
        self,
        model: Writer,
        store: Store,
        agent: Agent,
        tolerance: float | None = None,
        parts: Container[str] | None = None,
    ) -> None:
        """Take up what was left of unfinished episodes; `parts` are as in `Log`."""
        self._model, self._store, self._agent = model, store, agent
        self._tolerance, self._log = tolerance, Log(store, parts)

    def run(self, batch: Sequence[Planned], known: set[str]) -> Iterator[Trace]:
        """Yield the episodes of a batch that were not in the run, each once it is committed."""
        if all(planned.id in known for planned in batch):
            return
        ways = [self._way(planned, known) for planned in batch]
        yield from self._commit([way for way in ways if way.course.ended and not way.there])
        number = 0
        while not all(way.there or way.course.ended for way in ways):
            yield from self._step(ways, number)
            number += 1

    def forget(self) -> None:
        """Remove what was kept of episodes that are committed."""
        self._log.forget(self._store.ids())

    def _way(self, planned: Planned, known: set[str]) -> _Way:
        chat = self._model.chat
        course = Course(planned.id, planned.task, self._agent, chat.dialect, chat.format)
        way = _Way(planned, course, [])
        if planned.id in known:
            way.there = tuple(calls_of(self._store.trace(planned.id)))
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
        sampling = self._store.manifest.sampling
        room = sampling.max_new_tokens
        prompts = [(way, way.prompt(self._model, number, room)) for way in ways]
        company = [(way, ids) for way, ids in prompts if ids is not None]
        seeds = [way.course.seed(way.planned.seed, number) for way, _ in company]
        began = time.perf_counter()
        completions = (
            complete(self._model, [ids for _, ids in company], seeds, sampling) if company else []
        )
        seconds = time.perf_counter() - began
        taken = []
        for (way, ids), completion in zip(company, completions, strict=True):
            if self._lacks(way, number):
                written = _written(way, ids, completion)
                way.course.take(self._read(way, way.course, written), seconds)
                taken.append((way.course, written))
        self._log.keep(ways[0].planned.id, taken)
        yield from self._commit([way for way in missing if way.course.ended])

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
        return completed(self._model, planned, completion, self._store.manifest.sampling)

    def _commit(self, ways: Sequence[_Way]) -> Iterator[Trace]:
        """Read ended episodes again for their activations, and commit them."""
        made = [(way.course.joined(), way.noted) for way in ways]
        yield from commit(self._model, made, self._store, self._tolerance)


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
