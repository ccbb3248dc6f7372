"""Environments from a file or from Python: what an agent may call, and what it is answered.

A scripted environment is a JSON file:

    {"tools": [{"name": "look_up", "description": "Look up a price.",
                "parameters": {"type": "object", "properties": {"item": {"type": "string"}}},
                "answers": [{"arguments": {"item": "bolt"}, "result": "12"},
                            {"arguments": {"item": "nut"}, "error": "the list is torn"}],
                "default": "There is no such item."}]}

The first answer with the same arguments holds. Without one, and without a default, the model is
told so.
"""

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from trace_probe.environment import Environment, State, Tool
from trace_probe.errors import TaskError
from trace_probe.files import json_object, read_bytes
from trace_probe.storage.typed import from_plain
from trace_probe.trace import Task
from trace_probe.world.worlds import WORLDS

STATE = "state"
"""A parameter of this name gets what the environment remembers; the model does not see it."""
FORM = 'write {"tools": [{"name": ..., "answers": [...]}]}, as in docs/agents.md'
TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", list: "array"}


class Named(NamedTuple):
    """An environment, and what a run says of where it came from."""

    environment: Environment
    name: str


def environment_from(source: str) -> Named:
    """Return the environment of a source.

    That is a JSON file as above, ``FILE.py:OBJECT`` or ``MODULE:OBJECT`` for a function, several
    functions or an `Environment`, or the name of a world of the organisms. Code is imported, and
    so it is run: name only what you trust.

    Raises:
        TaskError: there is no such thing, or it is none of these.
    """
    world = WORLDS.get(source)
    if world is not None and world.environment is not None:
        return Named(world.environment, source)
    path, _, name = source.rpartition(":")
    if source.endswith(".json"):
        data = read_bytes(Path(source), TaskError)
        return Named(scripted(data, source), f"{Path(source).name}@{_seal(data)}")
    if path.endswith(".py"):
        seal = _seal(read_bytes(Path(path), TaskError))
        found = _member(_module_of(Path(path)), name, source)
        return Named(as_environment(found, source), f"{Path(path).name}:{name}@{seal}")
    if path:
        try:
            module = importlib.import_module(path)
        except ImportError as error:
            raise TaskError(f"cannot import the tools {source!r}: {error}") from error
        file = getattr(module, "__file__", None)  # of other code the tools are others
        sealed = f"{source}@{_seal(read_bytes(Path(file), TaskError))}" if file else source
        return Named(as_environment(_member(module, name, source), source), sealed)
    raise TaskError(
        f"no tools {source!r}: name a .json file, FILE.py:OBJECT or MODULE:OBJECT, or one of "
        f"{', '.join(name for name, one in WORLDS.items() if one.environment)}"
    )


def as_environment(found: object, source: str = "tools") -> Environment:
    """Return an environment as it is, or functions as one.

    Raises:
        TaskError: it is neither.
    """
    if isinstance(found, Environment) and not isinstance(found, type):
        return found
    functions = [found] if callable(found) else found
    if not isinstance(functions, Iterable):
        raise TaskError(f"{source} is neither functions nor an environment: list the functions")
    return Functions(tuple(functions))


class Functions:
    """Python functions as tools.

    The name, the first paragraph of the docstring and the annotations are what the model is
    told. A parameter ``state`` gets a dict that starts empty in each episode.
    """

    def __init__(self, functions: Sequence[Callable[..., object]]) -> None:
        """Take functions; their names are unique.

        Raises:
            TaskError: something is no function, or a parameter cannot be named in a call.
        """
        self._functions: dict[str, Callable[..., object]] = {}
        for function in functions:
            name = getattr(function, "__name__", "")
            if not callable(function) or not name or name in self._functions:
                raise TaskError(f"{function!r:.60} is no function with a name of its own")
            self._functions[name] = function
        self._tools = [_tool(name, function) for name, function in self._functions.items()]

    def tools(self, task: Task) -> Sequence[Tool]:  # noqa: ARG002 - the same for every task
        """Return a tool for each function."""
        return self._tools

    def start(self, task: Task) -> State:  # noqa: ARG002
        """Return an empty state."""
        return {}

    def call(self, name: str, arguments: Mapping[str, Any], state: State) -> object:
        """Call a function, and return what it gives."""
        function = self._functions[name]
        given = dict(arguments)
        if STATE in given:
            raise TypeError(f"{name}() has no argument {STATE!r}")
        if STATE in inspect.signature(function).parameters:
            given[STATE] = state
        inspect.signature(function).bind(**given)
        return function(**given)


