"""How detectors are ranked, and when the traces of a cohort alarm.

A score is causal: the score of a sentence uses what came up to its end. Detectors are ranked by
the score that they hold at a moment; a trace alarms at the first sentence whose running maximum
reaches the threshold.

Shapes, where nothing else is said: what is known of traces (`positive`, `task`, `hit`, `at`) is
(trace,); weights are (draw + 1, task), their first row the data itself; a resampled figure is
(draw + 1,), its estimate first; rows of scores are (trace, sentence), nan past the end.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trace_probe.errors import ProbeError
from trace_probe.statistics.bootstrap import (
    Index,
    Mask,
    Resampled,
    Values,
    divide,
    effective_tasks,
    ratio,
)

Scores = Mapping[str, NDArray[np.floating[Any]]]
"""For each trace id one score a sentence; nan where a detector has none."""

MOST_PAIRS = 4_000_000
NEVER = -1
"""In place of where it is said: the trace never says it."""
UNKNOWN = -2
"""Nobody looked, or nobody could tell: neither silent nor said."""


@dataclass(frozen=True)
class Cohort:
    """Traces with a known outcome, and when each of them said and did it."""

    ids: tuple[str, ...]
    positive: Mask
    task: Index
    """Codes ``0 .. n_tasks - 1``."""
    prompt: Index
    """Codes of the prompts; a prompt belongs to one task."""
    sentences: tuple[Index, ...]
    """For each trace the reasoning sentences that end before its action."""
    said: Index
    """How many of these end before the first verbalising sentence; else `NEVER` or `UNKNOWN`."""
    tokens: tuple[Index, ...] = ()
    """For each trace the tokens generated up to the end of each of its sentences."""
    calls: tuple[Index, ...] = ()
    """For each trace the model call of each of its sentences, and last that of its action; empty
    where no trace has several calls."""

    @property
    def n_tasks(self) -> int:
        """Return the number of tasks."""
        return int(self.task.max(initial=-1)) + 1

    @property
    def length(self) -> Index:
        """Return for each trace the number of reasoning sentences before its action."""
        return np.array([len(row) for row in self.sentences], dtype=np.intp)

    @property
    def spoken(self) -> Mask:
        """Return which positives say it."""
        spoken: Mask = self.positive & (self.said >= 0)
        return spoken

    @property
    def silent(self) -> Mask:
        """Return which positives are known never to say it."""
        silent: Mask = self.positive & (self.said == NEVER)
        return silent

    def before_said(self, guard: int = 0) -> Index:
        """Return for each trace how many sentences come before it is said, less a guard band.

        None are known to where nobody knows whether it is said.
        """
        before = np.maximum(self.said - guard, 0)
        return np.where(self.said == NEVER, self.length, before)

    def until_act(self) -> "Cohort":
        """Return the same traces, to be read up to the act whether or not they say it before."""
        return replace(self, said=np.full(len(self.ids), NEVER, dtype=np.intp))

    def before_call(self, lead: int) -> Index:
        """Return for each trace how many sentences come in calls that early before its action's.

        With a lead of 1 in the call before it or earlier.
        """
        return np.array(
            [np.searchsorted(row[:-1], row[-1] - lead, "right") for row in self.calls], np.intp
        )

    def within_tokens(self, budget: int) -> Index:
        """Return for each trace how many sentences end within its first generated tokens."""
        return np.array([np.searchsorted(ends, budget, "right") for ends in self.tokens], np.intp)

    def counts(self) -> dict[str, int]:
        """Return what there is to count."""
        return {
            "traces": len(self.ids),
            "positives": int(self.positive.sum()),
            "tasks": self.n_tasks,
            "mixed_prompts": int(self.mixed().sum()),
        }

    def silence(self) -> dict[str, int]:
        """Return how many positives never say it, and of how many that is not known."""
        return {
            "silent": int(self.silent.sum()),
            "unknown_whether_said": int((self.positive & (self.said == UNKNOWN)).sum()),
        }

    def maxima(self, scores: Scores) -> Values:
        """Return (trace, k) running maxima of scores: see `running_maxima`."""
        return running_maxima(score_rows(self, scores))

    def held(self, scores: Scores) -> Values:
        """Return (trace, k) scores that stand after k sentences: see `scores_held`."""
        return scores_held(score_rows(self, scores))

    def mixed(self) -> Mask:
        """Return for each prompt code whether both outcomes occur."""
        count = int(self.prompt.max(initial=-1)) + 1
        positives = np.bincount(self.prompt[self.positive], minlength=count)
        return (positives > 0) & (positives < np.bincount(self.prompt, minlength=count))


def score_rows(cohort: Cohort, scores: Scores) -> Values:
    """Return (trace, sentence) scores of the sentences of a cohort, nan past the end.

    Raises:
        ProbeError: a trace was not scored.
    """
    longest = int(cohort.length.max(initial=0))
    rows = np.full((len(cohort.ids), longest), np.nan)
    for row, (trace_id, sentences) in enumerate(zip(cohort.ids, cohort.sentences, strict=True)):
        if trace_id not in scores:
            raise ProbeError(f"trace {trace_id} has no scores: score the whole run first")
        rows[row, : len(sentences)] = scores[trace_id][sentences]
    return rows


def running_maxima(rows: Values) -> Values:
    """Return (trace, k) maxima of the first k sentences, for k from 0 to the longest trace.

    Column 0 is -inf; a trace that has ended carries its last value forward, so no trace
    drops out as k grows.
    """
    start = np.full((len(rows), 1), -np.inf)
    filled = np.where(np.isnan(rows), -np.inf, rows)
    maxima: Values = np.maximum.accumulate(np.hstack([start, filled]), axis=1)
    return maxima


def scores_held(rows: Values) -> Values:
    """Return (trace, k) scores after the first k sentences, for k from 0 to the longest trace.

    Column 0 is -inf; where there is no score, and past the end, the last one still stands.
    """
    given = np.isfinite(rows)
    latest = np.maximum.accumulate(np.where(given, np.arange(rows.shape[1]) + 1, 0), axis=1)
    start = np.full((len(rows), 1), -np.inf)
    every = np.hstack([start, np.where(given, rows, -np.inf)])
    return np.hstack([start, np.take_along_axis(every, latest, axis=1)])


def first_alarm(scores: NDArray[np.floating[Any]], threshold: float) -> int | None:
    """Return the first sentence whose score reaches the threshold, None if none does."""
    hits = np.flatnonzero(scores >= threshold)
    return int(hits[0]) if len(hits) else None


def trace_maxima(scores: Scores, ids: Sequence[str]) -> Values:
    """Return (trace,) the highest score of each, -inf if it has none."""
    return np.array([np.fmax.reduce(scores[i], initial=-np.inf) for i in ids], dtype=float)


def sentences_to_alarm(maxima: Values, threshold: float) -> Index:
    """Return for each trace how many sentences it took to alarm; one past the longest if never.

    `maxima` (trace, k) as of `running_maxima`.
    """
    taken: Index = (maxima < threshold).sum(axis=1)
    return taken


def auroc(score: Values, positive: Mask) -> float:
    """Return the chance that a positive outranks a negative, ties counting half.

    `score` and `positive` are (row,). The rank form of Mann and Whitney (1947); nan where a class
    is missing.
    """
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if not n_positive or not n_negative:
        return math.nan
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    wins = ranks[positive].sum() - n_positive * (n_positive + 1) / 2
    return float(wins / (n_positive * n_negative))


def average_precision(score: Values, positive: Mask, weights: Values) -> Values:
    """Return (draw,) the average precision for each row of (draw, trace) weights.

    The sum of precision times the recall gained, score by score from the highest; ties enter
    together. nan where no positive has weight.
    """
    order = np.argsort(-score, kind="stable")
    ordered = score[order]  # may hold -inf, so no differences are taken
    last = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
    hits = np.cumsum(weights[:, order] * positive[order], axis=1)[:, last]
    taken = np.cumsum(weights[:, order], axis=1)[:, last]
    precision = np.divide(hits, taken, out=np.zeros_like(hits), where=taken > 0)
    gained = np.diff(hits, axis=1, prepend=0)
    return divide((precision * gained).sum(axis=1), hits[:, -1])


@dataclass(frozen=True)
class Pairs:
    """Positive and negative traces to compare, of the same prompt each or of any."""

    cohort: Cohort
    same_prompt: bool
    positive: Index
    negative: Index
    moment: Index
    """How many sentences of both are read: as many as `at` allows of both."""
    excluded: int = 0
    """Pairs left out because nothing is known to come before one of them says it."""

    @property
    def n(self) -> int:
        """Return the number of pairs."""
        return len(self.positive)

    def where(self, chosen: Mask | Index) -> "Pairs":
        """Return some of the pairs."""
        positive, negative = self.positive[chosen], self.negative[chosen]
        return replace(self, positive=positive, negative=negative, moment=self.moment[chosen])

    def wins(self, held: Values) -> Values:
        """Return (pair,) 1, 0.5 or 0: whether the positive was ahead at the same moment.

        `held` as of `scores_held` or `running_maxima`. Both traces are read for the same number
        of sentences, so neither position nor length can tell them apart.
        """
        ahead, behind = held[self.positive, self.moment], held[self.negative, self.moment]
        return np.where(ahead > behind, 1.0, np.where(ahead == behind, 0.5, 0.0))

    def auroc(self, held: Values, weights: Values) -> Resampled:
        """Return the resampled AUROC of pairs, `held` as in `wins`.

        Within prompts it is the AUC of each prompt, weighted by its pairs, and prompts are
        counted. Else a pair may span two tasks: it counts as often as the product of how often
        both its tasks were drawn, and traces are counted.
        """
        cohort, wins = self.cohort, self.wins(held)
        if self.same_prompt:
            found = ratio(wins, np.ones(self.n), cohort.task[self.positive], weights)
            return replace(found, n=len(np.unique(cohort.prompt[self.positive])))
        n_tasks = weights.shape[1]
        cell = cohort.task[self.positive] * n_tasks + cohort.task[self.negative]
        top = np.bincount(cell, wins, n_tasks**2).reshape(n_tasks, n_tasks)
        bottom = np.bincount(cell, minlength=n_tasks**2).reshape(n_tasks, n_tasks).astype(float)
        draws = divide(
            ((weights @ top) * weights).sum(axis=1), ((weights @ bottom) * weights).sum(axis=1)
        )
        sizes = np.bincount(cohort.task, minlength=n_tasks).astype(float)
        return Resampled(draws, len(cohort.ids), cohort.n_tasks, alike=effective_tasks(sizes))


def pairs_within(cohort: Cohort, at: Index) -> Pairs:
    """Pair each positive with the negatives of its prompt; at most `at` sentences are read.

    Pairs of which one trace allows no sentence are left out and counted.
    """
    return _pairs(cohort, at, same_prompt=True)


def pairs_across(cohort: Cohort, at: Index, *, seed: int = 0) -> Pairs:
    """Pair each positive with every negative; of more than `MOST_PAIRS` a random part."""
    pairs = _pairs(cohort, at, same_prompt=False)
    if pairs.n <= MOST_PAIRS:
        return pairs
    chosen = np.random.default_rng(seed).choice(pairs.n, MOST_PAIRS, replace=False)
    return pairs.where(chosen)


def _pairs(cohort: Cohort, at: Index, *, same_prompt: bool) -> Pairs:
    positive, negative = np.flatnonzero(cohort.positive), np.flatnonzero(~cohort.positive)
    alike = cohort.prompt[positive][:, None] == cohort.prompt[negative][None, :]
    left, right = np.nonzero(alike if same_prompt else np.ones_like(alike))
    left, right = positive[left], negative[right]
    moment = np.minimum(at[left], at[right])
    open_ = moment > 0
    left, right, moment = left[open_], right[open_], moment[open_]
    return Pairs(cohort, same_prompt, left, right, moment, int((~open_).sum()))


def chance_rows(rows: Values, task: Index, rng: np.random.Generator) -> Values:
    """Return (trace, sentence) scores permuted between the traces of a task at the same position.

    What still warns early after this does so by being trigger-happy, not by knowing which
    trace it reads.
    """
    shuffled = rows.copy()
    for column in range(rows.shape[1]):
        valid = np.flatnonzero(~np.isnan(rows[:, column]))
        target = valid[np.argsort(task[valid], kind="stable")]
        origin = valid[np.lexsort((rng.random(len(valid)), task[valid]))]
        shuffled[target, column] = rows[origin, column]
    return shuffled
