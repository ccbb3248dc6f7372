"""A chat with a model, whatever format it came in: messages and model calls.

Every importer of chats makes these values, and `interop.episodes` makes traces of them. What a
model wrote becomes text in one form of ours, with the channel of each part known from the format:

    <think> reasoning </think> ¶ text ¶ <tool_call> {"name": …, "arguments": …} </tool_call>
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, groupby
from typing import Any, Literal, NamedTuple, overload

from trace_probe.errors import TraceError
from trace_probe.files import nested_too_deeply
from trace_probe.text.channels import Format, Split, format_alone, format_of, split
from trace_probe.text.parts import CLOSE, OPEN, answers_in, put_together, thought_in
from trace_probe.text.tool_calls import meaning, parse_calls, without, write_call
from trace_probe.trace import Channel, Finish, Thought, ToolResult

Kind = Literal["reasoning", "text", "call"]
HIDDEN = "[hidden]"
"""What stands for reasoning that was there but is not in the file."""
GAP = "\n\n"
_JOIN: dict[Kind, str] = {"reasoning": "\n\n", "text": "\n"}


@dataclass(frozen=True)
class Part:
    """A piece of a message."""

    kind: Kind
    text: str = ""
    """Of a call its arguments, as the model wrote them."""
    name: str = ""
    """Of the tool that is called."""
    id: str = ""
    """Of the call, by which its result refers to it."""
    hidden: bool = False
    """Whether this is reasoning that was there, but is encrypted or left out."""
    note: str = field(default="", compare=False)
    """What could not be read in it, or empty."""

    @property
    def arguments(self) -> Any:  # noqa: ANN401 - JSON
        """Return the arguments of a call as JSON says them, else as they were written."""
        try:
            found = json.loads(self.text or "{}")
        except (ValueError, RecursionError):
            return self.text
        return self.text if nested_too_deeply(found) else found


def said_by(part: Part) -> tuple[str, object]:
    """Return what two ways of saying a part have in common: of calls their `meaning`."""
    return meaning(part.name, part.arguments) if part.kind == "call" else ("", part)


@dataclass(frozen=True)
class Message:
    """One message of a chat."""

    role: Literal["system", "user", "assistant", "tool"]
    parts: tuple[Part, ...]
    id: str = ""
    name: str = ""
    """Of the tool, in a result."""
    call_id: str = ""
    """Of the call that this result answers."""
    error: str = ""
    """What went wrong in the tool, or empty."""
    scripted: bool = False
    """Whether it stands for the model's but was written by something else."""
    note: str = field(default="", compare=False)
    """What could not be read in it, or empty."""

    @property
    def text(self) -> str:
        """Return what it says, without thoughts and calls."""
        return "\n".join(part.text for part in self.parts if part.kind == "text")

    @property
    def empty(self) -> bool:
        """Return whether it says nothing at all."""
        return not any(part.text or part.hidden or part.name for part in self.parts)

    @property
    def calls(self) -> tuple[Part, ...]:
        """Return its tool calls."""
        return tuple(part for part in self.parts if part.kind == "call")


class Before(Sequence[Message]):
    """The messages of a chat before a place. They are not copied: a chat may have 10,000 calls."""

    def __init__(self, chat: Sequence[Message], stop: int) -> None:
        self.chat, self.stop = chat, stop

    def __len__(self) -> int:
        """Return the number of messages."""
        return self.stop

    @overload
    def __getitem__(self, place: int) -> Message: ...

    @overload
    def __getitem__(self, place: slice) -> tuple[Message, ...]: ...

    def __getitem__(self, place: int | slice) -> Message | tuple[Message, ...]:
        """Return a message, or some of them."""
        if isinstance(place, slice):
            return tuple(self.chat[at] for at in range(*place.indices(self.stop)))
        return self.chat[range(self.stop)[place]]


def goes_on(read: Sequence[Message], before: Sequence[Message], wrote: Message) -> bool:
    """Return whether messages begin with those that the call before read, and what it wrote."""
    known = len(before)
    if isinstance(read, Before) and isinstance(before, Before) and read.chat is before.chat:
        return len(read) > known and read[known] == wrote
    return tuple(read[: known + 1]) == (*before, wrote)


