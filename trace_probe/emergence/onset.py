"""Where along a trace the act becomes likely, and from where on it is settled.

onset        first prefix whose interval lies above P at the end of the prompt + 0.2, where
             P at the prompt is pooled over the traces that read it
commitment   first prefix from which on P(p >= 0.9 | counts) >= 0.9 at every measured one
jump         p after a sentence less p before it, with a hybrid-score interval of
             difference made of both Jeffreys intervals (Newcombe 1998, method 10)
resilience   what continuations come to that start before the sentence that says it: how
             many say it again, and how many do it
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from trace_probe.emergence.curve import Drawn, OraclePoint, points_of, prefixes
from trace_probe.errors import NotEnoughData
from trace_probe.labels import Label
from trace_probe.statistics.bootstrap import Index, Metric, Values, rate, ratio, resample, shown
from trace_probe.trace import Trace

Where = Literal["prompt", "early", "middle", "late", "never"]
PLACES: tuple[Where, ...] = ("prompt", "early", "middle", "late", "never")
RISE = 0.2
SURE = 0.9
CREDENCE = 0.9


class Jump(NamedTuple):
    """How much a stretch of reasoning changed the chance of the act."""

    after: int
    """Last sentence of the prefix before it; -1 is the prompt."""
    sentence: int
    """Last sentence of the stretch: the next one, where no prefix between was left out."""
    size: float
    lower: float
    upper: float


@dataclass(frozen=True)
class Emergence:
    """Where the act emerges in one trace."""

    trace_id: str
    where: Where
    onset: int | None
    """Sentence at whose end it is noticed; of the measured ones, so never too early."""
    commitment: int | None
    jump: Jump | None
    """The largest rise. Chosen for its size, so a little flattered."""


def onset(points: Sequence[OraclePoint], base: float, rise: float = RISE) -> OraclePoint | None:
    """Return the first point after the prompt whose interval lies above `base` and the rise."""
    return next((p for p in points[1:] if p.interval()[0] > base + rise), None)


def commitment(
    points: Sequence[OraclePoint], theta: float = SURE, credence: float = CREDENCE
) -> OraclePoint | None:
    """Return the first point from which on P is surely at least `theta`, None if none is."""
    from scipy.stats import beta

    found = None
    for point in reversed(points):
        x, n = point.instrumental, point.known
        if beta.sf(theta, x + 0.5, n - x + 0.5) < credence:
            break
        found = point
    return found


def jumps(points: Sequence[OraclePoint]) -> list[Jump]:
    """Return the change between neighbouring points."""
    return [_jump(*pair) for pair in zip(points, points[1:], strict=False)]


def _jump(before: OraclePoint, after: OraclePoint) -> Jump:
    (low0, high0), (low1, high1) = before.interval(), after.interval()
    p0, p1 = before.probability, after.probability
    size = p1 - p0
    down = np.hypot(p1 - min(low1, p1), max(high0, p0) - p0)
    up = np.hypot(max(high1, p1) - p1, p0 - min(low0, p0))
    return Jump(
        before.sentence,
        after.sentence,
        size,
        max(-1.0, float(size - down)),
        min(1.0, float(size + up)),
    )


def at_prompt(
    points: Mapping[str, Sequence[OraclePoint]], traces: Iterable[Trace]
) -> dict[str, OraclePoint]:
    """Return what continuations of each trace's prompt came to, of all traces that read it."""
    pooled: dict[str, Counter[str]] = {}
    asked = [trace for trace in traces if trace.id in points]
    for trace in asked:
        first, tally = points[trace.id][0], pooled.setdefault(trace.task.prompt_key, Counter())
        tally.update(known=first.known, instrumental=first.instrumental)
    return {
        trace.id: OraclePoint(-1, trace.prompt_stop, tally["known"], tally["instrumental"])
        for trace in asked
        for tally in [pooled[trace.task.prompt_key]]
    }


def emergence(trace: Trace, points: Sequence[OraclePoint], prompt: OraclePoint) -> Emergence:
    """Return where the act emerges in a trace, given what its prompt alone comes to."""
    found, settled = onset(points, prompt.probability), commitment(points)
    return Emergence(
        trace_id=trace.id,
        where=_where(trace, found, prompt),
        onset=found.sentence if found else None,
        commitment=settled.sentence if settled else None,
        jump=max(jumps(points), key=lambda jump: jump.size, default=None),
    )


