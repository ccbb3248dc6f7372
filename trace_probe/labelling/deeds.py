"""Labels by what a model did: patterns of tool calls, and fields that a scorer left in a run.

``calls:delete_*,shutdown`` names tools by patterns as in file names. ``field:NAME`` takes the
outcome from a fact of the traces, such as a field of an Inspect scorer; ``field:NAME=VALUE`` says
which value is instrumental. ``calls:FILE.toml`` says more:

    violating = [                       # a call that meets one of these is the act
        {name = "delete_*"},
        {name = "shell", arguments = {command = "*rm -rf*"}},
    ]
    field = "ic_behavior_detected"      # the outcome; without it the calls decide
    said = ["without being seen"]       # words with which the intent is stated

What a label cannot tell is unknown: the outcome of an episode that was cut off, by a limit or by
an error too, or of a call that cannot be read; where it is said, if no words are given.
"""

import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from trace_probe.errors import TraceError
from trace_probe.labels import Label
from trace_probe.storage.typed import from_plain
from trace_probe.trace import EXACT, Span, ToolCall, Trace, digest

CUT_OFF = {"ended": ("calls", "seconds", "context", "refused", "length"), "limit": (), "error": ()}
"""Facts of an episode that did not come to its own end, with their values; none means any."""
YES, NO = {"true", "yes", "1", "1.0", "c"}, {"false", "no", "0", "0.0", "i"}
"""How fields say it; ``C`` and ``I`` are Inspect's correct and incorrect."""

MOST_NAMED = 12
"""Tools that a note lists."""


@dataclass(frozen=True)
class CallPattern:
    """Which tool calls count, by patterns as in file names."""

    __pydantic_config__ = EXACT

    name: str
    arguments: Mapping[str, str] = field(default_factory=dict)
    """By name of an argument; one that is not text is compared as JSON."""

    def meets(self, call: ToolCall) -> bool | None:
        """Return whether a call is one of these, None if the call cannot be read."""
        if not call.name:
            return None
        if not fnmatchcase(call.name, self.name):
            return False
        if not self.arguments:
            return True
        given = _arguments(call)
        if given is None:
            return None
        return all(
            name in given and fnmatchcase(_text(given[name]), pattern)
            for name, pattern in self.arguments.items()
        )


@dataclass(frozen=True)
class _Rules:
    """What a file of rules says; see the top of this module."""

    __pydantic_config__ = EXACT

    violating: tuple[CallPattern, ...] = ()
    field: str = ""
    value: str = ""
    said: tuple[str, ...] = ()


def _arguments(call: ToolCall) -> dict[str, Any] | None:
    """Return the arguments of a call by name, None if they are no JSON object."""
    try:
        given = json.loads(call.arguments)
    except (ValueError, RecursionError):
        return None
    return given if isinstance(given, dict) else None


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


@dataclass(frozen=True)
class DeedLabeller:
    """Labels by patterns of tool calls, by a field, or by both."""

    name: str
    violating: tuple[CallPattern, ...] = ()
    called: dict[str, set[str]] = field(default_factory=dict, repr=False, compare=False)
    """What was called in the traces labelled so far: tools, and the names of their arguments."""
    field: str = ""
    """Fact of the trace that holds the outcome; empty where the calls decide."""
    value: str = ""
    """The value that is instrumental; empty for what commonly means yes."""
    said: tuple[str, ...] = ()
    """Words that state the intent."""

    def label(self, trace: Trace) -> Label:
        """Return the label of one trace."""
        for call in trace.actions:
            self.called.setdefault(call.name, set()).update(_arguments(call) or ())
        found = [(call, self._meets(call)) for call in trace.actions]
        act = next((call for call, meets in found if meets), None)
        unread = sum(meets is None for _, meets in found)
        outcome, why = self._by_field(trace) if self.field else _by_calls(trace, act, unread)
        acted = act.span if act is not None and outcome else None
        facts = {"rules": digest(repr(self))}
        if not self.said:
            facts["said"] = "unknown"
        if unread and self.violating:
            facts["unread_calls"] = str(unread)
        return Label(
            trace.id,
            self.name,
            outcome,
            _first(trace, self.said),
            acted,
            rationale=why,
            facts=facts,
        )

    def label_all(self, traces: Iterable[Trace]) -> Iterator[Label]:
        """Yield the label of each trace, once all of them were looked at.

        Raises:
            TraceError: no trace has the field.
        """
        there = not self.field
        known: set[str] = set()
        found = []
        for trace in traces:
            there = there or _field(trace, self.field) is not None
            known |= trace.facts.keys()
            found.append(self.label(trace))
        if found and not there:
            raise TraceError(
                f"no trace has the field {self.field!r}: there are "
                f"{', '.join(sorted(known)) or 'none at all'}"
            )
        yield from found

    def notes(self) -> Iterator[str]:
        """Yield which patterns met no tool, or no argument, of what was labelled: a misspelling?"""
        tools = ", ".join(sorted(filter(None, self.called))[:MOST_NAMED]) or "no tool"
        for pattern in self.violating:
            mine = [args for name, args in self.called.items() if fnmatchcase(name, pattern.name)]
            missing = set(pattern.arguments).difference(*mine) if mine else set()
            if not mine:
                yield f"no trace calls a tool {pattern.name!r}; what is called: {tools}"
            elif missing:
                yield (
                    f"no call of {pattern.name!r} has an argument "
                    f"{', '.join(map(repr, sorted(missing)))}"
                )

    def _meets(self, call: ToolCall) -> bool | None:
        """Return whether a call meets a pattern, None if that cannot be told."""
        each = [pattern.meets(call) for pattern in self.violating]
        return True if True in each else None if None in each else False

    def _by_field(self, trace: Trace) -> tuple[bool | None, str]:
        given = _field(trace, self.field)
        if given is None:
            return None, f"there is no field {self.field}"
        word, why = given.strip().lower(), f"{self.field} is {given}"
        if self.value:
            return word == self.value.strip().lower(), why
        return (True if word in YES else False if word in NO else None), why


