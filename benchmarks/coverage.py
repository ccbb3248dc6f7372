"""Do intervals over few tasks cover? ``python -m benchmarks.coverage``.

Traces of mixed prompts get random scores, so the AUROC within prompts is a half in truth; an
interval whose lower end lies above that claims a signal that is not there. And with a planted
AUROC on thirty tasks, what covering costs: the width beside the percentile interval's, and how
often the signal is found. The headline is tried in the same way, its chance being known from the
scores' exchange among the traces of a prompt.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.command import Say, run
from trace_probe.statistics.bootstrap import (
    Bounds,
    Index,
    Mask,
    Metric,
    Resampled,
    Values,
    resample,
)
from trace_probe.statistics.metrics import NEVER, Cohort, pairs_within, running_maxima
from trace_probe.statistics.siblings import LEAST_PROMPTS, mixed_prompts

PROMPTS = (4, 6, 10, 15, 30)
TRIALS = 800
SHIFT = 1.19
"""Of the scores of positives, in standard deviations: an AUROC of .8."""


@dataclass(frozen=True)
class World:
    """Scores of the traces of some mixed prompts."""

    shift: float = 0.0
    """Of the scores of positives."""
    uneven: bool = False
    """Prompts with 3 to 12 samples and shares of their own instead of 8 and a half."""
    spread: float = 0.0
    """Of the shift, between prompts."""

    def draw(self, prompts: int, rng: np.random.Generator) -> tuple[Cohort, Values]:
        """Return traces of one sentence and their scores, as `running_maxima`."""
        outcomes = [self._outcomes(rng) for _ in range(prompts)]
        task: Index = np.repeat(np.arange(prompts), [len(one) for one in outcomes])
        positive: Mask = np.concatenate(outcomes)
        own = self.shift + self.spread * rng.normal(size=prompts)
        score = rng.normal(size=len(task)) + own[task] * positive
        cohort = Cohort(
            ids=tuple(map(str, range(len(task)))),
            positive=positive,
            task=task,
            prompt=task,
            sentences=tuple(np.arange(1) for _ in task),
            said=np.full(len(task), NEVER),
        )
        return cohort, running_maxima(score[:, None])

    def _outcomes(self, rng: np.random.Generator) -> Mask:
        """Return which samples of a prompt are positive: some are, and some are not."""
        while True:
            samples = int(rng.integers(3, 13)) if self.uneven else 8
            positive = rng.random(samples) < (rng.beta(2, 2) if self.uneven else 0.5)
            if positive.any() and not positive.all():
                return positive


def auroc(cohort: Cohort, maxima: Values, weights: Values) -> Resampled:
    """Return the AUROC within prompts."""
    return pairs_within(cohort, cohort.length).auroc(maxima, weights)


def over_chance(cohort: Cohort, maxima: Values, weights: Values) -> Resampled:
    """Return the headline at 10 % of siblings, less that of scores permuted within prompts."""
    mixed = mixed_prompts(cohort)
    caught = mixed.caught(maxima, weights, 0.1)
    return caught - mixed.by_chance(maxima, weights, 0.1)


def percentile(value: Resampled) -> Bounds:
    """Return the percentile interval, which takes no account of how many tasks there are."""
    lower, upper = np.nanpercentile(value.draws[1:], [2.5, 97.5])
    return float(lower), float(upper)


def intervals(
    world: World, prompts: int, trials: int, seed: int = 0
) -> Iterator[tuple[Metric, Bounds]]:
    """Yield the interval of the AUROC of each trial, with the percentile interval."""
    rng = np.random.default_rng([seed, prompts])
    for trial in range(trials):
        cohort, maxima = world.draw(prompts, rng)
        value = auroc(cohort, maxima, resample(prompts, seed=trial))
        found = value.interval()
        assert found is not None
        yield found, percentile(value)


def false_claims(world: World, prompts: int, trials: int = TRIALS) -> tuple[float, float]:
    """Return how often the lower end is above a half, by our interval and by the percentiles."""
    every = list(intervals(world, prompts, trials))
    ours = float(np.mean([found.above(0.5) for found, _ in every]))
    return ours, float(np.mean([lower > 0.5 for _, (lower, _) in every]))


def cost(world: World, prompts: int = 30, trials: int = TRIALS) -> tuple[float, float, float]:
    """Return the mean width as a part of the percentile interval's, and the power of both."""
    every = list(intervals(world, prompts, trials))
    width = np.mean([found.upper - found.lower for found, _ in every])
    plain = np.mean([upper - lower for _, (lower, upper) in every])
    ours = float(np.mean([found.above(0.5) for found, _ in every]))
    return float(width / plain), ours, float(np.mean([lower > 0.5 for _, (lower, _) in every]))


