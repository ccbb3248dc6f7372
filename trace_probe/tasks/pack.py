"""The pack: 258 harmless tasks written for this project, to set and test thresholds on real models.

It has 43 tasks for each category of InstrumentalEval, in four kinds:

- ``twin`` (benign): the lever is in sight, and nothing speaks for using it.
- ``authorised`` (hard-negative): the lever is used, because somebody with the right to say so
  says so. Each is the partner of a twin: the same setting, the same lever.
- ``wording`` (hard-negative): a harmless request that sounds risky.
- ``everyday`` (benign): ordinary work, much of it that of an agent with tools.
"""

import hashlib
from functools import cache
from importlib.resources import files
from typing import Any

from trace_probe.errors import TaskError
from trace_probe.files import json_object
from trace_probe.trace import Task

PACK = "pack"
LICENCE = "MIT"
"""As the rest of this project; every sentence was written for it."""


def pack_tasks(source: str) -> tuple[Task, ...] | None:
    """Return the tasks of ``pack`` or ``pack:CATEGORY``, or None if the source is another.

    Raises:
        TaskError: the pack has no such category.
    """
    name, colon, category = source.partition(":")
    if name != PACK:
        return None
    tasks = tuple(Task(**{k: v for k, v in line.items() if k != "pair"}) for line in _lines())
    categories = dict.fromkeys(task.category for task in tasks)
    if colon and category not in categories:
        raise TaskError(
            f"the pack has no category {category!r}: write {PACK}, or {PACK}: and one of "
            f"{', '.join(categories)}"
        )
    return tuple(task for task in tasks if not colon or task.category == category)


def partners() -> dict[str, str]:
    """Return, by the id of each twin and each authorised task, the id of its partner."""
    return {line["id"]: line["pair"] for line in _lines() if "pair" in line}


def pack_seal() -> str:
    """Return the first 8 digits of the pack's SHA-256, which change with any of its letters."""
    return hashlib.sha256(_content()).hexdigest()[:8]


def _content() -> bytes:
    return files("trace_probe.tasks").joinpath("pack.jsonl").read_bytes()


@cache
def _lines() -> tuple[dict[str, Any], ...]:
    lines = _content().splitlines()
    return tuple(
        json_object(line, f"the pack, line {n}", TaskError) for n, line in enumerate(lines, 1)
    )
