"""Tools of a client's agent, as OpenAI's protocol has them: what is asked, and what is answered."""

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trace_probe.model.dialect import Said, Turn
from trace_probe.model.tokenizer import ChatTokenizer
from trace_probe.text.python_calls import Call
from trace_probe.text.tool_calls import parse_calls
from trace_probe.trace import ToolResult


def prompt_of(
    chat: ChatTokenizer, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
) -> list[int]:
    """Return the ids of a conversation in which tools may be called, in the way of the template.

    Raises:
        ModelError: the chat template cannot show tools, or refuses the messages.
    """
    turns = chat.dialect.first([_turn(chat, one) for one in messages], tools)
    return list(chat.encode(chat.conversation(turns, tools=tools)))


def _turn(chat: ChatTokenizer, message: Mapping[str, Any]) -> Turn:
    if message["role"] == "tool":
        name, call = message["name"], message["tool_call_id"]
        return chat.dialect.results([ToolResult(message["content"], name, call)])[0]
    if message["role"] != "assistant":
        return dict(message)
    calls = message.get("tool_calls", ())
    written = "".join(_written(*one) for one in calls)
    said = Said(message.get("reasoning", ""), message["content"], calls, written)
    return chat.dialect.turn(said, chat.format)


def _written(name: str, arguments: str, _: str) -> str:
    return f"{name}({arguments})"


def calls_in(text: str, ranges: Sequence[tuple[str, int, int]]) -> Iterator[Call]:
    """Yield the tool calls that a model wrote, by the channels of its text."""
    for channel, start, stop in ranges:
        if channel == "action":
            yield from parse_calls(text, start, stop)


def as_answered(calls: Sequence[Call]) -> list[dict[str, Any]]:
    """Return tool calls as a message of an answer has them."""
    return [
        {
            "index": index,
            "id": call.id or f"call_{secrets.token_hex(12)}",
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments or json.dumps({})},
        }
        for index, call in enumerate(calls)
    ]
