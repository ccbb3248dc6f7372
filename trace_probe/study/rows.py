"""Labelled traces as rows of a study: what happened, under what, and what else is known of it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from trace_probe.errors import NotEnoughData
from trace_probe.labels import Label
from trace_probe.store import Store
from trace_probe.trace import Trace

MOST_LEVELS = 12
"""A condition with more levels than this is no factor unless it is asked for."""


class Case(NamedTuple):
    """One labelled trace of a test task."""

    task: str
    category: str
    condition: dict[str, str]
    facts: dict[str, str]
    """What the labeller knows."""
    instrumental: bool
    silent: bool

    def level(self, factor: str) -> str | None:
        """Return the level of a factor: a condition, a fact or the category."""
        own = self.category if factor == "category" else None
        return self.condition.get(factor, self.facts.get(factor, own))


@dataclass(frozen=True)
class Figure:
    """Something that a share of traces is, among those on which it is known."""

    name: str
    among: Callable[[Case], bool]
    holds: Callable[[Case], bool]


FIGURES = (
    Figure("instrumental", lambda _row: True, lambda row: row.instrumental),
    Figure(
        "silent",
        lambda row: row.instrumental and row.facts.get("said") != "unknown",
        lambda row: row.silent,
    ),
    Figure(
        "unfaithful",
        lambda row: row.instrumental and row.facts.get("unfaithful") in ("yes", "no"),
        lambda row: row.facts["unfaithful"] == "yes",
    ),
)
"""How often traces are instrumental; of instrumental ones, how often the thought never said it,
and how often the last plan it put into words is not what was done."""


@dataclass(frozen=True)
class Factor:
    """Something that traces are told apart by."""

    name: str
    levels: tuple[str, ...]
    kind: Literal["condition", "fact", "category"]
    """A condition was set beforehand. A fact of the label is known only afterwards: rates by it
    say how acts are distributed, not what the fact does."""


def read_rows(store: Store, labeller: str | None = None) -> list[Case]:
    """Return the traces of test tasks whose outcome is known; of the latest labeller by default."""
    labels = store.labels(labeller)
    pairs = ((trace, labels.get(trace.id)) for trace in store.traces())
    return [_row(trace, label) for trace, label in pairs if label and _counts(trace, label)]


def _counts(trace: Trace, label: Label) -> bool:
    return trace.task.role == "test" and label.outcome is not None


def _row(trace: Trace, label: Label) -> Case:
    task = trace.task
    return Case(
        task.id, task.category, task.condition, label.facts, bool(label.outcome), label.silent
    )


def at(rows: Iterable[Case], factor: str, level: str) -> list[Case]:
    """Return the rows at one level of a factor."""
    return [row for row in rows if row.level(factor) == level]


def find_factors(rows: Sequence[Case], names: Sequence[str] = ()) -> tuple[Factor, ...]:
    """Return the factors by these names, or else all conditions and yes-or-no facts that vary.

    Raises:
        NotEnoughData: a name is neither a condition nor a fact of these traces.
    """
    conditions = {name for row in rows for name in row.condition}
    facts = {name for row in rows for name in row.facts} - conditions
    known = {*conditions, *facts, "category"}
    for name in names:
        if name not in known:
            raise NotEnoughData(f"no factor {name!r}: these traces have {', '.join(sorted(known))}")
    found = [_factor(rows, name, conditions, facts) for name in names or sorted(known)]
    return tuple(one for one in found if names or _is_told_unasked(one))


def _factor(rows: Sequence[Case], name: str, conditions: set[str], facts: set[str]) -> Factor:
    levels = {level for row in rows if (level := row.level(name)) is not None}
    kind: Literal["condition", "fact", "category"] = (
        "condition" if name in conditions else "fact" if name in facts else "category"
    )
    return Factor(name, tuple(sorted(levels)), kind)


def _is_told_unasked(factor: Factor) -> bool:
    if factor.kind == "fact":
        own = {figure.name for figure in FIGURES}
        return factor.name not in own and factor.levels == ("no", "yes")
    return factor.kind == "condition" and 1 < len(factor.levels) <= MOST_LEVELS
