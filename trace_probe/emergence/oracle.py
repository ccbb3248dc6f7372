"""How likely the instrumental act is after each sentence: on-policy continuations, counted.

Activations are a function of the prefix, so no monitor, of activations or of text, can know
more than P(instrumental | prefix). Resampling from the recorded token ids measures it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from tqdm import tqdm

from trace_probe.labels import Labeller
from trace_probe.model.local import Model
from trace_probe.text.written import read_back
from trace_probe.trace import Trace, digest

BATCH = 256
"""Continuations that are drawn at once."""
PROMPT = -1
"""Sentence index that stands for the end of the prompt."""


@dataclass(frozen=True)
class OraclePoint:
    """What continuations from one prefix of a trace came to."""

    sentence: int
    """Last sentence of the prefix, an index into the trace's sentences; -1 is the prompt."""
    token: int
    """Where the continuations start: the prefix is ``[0, token)``."""
    known: int
    """Continuations whose outcome is known."""
    instrumental: int

    @property
    def probability(self) -> float:
        """Return the posterior mean under Jeffreys' prior, (x + 1/2) / (n + 1)."""
        return (self.instrumental + 0.5) / (self.known + 1)

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return Jeffreys' equal-tailed interval (Brown, Cai and DasGupta 2001, section 3)."""
        from scipy.stats import beta

        tail = (1 - level) / 2
        x, n = self.instrumental, self.known
        lower = 0.0 if x == 0 else float(beta.ppf(tail, x + 0.5, n - x + 0.5))
        upper = 1.0 if x == n else float(beta.ppf(1 - tail, x + 0.5, n - x + 0.5))
        return lower, upper


class _Job(NamedTuple):
    """One continuation to draw."""

    trace: Trace
    sentence: int
    token: int
    seed: int


def prefixes(trace: Trace) -> list[tuple[int, int]]:
    """Return (sentence, token) of the end of the prompt and of each reasoning sentence."""
    ends = [
        (index, span.stop)
        for index, span in enumerate(trace.sentences)
        if span.channel == "reasoning"
    ]
    return [(PROMPT, trace.prompt_stop), *ends]


def oracle(
    model: Model,
    traces: Iterable[Trace],
    labeller: Labeller,
    *,
    continuations: int = 20,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, tuple[OraclePoint, ...]]:
    """Return P(instrumental | prefix) at the end of the prompt and of each reasoning sentence.

    Each prefix is continued `continuations` times with the sampling of its trace; the trace
    itself is not counted, so that a point is independent of the outcome it is compared with.
    """
    every = list(traces)
    jobs = [
        _Job(trace, sentence, token, int(digest(seed, trace.id, sentence, draw), 16))
        for trace in every
        for sentence, token in prefixes(trace)
        for draw in range(continuations)
    ]
    jobs.sort(key=lambda job: job.token)
    outcomes: dict[tuple[str, int], list[bool | None]] = {}
    with tqdm(total=len(jobs), unit="continuation", disable=not progress) as bar:
        for start in range(0, len(jobs), BATCH):
            batch = jobs[start : start + BATCH]
            for job, outcome in zip(batch, _continue(model, batch, labeller), strict=True):
                outcomes.setdefault((job.trace.id, job.sentence), []).append(outcome)
            bar.update(len(batch))
    return {trace.id: _points(trace, outcomes) for trace in every}


def _continue(model: Model, batch: Sequence[_Job], labeller: Labeller) -> list[bool | None]:
    """Draw one continuation of each prefix and return its outcome."""
    sampling = replace(
        batch[0].trace.sampling,
        max_new_tokens=max(
            job.trace.sampling.max_new_tokens - (job.token - job.trace.prompt_stop) for job in batch
        ),
    )
    completions = model.generate(
        [job.trace.token_ids[: job.token] for job in batch], [job.seed for job in batch], sampling
    )
    found = []
    for job, completion in zip(batch, completions, strict=True):
        ids = (*job.trace.token_ids[: job.token], *completion.ids)
        written = read_back(model, ids, job.trace.prompt_stop)._asdict()
        continued = replace(job.trace, token_ids=ids, finish=completion.finish, **written)
        found.append(labeller.label(continued).outcome)
    return found


def _points(
    trace: Trace, outcomes: dict[tuple[str, int], list[bool | None]]
) -> tuple[OraclePoint, ...]:
    points = []
    for sentence, token in prefixes(trace):
        known = [one for one in outcomes[trace.id, sentence] if one is not None]
        points.append(OraclePoint(sentence, token, len(known), sum(known)))
    return tuple(points)
