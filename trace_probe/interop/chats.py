"""Chats in JSON as OpenAI's and Anthropic's interfaces have them, and ATIF trajectories.

A chat is an object with ``messages``; the last ones may stand apart, as the ``response`` of a
server. Blocks of Anthropic's kind (``thinking``, ``tool_use``, ``tool_result``), lists of
contents, and reasoning under the names that servers give it are read alike.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from trace_probe.errors import TraceError
from trace_probe.interop.conversation import Message, Part, Turn, turns_of
from trace_probe.interop.fields import Line
from trace_probe.trace import Finish

FINISHES: dict[str, Finish] = {
    **dict.fromkeys(("stop", "end_turn", "stop_sequence", "eos", "tool_calls"), "stop"),
    **dict.fromkeys(("tool_use", "function_call", "completed"), "stop"),
    **dict.fromkeys(("length", "max_tokens", "model_length", "incomplete"), "length"),
}
"""What the reasons that servers and logs give for an end amount to."""
ROLES: dict[str, Any] = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "agent", "model"), "assistant"),
    **dict.fromkeys(("tool", "function", "environment"), "tool"),
}
CHAT, BLOCKS, ATIF = "OpenAI chat", "Anthropic chat", "ATIF trajectory"
REASONING = ("reasoning_content", "reasoning", "thinking")
_ANTHROPIC = frozenset({"thinking", "redacted_thinking", "tool_use", "tool_result"})
_PLAIN = frozenset(
    ("text", "input_text", "output_text", "refusal", "image", "image_url", "input_image")
    + ("audio", "input_audio", "video", "document", "file", "input_file")
)
"""Blocks that are texts, or so large that only their kind is kept."""
_TEXTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}


@dataclass(frozen=True)
class Chat:
    """A chat of whatever format."""

    shape: str
    """What it was taken for, such as ``Anthropic chat``."""
    turns: tuple[Turn, ...]
    id: str = ""


def chat_of(line: Line) -> Chat | None:
    """Return the chat that a line holds, None if it holds none.

    Where the messages are only what the model read, what it wrote is the line's reasoning and
    answer.

    Raises:
        TraceError: it holds one, but of a form that is not known.
    """
    record = line.record
    if is_atif(record):
        return _trajectory(record)
    given = next((record[n] for n in line.names("messages") if _is_chat(record.get(n))), None)
    if given is None:
        return None
    objects = [_object(one, f"message {n}") for n, one in enumerate(given, start=1)]
    answer, ids = _response(record)
    messages, told = _read([*objects, *answer])
    if system := _texts(record.get("system")):
        messages.insert(0, Message("system", (Part("text", system),)))
        told = {place + 1: known for place, known in told.items()}
    if answer and told:
        told[max(told)] |= ids
    turns = turns_of(messages, told)
    if not turns:
        found = [line.contents(name) for name in ("reasoning", "answer")]
        thought, answered = (one.text if one else "" for one in found)
        parts = (Part("reasoning", thought), Part("text", answered))
        turns = turns_of([*messages, Message("assistant", parts)])
    tools = tools_of(record.get("tools"))
    turns = [replace(turn, tools=tools) for turn in turns]
    shape = BLOCKS if _ANTHROPIC & set(_kinds(objects)) else CHAT
    return Chat(shape, tuple(turns))


def model_of(line: Line) -> str:
    """Return which model wrote a line, as far as it says so."""
    named = next((line.record.get(n) for n in line.names("model") if line.record.get(n)), None)
    if named is None and isinstance(line.record.get("agent"), dict):
        named = line.record["agent"].get("model_name")
    return named if isinstance(named, str) else "unknown"


def tools_of(given: object) -> tuple[dict[str, Any], ...]:
    """Return schemas of tools as OpenAI has them, from that form or Anthropic's."""
    found = [one for one in given if isinstance(one, dict)] if isinstance(given, list) else []
    functions = [one["function"] for one in found if isinstance(one.get("function"), dict)]
    functions += [
        {
            "name": one["name"],
            "description": one.get("description", ""),
            "parameters": one.get("input_schema") or one.get("parameters") or {},
        }
        for one in found
        if "function" not in one and isinstance(one.get("name"), str)
    ]
    return tuple({"type": "function", "function": function} for function in functions)


def _is_chat(value: object) -> bool:
    return isinstance(value, list) and any(
        isinstance(one, dict) and ("role" in one or "from" in one) for one in value
    )


def _read(objects: Iterable[Mapping[str, Any]]) -> tuple[list[Message], dict[int, dict[str, Any]]]:
    """Return messages, and what is known of their turns by their places."""
    messages: list[Message] = []
    told: dict[int, dict[str, Any]] = {}
    for one in objects:
        for message in _messages(one):
            if message.role == "assistant":
                told[len(messages)] = {"finish": _finish(one), "agent": _said(one, "name")}
            messages.append(message)
    return messages, told


