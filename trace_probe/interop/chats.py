"""Chats in JSON as OpenAI's and Anthropic's interfaces have them, and ATIF trajectories.

A chat is an object with ``messages``; the last ones may stand apart, as the ``response`` of a
server. Blocks of Anthropic's kind (``thinking``, ``tool_use``, ``tool_result``), lists of
contents, and reasoning under the names that servers give it are read alike.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from trace_probe.errors import TraceError
from trace_probe.interop.blocks import (
    blocks_of,
    calls_beside,
    calls_of,
    failed,
    is_result,
    parts_of,
    reasoning_beside,
    refusal_beside,
    result_of,
    said,
    texts_of,
    tool_result,
    unread,
)
from trace_probe.interop.bounds import check_words
from trace_probe.interop.conversation import Message, Part, Turn, turns_of
from trace_probe.interop.fields import Line
from trace_probe.text.contents import FINISHES
from trace_probe.trace import Finish

ROLES: dict[str, Any] = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "agent", "model"), "assistant"),
    **dict.fromkeys(("tool", "function", "environment", "ipython"), "tool"),
}
CHAT, BLOCKS, ATIF = "OpenAI chat", "Anthropic chat", "ATIF trajectory"
_ANTHROPIC = ("thinking", "tool_use", "tool_result")
"""How the kinds of blocks end that only Anthropic's interface has."""


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
        return _trajectory(record, line.notes)
    given = next((record[n] for n in line.names("messages") if _is_chat(record.get(n))), None)
    if given is None:
        return None
    objects = [_object(one, f"message {n}") for n, one in enumerate(given, start=1)]
    answer, ids = _response(line)
    if answer and objects and _same(objects[-1], answer[0]):
        objects.pop()  # the messages hold the response, too
    messages, told = _read([*objects, *answer])
    if system := texts_of(record.get("system")):
        messages.insert(0, Message("system", (Part("text", system),)))
        told = {place + 1: known for place, known in told.items()}
    if answer and told:
        told[max(told)] |= ids
    if not answer and (not messages or messages[-1].role != "assistant"):
        messages += _answer(line)
    shape = BLOCKS if any(kind.endswith(_ANTHROPIC) for kind in _kinds(objects)) else CHAT
    return Chat(shape, _turns(messages, told, record.get("tools"), line.notes))


def _turns(
    messages: Sequence[Message],
    told: Mapping[int, Mapping[str, Any]],
    tools: object,
    notes: list[str],
) -> tuple[Turn, ...]:
    """Return the model calls of a chat; `notes` gets what could not be read in it."""
    notes.extend(notes_on(messages))
    check_words(part.text for message in messages for part in message.parts)
    schemas = tools_of(tools)
    return tuple(replace(turn, tools=schemas) for turn in turns_of(messages, told))


def _answer(line: Line) -> Iterator[Message]:
    """Yield what the model wrote at the end of a chat, if that stands in fields of the line."""
    thought, answer = (line.spare(line.contents, name) for name in ("reasoning", "answer"))
    thoughts = [one for one in (thought, answer) if one and one.reasoning]
    reasoning = thought.text if thought and thought.text else ""
    parts = [Part("reasoning", reasoning or (thoughts[0].reasoning or "" if thoughts else ""))]
    parts.append(Part("text", answer.text if answer else ""))
    given = line.filled("calls")
    parts += calls_of(given[1] if given else None)
    if any(part.text or part.kind == "call" for part in parts):
        yield Message("assistant", tuple(parts))


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether two messages say the same."""
    ours, others = list(_messages(one)), list(_messages(other))
    return [(m.role, m.parts) for m in ours] == [(m.role, m.parts) for m in others]


def notes_on(messages: Iterable[Message]) -> Iterator[str]:
    """Yield what could not be read in messages."""
    for message in messages:
        yield from filter(None, (message.note, *(part.note for part in message.parts)))


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
                told[len(messages)] = {"finish": _finish(one), "agent": said(one, "name")}
            messages.append(message)
    return messages, told


def _object(value: object, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TraceError(f"{name} is {value!r:.40}, expected an object")
    return value


def _dict(value: object) -> Mapping[str, Any]:
    """Return an object that is not needed; an empty one if there is none."""
    return value if isinstance(value, Mapping) else {}


def _finish(message: Mapping[str, Any]) -> Finish:
    return FINISHES.get(str(message.get("finish_reason") or message.get("stop_reason")), "unknown")


def _kinds(messages: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the kinds of all blocks in messages."""
    for message in messages:
        content = message.get("content")
        for block in content if isinstance(content, list) else ():
            yield str(block.get("type")) if isinstance(block, dict) else ""


