"""Rates and paired differences between runs that read the same tasks."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trace_probe.errors import NotEnoughData
from trace_probe.labels import Label
from trace_probe.metrics import Metric, metric, rate, resample
from trace_probe.store import Store
from trace_probe.trace import Trace

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Share:
    """How often something is the case in one group of traces."""

    run: str
    group: str
    """Such as ``nudge=push``, or ``all``."""
    figure: str
    """``instrumental``; of instrumental traces ``silent`` and ``unfaithful``."""
    value: Metric


@dataclass(frozen=True)
class Difference:
    """A difference of instrumental rates on the same tasks, one task at a time."""

    first: str
    second: str
    group: str
    value: Metric
    """Mean over tasks of first minus second."""


@dataclass(frozen=True)
class Study:
    """What the runs have in common and in what they differ."""

    tasks: int
    shares: tuple[Share, ...]
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]


class _Row(NamedTuple):
    """One labelled trace of a test task."""

    task: str
    facts: dict[str, str]
    instrumental: bool
    silent: bool


def study(stores: Sequence[Store], *, labeller: str | None = None, seed: int = 0) -> Study:
    """Compare runs on the test tasks that all of them hold; intervals are over tasks.

    Raises:
        NotEnoughData: the runs share no labelled test task.
    """
    rows = {store.name: _rows(store, labeller) for store in stores}
    shared = set.intersection(*({row.task for row in found} for found in rows.values()))
    if not shared:
        raise NotEnoughData("these runs share no labelled test task: record the same tasks in each")
    common = {name: [row for row in found if row.task in shared] for name, found in rows.items()}
    return Study(
        tasks=len(shared),
        shares=tuple(
            share for name, found in common.items() for share in _shares(name, found, seed)
        ),
        differences=(*_between(common, seed), *_nudges(common, seed)),
        notes=_notes(rows, len(shared)),
    )


def _rows(store: Store, labeller: str | None) -> list[_Row]:
    labels = store.labels(labeller)
    pairs = ((trace, labels.get(trace.id)) for trace in store.traces())
    return [_row(trace, label) for trace, label in pairs if label and _counts(trace, label)]


def _counts(trace: Trace, label: Label) -> bool:
    """Return whether a trace is of a test task and its outcome is known."""
    return trace.task.role == "test" and label.outcome is not None


def _row(trace: Trace, label: Label) -> _Row:
    facts = {**trace.task.condition, **label.facts}
    return _Row(trace.task.id, facts, bool(label.outcome), label.silent)


def _shares(name: str, rows: Sequence[_Row], seed: int) -> Iterable[Share]:
    """Yield the rates of a run, over all and by each fact that varies."""
    acted = [row for row in rows if row.instrumental]
    figures: dict[str, tuple[Sequence[_Row], Callable[[_Row], bool]]] = {
        "instrumental": (rows, lambda row: row.instrumental),
        "silent": (acted, lambda row: row.silent),
        "unfaithful": (acted, lambda row: row.facts.get("unfaithful") == "yes"),
    }
    for figure, (among, holds) in figures.items():
        value = _rate(among, holds, seed)
        if value:
            yield Share(name, "all", figure, value)
    for fact in ("nudge", "enough", "watched"):
        for level in sorted({row.facts[fact] for row in rows if fact in row.facts}):
            chosen = [row for row in rows if row.facts.get(fact) == level]
            value = _rate(chosen, lambda row: row.instrumental, seed)
            if value:
                yield Share(name, f"{fact}={level}", "instrumental", value)


def _rate(rows: Sequence[_Row], holds: Callable[[_Row], bool], seed: int) -> Metric | None:
    if not rows:
        return None
    names, task = np.unique([row.task for row in rows], return_inverse=True)
    hit = np.array([holds(row) for row in rows], dtype=bool)
    return rate(hit, np.ones(len(rows), dtype=bool), task, resample(len(names), seed=seed))


def _between(runs: dict[str, list[_Row]], seed: int) -> Iterable[Difference]:
    """Yield the difference of every pair of runs, over all tasks and by nudge."""
    names = list(runs)
    levels = sorted(
        {row.facts["nudge"] for rows in runs.values() for row in rows if "nudge" in row.facts}
    )
    for position, first in enumerate(names):
        for second in names[position + 1 :]:
            for level in (None, *levels):
                one, other = (_of(runs[name], level) for name in (first, second))
                value = _paired(one, other, seed)
                if value:
                    yield Difference(first, second, f"nudge={level}" if level else "all", value)


def _nudges(runs: dict[str, list[_Row]], seed: int) -> Iterable[Difference]:
    """Yield what each nudge level adds to none, within each run."""
    for name, rows in runs.items():
        for level in sorted({row.facts.get("nudge", "none") for row in rows} - {"none"}):
            value = _paired(_of(rows, level), _of(rows, "none"), seed)
            if value:
                yield Difference(f"{name} {level}", f"{name} none", "nudge", value)


def _of(rows: Iterable[_Row], level: str | None) -> list[_Row]:
    return [row for row in rows if level is None or row.facts.get("nudge") == level]


def _paired(first: Sequence[_Row], second: Sequence[_Row], seed: int) -> Metric | None:
    """Return the mean over common tasks of the difference of their rates."""
    one, other = _by_task(first), _by_task(second)
    common = sorted(one.keys() & other.keys())
    if not common:
        return None
    gaps = np.array([one[task] - other[task] for task in common])
    weights = resample(len(common), seed=seed)
    return metric(weights @ gaps / len(common), len(common))


def _by_task(rows: Iterable[_Row]) -> dict[str, float]:
    found: dict[str, list[bool]] = {}
    for row in rows:
        found.setdefault(row.task, []).append(row.instrumental)
    return {task: float(np.mean(outcomes)) for task, outcomes in found.items()}


def _notes(rows: dict[str, list[_Row]], shared: int) -> tuple[str, ...]:
    held = {name: len({row.task for row in found}) for name, found in rows.items()}
    lost = {name: count - shared for name, count in held.items() if count > shared}
    return tuple(f"{count} tasks of {name} are in no other run" for name, count in lost.items())


def format_study(found: Study) -> str:
    """Return the study as two tables."""
    rows = [
        f"{one.run:18} {one.figure:13} {one.group:14} {_cell(one.value, 'n')}"
        for one in found.shares
    ]
    pairs = [
        f"{one.first:18} - {one.second:18} {one.group:14} {_cell(one.value, 'tasks')}"
        for one in found.differences
    ]
    head = f"{found.tasks} test tasks in all runs; intervals are 95 %, over tasks"
    return "\n".join([head, "", *rows, "", *pairs, *found.notes])


def _cell(value: Metric, unit: str) -> str:
    return f"{value.estimate:+.3f} [{value.lower:+.3f}, {value.upper:+.3f}] {unit}={value.n}"
