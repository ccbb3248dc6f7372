"""Whether what was read from a foreign file has the types that its class says."""

import math
from dataclasses import fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from trace_probe.errors import TraceError


def check(value: Any, name: str) -> None:  # noqa: ANN401 - of any dataclass
    """Look at every field of a dataclass, and of those within it.

    Raises:
        TraceError: one is of another type, no finite number, or no text.
    """
    for field, kind in _hints(value.__class__).items():
        held = getattr(value, field)
        if not _is(held, kind):
            raise TraceError(f"{name}.{field} is {held!r:.60}, which is no {kind!s:.60}")


@cache
def _hints(kind: Any) -> dict[str, Any]:  # noqa: ANN401 - a class, which can be hashed
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


def _is(value: object, kind: Any) -> bool:  # noqa: ANN401 - a type, or what stands for one
    """Return whether a value is of a kind that an annotation names."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(_is(value, one) for one in inner)
    if origin is Literal:
        return any(value == one and type(value) is type(one) for one in inner)
    if origin in (tuple, dict):
        return isinstance(value, origin) and _holds(value, inner)
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
    known: Any = kind
    inside = _hints(known).items() if is_dataclass(kind) else ()
    return type(value) is kind and all(_is(getattr(value, field), one) for field, one in inside)


def _holds(value: Any, inner: tuple[Any, ...]) -> bool:  # noqa: ANN401 - a tuple or a mapping
    """Return whether all in a tuple or a mapping is of the kinds that its annotation names."""
    if isinstance(value, dict):
        return all(_is(key, inner[0]) and _is(one, inner[1]) for key, one in value.items())
    kinds = inner[:1] * len(value) if ... in inner else inner
    return len(value) == len(kinds) and all(map(_is, value, kinds))