def _tool(name: str, function: Callable[..., object]) -> Tool:
    if inspect.iscoroutinefunction(function):
        raise TaskError(
            f"the tool {name} is asynchronous: write a function that returns its answer"
        )
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    properties: dict[str, Any] = {}
    required = []
    try:
        parameters = inspect.signature(function, eval_str=True).parameters
    except (ValueError, TypeError, NameError) as error:
        raise TaskError(
            f"the parameters of the tool {name} cannot be read ({error}): write a function"
        ) from error
    for one in parameters.values():
        if one.kind not in kinds:
            raise TaskError(f"the tool {name} takes {one}: give it named parameters only")
        if one.name == STATE:
            continue
        kind = TYPES.get(getattr(one.annotation, "__origin__", one.annotation))
        properties[one.name] = {"type": kind} if kind else {}
        if one.default is inspect.Parameter.empty:
            required.append(one.name)
    told = " ".join((inspect.getdoc(function) or "").partition("\n\n")[0].split())
    schema = {"type": "object", "properties": properties, "required": required}
    return Tool(name, told, schema)


@dataclass(frozen=True)
class Answer:
    """What a scripted tool answers to some arguments."""

    arguments: dict[str, Any]
    result: str | None = None
    error: str | None = None

    def __post_init__(self) -> None:
        """Refuse an answer that is none."""
        if self.result is None and self.error is None:
            raise TaskError("an answer has a text as 'result' or as 'error'")


@dataclass(frozen=True)
class ScriptedTool:
    """A tool with a table of answers."""

    __pydantic_config__ = {"extra": "forbid"}

    name: str
    description: str = ""
    parameters: dict[str, Any] | None = None
    """A JSON schema."""
    answers: tuple[Answer, ...] = ()
    default: str | None = None

    @property
    def tool(self) -> Tool:
        """Return it as the model is told of it."""
        schema = {"parameters": self.parameters} if self.parameters else {}
        return Tool(self.name, self.description, **schema)


@dataclass(frozen=True)
class Scripted:
    """An environment of scripted tools."""

    script: tuple[ScriptedTool, ...]

    def tools(self, task: Task) -> Sequence[Tool]:  # noqa: ARG002 - the same for every task
        """Return the tools."""
        return [one.tool for one in self.script]

    def start(self, task: Task) -> State:  # noqa: ARG002
        """Return an empty state: what was asked before changes nothing."""
        return {}

    def call(self, name: str, arguments: Mapping[str, Any], state: State) -> str:  # noqa: ARG002
        """Return the scripted answer."""
        tool = next(one for one in self.script if one.name == name)
        answer = next((one for one in tool.answers if one.arguments == arguments), None)
        if answer is not None and answer.error is not None:
            raise RuntimeError(answer.error)
        found = tool.default if answer is None else answer.result
        if found is None:
            raise LookupError(f"{name} has no answer to these arguments")
        return found


def scripted(data: bytes, where: str = "the script") -> Scripted:
    """Return the environment that a JSON text describes.

    Raises:
        TaskError: it is malformed; the text says where.
    """
    raw = json_object(data, where, TaskError)
    what = f"{where} is no scripted environment"
    tools = from_plain(
        tuple[ScriptedTool, ...], raw.get("tools"), what, wrong=TaskError, advice=FORM
    )
    names = [one.name for one in tools]
    if twice := [name for name in names if names.count(name) > 1]:
        raise TaskError(f"{where}: the tool {twice[0]!r} is there twice")
    if not names or not all(names):
        raise TaskError(f"{what}: give each of one or more tools a name")
    return Scripted(tools)


def _module_of(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise TaskError(f"{path} cannot be imported: name a file of Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise TaskError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    return module


def _member(module: ModuleType, name: str, source: str) -> object:
    if not hasattr(module, name):
        raise TaskError(f"there is no {name!r} in the tools {source!r}: name what is defined there")
    return getattr(module, name)


def _seal(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:8]
