"""Dataclasses as JSON and back: when a file is read, pydantic checks every field by its type.

A dataclass says with ``__pydantic_config__`` what becomes of fields that it does not know.
"""

import json
from collections.abc import Hashable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, cast

from trace_probe.errors import StoreError, TraceProbeError

if TYPE_CHECKING:
    from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")


@cache
def _adapter(kind: Hashable) -> "TypeAdapter[Any]":
    from pydantic import TypeAdapter

    return TypeAdapter(cast(Any, kind))


def to_plain(value: object) -> dict[str, Any]:
    """Return a dataclass as plain values, ready for JSON."""
    plain: dict[str, Any] = _adapter(cast(Hashable, type(value))).dump_python(value)
    return plain


def renamed(value: Any, names: Mapping[str, str]) -> Any:  # noqa: ANN401 - JSON
    """Return JSON of an earlier version with today's names, by their old ones."""
    if isinstance(value, dict):
        return {names.get(name, name): renamed(each, names) for name, each in value.items()}
    return [renamed(each, names) for each in value] if isinstance(value, list) else value


def from_plain(
    kind: type[T],
    raw: object,
    file: object,
    *,
    wrong: type[TraceProbeError] = StoreError,
    advice: str,
) -> T:
    """Return the dataclass whose fields a JSON object holds.

    Args:
        kind: The dataclass.
        raw: What the file says; nothing is converted, a number in quotes is no number.
        file: Where it was read, for the error.
        wrong: The kind of the error.
        advice: What to do about it.

    Raises:
        TraceProbeError: of the kind `wrong`; a field is missing, unknown or not of its type.
    """
    from pydantic import ValidationError

    try:
        found: T = _adapter(cast(Hashable, kind)).validate_json(json.dumps(raw), strict=True)
    except ValidationError as error:
        raise wrong(f"{file}: {_first(error)}: {advice}") from error
    return found


def check_types(value: object, name: str, wrong: type[TraceProbeError] = StoreError) -> None:
    """Refuse a dataclass of which a field, or one within it, is not of its type.

    Its ``__pydantic_config__`` must ask to look at instances anew.

    Raises:
        TraceProbeError: of the kind `wrong`.
    """
    from pydantic import ValidationError

    try:
        _adapter(cast(Hashable, type(value))).validate_python(value, strict=True)
    except ValidationError as error:
        raise wrong(f"{name}: {_first(error)}") from error


def _first(error: "ValidationError") -> str:
    """Return which field is wrong and why, of the first that is."""
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"]))
    shown = "" if first["type"] == "missing" else f" is {first['input']!r:.60}"
    return f"{where}{shown}: {first['msg'].replace('Input should', 'it should')}"
