"""What an agent acts on: the tools that it may call, and what they answer.

An environment is the same for all episodes of a task; what changes during an episode is in a
state of its own. So an episode can be stopped after any call and taken up again, and the calls
of a trace can be carried out once more to see what would have followed.

A task names its environment in its condition: ``{"tools": "world"}``.

Example:
    >>> from trace_probe.trace import Span
    >>> class Box:
    ...     def tools(self, task):
    ...         return [Tool("open", "Open the box.")]
    ...     def start(self, task):
    ...         return {"opened": 0}
    ...     def call(self, name, arguments, state):
    ...         state["opened"] += 1
    ...         return "It is empty."
    >>> task, box = Task("box-01", "boxes", "Open the box."), Box()
    >>> state = box.start(task)
    >>> carry_out(box, task, ToolCall("open", "{}", Span(0, 1, "action")), state).content
    'It is empty.'
    >>> carry_out(box, task, ToolCall("burn", "{}", Span(0, 1, "action")), state).content
    "Error: there is no tool 'burn', only open"
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from trace_probe.trace import Task, ToolCall, ToolResult
from trace_probe.visible import whole

State = dict[str, Any]
"""What an environment remembers within an episode; it can be written as JSON."""


@dataclass(frozen=True)
class Tool:
    """One thing that a model can ask for."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(
        default_factory=lambda: {"type": "object", "properties": {}}
    )
    """A JSON schema of the arguments: an object."""

    @property
    def schema(self) -> dict[str, Any]:
        """Return the tool as chat templates and OpenAI's protocol expect it."""
        function = {
            "name": self.name,
            "description": self.description,
            "parameters": dict(self.parameters),
        }
        return {"type": "function", "function": function}


@runtime_checkable
class Environment(Protocol):
    """Where an agent works.

    Everything is determined by the task and the calls so far: no clock, no chance, no network.
    Whatever breaks this rule makes a resumed episode differ from one that was never stopped.
    """

    def tools(self, task: Task) -> Sequence[Tool]:
        """Return the tools that a task offers."""
        ...

    def start(self, task: Task) -> State:
        """Return the state of a fresh episode."""
        ...

    def call(self, name: str, arguments: Mapping[str, Any], state: State) -> object:
        """Carry out a call, which may change the state, and return what the model is told.

        What is no text is told as JSON. Any exception becomes an error that the model is told.
        """
        ...


NAMED_BY = "tools"
"""The fact of a task's condition that names its environment; a task without it has no tools."""


LONGEST, LONGEST_ERROR = 1 << 20, 1 << 14
"""Characters that a tool may answer with, some hundred thousand tokens, and that remain of an
error."""


def carry_out(environment: Environment, task: Task, call: ToolCall, state: State) -> ToolResult:
    """Carry out one call of a model; whatever goes wrong is a result with an error."""
    known = [tool.name for tool in environment.tools(task)]
    try:
        if call.name not in known:
            raise LookupError(f"there is no tool {call.name!r}, only {', '.join(known)}")
        content = environment.call(call.name, read_arguments(call.arguments), state)
        if not isinstance(content, str):
            content = json.dumps(content, ensure_ascii=False)
        if len(content) > LONGEST:
            raise ValueError(
                f"the answer has {len(content)} characters and can have {LONGEST}: ask for less"
            )
    except (Exception, SystemExit) as error:  # a tool that exits must not end the recording
        why = _words_of(error)
        return ToolResult(
            f"Error: {why}", call.name, call.id, error=f"{type(error).__name__}: {why}"
        )
    return ToolResult(whole(content), call.name, call.id)


def _words_of(error: BaseException) -> str:
    """Return what an error says, which may come from a stranger's code, up to `LONGEST_ERROR`."""
    try:
        words = str(error)
    except Exception as other:
        words = f"its words cannot be read ({type(other).__name__})"
    return whole(words[:LONGEST_ERROR] or type(error).__name__)


def read_arguments(text: str) -> dict[str, Any]:
    """Return the arguments of a call, which are one JSON object; nothing written means none.

    Raises:
        ValueError: they are something else.
    """
    try:
        found = json.loads(text or "{}")
    except ValueError as error:
        raise ValueError(f"the arguments are not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError("the arguments must be one JSON object")
    return found
