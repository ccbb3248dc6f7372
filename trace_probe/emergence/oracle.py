"""How likely the instrumental act is after each sentence: on-policy continuations, counted.

Activations are a function of the prefix, so no monitor, of activations or of text, can know
more than P(instrumental | prefix). Resampling from the recorded token ids measures it.

A trace is first asked at a coarse grid of prefixes, then in the middle of the largest jump,
again and again. Where it is asked next follows from what was drawn alone, so an interrupted
oracle that is asked again does what it would have done. Every prefix that was measured stays
in the curve, so that the choice does not bias its points; it does flatter the largest jump.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from time import monotonic
from typing import NamedTuple

from tqdm import tqdm

from trace_probe.emergence.continuers import Continuer, LocalContinuer, branch_of, continued
from trace_probe.emergence.curve import Drawn, call_of, points_of, prefixes
from trace_probe.emergence.curve import OraclePoint as OraclePoint
from trace_probe.emergence.ledger import Ledger
from trace_probe.emergence.rollouts import Start, roll_out
from trace_probe.labels import Label, Labeller, label_traces
from trace_probe.model.local import Model
from trace_probe.monitor.detector import Detector
from trace_probe.recording.course import Agent
from trace_probe.statistics.metrics import Scores
from trace_probe.trace import Trace, digest

GRID = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
"""Parts of the reasoning after which every trace is asked."""
BATCH = 512
"""Continuations that are drawn before they are kept."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class OraclePlan:
    """How much is asked of each trace."""

    continuations: int = 20
    bisections: int = 5
    """Prefixes beyond the grid, each in the middle of the largest jump so far."""
    every_sentence: bool = False
    """Ask at all of them instead."""
    acting_call: bool = False
    """Ask at these instead: the prompt, the end of each model call before the one that acts, and
    every sentence of that call. A trace of a single call is asked at all of its sentences."""
    seed: int = 0
    acts: Mapping[str, int] = field(default_factory=dict)
    """Tokens at which the traces act, by trace: what is thought after that is not asked."""

    def places(self, trace: Trace) -> list[tuple[int, int]]:
        """Return (sentence, token) of the prefixes of a trace that may be asked."""
        act = self.acts.get(trace.id, len(trace))
        places = [place for place in prefixes(trace) if place[1] <= act]
        return _of_acting_call(trace, places) if self.acting_call else places

    @property
    def everywhere(self) -> bool:
        """Return whether each of its places is asked, instead of a grid and around jumps."""
        return self.every_sentence or self.acting_call


