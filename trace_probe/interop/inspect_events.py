"""What the events of an Inspect sample say of its model calls: their order, agents and branches.

The messages of a sample are only its last state: what was rolled back or compacted is not among
them. Its model events hold what each call read and wrote.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from trace_probe.interop.chats import ids_in, tools_of
from trace_probe.interop.conversation import Message, Part, Turn, result_of, turns_of
from trace_probe.text.contents import FINISHES
from trace_probe.trace import ToolResult

if TYPE_CHECKING:
    from inspect_ai.event import ModelEvent
    from inspect_ai.log import EvalSample
    from inspect_ai.model import ChatMessage

TARGET = "target"
"""The role of the model that is looked at, where an auditor or a judge speaks too, as in Petri."""
SCORING = frozenset({"scorer", "scorers"})
NOTES = "trace_probe"
"""Under which our provider notes token ids and scores in the metadata of what a model wrote."""


@dataclass
class Strand:
    """The calls of one line of events: all of a sample, or from where a branch leaves another."""

    name: str = ""
    parent: str | None = None
    """Name of the line that a branch leaves; None for the first one."""
    before: tuple[Turn, ...] = ()
    """What a branch shares with its parent."""
    own: list[Turn] = field(default_factory=list)
    model: str = ""
    """Which model it is, where it has a role of its own."""

    @property
    def turns(self) -> list[Turn]:
        """Return all calls: those that are shared with the parent, then its own."""
        return [*self.before, *self.own]

    def branch(self, name: str, at: int) -> "Strand":
        """Return a line that leaves this one after so many calls."""
        return Strand(name, self.name, tuple(self.turns[:at]), model=self.model)


def strands_of(sample: "EvalSample", role: str = "") -> list[Strand]:
    """Return the lines of model calls of a sample: the main one first, then its branches.

    `role` says whose calls are wanted; without it they are those of the role ``target``, or, where
    there is no such role, those without a role. Calls that failed, and those of scorers, are left
    out. A log without model events is read from its messages.
    """
    calls = [event for event in sample.events if event.event == "model"]
    wanted = role or (TARGET if any(call.role == TARGET for call in calls) else None)
    walk = _Walk(sample, wanted)
    for event in sample.events:
        walk.take(event)
    found = [strand for strand in walk.strands.values() if strand.own]
    if not found and not calls:
        messages = [message_of(one) for one in sample.messages]
        finish = FINISHES.get(sample.output.stop_reason if sample.output.choices else "", "unknown")
        found = [Strand(own=turns_of(messages, {len(messages) - 1: {"finish": finish}}))]
    for strand in found:
        whole = list(walk.whole(strand))
        strand.before, strand.own = tuple(whole[: len(strand.before)]), whole[len(strand.before) :]
    return found


def why_none(sample: "EvalSample") -> str:
    """Return why a sample has no call that is read, in words."""
    calls = [event for event in sample.events if event.event == "model"]
    if not calls:
        return "no model call"
    if all(call.error or not call.output.choices for call in calls):
        return "every model call failed"
    roles = ", ".join(sorted({call.role for call in calls if call.role}))
    return f"its calls are of the role {roles}: name one" if roles else "the model wrote nothing"


class _Walk:
    """The events of a sample, taken one after another."""

    def __init__(self, sample: "EvalSample", role: str | None) -> None:
        self.strands: dict[str, Strand] = {"": Strand()}
        self._done: dict[str, ToolResult] = {}
        """What the latest tool call with each id came to, by its event."""
        self._shown: dict[str, ToolResult] = {}
        """What came back by the messages, by the id of the call."""
        self._role = role
        self._spans: dict[str, Any] = {}
        self._branches = {e.span_id: e.from_anchor for e in sample.events if e.event == "branch"}
        self._anchors: dict[str, tuple[str, int]] = {}
        self._taken: set[str] = set()
        self._messages: dict[str, Message] = {}
        self._last = [self._note(message) for message in sample.messages]

    def take(self, event: Any) -> None:  # noqa: ANN401 - any event
        """Take the next event."""
        if event.event == "span_begin":
            self._spans[event.id] = event
        elif event.event == "anchor":
            place = self._place(event.span_id)
            at = len(self.strands[place].turns) if place in self.strands else 0
            self._anchors.setdefault(event.anchor_id, (place, at))
        elif event.event == "branch":
            self._branch(event.span_id, event.from_anchor)
        elif event.event == "tool":
            said = event.error.message if event.error else ""
            self._done[event.id] = ToolResult(_plain(event.result), event.function, event.id, said)
        elif event.event == "model" and self._counts(event):
            self._call(event)

    def whole(self, strand: Strand) -> Iterator[Turn]:
        """Yield the calls of a line with what their tools gave back.

        That is what the agent read right after it wrote the call: ids of calls may repeat. Only
        where it read nothing, as at the end of a sample, the id alone says which result it is.
        """
        turns = strand.turns
        for at, turn in enumerate(turns):
            later = next((one for one in turns[at + 1 :] if one.agent == turn.agent), None)
            again = later is not None and any(_same(one, turn.wrote) for one in later.read)
            read = later.read if later and again else self._last
            told = [result_of(message) for message in _answers(turn.wrote, read)]
            found: list[ToolResult] = []
            for call in turn.wrote.calls:
                known = next((one for one in told if one.call_id == call.id), None)
                if known is not None:
                    told.remove(known)
                known = known or self._done.get(call.id) or self._shown.get(call.id)
                found += [known] if known else []
            yield replace(turn, results=(*found, *told) or turn.results)

    def _branch(self, span: str, anchor: str) -> None:
        """Begin a branch where its parent stands at an anchor."""
        above = self._spans.get(span)
        place, at = self._anchors.get(anchor, (self._place(above and above.parent_id), 0))
        name = f"{above.name if above else 'branch'} {len(self.strands)}"
        self.strands[span] = self.strands.get(place, self.strands[""]).branch(name, at)

    def _counts(self, event: "ModelEvent") -> bool:
        """Return whether a model event is a call of the model that is looked at.

        Before it goes on by itself a branch repeats its parent.
        """
        replayed = self._place(event.span_id) not in self.strands
        scoring = any(s.name in SCORING or s.type in SCORING for s in self._above(event.span_id))
        known = event.uuid in self._taken
        if event.uuid:
            self._taken.add(event.uuid)
        whole = not (event.error or event.pending or not event.output.choices)
        return whole and event.role == self._role and not (known or scoring or replayed)

    def _call(self, event: "ModelEvent") -> None:
        wrote = self._note(event.output.choices[0].message)
        read = tuple(self._note(message) for message in event.input)
        agent = next((s.name for s in self._above(event.span_id) if s.type == "agent"), "")
        finish = FINISHES.get(event.output.stop_reason, "unknown")
        tools = tools_of([tool.model_dump(exclude_none=True) for tool in event.tools])
        turn = Turn(read, wrote, finish, agent=agent, tools=tools)
        for given in _responses(event):
            turn = turn if turn.token_ids else replace(turn, **ids_in(given))
        place = self._place(event.span_id)
        strand = self.strands[place if self._branches else self._continued(turn)]
        strand.own.append(turn)
        strand.model = event.model if event.role else ""

    def _continued(self, turn: Turn) -> str:
        """Return the line that a call goes on with, where the log does not mark its branches.

        A call goes back if it reads exactly what an earlier one of the same agent read and wrote,
        something else after that, and nothing of what followed then. Inspect gives equal messages
        one id where they are read and others where they are written: so it counts, too, how often
        something was written and is read.
        """
        last = next(reversed(self.strands))
        for name, strand in reversed(self.strands.items()):
            same = [one for one in strand.turns if one.agent == turn.agent]
            if not same or not all(m.id for m in (*turn.read, *(one.wrote for one in same))):
                return last
            latest = same[-1].wrote
            written = sum(_same(one.wrote, latest) for one in same)
            by_id = latest.id in {message.id for message in turn.read}
            if by_id or sum(_same(message, latest) for message in turn.read) >= written:
                return name
        turns = self.strands[last].turns
        for at in range(len(turns) - 1, 0, -1):
            before = [message.id for message in (*turns[at - 1].read, turns[at - 1].wrote)]
            same_start = [message.id for message in turn.read[: len(before)]] == before
            if same_start and turns[at - 1].agent == turn.agent:
                name = f"branch {len(self.strands)}"
                self.strands[name] = self.strands[last].branch(name, at)
                return name
        return last

    def _above(self, span: str | None) -> Iterator[Any]:
        """Yield the spans around an event, the nearest first."""
        passed: set[str] = set()
        while span in self._spans and span not in passed:
            passed.add(span)
            yield self._spans[span]
            span = self._spans[span].parent_id

    def _place(self, span: str | None) -> str:
        """Return the branch in which an event stands, empty for none."""
        return next((s.id for s in self._above(span) if s.id in self._branches), "")

    def _note(self, raw: "ChatMessage") -> Message:
        """Return a message, the same for each of its copies; keep what a tool gave back."""
        message = message_of(raw)
        if message.role == "tool" and message.call_id:
            self._shown.setdefault(message.call_id, result_of(message))
        for used in raw.content if isinstance(raw.content, list) else ():
            if used.type == "tool_use":  # a tool that the provider ran itself
                result = ToolResult(used.result, used.name, used.id, used.error or "")
                self._shown.setdefault(used.id, result)
        known = self._messages.setdefault(message.id, message) if message.id else message
        return known if known == message else message


def _responses(event: "ModelEvent") -> Iterator[Mapping[str, Any]]:
    """Yield what may hold the token ids of a call: what a provider noted, or a server answered."""
    noted = event.output.metadata or {}
    for given in (noted.get(NOTES), noted, event.call.response if event.call else None):
        if isinstance(given, Mapping):
            yield given


def _same(one: Message, other: Message) -> bool:
    """Return whether two messages say the same; their ids may differ."""
    return one.role == other.role and one.parts == other.parts


def _answers(wrote: Message, read: Sequence[Message]) -> Iterator[Message]:
    """Yield the results of tools that stand right behind a message, where it stands last."""
    places = (at for at, message in enumerate(read) if _same(message, wrote))
    place = max(places, default=len(read))
    yield from takewhile(lambda message: message.role == "tool", read[place + 1 :])


def message_of(raw: "ChatMessage") -> Message:
    """Return a message of Inspect as one of ours."""
    content = raw.content if isinstance(raw.content, list) else [raw.content]
    parts = [part for one in content for part in _parts(one)]
    own = raw.id or ""
    if raw.role == "tool":
        error = raw.error.message if raw.error else ""
        text = "\n".join(part.text for part in parts)
        return Message(
            "tool", (Part("text", text),), own, raw.function or "", raw.tool_call_id or "", error
        )
    if raw.role == "assistant":
        parts += [
            Part("call", _arguments(call), call.function, call.id) for call in raw.tool_calls or ()
        ]
    return Message(raw.role, tuple(parts), own)


def _arguments(call: Any) -> str:  # noqa: ANN401 - a tool call of Inspect
    """Return arguments as JSON, or what Inspect says of those that it could not read."""
    return call.parse_error or json.dumps(call.arguments, ensure_ascii=False)


def _parts(content: Any) -> Iterable[Part]:  # noqa: ANN401 - a text or any content of Inspect
    """Yield what a content says; of a picture or a file only its kind."""
    if isinstance(content, str):
        yield Part("text", content)
    elif content.type == "text":
        yield Part("text", content.text)
    elif content.type == "reasoning":
        shown = content.summary if content.redacted or not content.reasoning else content.reasoning
        yield Part("reasoning", shown or "", hidden=content.redacted)
    elif content.type == "tool_use":
        yield Part("call", _plain(content.arguments), content.name, content.id)
    else:
        yield Part("text", f"[{content.type}]")


def _plain(value: object) -> str:
    """Return the result or the arguments of a tool as text."""
    if isinstance(value, str):
        return value
    many = value if isinstance(value, list) else [value] if hasattr(value, "type") else None
    if many is not None:
        return "\n".join(part.text for one in many for part in _parts(one))
    return json.dumps(value, ensure_ascii=False, default=str)
