"""Where a tool call ends: at its end tag, unless that tag is a text among the arguments.

Agents that edit a parser or a chat template write such tags as arguments. What is between quotes
in JSON or Python, or between the tags of a value, does not end a call.
"""

import json
import re
from collections.abc import Callable, Iterable

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


def own_end(
    text: str, tag: str, first: int, ends: Iterable[tuple[str, int]]
) -> tuple[str, int] | None:
    """Return which of some tags ends the call whose body begins at `first`, None without any.

    `ends` are (tag, start) in order. That is the first one outside of the texts of the call; the
    very first one if the call is torn, so that it hides nothing of what follows.
    """
    nearest: tuple[str, int] | None = None
    inside: Inside = _never
    whole: Inside = _always
    for end in ends:
        if nearest is None:
            nearest = end
            first, inside, whole = _grammar(text, tag, first, end[1])
        if not inside(end[1]):
            return end if end == nearest or whole(end[1]) else nearest
    return nearest


def _grammar(text: str, tag: str, first: int, stop: int) -> tuple[int, Inside, Inside]:
    """Return where a body begins, and what tells its texts, and whether it is whole."""
    if tag == "<function=" and (header := _HEADER.match(text, first, stop)):
        first = header.end()
    space = _SPACE.match(text, first, stop)
    first = space.end() if space else first
    head = text[first : min(first + 1, stop)]
    if head in ("{", "["):
        return first, _in_quotes(text, first), _json_whole(text, first)
    if tag in _JSON_BEHIND_NAMES or tag == _GEMMA:
        return first, _in_quotes(text, first), _always
    if tag == "<function_calls>" and head != "<":
        return first, _in_strings(text, first), _calls_whole(text, first)
    return first, _in_value(text, first), _always


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


def _in_value(text: str, first: int) -> Inside:
    """Return what tells the values of elements: the next tag of a value shuts one that is open."""

    def inside(at: int) -> bool:
        following = _VALUE.search(text, first, at) and _VALUE.search(text, at)
        return bool(following and following[1])

    return inside
