"""Runs one benchmark from the command line: each field of its plan is an option.

Results go to standard output, progress to standard error.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import Field, fields
from typing import Any, cast

from trace_probe.files import plain

Say = Callable[[str], None]
"""Is told of progress."""


class Figures:
    """Base class of results, which are dataclasses: what follows from the fields is a property."""

    def to_json(self) -> dict[str, Any]:
        """Return what was measured and what follows from it, as plain values."""
        measured = [each.name for each in fields(cast(Any, self))]
        follows = [name for name, one in vars(type(self)).items() if isinstance(one, property)]
        return {name: plain(getattr(self, name)) for name in (*measured, *follows)}


def run(
    plan: type[Any],
    measure: Callable[..., Any],
    text: Callable[..., str],
    arguments: list[str] | None = None,
) -> None:
    """Measure what the options ask for and print it as text, or as JSON with ``--json``.

    Args:
        plan: Dataclass whose fields all have defaults. Give a tuple as ``1,2,3``; a bool is
            false unless it is named.
        measure: Takes a plan and a function that prints progress; its result is a dataclass.
        text: Turns the result into text.
        arguments: Words of the command line; those of this process by default.
    """
    summary = (measure.__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog=f"python -m {_name(measure)}", description=summary)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    for field in fields(plan):
        option, known = f"--{field.name.replace('_', '-')}", f"default: {_written(field.default)}"
        if isinstance(field.default, bool):
            parser.add_argument(option, action="store_true")
        else:
            parser.add_argument(option, default=field.default, type=_reader(field), help=known)
    values = vars(parser.parse_args(arguments))
    as_json = values.pop("json")
    found = measure(plan(**values), say=lambda line: sys.stderr.write(f"{line}\n"))
    shown = json.dumps(plain(found), default=str, indent=1) if as_json else text(found)
    sys.stdout.write(f"{shown}\n")


def _name(measure: Callable[..., Any]) -> str:
    """Return the module of a benchmark, also where it runs as the main module."""
    spec = sys.modules[measure.__module__].__spec__
    return spec.name if spec else measure.__module__


def _written(value: object) -> str:
    """Return a default as it would be typed."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _reader(field: "Field[Any]") -> Callable[[str], Any]:
    """Return what turns an option's text into a value of the same type as the default."""
    if isinstance(field.default, tuple):
        part = type(field.default[0])
        return lambda written: tuple(part(word) for word in written.split(","))
    kind: Callable[[str], Any] = type(field.default)
    return kind
