"""Rates and paired differences between runs that read the same tasks."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations

from trace_probe.errors import NotEnoughData
from trace_probe.labelling.agreement import Agreement, agreement
from trace_probe.statistics.bootstrap import Metric
from trace_probe.store import Store
from trace_probe.study.breakdown import Added, GroupRate, additions, shares
from trace_probe.study.controlled import Comparison, Side, compare_runs
from trace_probe.study.rates import McNemar, TaskRate, named, pair, share_gap, task_rates
from trace_probe.study.rows import FIGURES, Case, Factor, at, find_factors, read_rows
from trace_probe.study.seeds import AcrossSeeds, across_seeds, by_variant, together
from trace_probe.trace import digest

Runs = Mapping[str, Sequence[Case]]


@dataclass(frozen=True)
class Difference:
    """A difference between two runs on the same tasks."""

    first: str
    """The run named later, so that the difference reads as what was done to the other."""
    second: str
    group: str
    figure: str
    """``instrumental``, one task at a time; or a share among instrumental traces."""
    controlled: bool
    value: Metric
    """Mean over tasks of first minus second."""
    mcnemar: McNemar | None
    """Of the tasks, each counted as what most of its traces are; of ``instrumental`` only."""


@dataclass(frozen=True)
class Study:
    """What the runs have in common and in what they differ."""

    tasks: int
    factors: tuple[Factor, ...]
    shares: tuple[GroupRate, ...]
    """Of every run, and of all seeds of a variant together."""
    rates: tuple[TaskRate, ...]
    agreement: dict[str, Agreement]
    """IAR and kappas of each run that several have labelled."""
    added: tuple[Added, ...]
    differences: tuple[Difference, ...]
    across_seeds: tuple[AcrossSeeds, ...]
    comparisons: tuple[Comparison, ...]
    """For each pair of runs whether it is controlled."""
    notes: tuple[str, ...]


def study(
    stores: Sequence[Store],
    *,
    labeller: str | None = None,
    by: Sequence[str] = (),
    seed: int = 0,
) -> Study:
    """Compare runs on the test tasks that all of them hold; intervals are over tasks.

    `by` names conditions or facts of labels to break the rates down by; without it, all
    conditions and yes-or-no facts that vary.

    Raises:
        NotEnoughData: the runs share no labelled test task, two have the same name, or none
            has a factor that `by` names.
    """
    if len({store.name for store in stores}) < len(stores):
        raise NotEnoughData("two of these runs have the same name: rename the folder of one")
    every = {store.name: read_rows(store, labeller) for store in stores}
    shared = set.intersection(*({row.task for row in rows} for rows in every.values()))
    if not shared:
        raise NotEnoughData("these runs share no labelled test task: record the same tasks in each")
    runs = {name: [row for row in rows if row.task in shared] for name, rows in every.items()}
    factors = find_factors([row for rows in runs.values() for row in rows], by)
    sides = [_side(store, runs[store.name], labeller, shared) for store in stores]
    comparisons = [compare_runs(*two) for two in combinations(sides, 2)]
    variants = by_variant(stores, runs)
    groups = {**runs, **together(variants)}
    return Study(
        tasks=len(shared),
        factors=factors,
        shares=tuple(shares(groups, factors, seed)),
        rates=tuple(one for name, rows in runs.items() for one in task_rates(name, rows, seed)),
        agreement={s.name: agreement(s, seed=seed) for s in stores if len(s.labellers()) > 1},
        added=tuple(additions(groups, seed)),
        differences=tuple(
            one for pair_ in comparisons for one in _differences(pair_, runs, factors, seed)
        ),
        across_seeds=tuple(across_seeds(variants, seed)),
        comparisons=tuple(comparisons),
        notes=_notes(every, len(shared)),
    )


def _side(store: Store, rows: Sequence[Case], labeller: str | None, shared: set[str]) -> Side:
    labellers = frozenset(one.labeller for one in store.labels(labeller).values())
    conditions = frozenset(named(row.condition) for row in rows)
    prompts = {
        trace.task.prompt_key: digest(trace.channel_text("prompt"))
        for trace in store.traces()
        if trace.task.id in shared
    }
    return Side(store.name, store.manifest, labellers, conditions, prompts)


def _differences(
    found: Comparison, runs: Runs, factors: Sequence[Factor], seed: int
) -> Iterable[Difference]:
    """Yield the differences of two runs: over all, and by each level of a condition.

    Not by facts of labels: these come about with the act, so groups by them are not alike.
    """
    first, second = list(runs[found.second]), list(runs[found.first])
    groups = [("all", first, second)]
    for factor in factors:
        if factor.kind != "fact":
            for level in factor.levels:
                chosen = at(first, factor.name, level), at(second, factor.name, level)
                groups.append((f"{factor.name}={level}", *chosen))
    for group, one, other in groups:
        pairing = pair(one, other) or pair(one, other, ignore=_conditions([*one, *other]))
        if pairing:
            about = partial(Difference, found.second, found.first, group)
            gap, test = pairing.difference(seed), pairing.mcnemar()
            yield about("instrumental", found.controlled, gap, test)
            for figure in FIGURES[1:]:
                value = share_gap(one, other, figure, seed)
                if value:
                    yield about(figure.name, found.controlled, value, None)


def _conditions(rows: Iterable[Case]) -> set[str]:
    return {name for row in rows for name in row.condition}


def _notes(rows: Runs, shared: int) -> tuple[str, ...]:
    held = {name: len({row.task for row in found}) for name, found in rows.items()}
    lost = {name: count - shared for name, count in held.items() if count > shared}
    return tuple(f"{count} tasks of {name} are in no other run" for name, count in lost.items())
