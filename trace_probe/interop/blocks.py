"""The parts of a message as chats write them: texts, thoughts, tool calls and their results.

Whatever the model did is kept. A call in a form that is not known has no name and its JSON for
arguments; of other blocks that are not known the kind is kept. Either says so in its note.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from trace_probe.interop.conversation import Message, Part, said_by
from trace_probe.text.tool_calls import without

REASONING = ("reasoning_content", "reasoning", "thinking")
LARGE = frozenset(
    ("image", "image_url", "input_image", "audio", "input_audio", "output_audio", "video")
    + ("document", "file", "input_file", "container_upload")
)
"""Blocks so large that only their kind is kept."""
TEXTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
_CALLS = ("tool_use", "tool_call", "_call")
_RESULTS = ("tool_result", "_output")
_ARGUMENTS = ("arguments", "input", "args", "parameters")
_IDS = ("id", "tool_call_id", "call_id")
UNREAD = "Tool calls that cannot be read, kept without a name and with their JSON as arguments"


def said(value: Mapping[str, Any], *names: str) -> str:
    """Return the first of these fields that is filled, as text; nothing if it is no text."""
    found = next((value[name] for name in names if value.get(name)), "")
    return str(found) if isinstance(found, str | int | float) else ""


def unread(value: Mapping[str, Any], names: Sequence[str]) -> str:
    """Return a note on those of these fields that are filled with something else than a text."""
    bad = [n for n in names if value.get(n) and not isinstance(value[n], str | int | float)]
    return f"Not read, a field {bad[0]!r} that is no text" if bad else ""


def blocks_of(content: object) -> list[dict[str, Any]]:
    """Return a content as a list of blocks."""
    if content is None:
        return []
    if isinstance(content, dict):
        return [content]
    many = content if isinstance(content, list) else [content]
    return [
        one if isinstance(one, dict) else {"type": "text", "text": as_written(one)} for one in many
    ]


def as_written(value: object) -> str:
    """Return a text as it is, nothing for None, and all else as JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def texts_of(value: object) -> str:
    """Return a text that may come as a list of blocks, or as something else, which is JSON then."""
    if isinstance(value, list):
        return "\n".join(part.text for block in blocks_of(value) for part in parts_of(block))
    return as_written(value)


def parts_of(block: Mapping[str, Any]) -> Iterator[Part]:
    """Yield what one block says; of a picture or a file only its kind."""
    kind = str(block.get("type") or "text")
    if kind in TEXTS:
        yield Part("text", texts_of(block.get(TEXTS[kind])))
    elif kind in ("thinking", "reasoning"):
        thought = next((texts_of(block[n]) for n in (kind, "text", "summary") if block.get(n)), "")
        sealed = any(block.get(n) for n in ("signature", "redacted", "encrypted_content"))
        yield Part("reasoning", thought, hidden=not thought and sealed)
    elif kind == "redacted_thinking":
        yield Part("reasoning", hidden=True)
    elif kind.endswith(_CALLS):
        yield _call_in(block, kind)
    elif kind not in LARGE and isinstance(block.get("text"), str):
        yield Part("text", block["text"])
    else:
        note = "" if kind in LARGE else f"Blocks of which only the kind is kept: {kind:.40}"
        yield Part("text", f"[{kind}]", note=note)


def _call_in(block: Mapping[str, Any], kind: str) -> Part:
    """Return the call that a block is; without a name or arguments its kind and the rest stand."""
    named = said(block, "name")
    kind = kind.removesuffix("_call").removesuffix("_tool").removesuffix("_tool_use")
    if not named and kind in ("tool", "tool_use", "function"):
        return unreadable(block)
    rest = {k: v for k, v in block.items() if k not in ("type", "name", "status", *_IDS)}
    arguments = next((rest[name] for name in _ARGUMENTS if rest.get(name) is not None), rest)
    id = said(block, "call_id", *_IDS)
    return Part("call", as_written(arguments), named or kind, id, note=unread(block, _IDS))


def unreadable(call: object) -> Part:
    """Return a call of a form that is not known."""
    id = said(call, *_IDS) if isinstance(call, dict) else ""
    return Part("call", as_written(call), "", id, note=UNREAD)


