"""Whether what was read from a foreign file has the types that its class says."""

import math
from dataclasses import fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from trace_probe.errors import TraceError


def check(value: object, name: str) -> None:
    """Look at every field of a dataclass, and of those within it.

    Raises:
        TraceError: one is of another type, no finite number, or no text.
    """
    for field, kind in _hints(type(value)).items():
        held = getattr(value, field)
        if not _is(held, kind):
            raise TraceError(f"{name}.{field} is {held!r:.60}, which is no {kind!s:.60}")


@cache
def _hints(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


def _is(value: object, kind: Any) -> bool:  # noqa: ANN401 - a type, or what stands for one
    """Return whether a value is of a kind that an annotation names."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(_is(value, one) for one in inner)
    if origin is Literal:
        return any(value == one and type(value) is type(one) for one in inner)
    if origin is tuple:
        kinds = inner[:1] * len(value) if isinstance(value, tuple) and ... in inner else inner
        return isinstance(value, tuple) and len(value) == len(kinds) and all(map(_is, value, kinds))
    if origin is dict:
        return isinstance(value, dict) and all(
            _is(key, inner[0]) and _is(one, inner[1]) for key, one in value.items()
        )
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
    if type(value) is not kind:
        return False
    inside = _hints(kind).items() if is_dataclass(kind) else ()
    return all(_is(getattr(value, field), one) for field, one in inside)
