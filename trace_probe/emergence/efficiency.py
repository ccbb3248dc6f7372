"""How much of the warning that exists a detector gets: probe, text and oracle on one axis.

    eta = (M_detector - M_prompt) / (M_oracle - M_prompt)

M is the within-prompt AUROC, or the share of instrumental traces caught before they say it where
a share of siblings alarms (see `statistics.siblings`), within a part of the reasoning or at all.
The oracle knows P(act | prefix) at the last prefix it was asked at, and no detector that reads
the prefix can rank better than P itself. It is counted from few continuations, so what the
oracle gets is a little too low and eta a little too high; at a prefix where the oracle is not
shown to know more than the prompt, eta does not exist.

A detector as an estimate of P(act | prefix), against an oracle that itself is counted.

A share of K continuations strays from P by P (1 - P) / K on average. With
s = mean(share (1 - share)) / (K - 1), which estimates that without bias, the part of P's
variance that a detector explains is R2_observed Var(share) / (Var(share) - s).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from trace_probe.emergence.curve import PROMPT as PROMPT_PLACE
from trace_probe.emergence.curve import Drawn, OraclePoint, points_of, prefixes
from trace_probe.emergence.onset import at_prompt
from trace_probe.errors import NotEnoughData
from trace_probe.evaluation.panel import PREFIXES
from trace_probe.labels import Label
from trace_probe.probing.corpus import Corpus, build_cohort, codes
from trace_probe.probing.probe import ProbeCard
from trace_probe.statistics.bootstrap import (
    Index,
    Metric,
    Resampled,
    Values,
    effective_tasks,
    resample,
    shown,
)
from trace_probe.statistics.metrics import Cohort, Scores, pairs_within
from trace_probe.statistics.siblings import MixedPrompts, mixed_prompts
from trace_probe.statistics.smoothing import MAX, parse_smoothing
from trace_probe.trace import Trace


@dataclass(frozen=True)
class Estimator:
    """How well the logistic of a detector's score estimates P."""

    points: int
    brier: float
    """Mean squared distance from the oracle's share, less what chance in counting adds."""
    constant: float
    """The same of the best constant: the variance of P."""
    explained: Metric | None
    """Part of P's variance that the best line through the estimate explains, without noise."""
    within: Metric | None
    """The same within prompts: both as deviations from their mean over a prompt."""


def as_estimator(
    traces: Sequence[Trace], points: Mapping[str, Sequence[OraclePoint]], scores: Scores
) -> Estimator:
    """Compare a detector with the oracle at every measured sentence that it has scored."""
    rows = [
        (scores[trace.id][point.sentence], point.instrumental, point.known, at)
        for at, trace in enumerate(traces)
        for point in points[trace.id]
        if point.sentence >= 0 and point.known > 1
    ]
    table = np.array(rows, dtype=float)
    table = table[np.isfinite(table[:, 0])]
    score, hits, count, at = table.T
    where = at.astype(np.intp)
    task = codes([trace.task.id for trace in traces])[where]
    prompt = codes([trace.task.prompt_key for trace in traces])[where]
    estimate, share = 0.5 * (1 + np.tanh(score / 2)), hits / count
    noise = share * (1 - share) / (count - 1)
    tasks = int(task.max()) + 1
    weights = resample(tasks)[:, task]
    sizes = effective_tasks(np.bincount(task).astype(float))

    def part(own: Values, its: Values) -> Metric | None:
        draws = _explained(own, its, noise, weights)
        return Resampled(draws, len(share), tasks, (0.0, np.inf), sizes).interval()

    spread = float(np.var(share) - noise.mean())
    return Estimator(
        points=len(share),
        brier=float(np.mean((estimate - share) ** 2) - noise.mean()),
        constant=spread,
        explained=part(estimate, share),
        within=part(_centred(estimate, prompt), _centred(share, prompt)),
    )


def _centred(values: Values, group: Index) -> Values:
    centred: Values = values - (np.bincount(group, values) / np.bincount(group))[group]
    return centred


def _explained(estimate: Values, share: Values, noise: Values, weights: Values) -> Values:
    """Return the noise-corrected squared correlation for each row of (draw, point) weights."""
    total = weights.sum(axis=1)

    def mean(values: Values) -> Values:
        found: Values = weights @ values / total
        return found

    spread = mean(share**2) - mean(share) ** 2
    own = mean(estimate**2) - mean(estimate) ** 2
    together = mean(estimate * share) - mean(estimate) * mean(share)
    true = spread - mean(noise)
    usable = (own > 0) & (true > 0)
    found: Values = np.divide(
        together**2, own * true, out=np.full(len(total), np.nan), where=usable
    )
    return found