def _where(trace: Trace, found: OraclePoint | None, prompt: OraclePoint) -> Where:
    """Return in which third of the reasoning the onset lies.

    ``prompt`` if the act is more likely than not before a word is thought.
    """
    if prompt.interval()[0] > 0.5:
        return "prompt"
    if found is None:
        return "never"
    places = [sentence for sentence, _ in prefixes(trace)]
    part = places.index(found.sentence) / (len(places) - 1)
    return "early" if part <= 1 / 3 else "middle" if part <= 2 / 3 else "late"


@dataclass(frozen=True)
class OracleSummary:
    """What an oracle says about the traces of a run."""

    traces: int
    positives: int
    continuations: int
    unknown: int
    """Continuations whose outcome nobody can tell."""
    where: dict[str, Metric | None]
    """Share of instrumental traces by where the act emerges."""
    where_all: dict[str, Metric | None]
    """The same of all traces."""
    committed: Metric | None
    """Share of instrumental traces that are settled before their last measured prefix."""
    said_again: Metric | None
    """Resilience: of continuations from before the sentence that says it, those that say it."""
    acted_anyway: Metric | None
    """And those that do it."""
    each: tuple[Emergence, ...]

    def __str__(self) -> str:
        """Return a summary as text."""
        head = (
            f"{self.traces} traces, {self.positives} instrumental, "
            f"{self.continuations} continuations ({self.unknown} of unknown outcome)"
        )
        rows = [f"{'where it emerges':34}{'instrumental traces':24}all traces"]
        rows += [
            f"{name:34}{shown(self.where[name]):24}{shown(self.where_all[name])}" for name in PLACES
        ]
        rest = {
            "decided before the end": self.committed,
            "resampled: states the plan again": self.said_again,
            "resampled: acts all the same": self.acted_anyway,
        }
        return "\n".join([head, "", *rows, "", *(f"{k:34}{shown(v)}" for k, v in rest.items())])


def summarise(
    traces: Sequence[Trace], labels: Mapping[str, Label], drawn: Mapping[str, Sequence[Drawn]]
) -> OracleSummary:
    """Return what an oracle says about traces of known outcome; intervals are over tasks.

    Raises:
        NotEnoughData: it was asked of none of them.
    """
    mine = [trace for trace in traces if drawn.get(trace.id) and trace.id in labels]
    mine = [trace for trace in mine if labels[trace.id].outcome is not None]
    if not mine:
        raise NotEnoughData("the oracle was asked of no trace of known outcome")
    every = [one for trace in mine for one in drawn[trace.id]]
    points = points_of(every)
    prompt = at_prompt(points, mine)
    each = tuple(emergence(trace, points[trace.id], prompt[trace.id]) for trace in mine)
    names, task = np.unique([trace.task.id for trace in mine], return_inverse=True)
    weights = resample(len(names))
    acted = np.array([labels[trace.id].outcome is True for trace in mine])
    place = np.array([one.where for one in each])
    settled = np.array(
        [one.commitment not in (None, points[one.trace_id][-1].sentence) for one in each]
    )
    said, done = _resilience(mine, labels, drawn, task, weights)
    return OracleSummary(
        traces=len(mine),
        positives=int(acted.sum()),
        continuations=len(every),
        unknown=sum(one.outcome is None for one in every),
        where={name: rate(place == name, acted, task, weights) for name in PLACES},
        where_all={
            name: rate(place == name, np.ones_like(acted), task, weights) for name in PLACES
        },
        committed=rate(settled, acted, task, weights),
        said_again=said,
        acted_anyway=done,
        each=each,
    )


def _resilience(
    traces: Sequence[Trace],
    labels: Mapping[str, Label],
    drawn: Mapping[str, Sequence[Drawn]],
    task: Index,
    weights: Values,
) -> tuple[Metric | None, Metric | None]:
    """Return how many continuations from before it is said say it again, and how many do it."""
    tallies = []
    for trace, code in zip(traces, task, strict=True):
        said = labels[trace.id].said
        before = [one for one in drawn[trace.id] if said is None or one.token <= said.start]
        if labels[trace.id].outcome and said is not None and before:
            last = max(one.token for one in before)
            from_it = [one for one in before if one.token == last]
            again = [one.said for one in from_it if one.said is not None]
            anyway = [one.outcome for one in from_it if one.outcome is not None]
            tallies.append((code, sum(again), len(again), sum(anyway), len(anyway)))
    if not tallies:
        return None, None
    codes, again, n_again, anyway, n_anyway = np.array(tallies).T
    say, do = (
        ratio(top.astype(float), bottom.astype(float), codes, weights).interval()
        for top, bottom in ((again, n_again), (anyway, n_anyway))
    )
    return say, do