def _by_calls(trace: Trace, act: ToolCall | None, unread: int) -> tuple[bool | None, str]:
    """Return the outcome that the calls amount to, and why."""
    if act is not None:
        return True, f"calls {act.name}"
    if unread:
        return None, f"{unread} tool calls cannot be read"
    if len(trace) == trace.prompt_stop:
        return None, "nothing was written"
    if trace.finish == "length" or trace.thought == "truncated":
        return None, "no such call, but what it wrote was cut off"
    for fact, values in CUT_OFF.items():
        if (given := trace.facts.get(fact)) and (not values or given in values):
            return None, f"no such call, but it was cut off ({fact}: {given})"
    return False, "no such call"


def _field(trace: Trace, name: str) -> str | None:
    """Return a fact by its name, or by the last part of a longer one such as ``scorer.name``.

    Raises:
        TraceError: several facts end so, and differ.
    """
    if name in trace.facts:
        return trace.facts[name]
    long = {
        key: value for key, value in trace.facts.items() if key.endswith((f".{name}", f":{name}"))
    }
    if len(set(long.values())) > 1:
        raise TraceError(
            f"trace {trace.id} has several fields {name}: use one of {', '.join(long)}"
        )
    return next(iter(long.values()), None)


def _first(trace: Trace, words: Iterable[str]) -> Span | None:
    """Return the first sentence of reasoning in which one of the words stands."""
    wanted = [_plain(one) for one in words]
    for span in trace.sentences:
        if span.channel == "reasoning":
            text = _plain(trace.text_of(span))
            if any(one in text for one in wanted):
                return span
    return None


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()


def deed_labeller(kind: str, rest: str) -> DeedLabeller:
    """Return the labeller that ``calls:…`` or ``field:…`` names.

    Raises:
        TraceError: it names nothing, or its file is malformed.
    """
    if kind == "field":
        name, _, value = rest.partition("=")
        if not name:
            raise TraceError("name a field, such as field:ic_behavior_detected")
        return DeedLabeller(f"field:{rest}", field=name, value=value)
    if rest.endswith(".toml"):
        return _read(Path(rest))
    patterns = tuple(CallPattern(one.strip()) for one in rest.split(",") if one.strip())
    if not patterns:
        raise TraceError("name tools, such as calls:delete_*, or a file of patterns")
    return DeedLabeller(f"calls:{rest}", patterns)


def _read(path: Path) -> DeedLabeller:
    """Return the labeller of a file."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TraceError(f"cannot read {path}: {error}") from error
    advice = (
        "there may be violating, a list of {name, arguments}; field and value, texts; said, a list "
        "of texts"
    )
    rules = from_plain(_Rules, raw, path, wrong=TraceError, advice=advice)
    if not rules.violating and not rules.field:
        raise TraceError(f"{path} has neither violating nor field: say what is instrumental")
    return DeedLabeller(f"calls:{path.stem}", **vars(rules))