PROMPT = "P at the prompt"
BEFORE_SAID = "before it is said"
BEFORE_ACT = "before the act"
WITHOUT = {"value": (), "eta": ("oracle", PROMPT), "of_oracle": ("oracle",)}
"""Who has no such figure, by definition."""
LEAST_TASKS = 5
"""For eta to exist: a bootstrap over fewer cannot say what the oracle surely knows."""
LEAST = 0.01
"""What the oracle must surely know beyond the prompt for eta to exist."""


@dataclass(frozen=True)
class BesideOracle:
    """One figure of a detector, and how much of the oracle's gain it is."""

    value: Metric | None
    eta: Metric | None
    """None where the oracle is not shown to gain anything."""
    of_oracle: Metric | None
    """The figure as a part of the oracle's; None for the oracle itself."""


@dataclass(frozen=True)
class Efficiency:
    """What detectors get of the warning that exists, by prefix."""

    traces: int
    positives: int
    tasks: int
    mixed_prompts: int
    sibling_rate: float
    """Share of siblings that may alarm; each threshold is set on them in every resample."""
    auroc: dict[str, dict[str, BesideOracle]]
    """By prefix and detector, the oracle and the prompt among them: within-prompt AUROC."""
    caught: dict[str, dict[str, BesideOracle]]
    """The same of the share that alarms within that part and before it is said.

    Empty where there are too few siblings.
    """
    shortage: str | None
    """Why there is nothing in `caught`."""
    as_estimator: dict[str, Estimator]
    """How well each detector's probability is an estimate of P."""

    def __str__(self) -> str:
        """Return the comparison as text: a table of each measure, a column a prefix."""
        head = (
            f"{self.traces} traces, {self.positives} instrumental, {self.tasks} tasks, "
            f"{self.mixed_prompts} prompts with both outcomes"
        )
        caught = f"caught before it is said, {self.sibling_rate:.0%} of siblings alarm"
        lines = [head]
        for title, table, field in (
            ("within-prompt AUROC", self.auroc, "value"),
            ("share of the oracle's gain over the prompt (eta)", self.auroc, "eta"),
            ("as a part of the oracle's", self.auroc, "of_oracle"),
            (caught, self.caught, "value"),
            ("share of the oracle's gain over the prompt (eta)", self.caught, "eta"),
        ):
            lines += ["", title, *(_table(table, field) if table else [self.shortage or "-"])]
        lines += ["", f"{'as an estimate of P':22}{'Brier':>10}{'constant':>10}{'R2':>26}"]
        for name, one in self.as_estimator.items():
            lines.append(
                f"{name:22}{one.brier:10.3f}{one.constant:10.3f}{shown(one.explained, 2):>26}"
            )
        return "\n".join(lines)


def efficiency(  # noqa: PLR0913 - what is compared, and how
    traces: Sequence[Trace],
    labels: Mapping[str, Label],
    drawn: Mapping[str, Sequence[Drawn]],
    detectors: Mapping[str, Scores],
    *,
    card: ProbeCard | None = None,
    sibling_rate: float = 0.05,
    seed: int = 0,
) -> Efficiency:
    """Compare detectors with an oracle on the traces that it was asked of.

    These must be of tasks that no detector has learned from. Scores as of `Scores`. The alarms of
    all follow the smoothing of a card, and its detector is ranked as the card says; the others
    like that or by plain scores, whichever ranks them better.

    Raises:
        NotEnoughData: the oracle was asked of no trace of known outcome, or of one outcome only.
    """
    asked = Corpus(tuple(trace for trace in traces if drawn.get(trace.id)), labels)
    cohort = build_cohort(asked)
    if not cohort.positive.any() or cohort.positive.all():
        raise NotEnoughData(
            "the oracle was asked of traces of one outcome only: ask it of more, or of others"
        )
    points = points_of(one for trace in asked.traces for one in drawn[trace.id])
    smoothing, ranked_by = (
        (parse_smoothing(card.smoothing), parse_smoothing(card.ranked_by)) if card else (MAX, MAX)
    )
    read = {name: ranked_by.apply(scores) for name, scores in detectors.items()}
    own = None if card is None else card.name
    flat = _carried(at_prompt(points, asked.traces), cohort)
    held = {PROMPT: [flat]}
    maxima = {PROMPT: flat}
    for name, scores in detectors.items():
        ways = [read[name]] if name == own else [read[name], scores]
        held[name] = [cohort.held(way) for way in ways]
        maxima[name] = cohort.maxima(smoothing.apply(scores))
    known = _known(tuple(one.trace for one in asked.known), points, cohort)
    weights, mixed = resample(cohort.n_tasks, seed=seed), mixed_prompts(cohort)
    acts = mixed_prompts(cohort.until_act()) if cohort.calls else None
    rows = {"oracle": np.maximum.accumulate(known, axis=1), **maxima}
    caught = partial(_caught, rows, weights, sibling_rate)
    moments = {str(part): _part(cohort, part) for part in PREFIXES}
    moments[BEFORE_SAID] = cohort.before_said()
    return Efficiency(
        **cohort.counts(),
        sibling_rate=sibling_rate,
        auroc={name: _ranked(cohort, known, held, at, weights) for name, at in moments.items()},
        caught=caught(mixed, moments) | caught(acts, {BEFORE_ACT: cohort.length}),
        shortage=mixed.shortage(),
        as_estimator={
            name: as_estimator(asked.traces, points, read[name] if name == own else scores)
            for name, scores in detectors.items()
        },
    )


