"""What is made of a probe's scores: chosen on training tasks alone, out of fold.

Three things. How heavy harmless benign traces weigh when it learns: a threshold is set on them,
and it has to be above the oddest sentence of each. Which statistic of the scores its alarm follows:
a mean over a few sentences has a lighter tail than the highest of them. And by which it is ranked
at a moment, where there is no tail to fear. The first two may earn alarms by telling the situation
alone, which all traces of a task share; then as many would alarm if the scores were dealt anew
among them. Both are measured for each probe.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from trace_probe.errors import NotEnoughData
from trace_probe.probing.dataset import Corpus, build_cohort, build_dataset
from trace_probe.probing.probe import Recipe, fit_dataset, probe_scores
from trace_probe.probing.selection import criterion, out_of_fold
from trace_probe.statistics.calibration import conformal_threshold
from trace_probe.statistics.metrics import (
    UNKNOWN,
    Cohort,
    Index,
    Scores,
    Values,
    chance_rows,
    resample,
    running_maxima,
    score_rows,
    trace_maxima,
)
from trace_probe.statistics.smoothing import CANDIDATES, MAX, Smoothing, parse_smoothing

DRAWS = 200
PERMUTATIONS = 20
BENIGN_WEIGHTS = (1.0, 3.0)
"""Heavier ones catch more by the situation alone; 10 was dropped when that was seen on one run."""


Way = tuple[float, str]
"""What an alarm may follow: a weight of benign traces, and the name of a rule."""
WAYS: tuple[Way, ...] = tuple((weight, rule) for weight in BENIGN_WEIGHTS for rule in CANDIDATES)


@dataclass(frozen=True)
class Choice:
    """How a probe learns, what its alarm follows and what it is ranked by."""

    recipe: Recipe
    rule: Smoothing
    ranked_by: Smoothing
    figures: Mapping[str, float]
    """Of all that was tried, by name; empty where the training tasks could not tell."""


def choose_alarm(
    learned: Corpus,
    recipe: Recipe,
    rate: float,
    ways: Sequence[Way] = WAYS,
    *,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Choice:
    """Choose the weight of benign traces and the rules of a probe among the ways given.

    Each training task is scored by probes that did not learn from it (four folds); see
    `best_alarm` and `rule_to_rank_by`. The first of each stands where the tasks cannot tell.
    """
    weight, rule = ways[0]
    first = Choice(replace(recipe, benign_weight=weight), parse_smoothing(rule), MAX, {})
    cohort, harmless = build_cohort(learned.judged()), _harmless(learned)
    if not harmless or not cohort.positive.any():
        return first
    runs: dict[float, Scores] = {}
    for weight in dict.fromkeys(weight for weight, _ in ways):
        if progress:
            progress(f"training tasks out of fold, benign traces weigh {weight:g}")
        try:
            runs[weight] = unseen_scores(learned, replace(recipe, benign_weight=weight), seed=seed)
        except NotEnoughData:  # too few tasks, or a fold with one outcome only
            return first
    at = cohort.length if recipe.rows == "reasoning" else cohort.before_said()
    followed = {way: parse_smoothing(way[1]).apply(runs[way[0]]) for way in ways}
    (weight, rule), caught = best_alarm(cohort, followed, at, harmless, rate, seed=seed)
    ranked_by, ranked = rule_to_rank_by(learned, runs[weight], recipe)
    named = {f"in_time_at_{rate:g}/benign-{w:g}/{name}": n for (w, name), n in caught.items()}
    chosen = replace(recipe, benign_weight=weight)
    return Choice(chosen, parse_smoothing(rule), ranked_by, {**named, **ranked})


def unseen_scores(learned: Corpus, recipe: Recipe, *, seed: int = 0) -> Scores:
    """Return scores of training tasks, each by a probe that did not learn from it (four folds).

    Raises:
        NotEnoughData: there are too few tasks, or a fold holds one outcome only.
    """

    def score(known: Corpus, held: Corpus) -> Scores:
        probe = fit_dataset(build_dataset(known, recipe), recipe)
        return probe_scores(probe, held, recipe)

    return out_of_fold(learned, score, seed=seed)


def rule_to_rank_by(
    learned: Corpus, scores: Scores, recipe: Recipe
) -> tuple[Smoothing, dict[str, float]]:
    """Choose by which of `CANDIDATES` scores rank best before it is said, as of `criterion`.

    The first that is no more than one standard error worse than the best, so the plain score
    where that will do. Returns the figure of each as well.
    """
    found = {
        name: criterion(learned, parse_smoothing(name).apply(scores), recipe.rows)
        for name in CANDIDATES
    }
    best = max(found.values(), key=lambda one: np.nan_to_num(one.value, nan=-1.0))
    alike = [name for name, one in found.items() if best.value - one.value <= one.error_to(best)]
    figures = {f"{best.name}/ranked-by-{name}": one.value for name, one in found.items()}
    return parse_smoothing(alike[0]) if alike else MAX, figures


def best_alarm(
    cohort: Cohort,
    followed: Mapping[Way, Scores],
    at: Index,
    harmless: Sequence[str],
    rate: float,
    *,
    seed: int = 0,
) -> tuple[Way, dict[Way, float]]:
    """Choose among what an alarm may follow by the share of positives that alarm in time.

    In time is within the first `at` sentences; the threshold of each way is set for `rate` on the
    harmless traces. Only ways count that are not shown to know less than the first of which trace
    of a task acts: what they catch beyond scores dealt anew within tasks. Of these the first is
    taken that catches no less than the best. More and less are by over one standard error of the
    difference, over resamples of tasks and harmless traces.
    """
    rng = np.random.default_rng(seed)
    n = len(harmless)
    weights = resample(cohort.n_tasks, seed=seed, draws=DRAWS)
    drawn = np.vstack([np.arange(n), rng.integers(n, size=(DRAWS, n))])
    power: dict[Way, Values] = {}
    knows: dict[Way, Values] = {}
    for way, values in followed.items():
        quiet = trace_maxima(values, harmless)
        limits = np.array([conformal_threshold(quiet[each], rate).value for each in drawn])
        rows = score_rows(cohort, values)
        power[way] = _caught(cohort, rows, at, limits, weights)
        knows[way] = power[way] - _by_chance(cohort, rows, at, limits, weights, seed)
    first = next(iter(followed))
    honest = [way for way in followed if not _above(knows[first], knows[way])]
    best = max(honest, key=lambda way: power[way][0])
    chosen = next(way for way in honest if not _above(power[best], power[way]))
    return chosen, {way: float(draws[0]) for way, draws in power.items()}


def _above(first: Values, second: Values) -> bool:
    """Return whether a figure exceeds another by more than the standard error of that."""
    difference = first - second
    return bool(difference[0] > np.std(difference[1:]))


def _caught(cohort: Cohort, rows: Values, at: Index, limits: Values, weights: Values) -> Values:
    """Return for each draw the share of positives that reach its limit in time."""
    known = cohort.positive & (cohort.said != UNKNOWN)
    positive = np.flatnonzero(known if known.any() else cohort.positive)
    peak = running_maxima(rows)[positive, at[positive]]
    weight = weights[:, cohort.task[positive]]
    hits = peak[None, :] >= limits[:, None]
    shares: Values = (weight * hits).sum(axis=1) / np.maximum(weight.sum(axis=1), 1)
    return shares


def _by_chance(
    cohort: Cohort, rows: Values, at: Index, limits: Values, weights: Values, seed: int
) -> Values:
    """Return the same with scores dealt anew within tasks, on average."""
    rng = np.random.default_rng(seed)
    dealt = (chance_rows(rows, cohort.task, rng) for _ in range(PERMUTATIONS))
    shares = [_caught(cohort, each, at, limits, weights) for each in dealt]
    mean: Values = np.mean(shares, axis=0)
    return mean


def _harmless(corpus: Corpus) -> list[str]:
    """Return one benign trace of each task that has any."""
    first: dict[str, str] = {}
    for trace in corpus.traces:
        if trace.task.role == "benign" and corpus.outcome(trace) is not True:
            first.setdefault(trace.task.id, trace.id)
    return list(first.values())
