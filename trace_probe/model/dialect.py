"""How a chat template takes tools, tool calls and their results, found by trying it.

Families differ: where reasoning goes, whether arguments are an object or text, who speaks when a
tool answers. A template that is given the wrong form often leaves a call out without a word, so
each form is rendered once with marked texts, and the first in which none is lost is used.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any, Literal, NamedTuple

from trace_probe.environment import Tool
from trace_probe.errors import ModelError
from trace_probe.files import nested_too_deeply
from trace_probe.text.channels import Format
from trace_probe.text.tool_calls import TAGS
from trace_probe.trace import ToolResult, Trace

Turn = dict[str, Any]
Render = Callable[[Sequence[Turn], Sequence[Mapping[str, Any]]], str]
"""Renders turns and the schemas of tools, up to where the model starts to write."""


class Dialect(NamedTuple):
    """One way of putting an agent's turns."""

    reasoning: str = "reasoning_content"
    """The field of a turn's reasoning; ``content`` puts it there, between its tags."""
    calls: Literal["tool_calls", "function_calls"] = "tool_calls"
    """``function_calls`` holds the text of the calls, as OLMo 3 has it."""
    arguments: Literal["object", "text"] = "object"
    empty: str | None = ""
    """The content of a turn without an answer."""
    result: Literal["tool", "environment"] = "tool"
    """The role of what a tool answers."""
    tools: Literal["tools", "functions", ""] = "tools"
    """Where schemas go: to the template, or to the first turn; empty where the model is not told
    its tools."""
    apart: bool = True
    """Whether a turn with calls may have both reasoning and content; gpt-oss wants one of them."""

    def assistant(self, call: Trace, format: Format) -> Turn:
        """Return what a model wrote in a call as a turn of the conversation."""
        readable = all(one.name and _object(one.arguments) is not None for one in call.actions)
        said = Said(
            call.channel_text("reasoning").strip(),
            call.channel_text("answer").strip(),
            tuple((one.name, one.arguments, one.id) for one in call.actions) if readable else (),
            call.channel_text("action").strip(),
        )
        return self.turn(said, format)

    def turn(self, said: "Said", format: Format) -> Turn:
        """Return what a model said; calls that cannot be read stand as it wrote them."""
        if said.calls and said.thought and not self.apart:
            said = said._replace(thought=f"{said.thought}\n{said.answer}".strip(), answer="")
        content, own = said.answer, dict[str, Any]()
        if not said.calls:
            content = f"{content}\n{said.written}".strip()
        elif self.calls == "function_calls":
            own["function_calls"] = _bare(said.written)
        else:
            own["tool_calls"] = [self._call(*one, k) for k, one in enumerate(said.calls)]
        if said.thought and self.reasoning == "content":
            content = f"{format.open}{said.thought}{format.close}{content}"
        elif said.thought:
            own[self.reasoning] = said.thought
        return {"role": "assistant", "content": content or self.empty, **own}

    def _call(self, name: str, arguments: str, id: str, number: int) -> Turn:
        given = _object(arguments) if self.arguments == "object" else arguments
        function = {"name": name, "arguments": given}
        return {"type": "function", "id": id or unnamed(number), "function": function}

    def results(self, results: Sequence[ToolResult]) -> list[Turn]:
        """Return what the tools answered as turns of the conversation."""
        return [
            {
                "role": self.result,
                "name": result.name,
                "tool_call_id": result.call_id or unnamed(number),
                "content": result.content,
            }
            for number, result in enumerate(results)
        ]

    def first(self, turns: Sequence[Turn], tools: Sequence[Mapping[str, Any]]) -> list[Turn]:
        """Return the turns with the tools in the first of them, where that is their place."""
        if self.tools != "functions" or not tools:
            return list(turns)
        functions = json.dumps([tool["function"] for tool in tools], ensure_ascii=False)
        return [{**turns[0], "functions": functions}, *turns[1:]]