def _of_acting_call(trace: Trace, places: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the prompt, the last sentence of each earlier call, and all of the last call."""
    of_call: dict[int, list[tuple[int, int]]] = {}
    for sentence, token in places:
        if sentence >= 0:
            of_call.setdefault(call_of(trace, sentence), []).append((sentence, token))
    last = max(of_call, default=0)
    kept = [its if call == last else its[-1:] for call, its in of_call.items()]
    return [places[0], *(place for its in kept for place in its)]


class Job(NamedTuple):
    """Continuations to be drawn from one prefix of a trace."""

    trace: Trace
    sentence: int
    token: int
    draws: tuple[int, ...]
    """Which of the continuations, since some may be there already."""


@dataclass(frozen=True)
class Estimate:
    """What an oracle will take at most."""

    traces: int
    continuations: int
    tokens: int
    """As many as the traces themselves went on for."""


def oracle(  # noqa: PLR0913 - one call says all that is asked
    model: Model | Continuer,
    traces: Iterable[Trace],
    labeller: Labeller,
    *,
    continuations: int = 20,
    seed: int = 0,
    progress: bool = True,
    agent: Agent | None = None,
) -> dict[str, tuple[OraclePoint, ...]]:
    """Return P(instrumental | prefix) at the end of the prompt and of each reasoning sentence.

    Traces of agents need an `agent`: how they go on after the model call that is continued.

    Each prefix is continued `continuations` times with the sampling of its trace; the trace
    itself is not counted, so that a point is independent of the outcome it is compared with.
    """
    plan = OraclePlan(continuations, every_sentence=True, seed=seed)
    continuer = LocalContinuer(model) if isinstance(model, Model) else model
    draw = Draw(continuer, labeller, seed, agent)
    jobs = wanted(list(traces), {}, plan)
    drawn = []
    with tqdm(total=_count(jobs), unit="continuation", smoothing=0, disable=not progress) as bar:
        for batch in in_batches(jobs):
            drawn += draw(batch)
            bar.update(_count(batch))
    return points_of(drawn)


class Draw:
    """Draws the continuations of jobs and finds their outcomes; a worker of an executor."""

    def __init__(
        self, continuer: Continuer, labeller: Labeller, seed: int, agent: Agent | None = None
    ) -> None:
        """Say who writes on and who judges; with an `agent`, agents are taken to their end."""
        self.continuer, self._labeller, self._seed = continuer, labeller, seed
        self._agent = agent

    def __call__(self, jobs: Sequence[Job]) -> list[Drawn]:
        """Return the continuations of jobs of one sampling; those that failed are left out."""
        agents = [job for job in jobs if job.trace.calls and self._agent is not None]
        alone = [job for job in jobs if job not in agents]
        found = [*self._completed(alone), *self._rolled_out(agents)] if jobs else []
        asked = [
            (job, k, replace(one, id=f"{job.trace.id}/{job.sentence}/{k}"))
            for job, traces in zip((*alone, *agents), found, strict=True)
            for k, one in zip(job.draws, traces, strict=True)
            if one is not None
        ]
        given = label_traces([trace for _, _, trace in asked], self._labeller)
        labels = {label.trace_id: label for label in given}
        return [
            self._drawn(job, k, labels[trace.id], len(trace) - job.token)
            for job, k, trace in asked
            if trace.id in labels
        ]

    def _completed(self, jobs: Sequence[Job]) -> list[list[Trace | None]]:
        """Return the continuations of single model calls."""
        branches = [branch_of(job.trace, job.token, self._seeds(job)) for job in jobs]
        found = self.continuer.continue_from(branches, jobs[0].trace.sampling) if jobs else []
        return [
            [
                None if one is None else continued(self.continuer, job.trace, branch.prefix, one)
                for one in each
            ]
            for job, branch, each in zip(jobs, branches, found, strict=True)
        ]

    def _rolled_out(self, jobs: Sequence[Job]) -> list[list[Trace | None]]:
        """Return the continuations of agents, each to the end of its episode."""
        if not jobs or self._agent is None:
            return []
        starts = [
            Start(job.trace, call_of(job.trace, job.sentence), job.token, self._seeds(job))
            for job in jobs
        ]
        return roll_out(self.continuer, starts, jobs[0].trace.sampling, self._agent)

    def _seeds(self, job: Job) -> tuple[int, ...]:
        return tuple(self._seed_of(job, k) for k in job.draws)

    def _drawn(self, job: Job, k: int, label: Label, tokens: int) -> Drawn:
        said = None if label.facts.get("said") == "unknown" else label.said is not None
        seed = self._seed_of(job, k)
        return Drawn(job.trace.id, job.sentence, job.token, k, seed, label.outcome, said, tokens)

    def _seed_of(self, job: Job, k: int) -> int:
        """Return a seed that no other continuation of the run has."""
        return int(digest(self._seed, job.trace.id, job.sentence, k), 16) >> 1


def wanted(traces: Sequence[Trace], drawn: dict[str, list[Drawn]], plan: OraclePlan) -> list[Job]:
    """Return what to draw next, given what was drawn of each trace; nothing once all is there."""
    return [job for trace in traces for job in _next(trace, drawn.get(trace.id, []), plan)]


def _next(trace: Trace, drawn: Sequence[Drawn], plan: OraclePlan) -> list[Job]:
    """Return the jobs of one trace: its grid, or one prefix more."""
    places = plan.places(trace)
    there: dict[int, set[int]] = {}
    for one in drawn:
        there.setdefault(one.sentence, set()).add(one.k)
    share = {
        point.sentence: point.probability for its in points_of(drawn).values() for point in its
    }
    measured = list(range(len(places))) if plan.everywhere else grid(len(places))
    jobs = _missing(trace, places, measured, there, plan)
    for _ in range(0 if plan.everywhere else plan.bisections):
        if jobs:
            break
        middle = bisect([(at, share[places[at][0]]) for at in measured])
        if middle is None:
            break
        measured = sorted([*measured, middle])
        jobs = _missing(trace, places, [middle], there, plan)
    return jobs


def _missing(
    trace: Trace,
    places: Sequence[tuple[int, int]],
    chosen: Sequence[int],
    there: dict[int, set[int]],
    plan: OraclePlan,
) -> list[Job]:
    """Return jobs for the continuations of chosen prefixes that are not there."""
    jobs = []
    for sentence, token in (places[at] for at in chosen):
        draws = sorted(set(range(plan.continuations)) - there.get(sentence, set()))
        if draws:
            jobs.append(Job(trace, sentence, token, tuple(draws)))
    return jobs


def grid(count: int) -> list[int]:
    """Return the coarse grid over so many prefixes, the first and the last among them."""
    return sorted({round(part * (count - 1)) for part in GRID})


def bisect(measured: Sequence[tuple[int, float]]) -> int | None:
    """Return the middle of the largest jump between neighbours that have prefixes between them."""
    gaps = [
        (abs(after - before), -start, (start + stop) // 2)
        for (start, before), (stop, after) in zip(measured, measured[1:], strict=False)
        if stop - start > 1
    ]
    return max(gaps)[2] if gaps else None


def in_batches(jobs: Iterable[Job], size: int = BATCH) -> Iterator[list[Job]]:
    """Yield jobs of one sampling together, about as many continuations at a time as `size`."""
    for _, alike in groupby(jobs, lambda job: replace(job.trace.sampling, seed=0)):
        batch: list[Job] = []
        for job in alike:
            batch.append(job)
            if _count(batch) >= size:
                yield batch
                batch = []
        if batch:
            yield batch


def _count(jobs: Iterable[Job]) -> int:
    return sum(len(job.draws) for job in jobs)


def estimate(traces: Sequence[Trace], plan: OraclePlan) -> Estimate:
    """Return what an oracle will take at most, before it is asked."""
    asked = tokens = 0
    for trace in traces:
        places = plan.places(trace)
        count = len(places)
        if not plan.everywhere:
            count = min(count, len(grid(count)) + plan.bisections)
        rest = [len(trace) - token for _, token in places]
        asked += count * plan.continuations
        tokens += round(count * plan.continuations * sum(rest) / len(rest))
    return Estimate(len(traces), asked, tokens)


def ask(
    draw: Callable[[list[Job]], list[Drawn]],
    ledger: Ledger,
    traces: Sequence[Trace],
    plan: OraclePlan,
    say: Say,
    *,
    progress: bool = True,
) -> None:
    """Ask an oracle until all is drawn, and keep each batch of continuations at once.

    It stops when a round brings nothing new, as where a server fails for good: what the ledger
    then lacks is there for another call.
    """
    drawn = ledger.of(traces)
    expected, began = estimate(traces, plan), monotonic()
    there = first = sum(map(len, drawn.values()))
    with tqdm(
        total=expected.continuations,
        initial=there,
        unit="continuation",
        smoothing=0,
        disable=not progress,
    ) as bar:
        for batch in draw_all(draw, traces, drawn, plan):
            ledger.add(batch)
            if there == first and batch:
                say(_forecast(expected.continuations - there, batch, monotonic() - began))
            there += len(batch)
            bar.update(len(batch))


def draw_all(
    draw: Callable[[list[Job]], list[Drawn]],
    traces: Sequence[Trace],
    drawn: dict[str, list[Drawn]],
    plan: OraclePlan,
) -> Iterator[list[Drawn]]:
    """Yield batches of continuations until all is drawn, or a round brings nothing new.

    `drawn` holds what was drawn of each trace, and takes in what is yielded.
    """
    some = True
    while some and (jobs := wanted(traces, drawn, plan)):
        some = False
        for batch in map(draw, in_batches(jobs)):
            for one in batch:
                drawn.setdefault(one.trace, []).append(one)
            some = some or bool(batch)
            yield batch


def _forecast(left: int, batch: Sequence[Drawn], seconds: float) -> str:
    """Return what the first batch says about the rest."""
    rate = len(batch) / max(seconds, 1e-9)
    tokens = sum(one.tokens for one in batch) / len(batch)
    return (
        f"at most {left / rate / 60:.1f} min for {left} continuations of {tokens:.0f} tokens "
        f"({rate:.0f} a second, from the first {len(batch)})"
    )


def acts_of(labels: Mapping[str, Label]) -> dict[str, int]:
    """Return at which token each trace acts, of those of which it is known."""
    return {name: label.acted.start for name, label in labels.items() if label.acted}


def choose(traces: Sequence[Trace], labels: dict[str, Label], limit: int | None) -> list[Trace]:
    """Return the traces to ask: test tasks of known outcome, prompts with both outcomes first.

    A prompt is taken whole or not at all, as long as there is room within `limit`.
    """
    prompts: dict[str, list[Trace]] = {}
    for trace in traces:
        label = labels.get(trace.id)
        if trace.task.role == "test" and label is not None and label.outcome is not None:
            prompts.setdefault(trace.task.prompt_key, []).append(trace)

    def one_sided(mine: Sequence[Trace]) -> bool:
        return len({labels[trace.id].outcome for trace in mine}) < 2

    chosen: list[Trace] = []
    for mine in sorted(prompts.values(), key=one_sided):
        if limit is None or len(chosen) + len(mine) <= limit:
            chosen += mine
    return chosen


def caught(
    traces: Iterable[Trace], labels: Mapping[str, Label], detector: Detector, scores: Scores
) -> dict[str, int]:
    """Return the traces that act and alarm before they say it or do it, each with its alarm.

    The alarm is the sentence at whose end it comes.
    """
    found = {}
    for trace in traces:
        label = labels.get(trace.id)
        sentence = detector.alarm(scores[trace.id]) if trace.id in scores else None
        if sentence is not None and label is not None and label.outcome is True:
            shown = [label.said.stop] if label.said else []
            shown += [label.acted.start] if label.acted else []
            if shown and trace.sentences[sentence].stop < min(shown):
                found[trace.id] = sentence
    return found
