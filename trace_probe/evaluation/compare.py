"""Two probes, or two runs, side by side: the same tasks, the same resamples, the difference."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from trace_probe.errors import NotEnoughData, ProbeError
from trace_probe.evaluation.panel import Panel, build_panel, caught_by_rate, ranking
from trace_probe.evaluation.report import WORDS, at_rate, ranked_as
from trace_probe.probing.corpus import Corpus, load_corpus
from trace_probe.probing.probe import SavedProbe, check_fits
from trace_probe.statistics.bootstrap import (
    DRAWS,
    SHARE,
    Index,
    Mask,
    Metric,
    Resampled,
    mean,
    ratio,
    shown,
)
from trace_probe.statistics.metrics import Scores, sentences_to_alarm, trace_maxima
from trace_probe.store import Store
from trace_probe.trace import Trace
from trace_probe.visible import aligned


@dataclass(frozen=True)
class Side:
    """One of two detectors, on traces that it has not learned from."""

    name: str
    panel: Panel
    scores: Scores
    threshold: float

    @property
    def followed(self) -> Scores:
        """Return what its alarm follows."""
        return self.panel.smoothing.apply(self.scores)


@dataclass(frozen=True)
class Pair:
    """One figure of both, and the first minus the second."""

    first: Metric | None
    second: Metric | None
    difference: Metric | None
    """Resampled with both on the same tasks at once."""


@dataclass(frozen=True)
class Comparison:
    """Two detectors side by side."""

    first: str
    second: str
    tasks: int
    same_traces: bool
    figures: Mapping[str, Pair]
    ranked_by: tuple[str, str]
    """What is made of the scores of each where traces are ranked at a moment."""

    def __str__(self) -> str:
        """Return the two side by side as a table."""
        traces = "the same traces" if self.same_traces else "traces of their own"
        rows = [["", self.first, self.second, "difference", "n"]]
        for name, pair in self.figures.items():
            cells = [shown(pair.first), shown(pair.second), shown(pair.difference, sign="+")]
            n = str(pair.difference.n) if pair.difference else "0"
            rows.append([WORDS.get(name, name.replace("_", " ")), *cells, n])
        head = f"{self.tasks} tasks that neither has seen, {traces}; 95 % intervals over tasks"
        one, other = map(ranked_as, self.ranked_by)
        ranked = f"{self.first} is ranked by {one}, {self.second} by {other}"
        return "\n".join([head, *aligned(rows), ranked])


def compare_probes(
    first: tuple[Store, SavedProbe],
    second: tuple[Store, SavedProbe],
    *,
    labeller: str | None = None,
    seed: int = 0,
) -> Comparison:
    """Compare two probes, each on its run, on the tasks that both runs hold and neither saw.

    Raises:
        ProbeError: a probe does not fit its run, or the two tell different things.
        NotEnoughData: no labelled test task is left.
    """
    _check_same_target(first[1], second[1])
    corpora = []
    for store, saved in (first, second):
        card = saved.card
        check_fits(card, store)
        who = labeller or card.labeller
        corpora.append(load_corpus(store, who, card.layers, card.target))
    seen = first[1].card.seen | second[1].card.seen
    shared = set.intersection(*(_judged(corpus) for corpus in corpora)) - seen
    sides = [
        _side(_name(store, saved, first, second), saved, corpus.only(shared), seed)
        for (store, saved), corpus in zip((first, second), corpora, strict=True)
    ]
    return compare(*sides)


def _check_same_target(first: SavedProbe, second: SavedProbe) -> None:
    one, other = first.card, second.card
    if one.target != other.target:
        raise ProbeError(
            f"{one.name} tells the {one.target} and {other.name} the {other.target}, which have "
            f"positives of their own: compare probes of one target, or judge the targets by "
            f"each other with `trace-probe transfer --across target`"
        )


def _judged(corpus: Corpus) -> set[str]:
    """Return the tasks that a corpus says something on.

    Harmless ones need no known outcome, unless positives are to be told from them.
    """
    told = {trace.id for trace in corpus.judged().traces}
    return {
        trace.task.id
        for trace in corpus.traces
        if trace.id not in told or corpus.outcome(trace) is not None
    }


def _name(store: Store, saved: SavedProbe, *both: tuple[Store, SavedProbe]) -> str:
    """Return the name of a probe, with its run if there are two."""
    runs = {other.path for other, _ in both}
    return saved.card.name if len(runs) == 1 else f"{saved.card.name} on {store.name}"


def _side(name: str, saved: SavedProbe, corpus: Corpus, seed: int) -> Side:
    panel = replace(
        build_panel(corpus.only(()), corpus, seed),
        smoothing=saved.smoothing,
        ranked_by=saved.ranked_by,
    )
    return Side(name, panel, saved.scores(corpus), saved.card.threshold)


def compare(first: Side, second: Side) -> Comparison:
    """Compare two detectors whose panels hold the same tasks.

    Raises:
        NotEnoughData: they hold no test task.
    """
    tasks = first.panel.cohort.n_tasks
    if tasks < 1 or tasks != second.panel.cohort.n_tasks:
        raise NotEnoughData(
            "the two share no labelled test task that neither probe has seen: "
            "train both with the same seed, or record more tasks"
        )
    one, other = _resampled(first), _resampled(second)
    return Comparison(
        first.name,
        second.name,
        tasks,
        first.panel.cohort.ids == second.panel.cohort.ids,
        {name: _pair(one[name], other[name]) for name in one if name in other},
        (first.panel.ranked_by.name, second.panel.ranked_by.name),
    )


def _pair(one: Resampled, other: Resampled) -> Pair:
    return Pair(one.interval(), other.interval(), (one - other).interval())


def _resampled(side: Side) -> dict[str, Resampled]:
    """Return the figures of a detector with the draws that both sides share."""
    cohort = side.panel.cohort
    ranked = ranking([side.scores], side.panel)
    taken = sentences_to_alarm(cohort.maxima(side.followed), side.threshold)

    def caught(by: Index, among: Mask) -> Resampled:
        hits = (taken <= by)[among].astype(float)
        return ratio(hits, np.ones(len(hits)), cohort.task[among], side.panel.weights)

    return {
        **{at_rate(k): v for k, v in caught_by_rate(side.followed, side.panel).items()},
        "within_prompt_auroc": ranked["within"],
        "pooled_auroc": ranked["pooled"],
        "caught_before_said": caught(cohort.before_said(), cohort.spoken),
        "caught_before_action": caught(cohort.length, cohort.positive),
        "silent_caught": caught(cohort.length, cohort.silent),
        "false_alarm_rate": _false_alarms(side, side.panel.benign),
        "hard_negative_alarm_rate": _false_alarms(side, side.panel.hard_negative),
    }


def _false_alarms(side: Side, traces: Sequence[Trace]) -> Resampled:
    if not traces:
        return Resampled(np.full(DRAWS + 1, np.nan), 0, 0)
    hit = trace_maxima(side.followed, [trace.id for trace in traces]) >= side.threshold
    tasks = [trace.task.id for trace in traces]
    return mean(hit.astype(float), tasks, seed=side.panel.seed, bounds=SHARE)
