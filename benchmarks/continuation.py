"""Many continuations of one prefix: the prefix read once, beside read again from the text.

Both ways draw the same tokens under the same seeds. What sharing saves is the reading, and both
pay for what is drawn, so that the ratio grows with the prefix and shrinks with the continuation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.command import Figures, Say, run
from benchmarks.spread import Spread, in_turns
from trace_probe.emergence.continuers import branch_of
from trace_probe.emergence.oracle import OraclePlan, choose, wanted
from trace_probe.model.continuation import Branch, continue_from
from trace_probe.model.local import Completion, Model, load_model
from trace_probe.model.peers import Sizes, random_model
from trace_probe.store import Store
from trace_probe.trace import Sampling

TEXT, SHARED = "from the text", "prefix shared"


@dataclass(frozen=True)
class ContinuationPlan:
    """What is continued: made-up prefixes on a random network, and those of a recorded run."""

    prefixes: tuple[int, ...] = (128, 512, 1024)
    """Tokens of the made-up ones."""
    new_tokens: int = 48
    """Most that are drawn after them; few rows end before."""
    continuations: int = 20
    layers: int = 4
    width: int = 256
    run: Path | None = Path("traces/demo")
    """Whose own model goes on from its traces, as the oracle does."""
    traces: int = 4
    """Of that run."""
    rounds: int = 5
    seed: int = 0


@dataclass(frozen=True)
class Race(Figures):
    """Both ways on the same prefixes."""

    model: str
    prefixes: tuple[int, ...]
    """Their lengths."""
    continuations: int
    """Of each."""
    drawn: int
    """Tokens, by each way."""
    same: float
    """Part of the continuations that are the same to the last token."""
    seconds: dict[str, tuple[float, ...]]
    """Processor seconds of each way and round; in a round the ways come in turns."""

    @property
    def in_tokens(self) -> float:
        """Return how many times the tokens are read: the ratio, if all cost the same.

        A step costs something whatever its number of rows, and both ways take as many steps.
        """
        read_once = sum(self.prefixes)
        return (self.continuations * read_once + self.drawn) / (read_once + self.drawn)

    @property
    def ratio(self) -> Spread:
        """Return how many times longer reading the text again took, round by round."""
        return Spread.times(self.seconds[TEXT], self.seconds[SHARED])


@dataclass(frozen=True)
class ContinuationBench(Figures):
    """Everything measured."""

    plan: ContinuationPlan
    races: tuple[Race, ...]


def bench_continuation(plan: ContinuationPlan, say: Say) -> ContinuationBench:
    """Measure both ways in turns in this process."""
    model = random_model(Sizes(layers=plan.layers, width=plan.width), plan.seed)
    sampling = Sampling(plan.seed, max_new_tokens=plan.new_tokens)
    races = []
    for length in plan.prefixes:
        branches = [_made_up(plan, model, length)]
        races.append(_race(model, branches, sampling, plan.rounds, say))
    if plan.run is not None:
        races.append(_race(*_recorded(plan, plan.run), plan.rounds, say))
    return ContinuationBench(plan, tuple(races))


def _made_up(plan: ContinuationPlan, model: Model, length: int) -> Branch:
    """Return a branch of a prefix that ends no turn."""
    words = [i for i in range(model.blocks.network.config.vocab_size) if i not in model.stops]
    ids = np.random.default_rng(plan.seed).choice(words, length).tolist()
    return Branch(tuple(ids), tuple(range(plan.continuations)), plan.new_tokens)


def _recorded(plan: ContinuationPlan, run: Path) -> tuple[Model, list[Branch], Sampling]:
    """Return a run's model, and the prefixes at which an oracle first asks about its traces."""
    store = Store(run)
    traces = choose(list(store.traces()), store.labels(), None)[: plan.traces]
    jobs = wanted(traces, {}, OraclePlan(plan.continuations, seed=plan.seed))
    seeds = [tuple(1000 * number + k for k in job.draws) for number, job in enumerate(jobs)]
    branches = [branch_of(job.trace, job.token, own) for job, own in zip(jobs, seeds, strict=True)]
    model = load_model(store.manifest.model.rpartition("@")[0])
    return model, branches, traces[0].sampling


def _race(
    model: Model, branches: Sequence[Branch], sampling: Sampling, rounds: int, say: Say
) -> Race:
    ways: dict[str, Callable[[], list[list[Completion]]]] = {
        TEXT: lambda: _from_text(model, branches, sampling),
        SHARED: lambda: continue_from(model, branches, sampling),
    }
    drawn = {name: way() for name, way in ways.items()}  # to warm up
    alike = [
        one.ids == other.ids
        for each, its in zip(drawn[TEXT], drawn[SHARED], strict=True)
        for one, other in zip(each, its, strict=True)
    ]
    race = Race(
        model.name,
        tuple(len(branch.prefix) for branch in branches),
        len(branches[0].seeds),
        sum(len(one.ids) for each in drawn[SHARED] for one in each),
        sum(alike) / len(alike),
        in_turns(ways, rounds),
    )
    say(f"{model.name}, {_median(race.prefixes)} tokens: {race.ratio.median:.1f} times")
    return race


def _from_text(
    model: Model, branches: Sequence[Branch], sampling: Sampling
) -> list[list[Completion]]:
    """Return continuations as one batch of `generate` a prefix, each row reading all of it."""
    return [
        model.generate(
            [branch.prefix] * len(branch.seeds),
            branch.seeds,
            replace(sampling, max_new_tokens=branch.room),
        )
        for branch in branches
    ]


def _median(lengths: Sequence[int]) -> int:
    return int(np.median(lengths))


def format_continuation(bench: ContinuationBench) -> str:
    """Return the measurement as text."""
    plan = bench.plan
    lines = [
        f"{plan.continuations} continuations of each prefix, {plan.rounds} rounds: how many times "
        f"the processor time it takes when each reads its prefix again",
        f"{'':26}{'prefixes':>10}{'tokens':>8}{'drawn':>8}{'in tokens':>11}  times",
    ]
    for race in bench.races:
        count = len(race.prefixes) * race.continuations
        lines.append(
            f"{race.model[:25]:26}{len(race.prefixes):>10}{_median(race.prefixes):>8}"
            f"{race.drawn / count:>8.0f}{race.in_tokens:>11.1f}  {race.ratio:.1f}, "
            f"{race.same:.1%} the same to the token"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    run(ContinuationPlan, bench_continuation, format_continuation)
