"""The key of a model server: checked before it is used, and struck out of what is kept or printed.

It comes from the environment variable OPENAI_API_KEY and from nowhere else. One that stands in
an address or among the fields of a request is refused, for runs keep these and a list of
processes shows them.
"""

import base64
import json
import os
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from trace_probe.errors import ServerError

KEY = "OPENAI_API_KEY"
SHORTEST = 8
"""Characters; a shorter key is a placeholder such as ``none`` or ``EMPTY``, and no secret."""
FIELD = re.compile(r"api[-_]?key|authorization|secret|password|^token$", re.IGNORECASE)
STRUCK = "***"


def check_key(name: str) -> str | None:
    """Return the key in the environment variable `name`, or None if there is none.

    Raises:
        ServerError: it holds a character that no key has. The key is not part of the message.
    """
    key = os.environ.get(name) or None
    wrong = [number for number, char in enumerate(key or "", start=1) if not "!" <= char <= "~"]
    if wrong:
        raise ServerError(
            f"the key in {name} has a character at place {wrong[0]} of {len(key or '')} that no "
            f"key has, such as a space, a line break or a curly quote: set it again without it"
        )
    return key


def without_key(text: str) -> str:
    """Return a text with the key of the environment struck out, in whatever form it is there.

    That is as it is, with any of its characters escaped as JSON, Python, HTML or an address
    would, in hexadecimal, and in base64, alone or within something longer.
    """
    key = os.environ.get(KEY) or ""
    return text if len(key) < SHORTEST else _forms(key).sub(STRUCK, text)


@cache
def _forms(key: str) -> re.Pattern[str]:
    characters = "".join(map(_character, key))
    data = key.encode(errors="surrogateescape")
    encoded = {form(bytes(lead) + data) for form in _BASE64 for lead in range(3)}
    parts = [re.escape(text) for text in sorted(_middles(encoded))]
    return re.compile("|".join([characters, *parts, f"(?i:{data.hex()})"]))


_BASE64 = (base64.b64encode, base64.urlsafe_b64encode)


def _middles(encoded: set[bytes]) -> set[str]:
    """Return what of a text in base64 stays the same whatever stands before and after it."""
    found = set()
    for text in encoded:
        lead = len(re.match(rb"A*", text)[0])  # type: ignore[index]
        found.add(text.rstrip(b"=").decode()[(lead and 4) : -2])
    return found


def _character(char: str) -> str:
    """Return a pattern of one character, plain or escaped."""
    code = ord(char)
    escaped = rf"\\+u00{code:02x}|\\+x{code:02x}|%{code:02x}|&#0*{code};|&#x0*{code:x};"
    return rf"(?:\\*{re.escape(char)}|(?i:{escaped}))"


def refuse_secrets(urls: Sequence[str], fields: Mapping[str, Any]) -> None:
    """Raise ServerError if an address or a field of a request holds what looks like a key."""
    for url in urls:
        _check_address(url)
    for name in _names(fields):
        if FIELD.search(name):
            raise ServerError(
                f"the field {name!r} looks like a key, and runs keep what was asked: "
                f"put the key in the environment as {KEY}"
            )
    text = json.dumps(dict(fields), default=str)
    key = os.environ.get(KEY)
    if key and (key in text or without_key(text) != text):
        raise ServerError(f"the fields of the request hold the key of {KEY}: leave it out")


def _check_address(url: str) -> None:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise ServerError(
            f"{without_key(url)!r:.80} is no address of a server: write http://HOST:PORT/v1"
        )
    if parts.password or parts.username:
        raise ServerError(
            f"the address of {parts.hostname} holds a name or password, which a list "
            f"of processes shows: put the key in the environment as {KEY}"
        )


def _names(value: object) -> list[str]:
    """Return the names of all fields, those within fields too."""
    if isinstance(value, Mapping):
        inner = [name for part in value.values() for name in _names(part)]
        return [*map(str, value), *inner]
    if isinstance(value, list | tuple):
        return [name for part in value for name in _names(part)]
    return []
