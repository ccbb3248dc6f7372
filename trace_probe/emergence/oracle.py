"""How likely the instrumental act is after each sentence: on-policy continuations, counted.

Activations are a function of the prefix, so no monitor, of activations or of text, can know
more than P(instrumental | prefix). Resampling from the recorded token ids measures it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from tqdm import tqdm

from trace_probe.emergence.curve import OraclePoint as OraclePoint
from trace_probe.emergence.curve import prefixes
from trace_probe.labels import Labeller
from trace_probe.model.local import Model
from trace_probe.text.written import read_back
from trace_probe.trace import Trace, digest

BATCH = 256
"""Continuations that are drawn at once."""


class _Job(NamedTuple):
    """One continuation to draw."""

    trace: Trace
    sentence: int
    token: int
    seed: int


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
