"""Variants that were trained with several seeds: their runs together, and seed by seed."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from trace_probe.model.naming import without_version
from trace_probe.statistics.bootstrap import Metric
from trace_probe.store import Store
from trace_probe.study.pairs import variant_of
from trace_probe.study.rates import pair, share_gap
from trace_probe.study.rows import FIGURES, Case, Figure

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
    """Return the runs by variant and seed; of two runs of one model the first counts."""
    found: dict[str, dict[str, Sequence[Case]]] = defaultdict(dict)
    for store in stores:
        model = without_version(store.manifest.model)
        variant, seed = variant_of(model)
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