def _response(line: Line) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the message of a server's response beside the chat, and its ids, if there is one."""
    record = line.record
    whole = record.get("response", record)
    if not isinstance(whole, dict):
        return [], {}
    choice, choices = _choice(whole), whole.get("choices")
    if isinstance(choices, list) and len(choices) > 1:
        line.notes.append("Further choices of a response, not read (write each on a line)")
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
    blocks = blocks_of(raw.get("content", raw.get("value")))
    own = said(raw, "id", "uuid")
    if role == "tool":
        name, call = said(raw, "name", "tool_name"), said(raw, "tool_call_id", "call_id")
        told, note = result_of(blocks), unread(raw, ("id", "name", "tool_call_id"))
        yield Message("tool", told, own, name, call, failed(raw.get("error"), told), note=note)
        return
    results = [tool_result(block) for block in blocks if is_result(block)]
    parts = [part for block in blocks if not is_result(block) for part in parts_of(block)]
    note = unread(raw, ("id", "uuid", "name"))
    if role == "assistant":
        parts += [*refusal_beside(raw, parts), *calls_beside(raw, parts)]
        yield Message(role, (*reasoning_beside(raw), *parts), own, note=note)
        yield from results  # of tools that a server ran itself
        return
    yield from results
    if parts or not results:
        yield Message(role, tuple(parts), own, note=note)


RESULT = frozenset({"content", "source_call_id", "subagent_trajectory_ref"})
"""Fields of a result of ATIF; what has none of them is a result itself."""


def is_atif(record: Mapping[str, Any]) -> bool:
    """Return whether an object is a trajectory in the Agent Trajectory Interchange Format."""
    named = str(record.get("schema_version", "")).startswith("ATIF-v1.")
    return named and isinstance(record.get("steps"), list)


def _trajectory(record: Mapping[str, Any], notes: list[str]) -> Chat:
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
        results = _dict(step.get("observation")).get("results")
        for result in results if isinstance(results, list) else [results] if results else []:
            known = isinstance(result, dict) and not RESULT.isdisjoint(result)
            one = result if known else {"content": result}
            content = result_of(blocks_of(one.get("content")))
            messages.append(Message("tool", content, call_id=said(one, "source_call_id")))
    tools = _dict(record.get("agent")).get("tool_definitions")
    turns = _turns(messages, told, tools, notes)
    return Chat(ATIF, turns, said(record, "trajectory_id", "session_id"))


def _step(step: Mapping[str, Any]) -> Message:
    role = ROLES.get(str(step.get("source")))
    if role not in ("system", "user", "assistant"):
        raise TraceError(
            f"a step has the source {step.get('source')!r:.40}, expected agent or user"
        )
    parts = [part for block in blocks_of(step.get("message")) for part in parts_of(block)]
    if role == "assistant":
        parts = [*reasoning_beside(step), *parts, *calls_beside(step, parts)]
    copied = bool(step.get("is_copied_context")) or step.get("llm_call_count") == 0
    return Message(role, tuple(parts), said(step, "step_id"), scripted=copied)


def _metrics(step: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a step says of its ids and its end, as fields of a `Turn`."""
    metrics = _dict(step.get("metrics"))
    return {
        "prompt_ids": _ids(metrics.get("prompt_token_ids")),
        "token_ids": _ids(metrics.get("completion_token_ids")),
        "finish": _finish(_dict(step.get("extra"))),
    }
