"""Shares of each run by factor and by all factors crossed, and what each nudge adds."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from trace_probe.statistics.bootstrap import Metric
from trace_probe.study.rates import McNemar, pair, share
from trace_probe.study.rows import FIGURES, Case, Factor, at

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
    """Yield every figure of every run: over all, by each factor, by all factors crossed."""
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
    if len(factors) > 1:
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
