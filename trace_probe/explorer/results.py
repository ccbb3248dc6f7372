"""Results kept as JSON beside the runs: studies, transfer, and experiments on a model.

What ``trace-probe study ... --json > studies/NAME.json`` prints is such a file.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

FOLDER = "studies"
Kind = Literal["study", "transfer", "efficiency", "steering", "intervention"]
MARKS: dict[Kind, frozenset[str]] = {
    "study": frozenset({"shares", "differences"}),
    "transfer": frozenset({"across", "cells"}),
    "efficiency": frozenset({"auroc", "as_estimator"}),
    "steering": frozenset({"rows", "added", "ablated"}),
    "intervention": frozenset({"policies", "reflection"}),
}
"""The fields by which a kind of result is known."""


@dataclass(frozen=True)
class Kept:
    """Results of one kind, and files that could not be read."""

    found: Mapping[str, dict[str, Any]]
    broken: tuple[str, ...]


def results_folder(traces: Path) -> Path:
    """Return the folder of results, beside the folder of runs."""
    return traces.resolve().parent / FOLDER


def kept(traces: Path, kind: Kind) -> Kept:
    """Return the results of a kind by name; files of another kind are passed over."""
    found: dict[str, dict[str, Any]] = {}
    broken = []
    for file in sorted(results_folder(traces).glob("*.json")):
        try:
            raw = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            broken.append(f"{file}: {error}")
            continue
        if isinstance(raw, dict) and MARKS[kind] <= set(raw):
            found[file.stem] = raw
    return Kept(found, tuple(broken))
