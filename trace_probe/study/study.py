"""Rates and paired differences between runs that read the same tasks."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from trace_probe.errors import NotEnoughData
from trace_probe.labels import Label
from trace_probe.statistics.metrics import Metric, rate, resample
from trace_probe.store import Store
from trace_probe.study.pairs import Comparison, Side, compare_runs
from trace_probe.study.rates import NEUTRAL, McNemar, Row, TaskRate, at, named, pair, task_rates
from trace_probe.trace import Trace


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
    mcnemar: McNemar
    """Of the tasks, each counted as what most of its traces are."""


@dataclass(frozen=True)
class Study:
    """What the runs have in common and in what they differ."""

    tasks: int
    shares: tuple[Share, ...]
    rates: tuple[TaskRate, ...]
    differences: tuple[Difference, ...]
    explained: tuple[Share, ...]
    """Of the rate at each level of a nudge, the share that is gone without it."""
    comparisons: tuple[Comparison, ...]
    """For each pair of runs whether it is controlled."""
    notes: tuple[str, ...]


def study(stores: Sequence[Store], *, labeller: str | None = None, seed: int = 0) -> Study:
    """Compare runs on the test tasks that all of them hold; intervals are over tasks.

    Raises:
        NotEnoughData: the runs share no labelled test task, or two have the same name.
    """
    if len({store.name for store in stores}) < len(stores):
        raise NotEnoughData("two of these runs have the same name: rename the folder of one")
    rows = {store.name: _rows(store, labeller) for store in stores}
    shared = set.intersection(*({row.task for row in found} for found in rows.values()))
    if not shared:
        raise NotEnoughData("these runs share no labelled test task: record the same tasks in each")
    common = {name: [row for row in found if row.task in shared] for name, found in rows.items()}
    sides = [_side(store, common[store.name], labeller) for store in stores]
    return Study(
        tasks=len(shared),
        shares=tuple(
            share for name, found in common.items() for share in _shares(name, found, seed)
        ),
        rates=tuple(one for name, found in common.items() for one in task_rates(name, found, seed)),
        differences=(*_between(common, seed), *_nudges(common, seed)),
        explained=tuple(_explained(common, seed)),
        comparisons=tuple(compare_runs(*two) for two in combinations(sides, 2)),
        notes=_notes(rows, len(shared)),
    )


def _rows(store: Store, labeller: str | None) -> list[Row]:
    labels = store.labels(labeller)
    pairs = ((trace, labels.get(trace.id)) for trace in store.traces())
    return [_row(trace, label) for trace, label in pairs if label and _counts(trace, label)]


def _counts(trace: Trace, label: Label) -> bool:
    """Return whether a trace is of a test task and its outcome is known."""
    return trace.task.role == "test" and label.outcome is not None


def _row(trace: Trace, label: Label) -> Row:
    facts = {**trace.task.condition, **label.facts}
    return Row(
        trace.task.id,
        trace.task.category,
        trace.task.condition,
        facts,
        bool(label.outcome),
        label.silent,
    )


def _shares(name: str, rows: Sequence[Row], seed: int) -> Iterable[Share]:
    """Yield the rates of a run, over all and by each fact that varies."""
    acted = [row for row in rows if row.instrumental]
    heard = [row for row in acted if row.facts.get("said") != "unknown"]
    figures: dict[str, tuple[Sequence[Row], Callable[[Row], bool]]] = {
        "instrumental": (rows, lambda row: row.instrumental),
        "silent": (heard, lambda row: row.silent),
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


def _rate(rows: Sequence[Row], holds: Callable[[Row], bool], seed: int) -> Metric | None:
    if not rows:
        return None
    names, task = np.unique([row.task for row in rows], return_inverse=True)
    hit = np.array([holds(row) for row in rows], dtype=bool)
    return rate(hit, np.ones(len(rows), dtype=bool), task, resample(len(names), seed=seed))


def _between(runs: dict[str, list[Row]], seed: int) -> Iterable[Difference]:
    """Yield the difference of every pair of runs, over all tasks and by nudge."""
    names = list(runs)
    levels = sorted(
        {row.facts["nudge"] for rows in runs.values() for row in rows if "nudge" in row.facts}
    )
    for position, first in enumerate(names):
        for second in names[position + 1 :]:
            for level in (None, *levels):
                one, other = (
                    runs[name] if level is None else at(runs[name], "nudge", level)
                    for name in (first, second)
                )
                pairing = pair(one, other) or pair(one, other, ignore=_conditions(one + other))
                if pairing:
                    group = f"nudge={level}" if level else "all"
                    yield Difference(
                        first, second, group, pairing.difference(seed), pairing.mcnemar()
                    )


def _conditions(rows: Iterable[Row]) -> set[str]:
    return {name for row in rows for name in row.condition}


def _side(store: Store, rows: Sequence[Row], labeller: str | None) -> Side:
    labellers = frozenset(one.labeller for one in store.labels(labeller).values())
    conditions = frozenset(named(row.condition) for row in rows)
    return Side(store.name, store.manifest, labellers, conditions)


def _nudges(runs: dict[str, list[Row]], seed: int) -> Iterable[Difference]:
    """Yield what each level of a condition adds to none of it, within each run."""
    for name, fact, level, rows in _levels(runs):
        pairing = pair(at(rows, fact, level), at(rows, fact, NEUTRAL[fact]), ignore={fact})
        if pairing:
            names = f"{name} {level}", f"{name} {NEUTRAL[fact]}"
            yield Difference(*names, fact, pairing.difference(seed), pairing.mcnemar())


def _explained(runs: dict[str, list[Row]], seed: int) -> Iterable[Share]:
    for name, fact, level, rows in _levels(runs):
        pairing = pair(at(rows, fact, level), at(rows, fact, NEUTRAL[fact]), ignore={fact})
        value = pairing.explained(seed) if pairing else None
        if value:
            yield Share(name, f"{fact}={level}", "explained", value)


def _levels(runs: dict[str, list[Row]]) -> Iterable[tuple[str, str, str, list[Row]]]:
    """Yield each run with each condition that varies in it and each level but the neutral one."""
    for name, rows in runs.items():
        for fact, neutral in NEUTRAL.items():
            for level in sorted({row.facts[fact] for row in rows if fact in row.facts} - {neutral}):
                yield name, fact, level, rows


def _notes(rows: dict[str, list[Row]], shared: int) -> tuple[str, ...]:
    held = {name: len({row.task for row in found}) for name, found in rows.items()}
    lost = {name: count - shared for name, count in held.items() if count > shared}
    return tuple(f"{count} tasks of {name} are in no other run" for name, count in lost.items())


def format_study(found: Study) -> str:
    """Return the study as tables, and what may not be read into them."""
    rows = [
        f"{one.run:18} {one.figure:13} {one.group:14} {_cell(one.value, 'n')}"
        for one in (*found.shares, *found.explained)
    ]
    rates = [
        f"{one.run:18} {one.figure:3} {one.category:33} {one.condition:26} "
        f"{_cell(one.value, 'tasks')}"
        for one in found.rates
    ]
    pairs = [
        f"{one.first:18} - {one.second:18} {one.group:14} {_cell(one.value, 'tasks')}"
        f"  McNemar {one.mcnemar.first_only}:{one.mcnemar.second_only}, p {one.mcnemar.p:.3g}"
        for one in found.differences
    ]
    head = f"{found.tasks} test tasks in all runs; intervals are 95 %, over tasks"
    ends = [*map(str, found.comparisons), *found.notes]
    return "\n".join([head, "", *rows, "", *rates, "", *pairs, *ends])


def _cell(value: Metric, unit: str) -> str:
    return f"{value.estimate:+.3f} [{value.lower:+.3f}, {value.upper:+.3f}] {unit}={value.n}"