class Said(NamedTuple):
    """What a model wrote in one call, by channel."""

    thought: str
    answer: str
    calls: tuple[tuple[str, str, str], ...]
    """Name, arguments and id of each tool call that can be read."""
    written: str
    """The text of the calls."""


def unnamed(number: int) -> str:
    """Return an id for a call whose format has none; some templates want nine characters."""
    return f"call{number:05d}"


PLACES = ("reasoning_content", "thinking", "reasoning", "content")
TOOL = Tool(
    "tool_zero",
    "It does nothing.",
    {"type": "object", "properties": {"key_zero": {"type": "string"}}},
)
TRIED = Said(
    "thought-zero",
    "",
    (("tool_zero", '{"key_zero": "value-zero"}', "zero00000"),),
    '<function_calls>tool_zero(key_zero="value-zero")</function_calls>',
)
KEPT = ("tool_zero", "key_zero", "value-zero", "result-zero")
"""What must stand in the prompt of the second call."""


def find_dialect(render: Render, format: Format, name: str) -> Dialect:
    """Return the first dialect in which a template loses nothing of a call and its result.

    Some templates drop the reasoning of earlier calls whatever its form; that is their way.

    Raises:
        ModelError: it cannot show calls and results at all.
    """
    found: Dialect | None = None
    told = _where_tools(render)
    for dialect in _every(told, format):
        text = _tried(render, dialect, TRIED, format)
        if text is None:
            continue
        shows = _shows_thought(text, format, dialect)
        found = dialect if shows else found or dialect
        if shows:
            break
    if found is None:
        raise ModelError(
            f"the chat template of {name} cannot show tool calls and what came back: choose a "
            f"model that was trained to call tools"
        )
    both = TRIED._replace(answer="answer-zero")
    return found._replace(apart=_tried(render, found, both, format) is not None)


def _where_tools(render: Render) -> Literal["tools", "functions", ""]:
    user = {"role": "user", "content": "user-zero"}
    places: tuple[Literal["tools", "functions"], ...] = ("tools", "functions")
    for place in places:
        try:
            text = render(Dialect(tools=place).first([user], [TOOL.schema]), [TOOL.schema])
        except ModelError:
            continue
        if TOOL.name in text:
            return place
    return ""


def _every(tools: Literal["tools", "functions", ""], format: Format) -> Iterator[Dialect]:
    """Yield all dialects, the most usual ones first."""
    places = PLACES if format.open else PLACES[:-1]
    for result, calls, empty, arguments, reasoning in product(
        ("tool", "environment"),
        ("tool_calls", "function_calls"),
        ("", None),
        ("object", "text"),
        places,
    ):
        yield Dialect(reasoning, calls, arguments, empty, result, tools)


def _tried(render: Render, dialect: Dialect, said: Said, format: Format) -> str | None:
    """Return a second call's prompt in a dialect from the first turn on; None if it lacks any."""
    turns = [
        {"role": "user", "content": "user-zero"},
        dialect.turn(said, format),
        *dialect.results([ToolResult("result-zero", "tool_zero", "zero00000")]),
    ]
    schemas = [TOOL.schema]
    try:
        _, user, text = render(dialect.first(turns, schemas), schemas).partition("user-zero")
    except ModelError:
        return None
    return text if user and all(one in text for one in KEPT) else None


def _shows_thought(text: str, format: Format, dialect: Dialect) -> bool:
    """Return whether a thought is there, and its tags are not written twice."""
    before, _, _ = text.partition("result-zero")
    twice = dialect.reasoning == "content" and before.count(format.close) != 1
    return TRIED.thought in before and not twice


def _object(arguments: str) -> dict[str, Any] | None:
    """Return arguments as an object, or None if they are none."""
    try:
        found = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and not nested_too_deeply(found) else None


def _bare(text: str) -> str:
    """Return the text of calls without the tags around them."""
    tag = next((tag for tag in TAGS if text.strip().startswith(tag)), "")
    inner = text.strip().removeprefix(tag)
    return inner.removesuffix(TAGS[tag]) if tag else inner