def _object(value: object, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TraceError(f"{name} is {value!r:.40}, expected an object")
    return value


def _list(value: Mapping[str, Any], name: str) -> list[Any]:
    """Return the list in a field; an empty one if nothing is there."""
    found = value.get(name) or []
    if not isinstance(found, list):
        raise TraceError(f"field {name!r} is {found!r:.40}, expected a list")
    return found


def _said(value: Mapping[str, Any], *names: str) -> str:
    """Return the first of these fields that is filled, as text."""
    found = next((value[name] for name in names if value.get(name)), "")
    if not isinstance(found, str | int):
        raise TraceError(f"field {names[0]!r} is {found!r:.40}, expected a text")
    return str(found)


def _finish(message: Mapping[str, Any]) -> Finish:
    return FINISHES.get(str(message.get("finish_reason") or message.get("stop_reason")), "unknown")


def _kinds(messages: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the kinds of all blocks in messages."""
    for message in messages:
        content = message.get("content")
        for block in content if isinstance(content, list) else ():
            yield str(block.get("type")) if isinstance(block, dict) else ""


def _response(record: Mapping[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the message of a server's response beside the chat, and its ids, if there is one."""
    whole = record.get("response", record)
    if not isinstance(whole, dict):
        return [], {}
    choice = _choice(whole)
    if isinstance(choice.get("message"), dict):
        reason = {"finish_reason": choice.get("finish_reason")}
        return [{"role": "assistant", **reason, **choice["message"]}], ids_in(whole)
    if whole is not record and "content" in whole:
        return [{"role": "assistant", **whole}], {}
    return [], {}


def _choice(response: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the first choice of a server's response; an empty one if there is none."""
    choices = response.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, Mapping) else {}


def ids_in(response: Mapping[str, Any]) -> dict[str, Any]:
    """Return the exact ids in a server's response, as fields of a `Turn`."""
    choice = _choice(response)
    prompt = response.get("prompt_token_ids") or choice.get("prompt_token_ids")
    written = response.get("token_ids") or choice.get("token_ids")
    return {"prompt_ids": _ids(prompt), "token_ids": _ids(written)}


def _ids(value: object) -> tuple[int, ...]:
    """Return token ids; none if there are none, or if they are something else."""
    if not isinstance(value, list) or not all(
        type(one) is int and 0 <= one < 1 << 31 for one in value
    ):
        return ()
    return tuple(value)


def _messages(raw: Mapping[str, Any]) -> Iterator[Message]:
    """Yield what one object says: a message, and the results of tools that it holds.

    Raises:
        TraceError: it is of a form that is not known.
    """
    given = str(raw.get("role") or raw.get("from") or "")
    role = ROLES.get(given.lower())
    if role is None:
        raise TraceError(f"a message has the role {given!r}: known are {', '.join(ROLES)}")
    content = raw.get("content", raw.get("value"))
    if role == "tool" and isinstance(content, int | float):  # what a function gave back, as it is
        content = json.dumps(content)
    blocks = _blocks(content)
    own = _said(raw, "id", "uuid")
    if role == "tool":
        name, call = _said(raw, "name", "tool_name"), _said(raw, "tool_call_id", "call_id")
        told = _result(blocks)
        yield Message("tool", told, own, name, call, _failed(raw.get("error"), told))
        return
    results = [_tool_result(block) for block in blocks if _is_result(block)]
    said = [block for block in blocks if not _is_result(block)]
    parts = [part for block in said for part in _parts(block)]
    if role == "assistant":
        yield Message(role, (*_reasoning(raw), *parts, *_calls(raw)), own)
        yield from results  # of tools that a server ran itself
        return
    yield from results
    if parts or not results:
        yield Message(role, tuple(parts), own)


def _is_result(block: Mapping[str, Any]) -> bool:
    return str(block.get("type")).endswith("tool_result")


def _tool_result(block: Mapping[str, Any]) -> Message:
    """Return what a tool gave back, from a block of Anthropic's kind."""
    given = block.get("content")
    content = (
        _result(_blocks(given)) if isinstance(given, str | list) else (Part("text", _texts(given)),)
    )
    error = _failed(block.get("is_error"), content)
    return Message("tool", content, call_id=_said(block, "tool_use_id"), error=error)


def _failed(error: object, content: Sequence[Part]) -> str:
    """Return what went wrong in a tool: in words, or, where there is but a mark, what it said."""
    if not isinstance(error, bool):
        return _texts(error)
    return "\n".join(part.text for part in content) if error else ""


def _blocks(content: object) -> list[dict[str, Any]]:
    """Return a content as a list of blocks."""
    if content is None:
        return []
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if isinstance(content, dict):
        return [content]
    if not isinstance(content, list):
        raise TraceError(f"a message's content is {content!r:.40}, expected a text or a list")
    return [
        {"type": "text", "text": b} if isinstance(b, str) else _object(b, "a block")
        for b in content
    ]


def _texts(value: object) -> str:
    """Return a text that may come as a list of blocks, or as something else, which is JSON then."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "\n".join(part.text for block in _blocks(value) for part in _parts(block))
    return json.dumps(value, ensure_ascii=False)


def _result(blocks: Sequence[Mapping[str, Any]]) -> tuple[Part, ...]:
    """Return what a tool gave back as text; of an object without a text its JSON."""
    return tuple(
        Part("text", json.dumps(block, ensure_ascii=False))
        if str(block.get("type")) not in _PLAIN and "text" not in block
        else part
        for block in blocks
        for part in _parts(block)
    )


def _parts(block: Mapping[str, Any]) -> Iterator[Part]:
    """Yield what one block says; of a picture or a file only its kind."""
    kind = str(block.get("type") or "text")
    if kind in _TEXTS:
        yield Part("text", _texts(block.get(_TEXTS[kind])))
    elif kind in ("thinking", "reasoning"):
        thought = _texts(block.get("thinking") or block.get("reasoning") or block.get("text"))
        sealed = bool(block.get("signature") or block.get("redacted"))
        yield Part("reasoning", thought, hidden=not thought and sealed)
    elif kind == "redacted_thinking":
        yield Part("reasoning", hidden=True)
    elif kind in ("tool_use", "server_tool_use"):
        yield Part("call", _arguments(block.get("input")), _said(block, "name"), _said(block, "id"))
    else:
        yield Part("text", f"[{kind}]")


def _reasoning(message: Mapping[str, Any]) -> Iterator[Part]:
    """Yield the reasoning that stands beside the content of a message, under its first name."""
    for name in REASONING:
        if thought := _texts(message.get(name)):
            yield Part("reasoning", thought)
            return
    details = message.get("reasoning_details")
    for detail in details if isinstance(details, list) else ():
        one = _object(detail, "a reasoning detail")
        thought = _texts(one.get("text") or one.get("summary"))
        yield Part("reasoning", thought, hidden=not thought)


def _calls(message: Mapping[str, Any]) -> Iterator[Part]:
    """Yield the tool calls that stand beside the content of a message."""
    if message.get("function_call"):
        yield from calls_of([{"function": message["function_call"]}])
    else:
        yield from calls_of(_list(message, "tool_calls"))


def calls_of(given: Sequence[object]) -> Iterator[Part]:
    """Yield tool calls, with name and arguments in an object of their own or beside each other."""
    for one in given:
        call = _object(one, "a tool call")
        inner = call.get("function")
        function = inner if isinstance(inner, dict) else call
        name = inner if isinstance(inner, str) else _said(function, "name", "function_name")
        if not name:
            raise TraceError(f"a tool call has no name: {call!r:.60}")
        arguments = function.get("arguments", function.get("input"))
        yield Part("call", _arguments(arguments), name, _said(call, "id", "tool_call_id"))


def _arguments(value: object) -> str:
    """Return arguments as they are written: a text as it is, else as JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def is_atif(record: Mapping[str, Any]) -> bool:
    """Return whether an object is a trajectory in the Agent Trajectory Interchange Format."""
    named = str(record.get("schema_version", "")).startswith("ATIF-v1.")
    return named and isinstance(record.get("steps"), list)


def _trajectory(record: Mapping[str, Any]) -> Chat:
    """Return an ATIF trajectory.

    Steps that were copied from another one, or that no model made, are part of the prompt.
    """
    messages: list[Message] = []
    told: dict[int, dict[str, Any]] = {}
    for number, raw in enumerate(record["steps"], start=1):
        step = _object(raw, f"step {number}")
        message = _step(step)
        told[len(messages)] = _metrics(step)
        messages.append(message)
        observation = _object(step.get("observation") or {}, "an observation")
        for result in _list(observation, "results"):
            one = _object(result, "a result")
            messages.append(
                Message(
                    "tool",
                    _result(_blocks(one.get("content"))),
                    call_id=_said(one, "source_call_id"),
                )
            )
    agent = _object(record.get("agent") or {}, "the agent")
    tools = tools_of(agent.get("tool_definitions"))
    turns = [replace(turn, tools=tools) for turn in turns_of(messages, told)]
    return Chat(ATIF, tuple(turns), _said(record, "trajectory_id", "session_id"))


def _step(step: Mapping[str, Any]) -> Message:
    role = ROLES.get(str(step.get("source")))
    if role not in ("system", "user", "assistant"):
        raise TraceError(
            f"a step has the source {step.get('source')!r:.40}, expected agent or user"
        )
    parts = [part for block in _blocks(step.get("message")) for part in _parts(block)]
    if role == "assistant":
        parts = [*_reasoning(step), *parts, *calls_of(_list(step, "tool_calls"))]
    copied = bool(step.get("is_copied_context")) or step.get("llm_call_count") == 0
    return Message(role, tuple(parts), _said(step, "step_id"), scripted=copied)


def _metrics(step: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a step says of its ids and its end, as fields of a `Turn`."""
    metrics = _object(step.get("metrics") or {}, "the metrics of a step")
    return {
        "prompt_ids": _ids(metrics.get("prompt_token_ids")),
        "token_ids": _ids(metrics.get("completion_token_ids")),
        "finish": _finish(_object(step.get("extra") or {}, "the extra of a step")),
    }
