"""One episode of an agent while it is under way, and the log from which it is taken up again.

Whoever asks the model, here or at a server, does it one call at a time: `Course.turns` is what
the next prompt is made of, `Course.take` notes what the model wrote, carries out its tool calls
and decides whether the episode goes on.
"""

import json
import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from trace_probe.environment import NAMED_BY, Environment, State, carry_out
from trace_probe.episode import Episode
from trace_probe.errors import ModelError, StoreError
from trace_probe.model.dialect import Dialect, Turn
from trace_probe.model.templates import TemplateRefusal
from trace_probe.store import Store
from trace_probe.text.channels import Format
from trace_probe.trace import Task, ToolResult, Trace, digest
from trace_probe.world.worlds import WORLDS, World

MAX_CALLS = 20
"""Most model calls of an episode, where neither the user nor the world of the task says more."""
Ended = Literal["", "answer", "length", "calls", "seconds", "context", "refused"]
"""Why an episode ended: the model answered without a call, was cut off, met a limit, or wrote what
its own chat template refuses to read; empty while it goes on."""


@dataclass(frozen=True)
class Agent:
    """What a model may do in an episode, and for how long.

    Example:
        >>> from trace_probe.tasks.environments import Functions
        >>> def look_up(item: str) -> str:
        ...     "Look up the price of an item."
        ...     return {"bolt": "12"}[item]
        >>> agent = Agent(Functions([look_up]), "prices", max_calls=8)
        >>> agent.under(Task("t-1", "shop", "What is a bolt?")).condition
        {'tools': 'prices'}
    """

    environment: Environment | None = None
    """None means the one that each task names in its condition."""
    tools: str = ""
    """How tasks name this environment; traces keep it."""
    max_calls: int | None = None
    """Most model calls of an episode; None means what the world of its task allows, and
    `MAX_CALLS` elsewhere."""
    max_seconds: float | None = None
    """Once an episode has taken so long, no further call begins. A resumed run may then differ."""
    name: str = ""
    """Of the agent; each call keeps it."""

    def __post_init__(self) -> None:
        """Refuse limits that let nothing happen."""
        too_few = self.max_calls is not None and self.max_calls < 1
        if too_few or (self.max_seconds is not None and self.max_seconds <= 0):
            raise ModelError("an agent needs one call or more, and more than no time")

    def under(self, task: Task) -> Task:
        """Return a task whose condition names the environment."""
        if self.environment is None:
            return task
        return replace(task, condition={**task.condition, NAMED_BY: self.tools or "given"})

    def place(self, task: Task) -> Environment:
        """Return where a task is done.

        Raises:
            ModelError: nobody says where.
        """
        if self.environment is not None:
            return self.environment
        world = _world(task)
        if world is None or world.environment is None:
            raise ModelError(
                f"task {task.id} names no environment: say what the agent may call with --tools"
            )
        return world.environment

    def most_calls(self, task: Task) -> int:
        """Return how many model calls an episode of a task may have."""
        world = _world(task) if self.environment is None else None
        return self.max_calls or (world.max_calls if world else MAX_CALLS)


def _world(task: Task) -> World | None:
    """Return the world that a task names."""
    return WORLDS.get(task.condition.get(NAMED_BY, ""))


Render = Callable[[Task, Sequence[Turn], Sequence[Mapping[str, Any]]], Sequence[int]]
"""Makes the ids of a prompt from a task, the turns since it was given, and schemas of tools."""


