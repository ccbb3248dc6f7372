"""Which statistic of a probe's scores its alarm follows: chosen on training tasks alone.

The highest score of a harmless trace has a heavy tail: one odd sentence in a long thought is
enough. A mean over a few sentences has a lighter one, so more instrumental traces alarm at the same
rate. But it may earn that by telling the situation alone, which all traces of a task share; then as
many would alarm if the scores were dealt anew among them. Both are measured for each probe.
"""

from collections.abc import Sequence

import numpy as np

from trace_probe.errors import NotEnoughData
from trace_probe.probing.dataset import Corpus, build_cohort, build_dataset
from trace_probe.probing.probe import Recipe, fit_dataset, probe_scores
from trace_probe.probing.selection import out_of_fold
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
from trace_probe.statistics.rules import CANDIDATES, MAX, Rule, parse_rule, statistics

DRAWS = 200
PERMUTATIONS = 20


def choose_rule(
    learned: Corpus, recipe: Recipe, rate: float, *, seed: int = 0
) -> tuple[Rule, dict[str, float]]:
    """Return the rule that a probe's alarm should follow, and what each rule catches.

    Each training task is scored by a probe that did not learn from it (four folds). Figures are
    as of `best_rule`; where the tasks cannot tell, there are none, and the rule is the maximum.
    """
    cohort, harmless = build_cohort(learned.judged()), _harmless(learned)
    if not harmless or not cohort.positive.any():
        return MAX, {}
    try:
        scores = unseen_scores(learned, recipe, seed=seed)
    except NotEnoughData:  # too few tasks, or a fold with one outcome only
        return MAX, {}
    at = cohort.length if recipe.rows == "reasoning" else cohort.before_said()
    return best_rule(cohort, scores, at, harmless, rate, seed=seed)


def unseen_scores(learned: Corpus, recipe: Recipe, *, seed: int = 0) -> Scores:
    """Return scores of training tasks, each by a probe that did not learn from it (four folds).

    Raises:
        NotEnoughData: there are too few tasks, or a fold holds one outcome only.
    """

    def score(known: Corpus, held: Corpus) -> Scores:
        probe = fit_dataset(build_dataset(known, recipe), recipe)
        return probe_scores(probe, held, recipe.layer)

    return out_of_fold(learned, score, seed=seed)


def best_rule(
    cohort: Cohort,
    scores: Scores,
    at: Index,
    harmless: Sequence[str],
    rate: float,
    *,
    seed: int = 0,
) -> tuple[Rule, dict[str, float]]:
    """Choose among `CANDIDATES` by the share of positives that alarm in time.

    In time is within the first `at` sentences; the threshold of each rule is set for `rate` on the
    harmless traces. The plain maximum stands unless another rule catches more, and knows no less
    of which trace of a task acts: what it catches beyond scores dealt anew within tasks. More and
    less are by over one standard error of the difference, over resamples of tasks and harmless
    traces.
    """
    rng = np.random.default_rng(seed)
    n = len(harmless)
    weights = resample(cohort.n_tasks, seed=seed, draws=DRAWS)
    drawn = np.vstack([np.arange(n), rng.integers(n, size=(DRAWS, n))])
    power: dict[str, Values] = {}
    knows: dict[str, Values] = {}
    for name in CANDIDATES:
        values = statistics(scores, parse_rule(name))
        quiet = trace_maxima(values, harmless)
        limits = np.array([conformal_threshold(quiet[each], rate).value for each in drawn])
        rows = score_rows(cohort, values)
        power[name] = _caught(cohort, rows, at, limits, weights)
        knows[name] = power[name] - _by_chance(cohort, rows, at, limits, weights, seed)
    honest = [name for name in CANDIDATES if not _above(knows[MAX.name], knows[name])]
    best = max(honest, key=lambda name: power[name][0])
    chosen = parse_rule(best) if _above(power[best], power[MAX.name]) else MAX
    return chosen, {name: float(draws[0]) for name, draws in power.items()}


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