@dataclass(frozen=True)
class Turn:
    """One model call: the messages that it read, and the one that it wrote."""

    read: Sequence[Message]
    wrote: Message
    finish: Finish = "unknown"
    closed: bool | None = None
    """Whether its reasoning came to its end, where the file says so."""
    agent: str = ""
    results: tuple[ToolResult, ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()
    """Schemas of what it might call, as OpenAI has them; templates write them into prompts."""
    prompt_ids: tuple[int, ...] = ()
    """Exact ids of what it read and wrote; empty where the format has none."""
    token_ids: tuple[int, ...] = ()


class Written(NamedTuple):
    """What a model wrote in one call, as text."""

    text: str
    cut: Split
    calls: tuple[tuple[Part, int, int], ...]
    """The tool calls that came apart from the text, with the characters ``[start, stop)``."""


def turns_of(
    messages: Sequence[Message], told: Mapping[int, Mapping[str, Any]] | None = None
) -> list[Turn]:
    """Return the model calls of a chat: one for each message that the model wrote.

    What the assistant says before anybody has spoken to it is part of the prompt. A result goes
    to the call that it names, else to the last one before it. `told` holds further fields of a
    `Turn` by the place of its message.
    """
    turns: list[Turn] = []
    results: list[list[ToolResult]] = []
    owner: dict[str, tuple[int, str]] = {}
    spoken_to = False
    for place, message in enumerate(messages):
        if message.role == "assistant" and spoken_to and not message.scripted:
            owner.update({call.id: (len(turns), call.name) for call in message.calls if call.id})
            more = (told or {}).get(place, {})
            turns.append(Turn(Before(messages, place), message, **more))
            results.append([])
        elif message.role == "tool" and turns:
            turn, name = owner.get(message.call_id, (len(turns) - 1, ""))
            results[turn].append(result_of(message, name))
        spoken_to = spoken_to or message.role in ("user", "tool")
    return [replace(turn, results=tuple(given)) for turn, given in zip(turns, results, strict=True)]


def result_of(message: Message, name: str = "") -> ToolResult:
    """Return what a tool gave back; `name` is that of the tool if the message does not say it."""
    return ToolResult(message.text, message.name or name, message.call_id, message.error)


def asked(turns: Sequence[Turn]) -> tuple[str | None, str]:
    """Return the system message, if there is one, and what the user says before the first call.

    Raises:
        TraceError: the model did not write anything, or nobody asked for anything.
    """
    if not turns:
        raise TraceError("no message of the model after a user's: leave it out")
    said = {
        role: "\n\n".join(one.text for one in turns[0].read if one.role == role and one.text)
        for role in ("system", "user")
    }
    if not said["user"].strip():
        raise TraceError("no prompt: the chat needs a user's message with a text")
    return said["system"] or None, said["user"]


def written(turn: Turn, model: str = "", *, last: bool = True) -> Written:
    """Return what a model wrote in a call, as text in channels.

    Where the format gives no reasoning apart, tags in the text say where it is. `last` says
    whether this is the last call of an episode: an earlier thought that is followed by more came
    to its end.
    """
    format = format_of(None, model)
    parts = _without_twins(_merged(turn.wrote.parts), format)
    thoughts = [part for part in parts if part.kind == "reasoning"]
    alone = parts[0].text if parts == thoughts and len(parts) == 1 and not turn.closed else ""
    if found := thought_in(alone, format):  # a server took a call for reasoning
        pieces = [(channel, alone[start:stop], None) for channel, start, stop in found]
        return _put_together([("markup", OPEN, None), *pieces], "closed")
    if any(part.hidden or part.text.strip() for part in thoughts):
        shown = [p for p in parts if p.kind != "reasoning" or p.hidden or p.text.strip()]
        thought: Thought = "closed" if _ended(shown, turn, last) else "truncated"
        return _put_together(_pieces(shown, thought, format), thought)
    calls = [part for part in parts if part.kind == "call"]
    text = "\n".join(part.text for part in parts if part.kind == "text")
    ranges, thought = _by_tags(text, model, turn.finish)
    if thoughts and thought in ("absent", "not_delimited"):
        thought = "empty"
    if calls and thought == "truncated":
        thought = "closed"
    if {part.channel for part in ranges} <= {"answer"}:  # no tags: the order is that of the parts
        others = [part for part in parts if part not in thoughts]
        return _put_together(_pieces(others, thought, format), thought)
    said = [(channel, text[start:stop], None) for channel, start, stop in ranges]
    return _put_together([*said, *_calls(calls, after=text)], thought)


def _merged(parts: Iterable[Part]) -> list[Part]:
    """Return parts with neighbours of one kind joined and those that are empty left out."""
    filled = [p for p in parts if p.text or p.hidden or p.kind == "call"]
    merged: list[Part] = []
    for (kind, hidden), group in groupby(filled, key=lambda part: (part.kind, part.hidden)):
        same = list(group)
        if kind == "call" or hidden:
            merged += same
        else:
            merged.append(Part(kind, _JOIN[kind].join(part.text for part in same)))
    return merged


def _without_twins(parts: list[Part], format: Format) -> list[Part]:
    """Leave out calls that came apart where a text holds the same call: it was made once."""
    texts = [part.text for part in parts if part.kind == "text"]
    cuts = (
        (text, one) for text in texts for one in answers_in(text, format) if one.channel == "action"
    )
    held = [
        meaning(call.name, call.arguments)
        for text, (_, start, stop) in cuts
        for call in parse_calls(text, start, stop)
    ]
    return without(parts, held, said_by)


def _ended(parts: Sequence[Part], turn: Turn, last: bool) -> bool:
    """Return whether the last thought of a message came to its end."""
    if turn.closed is not None:
        return turn.closed
    others = [part for part in parts if part.kind == "call" or part.text.strip()]
    if not last or others[-1:] and others[-1].kind != "reasoning":
        return True
    alone = all(part.kind == "reasoning" for part in parts)
    return turn.finish == "stop" if not alone else parts[-1].hidden and turn.finish != "length"


_Piece = tuple[Channel, str, Part | None]


def _pieces(parts: Sequence[Part], thought: Thought, format: Format) -> list[_Piece]:
    """Return reasoning, text and calls in their order, with tags around them."""
    pieces: list[_Piece] = []
    for number, part in enumerate(parts):
        before = pieces[-1][1] if pieces else "\n"
        gap = "" if before.endswith("\n") else GAP if part.kind == "reasoning" else "\n"
        cut_off = thought == "truncated" and number == len(parts) - 1
        if part.kind == "call":
            pieces += _calls([part], after=before)
        elif part.kind == "text":
            pieces += [(c, part.text[a:b], None) for c, a, b in answers_in(part.text, format)]
        elif part.text.strip():
            close = "" if cut_off else CLOSE
            pieces += [("markup", gap + OPEN, None), ("reasoning", part.text, None)]
            pieces.append(("markup", close, None))
        else:
            pieces.append(("markup", f"{gap}{OPEN}{HIDDEN}{CLOSE}", None))
    return pieces


def _calls(calls: Sequence[Part], after: str) -> list[_Piece]:
    """Return tool calls as text, each on lines of its own."""
    pieces: list[_Piece] = []
    for call in calls:
        if after and not after.endswith("\n"):
            pieces.append(("markup", "\n", None))
        after = write_call(call.name, call.text or "{}")
        pieces.append(("action", after, call))
    return pieces


def _put_together(pieces: Iterable[_Piece], thought: Thought) -> Written:
    every = list(pieces)
    text, ranges = put_together([(channel, part) for channel, part, _ in every])
    stops = accumulate(len(part) for _, part, _ in every)
    calls = tuple(
        (call, stop - len(part), stop)
        for (_, part, call), stop in zip(every, stops, strict=True)
        if call is not None
    )
    return Written(text, Split(ranges, thought), calls)


def _by_tags(text: str, model: str, finish: Finish) -> Split:
    """Return the channels of a text in which tags alone tell reasoning from the rest."""
    return split(text, 0, format_alone(text, format_of(None, model), finish), prefilled=False)