def false_headlines(world: World, prompts: int, trials: int = TRIALS) -> float:
    """Return how often the headline is claimed to be above chance where scores are random."""
    rng = np.random.default_rng([1, prompts])
    claims = 0
    for trial in range(trials):
        cohort, maxima = world.draw(prompts, rng)
        found = over_chance(cohort, maxima, resample(prompts, seed=trial, draws=400)).interval()
        claims += found is not None and found.above(0.0)
    return claims / trials


@dataclass(frozen=True)
class CoveragePlan:
    """How much is tried."""

    prompts: tuple[int, ...] = PROMPTS
    trials: int = TRIALS


@dataclass(frozen=True)
class Coverage:
    """How often a claim is wrong, and what it costs that it seldom is."""

    plan: CoveragePlan
    false_claims: Mapping[int, tuple[float, float, float, float]]
    """By number of prompts: even prompts, by percentiles, uneven prompts, by percentiles."""
    cost: Mapping[str, tuple[float, float, float]]
    """By world: width as a part of the percentile interval's, power, power by percentiles."""
    false_headlines: Mapping[int, tuple[float, float]]
    """By number of prompts, from ten on: even and uneven prompts."""


def coverage(plan: CoveragePlan, say: Say) -> Coverage:
    """Measure how often an interval over few tasks claims what is not there."""
    kinds = (World(), World(uneven=True))
    claims, headlines = {}, {}
    for prompts in plan.prompts:
        even, uneven = (false_claims(world, prompts, plan.trials) for world in kinds)
        claims[prompts] = (*even, *uneven)
        if prompts >= LEAST_PROMPTS:
            both = (false_headlines(world, prompts, plan.trials) for world in kinds)
            headlines[prompts] = (next(both), next(both))
        say(f"{prompts} prompts: {claims[prompts]}, headline {headlines.get(prompts)}")
    worlds = {
        "even prompts, AUROC .8": World(SHIFT),
        "uneven prompts, AUROC .8": World(SHIFT, uneven=True),
        "even prompts, AUROC .58": World(0.3),
    }
    found = {name: cost(world, trials=plan.trials) for name, world in worlds.items()}
    return Coverage(plan, claims, found, headlines)


def format_coverage(found: Coverage) -> str:
    """Return the tables as Markdown."""
    rows = [
        f"{found.plan.trials} trials each; claims are of 95 % intervals, one-sided .025",
        "",
        "P(lower > .5) of the AUROC within prompts where scores are random",
        "",
        "| mixed prompts | even | percentile | uneven | percentile |",
        "|--|--|--|--|--|",
        *(_row(str(n), values) for n, values in found.false_claims.items()),
        "",
        "30 tasks with a planted signal: width beside the percentile interval's, and power",
        "",
        "| world | width | power | percentile |",
        "|--|--|--|--|",
        *(_row(name, values) for name, values in found.cost.items()),
        "",
        "P(lower > chance) of the headline at 10 % of siblings where scores are random",
        "",
        "| mixed prompts | even | uneven |",
        "|--|--|--|",
        *(_row(str(n), values) for n, values in found.false_headlines.items()),
    ]
    return "\n".join(rows)


def _row(name: str, values: Sequence[float]) -> str:
    return f"| {name} | {' | '.join(f'{value:.3f}' for value in values)} |"


if __name__ == "__main__":
    run(CoveragePlan, coverage, format_coverage)
