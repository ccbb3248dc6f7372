"""What commands read from standard input, and what they say where it cannot be read."""

import sys
from collections.abc import Iterator
from typing import Any

from trace_probe.errors import TraceError
from trace_probe.files import json_object
from trace_probe.visible import whole

NOT_UTF8 = (
    "standard input is not UTF-8: convert it, for example with `iconv -f LATIN1 -t UTF-8 FILE`"
)


def json_lines() -> Iterator[tuple[int, dict[str, Any] | TraceError]]:
    """Yield the number of each line of standard input with its JSON object, or what is wrong."""
    try:
        for number, line in enumerate(sys.stdin, start=1):
            if _utf8(line).strip():
                yield number, _object(line, number)
    except UnicodeDecodeError as error:
        raise TraceError(NOT_UTF8) from error


def _object(line: str, number: int) -> dict[str, Any] | TraceError:
    try:
        return json_object(line, f"line {number}", TraceError)
    except TraceError as error:
        return error


def text_brought() -> str:
    """Return the text that stands at standard input.

    Raises:
        TraceError: there is none, or it is in another encoding than UTF-8.
    """
    try:
        text = _utf8(sys.stdin.read())
    except UnicodeDecodeError as error:
        raise TraceError(NOT_UTF8) from error
    if not text.strip():
        raise TraceError(
            "standard input is empty: give the text there, such as `... < text.txt` or "
            "`echo TEXT | ...`"
        )
    return text


def _utf8(text: str) -> str:
    """Return a text that can be written as UTF-8; in some locales other bytes come in disguise."""
    if whole(text) != text:
        raise TraceError(NOT_UTF8)
    return text