def _part(cohort: Cohort, part: float) -> Index:
    sentences: Index = np.floor(part * cohort.length + 1e-9).astype(np.intp)
    return sentences


def _carried(prompt: Mapping[str, OraclePoint], cohort: Cohort) -> Values:
    """Return (trace, k) of what the oracle says of the prompt alone, whatever k."""
    width = int(cohort.length.max(initial=0)) + 1
    flat = np.array([prompt[name].probability for name in cohort.ids])
    return np.repeat(flat[:, None], width, axis=1)


def _known(
    traces: Sequence[Trace], points: Mapping[str, Sequence[OraclePoint]], cohort: Cohort
) -> Values:
    """Return (trace, k) of what the oracle knows after k sentences: at the last measured prefix."""
    width = int(cohort.length.max(initial=0)) + 1
    prompt = at_prompt(points, traces)
    rows = np.empty((len(traces), width))
    for row, trace in zip(rows, traces, strict=True):
        ends = [sentence for sentence, _ in prefixes(trace) if sentence >= PROMPT_PLACE]
        order = {sentence: at for at, sentence in enumerate(ends)}
        row[:] = prompt[trace.id].probability
        for point in points[trace.id][1:]:
            if point.sentence in order:  # else it knows what a tool told, and no detector does yet
                row[order[point.sentence] :] = point.probability
    return rows


def _ranked(
    cohort: Cohort,
    known: Values,
    held: Mapping[str, Sequence[Values]],
    at: Index,
    weights: Values,
) -> dict[str, BesideOracle]:
    """Return the within-prompt AUROC of all after `at` sentences of each positive.

    Of a detector that is held in several ways, of the way that ranks best.
    """
    pairs = pairs_within(cohort, at)
    values = {}
    for name, ways in {"oracle": [known], **held}.items():
        found = [pairs.auroc(way, weights) for way in ways]
        values[name] = max(found, key=lambda each: np.nan_to_num(each.estimate, nan=-1.0))
    return _shares(values)


def _caught(
    rows: Mapping[str, Values],
    weights: Values,
    rate: float,
    mixed: MixedPrompts | None,
    moments: Mapping[str, Index],
) -> dict[str, dict[str, BesideOracle]]:
    """Return the share of positives that alarm in time, by moment; empty with few siblings."""
    if mixed is None or mixed.shortage():
        return {}
    found = {}
    for moment, at in moments.items():
        # After k sentences column k is read, so an alarm at column k has taken k of them.
        stop = np.minimum(at[mixed.positive], mixed.in_time)
        found[moment] = _shares(
            {name: mixed.caught(each, weights, rate, stop) for name, each in rows.items()}
        )
    return found


def _shares(values: Mapping[str, Resampled]) -> dict[str, BesideOracle]:
    """Return the figures of all with their parts of the oracle's."""
    gain = values["oracle"] - values[PROMPT]
    sure = gain.interval()
    exists = gain.tasks >= LEAST_TASKS and sure is not None and sure.above(LEAST)
    return {
        name: BesideOracle(
            each.interval(),
            ((each - values[PROMPT]) / gain).interval()
            if exists and name not in ("oracle", PROMPT)
            else None,
            None if name == "oracle" else (each / values["oracle"]).interval(),
        )
        for name, each in values.items()
    }


def _table(table: Mapping[str, Mapping[str, BesideOracle]], field: str) -> list[str]:
    names = [name for name in next(iter(table.values())) if name not in WITHOUT[field]]
    head = f"{'':22}" + "".join(f"{_after(moment):>21}" for moment in table)
    rows = [
        f"{name:22}"
        + "".join(f"{shown(getattr(shares[name], field), 2):>21}" for shares in table.values())
        for name in names
    ]
    return [head, *rows]


def _after(moment: str) -> str:
    return moment if moment in (BEFORE_SAID, BEFORE_ACT) else f"after {float(moment):.0%}"
