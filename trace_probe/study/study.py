"""Rates and paired differences between runs that read the same tasks.

Variants that were trained with several seeds: their runs together, and seed by seed.

Whether two runs are a controlled comparison, and in clear words why not.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations, product

from trace_probe.errors import NotEnoughData
from trace_probe.labelling.agreement import Agreement, agreement
from trace_probe.model.naming import UNMERGED, without_version
from trace_probe.statistics.bootstrap import Metric
from trace_probe.store import Manifest, Store
from trace_probe.study.pairs import cousins, doubt, steps, variant_of
from trace_probe.study.rates import (
    FIGURES,
    Case,
    Factor,
    Figure,
    McNemar,
    TaskRate,
    at,
    find_factors,
    named,
    pair,
    read_rows,
    share,
    share_gap,
    task_rates,
)
from trace_probe.trace import digest

NEUTRAL = {"nudge": "none", "suffix": "none", "thinking": "off", "mode": "baseline"}
"""Conditions that push for or against the goal, or let the model think, and their level that
does neither."""
Runs = Mapping[str, Sequence[Case]]


@dataclass(frozen=True)
class GroupRate:
    """How often something is the case in one group of traces."""

    run: str
    group: str
    """Such as ``nudge=push`` or ``nudge=push, watched=no``; or ``all``."""
    figure: str
    """One of `rows.FIGURES`."""
    value: Metric


@dataclass(frozen=True)
class Added:
    """What a level of a condition adds to the instrumental rate of the same tasks without it."""

    run: str
    condition: str
    level: str
    neutral: str
    rate: Metric
    without: Metric
    added: Metric
    explained: Metric | None
    """The share of the rate that is gone without it; None if the rate is 0."""
    mcnemar: McNemar


def shares(runs: Runs, factors: Sequence[Factor], seed: int) -> Iterable[GroupRate]:
    """Yield every figure of every run: over all, by each factor, by two factors crossed.

    More factors than two are not crossed: their groups would be many and small. Name two by `by`.
    """
    for name, rows in runs.items():
        for group, chosen in _groups(rows, factors):
            for figure in FIGURES:
                value = share(chosen, figure, seed)
                if value:
                    yield GroupRate(name, group, figure.name, value)


def _groups(rows: Sequence[Case], factors: Sequence[Factor]) -> Iterable[tuple[str, list[Case]]]:
    yield "all", list(rows)
    for factor in factors:
        for level in factor.levels:
            yield f"{factor.name}={level}", at(rows, factor.name, level)
    if len(factors) == 2:
        for cell in product(*(factor.levels for factor in factors)):
            levels = list(zip((factor.name for factor in factors), cell, strict=True))
            chosen = [row for row in rows if all(row.level(n) == level for n, level in levels)]
            yield ", ".join(f"{name}={level}" for name, level in levels), chosen


def additions(runs: Runs, seed: int) -> Iterable[Added]:
    """Yield what each level of a condition adds to its neutral level, on the same tasks."""
    for name, rows in runs.items():
        for condition, neutral in NEUTRAL.items():
            levels = {row.condition[condition] for row in rows if condition in row.condition}
            for level in sorted(levels - {neutral}):
                pairing = pair(
                    at(rows, condition, level), at(rows, condition, neutral), ignore={condition}
                )
                if pairing:
                    yield Added(
                        *(name, condition, level, neutral),
                        *pairing.rates(seed),
                        pairing.difference(seed),
                        pairing.explained(seed),
                        pairing.mcnemar(),
                    )


@dataclass(frozen=True)
class Comparison:
    """Whether the difference between two runs has one known cause."""

    first: str
    second: str
    controlled: bool
    differs: str
    """The one difference, or all that speaks against a controlled comparison."""

    def __str__(self) -> str:
        """Return it as a sentence."""
        if self.controlled:
            return f"{self.first} and {self.second} differ in one thing: {self.differs}"
        return f"{self.first} and {self.second} are NOT a controlled pair: {self.differs}"


@dataclass(frozen=True)
class Side:
    """One run of a comparison."""

    name: str
    manifest: Manifest
    labellers: frozenset[str]
    conditions: frozenset[str]
    """As `rates.named` writes them."""
    prompts: Mapping[str, str] = field(default_factory=dict)
    """By prompt key what the model read, as a digest: chat templates write a prompt differently."""


def compare_runs(first: Side, second: Side) -> Comparison:
    """Return whether two runs are a controlled pair, and why not if they are not."""
    change, against = _between(first, second)
    against += [
        f"{what} {left} against {right}"
        for what, left, right in _settings(first, second)
        if left != right
    ]
    shared = first.prompts.keys() & second.prompts.keys()
    other = sum(first.prompts[key] != second.prompts[key] for key in shared)
    if other:
        against.append(
            f"the chat templates write {other} of {len(shared)} prompts that both read differently"
        )
    if change and first.conditions != second.conditions:
        against.append("the prompts are under different conditions too")
    if against:
        every = "; ".join([*([change] if change else []), *against])
        return Comparison(first.name, second.name, controlled=False, differs=every)
    if not change:
        prompt = "the prompt only" if first.conditions != second.conditions else "the draw only"
        change = f"{prompt} (same model, same sampling)"
    return Comparison(first.name, second.name, controlled=True, differs=change)


def _between(first: Side, second: Side) -> tuple[str, list[str]]:
    """Return the one change between two models, if one is known, and what speaks against it."""
    left, right = first.manifest, second.manifest
    if left.model == right.model and left.base == right.base:
        return "", []
    if (bases := _bases(first, second)) is not None:
        return bases
    against = [why for one in (left, right) if (why := doubt(one.model, one.base))]
    if left.base and right.base and left.base != right.base:
        against.append(f"base {left.base} against {right.base}")
    if against:
        return "", against
    change, against = _step(left, right)
    if merged(left) != merged(right):
        against.append("merged against unmerged, which are one variant apart from rounding")
    return change, against


def merged(manifest: Manifest) -> bool:
    """Return whether the adapter of a model, if it has one, was added to the weights."""
    return not without_version(manifest.model).endswith(UNMERGED)


def _step(left: Manifest, right: Manifest) -> tuple[str, list[str]]:
    """Return the one known step between two models on the same base, or why there is none."""
    one, other = _model(left), _model(right)
    if one == other:
        same = merged(left) != merged(right)
        return "", [] if same else [f"revision {left.model} against {right.model}"]
    (variant, seed), (other_variant, other_seed) = variant_of(one), variant_of(other)
    if variant == other_variant:
        return f"the seed of training only, {seed} against {other_seed}", []
    chain = steps(one, other)
    if len(chain) == 1:
        note = f" ({chain[0].note})" if chain[0].note else ""
        return f"{chain[0].differs}{note}", []
    if chain:
        return "", [f"{' and '.join(pair.differs for pair in chain)} lie between the models"]
    known = cousins(one, other)
    why = f": {known.why}" if known else ""
    return "", [f"no single step is known from {one} to {other}{why}"]


def _bases(first: Side, second: Side) -> tuple[str, list[str]] | None:
    """Return what is to be said of a model and itself with an adapter; None of other models."""
    for plain, adapted in ((first.manifest, second.manifest), (second.manifest, first.manifest)):
        if adapted.base and not plain.base and adapted.base == plain.model:
            return f"adapter ({_model(adapted)})", []
        if adapted.base and not plain.base and without_version(adapted.base) == _model(plain):
            return "", [f"the adapter is on {adapted.base}, and the other is {plain.model}"]
    return None


def _settings(first: Side, second: Side) -> Iterator[tuple[str, object, object]]:
    """Yield what must be the same in both runs; the seed need not be."""
    for name in ("temperature", "top_p", "max_new_tokens"):
        one, other = first.manifest.sampling, second.manifest.sampling
        yield name, getattr(one, name), getattr(other, name)
    yield "dtype", first.manifest.dtype or "unknown", second.manifest.dtype or "unknown"
    yield "source", first.manifest.source, second.manifest.source
    by = [", ".join(sorted(side.labellers)) for side in (first, second)]
    yield "labels by", by[0], by[1]


def _model(manifest: Manifest) -> str:
    """Return the name of a model without its revision, and without how its adapter is added."""
    return without_version(manifest.model).removesuffix(UNMERGED)


Variants = Mapping[str, Mapping[str, Sequence[Case]]]
"""By variant and seed the rows of its run; the seed of a model that has none is empty."""


@dataclass(frozen=True)
class AcrossSeeds:
    """The difference between two variants on the same tasks, in every seed."""

    first: str
    """The variant named later, so that the difference reads as what was done to the other."""
    second: str
    figure: str
    seeds: dict[str, Metric]
    mean: Metric | None
    """Of all seeds together; its interval is over tasks, the seeds are taken as they are."""
    in_every_seed: bool
    """Whether all intervals exclude 0, on the same side."""


def by_variant(stores: Sequence[Store], runs: Mapping[str, Sequence[Case]]) -> Variants:
    """Return the runs by variant and seed; of two runs of one model the first counts.

    A model that only bears the name of a variant, or one on another base, is a variant of its own.
    """
    found: dict[str, dict[str, Sequence[Case]]] = defaultdict(dict)
    bases: dict[str, str] = {}
    for store in stores:
        model, base = store.manifest.model, store.manifest.base
        known = not doubt(model, base)
        variant, seed = variant_of(without_version(model)) if known else (model, "")
        if base != bases.setdefault(variant, base):
            variant = f"{variant} on {base}"
        found[variant].setdefault(seed, runs[store.name])
    return found


def together(variants: Variants) -> dict[str, list[Case]]:
    """Return the rows of each variant that has several seeds, as one run."""
    return {
        f"{variant} ({', '.join(seeds)})": [row for rows in seeds.values() for row in rows]
        for variant, seeds in variants.items()
        if len(seeds) > 1
    }


def across_seeds(variants: Variants, seed: int) -> list[AcrossSeeds]:
    """Return the differences between variants of which at least one has several seeds."""
    return [
        found
        for other, one in combinations(variants, 2)
        if len(variants[one]) > 1 or len(variants[other]) > 1
        for figure in FIGURES
        if (found := _across((one, other), variants, figure, seed))
    ]


def _across(
    names: tuple[str, str], variants: Variants, figure: Figure, seed: int
) -> AcrossSeeds | None:
    """Return one figure in every seed that both have; one without seeds stands beside each."""
    first, second = (variants[name] for name in names)
    seeds = dict.fromkeys(s for s in (*first, *second) if s)
    sides = {s: (_rows_of(first, s), _rows_of(second, s)) for s in seeds}
    sides = {s: both for s, both in sides.items() if all(both)}
    gaps = {s: gap(*rows, figure, seed) for s, rows in sides.items()}
    known = {s: value for s, value in gaps.items() if value}
    if not known:
        return None
    one, other = ([row for s in known for row in sides[s][i]] for i in (0, 1))
    mean = gap(one, other, figure, seed)
    return AcrossSeeds(*names, figure.name, known, mean, _one_side(known, len(sides)))


def _rows_of(seeds: Mapping[str, Sequence[Case]], seed: str) -> Sequence[Case]:
    return seeds.get(seed, seeds.get("", ()))


def _one_side(gaps: Mapping[str, Metric], seeds: int) -> bool:
    above = all(value.above(0) for value in gaps.values())
    below = all(value.below(0) for value in gaps.values())
    return len(gaps) == seeds and (above or below)


def gap(first: Sequence[Case], second: Sequence[Case], figure: Figure, seed: int) -> Metric | None:
    """Return a difference on the same tasks: one task at a time where every trace counts."""
    if figure.name != "instrumental":
        return share_gap(first, second, figure, seed)
    pairing = pair(first, second)
    return pairing.difference(seed) if pairing else None


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