def calls_of(given: object) -> Iterator[Part]:
    """Yield tool calls, with name and arguments in an object of their own or beside each other."""
    if isinstance(given, str) and given.strip():
        try:
            given = json.loads(given)
        except (ValueError, RecursionError):
            yield unreadable(given)
            return
    for one in given if isinstance(given, list) else [given] if given else []:
        yield _call_of(one) if isinstance(one, dict) else unreadable(one)


def _call_of(call: Mapping[str, Any]) -> Part:
    keys = ("function", "custom", str(call.get("type")))
    inner = next((call[key] for key in keys if isinstance(call.get(key), dict | str)), None)
    function = inner if isinstance(inner, dict) else call
    name = inner if isinstance(inner, str) else said(function, "name", "function_name")
    if not name:
        return unreadable(call)
    arguments = next((function[n] for n in _ARGUMENTS if function.get(n) is not None), None)
    return Part("call", as_written(arguments), name, said(call, *_IDS), note=unread(call, _IDS))


def calls_beside(message: Mapping[str, Any], held: Iterable[Part] = ()) -> Iterator[Part]:
    """Yield the tool calls beside the content of a message; one that is in `held` is no further.

    The same calls may stand there twice, as ``tool_calls`` and under the older ``function_call``.
    """
    known = [said_by(part) for part in held if part.kind == "call"]
    calls = [*calls_of(message.get("tool_calls")), *calls_of(message.get("invalid_tool_calls"))]
    yield from without(calls, known, said_by)
    older = calls_of([{"function": one} for one in [message.get("function_call")] if one])
    every = [said_by(call) for call in calls]
    yield from (one for one in older if said_by(one) not in every)


def reasoning_beside(message: Mapping[str, Any]) -> Iterator[Part]:
    """Yield the reasoning that stands beside the content of a message, under its first name."""
    for name in REASONING:
        if thought := texts_of(message.get(name)):
            yield Part("reasoning", thought)
            return
    details = message.get("reasoning_details")
    for detail in details if isinstance(details, list) else ():
        one = detail if isinstance(detail, dict) else {"text": detail}
        thought = texts_of(one.get("text") or one.get("summary"))
        yield Part("reasoning", thought, hidden=not thought)


def refusal_beside(message: Mapping[str, Any], parts: Sequence[Part]) -> Iterator[Part]:
    """Yield what the model said in other fields than the content: a refusal, or in speech."""
    speech = message.get("audio")
    spoken = speech.get("transcript") if isinstance(speech, dict) else None
    for text in (texts_of(message.get("refusal")), texts_of(spoken)):
        if text and all(part.text != text for part in parts):
            yield Part("text", text)


def is_result(block: Mapping[str, Any]) -> bool:
    """Return whether a block is what a tool gave back."""
    return str(block.get("type")).endswith(_RESULTS)


def tool_result(block: Mapping[str, Any]) -> Message:
    """Return what a tool gave back, from a block."""
    given = next((block[name] for name in ("content", "output") if block.get(name)), None)
    blocks = given if isinstance(given, list | str) else as_written(given)
    content = result_of(blocks_of(blocks)) if blocks else ()
    ids = ("tool_use_id", "call_id", "tool_call_id")
    error = failed(block.get("is_error"), content)
    note = unread(block, ids)
    return Message("tool", content, call_id=said(block, *ids), error=error, note=note)


def failed(error: object, content: Sequence[Part]) -> str:
    """Return what went wrong in a tool: in words, or, where there is but a mark, what it said."""
    if not isinstance(error, bool):
        return texts_of(error)
    return "\n".join(part.text for part in content) if error else ""


def result_of(blocks: Sequence[Mapping[str, Any]]) -> tuple[Part, ...]:
    """Return what a tool gave back as text; of an object without a text its JSON."""
    plain = LARGE | TEXTS.keys()
    return tuple(
        Part("text", json.dumps(block, ensure_ascii=False))
        if str(block.get("type")) not in plain and "text" not in block
        else part
        for block in blocks
        for part in parts_of(block)
    )
