"""Recording from servers: traces of one call, or agents, whose episodes go on by themselves."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from trace_probe.model.dialect import Dialect
from trace_probe.model.endpoint import RequestError, run
from trace_probe.model.reply import Reply
from trace_probe.recording.course import Agent, Course, Log
from trace_probe.recording.plan import Planned, RecordReport, check_tools
from trace_probe.recording.progress import counted
from trace_probe.recording.served import (
    SEEDS,
    Asked,
    Asking,
    Made,
    Served,
    one_call,
    plan_served,
    record_all,
    request,
    served_trace,
)
from trace_probe.store import Store
from trace_probe.text.channels import Format, format_of
from trace_probe.trace import Task, Trace

SPOKEN = Dialect(arguments="text")
"""How OpenAI's protocol has an agent's turns."""
PART = "served"
"""The part of the log in which these episodes are."""


def record_from(
    served: Served,
    tasks: Iterable[Task],
    store: Store,
    agent: Agent | None = None,
    *,
    samples: int = 1,
    progress: bool = True,
) -> RecordReport:
    """Record `samples` traces of each task from servers, with the sampling of the manifest.

    Traces that the run already holds are not asked for again, and each is kept the moment it
    is whole, so that a rerun after any failure asks for the missing ones only.

    With an agent each trace is an episode, as in `recording.record`: tools are sent with each
    request, and the calls that the server reads from what the model wrote are carried out here,
    those of different episodes at the same time in threads. An episode that was interrupted goes
    on at its last call.

    Raises:
        ServerError: the run is of another model, or a trace could not be had; all others are
            in the run by then.
        ModelError: greedy decoding was asked to vary, or a task of an agent has no environment.
        StoreError: another process writes to the run, or it cannot be written.
        TaskError: a task is to be done with tools, and there is no agent.
    """
    chosen = [agent.under(task) if agent else task for task in tasks]
    check_tools(chosen, agent)
    plan = plan_served(served, chosen, store.manifest, samples)
    with store.writing():
        known = store.ids()
        maker = _Maker(served, store, agent) if agent else None
        make = maker.make if maker else one_call(served, store)
        missing = [planned for planned in plan if planned.id not in known]
        ids, unit = [planned.id for planned in plan], "episode" if agent else "trace"
        with counted(store, ids, known, unit, shown=progress) as bar:
            made = run(lambda: record_all(served, missing, store, bar, make))
        if maker:
            maker.log.forget(store.ids())
    there = RecordReport(resumed=len(plan) - len(missing))
    return sum((one.report for one in made), there)


async def _in_thread(work: Callable[[], None]) -> None:
    """Do work that may take long, such as a tool, while other episodes go on.

    In a thread that dies with the process: an interruption does not wait for a tool that hangs.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def finish(error: BaseException | None) -> None:
        if not done.done():  # else nobody waits for it any more
            done.set_result(None) if error is None else done.set_exception(error)

    def run() -> None:
        error: BaseException | None = None
        try:
            work()
        except BaseException as raised:
            error = raised
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(finish, error)

    threading.Thread(target=run, name="tool", daemon=True).start()
    await done


class _Maker:
    """Makes episodes by asking servers."""

    def __init__(self, served: Served, store: Store, agent: Agent) -> None:
        self._served, self._agent, self._sampling = served, agent, store.manifest.sampling
        self.log = Log(store)

    async def make(self, asking: Asking, planned: Planned) -> Made:
        """Return one episode, once it has ended.

        Raises:
            RequestError: a request came to nothing.
        """
        course = Course(planned.id, planned.task, self._agent, SPOKEN, self._format())
        self.log.resume(course, lambda course, kept: self._read(course, planned, kept))
        while not course.ended:
            asked = Asked(course.turns, course.tools)
            seed = course.seed(planned.seed, len(course.calls)) % SEEDS
            began = time.monotonic()
            try:
                body = request(self._served, planned.task, seed, self._sampling, asked)
                reply = await asking.reply(body)
            except RequestError as error:
                if not course.calls or error.status != 400 or "context" not in str(error).lower():
                    raise
                course.ended = "context"
                break
            written, passed = asdict(reply), time.monotonic() - began
            await _in_thread(partial(course.take, self._read(course, planned, written), passed))
            self.log.keep(PART, [(course, written)])
        trace = course.joined()
        kinds = {call.facts["ids"] for call in course.calls}
        if not trace.token_ids:  # ids of some calls are of no use without those of the others
            trace = replace(trace, tokenizer="words", facts={**trace.facts, "ids": "none"})
        elif len(kinds) > 1:
            trace = replace(trace, facts={**trace.facts, "ids": "retokenised"})
        return Made(trace, len(trace) - trace.prompt_stop)

    def _format(self) -> Format:
        tokenizer = self._served.tokenizer
        return tokenizer.format if tokenizer else format_of(None, self._served.model)

    def _read(self, course: Course, planned: Planned, kept: Mapping[str, Any]) -> Trace:
        """Return a reply as a trace of its own."""
        calls = tuple((name, arguments, id) for name, arguments, id in kept["calls"])
        ids = {name: tuple(kept[name]) for name in ("prompt_ids", "token_ids")}
        reply = Reply(**{**kept, **ids, "calls": calls})
        # What a server calls the field of reasoning is what it reads it from; one that leaves
        # the tags in the text gets them back there.
        course.dialect = SPOKEN._replace(reasoning=reply.named or "content")
        one = planned._replace(id=f"{planned.id}.{len(course.calls)}")
        asked = Asked(course.turns, course.tools)
        trace = served_trace(self._served, one, reply, self._sampling, asked)
        return replace(trace, facts={"ids": trace.facts["ids"]})
