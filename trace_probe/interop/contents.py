"""A message's content where it is no text but a list: texts and thoughts, as servers write them."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from trace_probe.text.tool_calls import write_call

THOUGHTS = frozenset({"thinking", "reasoning", "thought"})


class Contents(NamedTuple):
    """The text of a content, and the thoughts in it."""

    text: str
    reasoning: str | None = None
    """None where there is no place for thoughts."""


def contents(value: object) -> Contents | None:
    """Return what a content says; None if it is neither a text nor a list of parts."""
    if isinstance(value, str):
        return Contents(value)
    if not isinstance(value, list) or not all(isinstance(part, Mapping) for part in value):
        return None
    thoughts = ["".join(_texts(part)) for part in value if part.get("type") in THOUGHTS]
    texts = ["".join(_texts(part)) for part in value if part.get("type") not in THOUGHTS]
    return Contents("".join(texts), "\n\n".join(thoughts) if thoughts else None)


def _texts(part: Mapping[str, Any]) -> Iterator[str]:
    """Yield the texts in a part, which may hold parts itself."""
    for name in ("text", "thinking", "reasoning", "content"):
        value = part.get(name)
        if isinstance(value, str):
            yield value
        elif isinstance(value, list):
            for inner in value:
                if isinstance(inner, Mapping):
                    yield from _texts(inner)


def calls(value: object) -> list[str] | None:
    """Return structured tool calls as a model would write them; None if they are of no known form.

    The forms are OpenAI's, Anthropic's and Inspect's, as JSON or as a text that holds it.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    given = value if isinstance(value, list) else [value]
    found = [_call(one) for one in given]
    return None if None in found else [text for text in found if text is not None]


def _call(value: object) -> str | None:
    if not isinstance(value, Mapping):
        return None
    inner = value.get("function")
    about = inner if isinstance(inner, Mapping) else value
    name = next((about[k] for k in ("name", "function", "tool_name") if k in about), None)
    given = next((about[k] for k in ("arguments", "input", "parameters", "args") if k in about), {})
    if not isinstance(name, str):
        return None
    arguments = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
    return write_call(name, arguments, str(value.get("id") or ""))
