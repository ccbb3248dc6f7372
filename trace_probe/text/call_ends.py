"""Where a tool call ends: at its end tag, unless that tag is a text among the arguments.

Agents that edit a parser or a chat template write such tags as arguments. What is between quotes
in JSON or Python, or between the tags of a value, does not end a call.
"""

import json
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from trace_probe.text.python_calls import STRING, calls_in

_DECODER = json.JSONDecoder(strict=False)
_SPACE = re.compile(r"[\s,;]*")
_HEADER = re.compile(r"(?:<function=)?[^>\n]*>\s*")
_QUOTE = re.compile(r'\\.|"', re.S)
_VALUE = re.compile(r"<(/?)(?:｜DSML｜)?(?:parameter[ =>]|arg_value>)")
_JSON_BEHIND_NAMES = ("<｜tool▁calls▁begin｜>", "<|tool_calls_section_begin|>", "[TOOL_CALLS]")
_GEMMA = "<|tool_call>"
Inside = Callable[[int], bool]
"""Whether a character, later than those asked before, lies in one of the texts of a call."""


class End(NamedTuple):
    """The tag that ends a call."""

    tag: str
    start: int
    settled: bool
    """Whether no text that follows changes that."""


def own_end(text: str, tag: str, first: int, ends: Iterable[tuple[str, int]]) -> End | None:
    """Return which of some tags ends the call whose body begins at `first`, None without any.

    `ends` are (tag, start) in order. That is the first one outside of the texts of the call; the
    very first one if the call is torn, so that it hides nothing of what follows.
    """
    nearest: tuple[str, int] | None = None
    inside: Inside = _never
    whole = settled = inside
    for end in ends:
        if nearest is None:
            nearest = end
            inside, whole, settled = _grammar(text, tag, first, end[1])
        if not inside(end[1]):
            found = end if end == nearest or whole(end[1]) else nearest
            return End(*found, settled=settled(end[1]))
    return nearest and End(*nearest, settled=False)


def _grammar(text: str, tag: str, first: int, stop: int) -> tuple[Inside, Inside, Inside]:
    """Return what tells whether a place of a body lies in a text, ends it whole, and is settled."""
    if tag == "<function=" and (header := _HEADER.match(text, first, stop)):
        first = header.end()
    space = _SPACE.match(text, first, stop)
    first = space.end() if space else first
    head = text[first : min(first + 1, stop)]
    if head in ("{", "["):
        return _in_quotes(text, first), _json_whole(text, first), _always
    if tag in _JSON_BEHIND_NAMES or tag == _GEMMA:
        return _in_quotes(text, first), _always, _always
    if tag == "<function_calls>" and head != "<":
        whole = _calls_whole(text, first)  # a text that is open at the end may yet be shut
        return _in_strings(text, first), whole, whole
    value = _Value(text, first)
    return value.open, _always, value.settled


def _never(_: int) -> bool:
    return False


def _always(_: int) -> bool:
    return True


def _in_quotes(text: str, first: int) -> Inside:
    """Return what tells the texts of JSON: before them stands an odd number of quotes."""
    place, odd = first, False

    def inside(at: int) -> bool:
        nonlocal place, odd
        odd ^= sum(found[0] == '"' for found in _QUOTE.finditer(text, place, at)) % 2 == 1
        place = at
        return odd

    return inside


def _json_whole(text: str, first: int) -> Inside:
    def whole(stop: int) -> bool:
        try:
            _DECODER.raw_decode(text[first:stop])
        except (ValueError, RecursionError):
            return False
        return True

    return whole


def _in_strings(text: str, first: int) -> Inside:
    """Return what tells the texts of Python."""
    strings = STRING.finditer(text, first)
    last = next(strings, None)

    def inside(at: int) -> bool:
        nonlocal last
        while last and last.end() <= at:
            last = next(strings, None)
        return last is not None and last.start() < at

    return inside


def _calls_whole(text: str, first: int) -> Inside:
    return lambda stop: all(call.name for call in calls_in(text, first, stop))


class _Value:
    """The values of elements: the next tag of a value shuts one that is open."""

    def __init__(self, text: str, first: int) -> None:
        self.text, self.first = text, first

    def _shut(self, at: int) -> bool | None:
        """Return whether the next tag shuts a value that was opened; None if there is none yet."""
        if _VALUE.search(self.text, self.first, at) is None:
            return False
        following = _VALUE.search(self.text, at)
        return bool(following[1]) if following else None

    def open(self, at: int) -> bool:
        return bool(self._shut(at))

    def settled(self, at: int) -> bool:
        return self._shut(at) is not None
