"""Dataclasses as JSON and back: when a file is read, pydantic checks every field by its type.

A dataclass says with ``__pydantic_config__`` what becomes of fields that it does not know.
"""

from collections.abc import Hashable, Mapping
from functools import cache
from reprlib import repr as brief
from typing import TYPE_CHECKING, Any, TypeVar, cast

from trace_probe.errors import StoreError, TraceProbeError

if TYPE_CHECKING:
    from pydantic import TypeAdapter, ValidationError
    from pydantic_core import SchemaValidator

T = TypeVar("T")
SCALARS = ("bool", "float", "int", "str")


@cache
def _adapter(kind: Hashable) -> "TypeAdapter[Any]":
    from pydantic import TypeAdapter

    return TypeAdapter(cast(Any, kind))


@cache
def _reader(kind: Hashable) -> "SchemaValidator":
    """Return what reads a type from JSON: a list may be a tuple, but no number is a text."""
    from pydantic_core import SchemaValidator

    return SchemaValidator(_unconverted(_adapter(kind).core_schema))


def _unconverted(schema: Any) -> Any:  # noqa: ANN401 - of pydantic
    """Return a schema under which numbers, texts and truths are taken as they are."""
    if isinstance(schema, list | tuple):
        return type(schema)(map(_unconverted, schema))
    if not isinstance(schema, dict):
        return schema
    made = {name: _unconverted(each) for name, each in schema.items()}
    return {**made, "strict": True} if schema.get("type") in SCALARS else made


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
    advice: str = "",
) -> T:
    """Return the dataclass whose fields a JSON object holds.

    Args:
        kind: The dataclass.
        raw: What the file says; nothing is converted, a number in quotes is no number.
        file: Where it was read, for the error.
        wrong: The kind of the error.
        advice: What to do about it.

    Raises:
        TraceProbeError: of the kind `wrong`; a field is missing, unknown or not of its type, or
            the fields contradict each other.
    """
    from pydantic import ValidationError

    try:
        found: T = _reader(cast(Hashable, kind)).validate_python(raw)
    except (ValidationError, TraceProbeError) as error:
        why = _first(error) if isinstance(error, ValidationError) else str(error)
        raise wrong(": ".join(filter(None, (str(file), why, advice)))) from error
    return found


def _first(error: "ValidationError") -> str:
    """Return which field is wrong and why, of the first that is."""
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"])) or "it"
    shown = "" if first["type"] == "missing" else f" is {brief(first['input'])}"
    return f"{where}{shown}: {first['msg'].replace('Input should', 'it should')}"
