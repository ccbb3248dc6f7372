"""What servers write in other words than ours: contents that are lists, and why a message ended."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from trace_probe.trace import Finish

FINISHES: dict[str, Finish] = {
    **dict.fromkeys(("stop", "end_turn", "stop_sequence", "eos", "tool_calls"), "stop"),
    **dict.fromkeys(("tool_use", "function_call", "completed"), "stop"),
    **dict.fromkeys(("length", "max_tokens", "model_length", "incomplete"), "length"),
}
"""What the reasons that servers and logs give for an end amount to."""
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
