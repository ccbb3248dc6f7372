"""What a model server answered, checked field by field: it may send anything."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trace_probe.model.keys import without_key
from trace_probe.text.contents import FINISHES, contents
from trace_probe.trace import Finish
from trace_probe.visible import whole

FIELDS = ("reasoning_content", "reasoning")
"""What servers call the text of reasoning."""
MOST_TOKENS = 1 << 32
"""A count beyond this is none."""


class Odd(ValueError):
    """An answer is no chat completion; asked again, the server may give one."""


@dataclass(frozen=True)
class Reply:
    """What a server answered."""

    text: str
    reasoning: str | None
    """None if the server gave no reasoning apart from the text."""
    finish: Finish
    refusal: str = ""
    prompt_tokens: int | None = None
    """None where the server gave no count, or one that cannot be."""
    completion_tokens: int | None = None
    prompt_ids: tuple[int, ...] = ()
    """Exact ids, where a server returns them (vLLM does if asked for ``return_token_ids``)."""
    token_ids: tuple[int, ...] = ()
    calls: tuple[tuple[str, str, str], ...] = ()
    """Name, arguments and id of each tool call that the server gave apart from the text."""
    named: str = ""
    """The field in which reasoning came; in it a server wants it back."""


def read_reply(body: object) -> Reply:
    """Return what a chat completion, or a completion, says; a key in it is struck out.

    Reasoning is looked for under the names that servers give it: ``reasoning_content``
    (SGLang, DeepSeek, llama.cpp), ``reasoning`` (vLLM, OpenRouter), ``reasoning_details``, and
    in the thinking chunks of a content that is a list (Mistral).

    Raises:
        Odd: it is neither.
    """
    whole = _object(body, "the answer")
    choices = whole.get("choices")
    if not isinstance(choices, list) or not choices:
        raise Odd("it has no choices")
    choice = _object(choices[0], "its choice")
    completion = {"content": choice.get("text")} if "message" not in choice else choice["message"]
    message = _object(completion, "its message")
    usage = whole.get("usage")
    usage = usage if isinstance(usage, Mapping) else {}
    finish = choice.get("finish_reason")
    filtered = "filtered" if finish == "content_filter" else ""
    content = contents(message.get("content") or "")
    if content is None:
        raise Odd(f"its content is {message['content']!r:.40}, not a text")
    return Reply(
        text=_text(content.text, "content"),
        reasoning=_reasoning(message) or _text(content.reasoning, "content") or None,
        finish=FINISHES.get(str(finish), "unknown"),
        refusal=_text(message.get("refusal"), "refusal") or filtered,
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
        prompt_ids=_ids(whole.get("prompt_token_ids") or choice.get("prompt_token_ids")),
        token_ids=_ids(choice.get("token_ids")),
        calls=tuple(_calls(message.get("tool_calls"))),
        named=next((name for name in FIELDS if message.get(name)), ""),
    )


def _object(value: object, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise Odd(f"{name} is {value!r:.40}, not an object")
    return value


def _text(value: object, name: str) -> str:
    """Return a text, without the key of the environment; None is an empty one."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Odd(f"its {name} is {value!r:.40}, not a text")
    if whole(value) != value:
        raise Odd(f"its {name} holds half a surrogate pair, which is no text")
    return without_key(value)


def _reasoning(message: Mapping[str, Any]) -> str | None:
    for name in FIELDS:
        if isinstance(message.get(name), str) and message[name]:
            return _text(message[name], name)
    details = message.get("reasoning_details") or []
    if not isinstance(details, Sequence):
        raise Odd(f"its reasoning_details are {details!r:.40}, not a list")
    parts = (_object(detail, "a reasoning detail").get("text") for detail in details)
    return "".join(_text(part, "reasoning detail") for part in parts) or None


def _calls(value: object) -> Iterator[tuple[str, str, str]]:
    """Yield the tool calls of a message."""
    if not isinstance(value or [], list):
        raise Odd(f"its tool_calls are {value!r:.40}, not a list")
    for one in value or []:  # type: ignore[attr-defined]
        call = _object(one, "a tool call")
        function = _object(call.get("function"), "the function of a tool call")
        arguments = function.get("arguments")
        if isinstance(arguments, Mapping):  # as some servers give them
            arguments = json.dumps(arguments, ensure_ascii=False)
        yield (
            _text(function.get("name"), "tool's name"),
            _text(arguments, "tool call's arguments") or "{}",
            _text(call.get("id"), "tool call's id"),
        )


def _count(value: object) -> int | None:
    """Return a count of tokens; None if it cannot be one."""
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not whole:
        return None
    return int(value) if 0 <= value <= MOST_TOKENS else None  # type: ignore[call-overload, operator]


def _ids(value: object) -> tuple[int, ...]:
    """Return token ids; none if the server gave none."""
    given = value or ()
    if not isinstance(given, list | tuple) or not all(
        type(one) is int and 0 <= one < 1 << 31 for one in given
    ):
        raise Odd(f"its token ids are {given!r:.40}, not a list of whole numbers")
    return tuple(given)