@dataclass
class Course:
    """One episode under way."""

    id: str
    task: Task
    agent: Agent
    dialect: Dialect
    format: Format
    calls: list[Trace] = field(default_factory=list)
    results: list[tuple[ToolResult, ...]] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    """Since the task was given."""
    seconds: float = 0.0
    ended: Ended = ""

    def __post_init__(self) -> None:
        """Begin in a fresh environment."""
        self.environment = self.agent.place(self.task)
        self.state: State = self.environment.start(self.task)

    @cached_property
    def tools(self) -> list[dict[str, Any]]:
        """The schemas of what can be called."""
        return [tool.schema for tool in self.environment.tools(self.task)]

    def prompt(self, render: Render, room: int, context: int | None) -> tuple[int, ...] | None:
        """Return the ids that the next call reads, None where the episode ends before it.

        That is where a call of `room` tokens does not fit into the model's context any more, or
        the chat template refuses what the model wrote.

        Raises:
            TemplateRefusal: it refuses the very first prompt.
        """
        try:
            ids = tuple(render(self.task, self.turns, self.tools))
        except TemplateRefusal:
            if not self.calls:
                raise
            self.ended = "refused"
            return None
        if self.calls and context is not None and len(ids) + room > context:
            self.ended = "context"
            return None
        return ids

    @staticmethod
    def seed(first: int, number: int) -> int:
        """Return the seed of a call, given that of the first."""
        return first if not number else int(digest(first, "call", number), 16)

    def take(self, call: Trace, seconds: float) -> None:
        """Note a call that took so long, and carry out what it asks for."""
        began = time.perf_counter()
        results = tuple(
            carry_out(self.environment, self.task, action, self.state)
            for action in (call.actions if call.finish != "length" else ())
        )
        passed = seconds + time.perf_counter() - began
        self.note(call, results, self.state, self.seconds + passed)

    def note(
        self, call: Trace, results: tuple[ToolResult, ...], state: State, seconds: float
    ) -> None:
        """Note a call whose results are known."""
        self.calls.append(call)
        self.results.append(results)
        self.state, self.seconds = state, seconds
        self.turns += [self.dialect.assistant(call, self.format), *self.dialect.results(results)]
        limit = self.agent.max_seconds
        if call.finish == "length":
            self.ended = "length"
        elif not results:
            self.ended = "answer"
        elif len(self.calls) >= self.agent.most_calls(self.task):
            self.ended = "calls"
        elif limit is not None and seconds >= limit:
            self.ended = "seconds"

    def joined(self) -> Trace:
        """Return the trace of the whole episode."""
        agents = (self.agent.name,) * len(self.calls)
        episode = Episode(
            self.id,
            tuple(self.calls),
            tuple(self.results),
            agents,
            facts={"ended": self.ended or "calls"},
        )
        return episode.joined()


Read = Callable[[Course, Mapping[str, Any]], Trace]
"""Makes a call of what was kept of it; the course holds the calls before."""


class Log:
    """The finished calls of unfinished episodes of a run: lines that only grow, by batch."""

    def __init__(self, store: Store, parts: Container[str] | None = None) -> None:
        """Read what was left by a recording that was interrupted.

        Whoever records beside others reads only the `parts` of its own batch.
        """
        self._artifacts, self._place = store.artifacts, store.place
        self._known: dict[str, list[dict[str, Any]]] = {}
        self._parts: dict[str, set[str]] = {}
        names = self._artifacts.names("calls")
        for part in [name for name in names if parts is None or name in parts]:
            for raw in self._artifacts.lines("calls", part).raw():
                episode = str(raw.get("episode"))
                self._parts.setdefault(part, set()).add(episode)
                known = self._known.setdefault(episode, [])
                if raw.get("call") == len(known):  # a call that was logged twice counts once
                    known.append(raw)

    def resume(self, course: Course, read: Read) -> None:
        """Take up an episode where it was left; `read` makes a call of what was written.

        Raises:
            StoreError: a line is not as this version wrote it.
        """
        for raw in self._known.get(course.id, ()):
            try:
                results = tuple(ToolResult(**one) for one in raw["results"])
                call = read(course, raw["written"])
                course.note(call, results, dict(raw["state"]), float(raw["seconds"]))
            except (KeyError, TypeError, ValueError) as error:
                raise StoreError(
                    f"{self._place.url}/calls is not as this version wrote it ({error}): remove "
                    f"it to begin the unfinished episodes anew"
                ) from error

    def keep(self, part: str, made: Iterable[tuple[Course, Mapping[str, Any]]]) -> None:
        """Keep the latest call of each course; with it comes all that it can be made of again.

        Raises:
            StoreError: the state of an environment cannot be written.
        """
        lines = []
        for course, written in made:
            self._parts.setdefault(part, set()).add(course.id)
            line = {
                "episode": course.id,
                "call": len(course.calls) - 1,
                "written": written,
                "results": [asdict(one) for one in course.results[-1]],
                "state": course.state,
                "seconds": course.seconds,
            }
            try:
                text = json.dumps(line, ensure_ascii=False)
            except (TypeError, ValueError) as error:
                raise StoreError(
                    f"the state of the environment of task {course.task.id} cannot be kept "
                    f"({error}): let it hold only what JSON can"
                ) from error
            # What goes on is what a resumed recording would read: a tuple is a list by now.
            course.state = json.loads(text)["state"]
            lines.append((text + "\n").encode(errors="surrogatepass"))
        if lines:
            self._artifacts.lines("calls", part).append(lines)

    def forget(self, committed: set[str]) -> None:
        """Remove the parts of which every episode is a trace of the run by now."""
        for part in [part for part, inside in self._parts.items() if inside <= committed]:
            for file in self._artifacts.lines("calls", part).files():
                self._place.remove(file)
            del self._parts[part]
