"""What a detector adds to what others know already, in bits a trace."""

from collections.abc import Mapping

import numpy as np

from trace_probe.statistics.bootstrap import ANY, Index, Mask, Metric, Values, ratio
from trace_probe.statistics.metrics import Cohort, Scores, score_rows, scores_held

FOLDS = 5


def matched_moments(cohort: Cohort) -> Index:
    """Return (trace,) how many sentences of each to read so that length tells nothing.

    A positive is read up to where it is said; a negative as far as the median positive of its
    prompt, or of all prompts where its own has none.
    """
    at = cohort.before_said()
    moments = at.copy()
    every = np.median(at[cohort.positive]) if cohort.positive.any() else 0
    for i in np.flatnonzero(~cohort.positive):
        same = at[cohort.positive & (cohort.prompt == cohort.prompt[i])]
        moments[i] = min(int(np.median(same) if len(same) else every), at[i])
    return moments


def delta_bits(
    scores: Scores,
    known: Mapping[str, Scores],
    cohort: Cohort,
    weights: Values,
    *,
    seed: int = 0,
) -> Metric | None:
    """Return by how many bits a trace is better predicted with the detector than without it.

    The log loss of a logistic regression on the known detectors, less that of one that has the
    detector as well; both cross-fitted over tasks. None with too few tasks or one outcome.
    """
    moments = matched_moments(cohort)
    chosen = np.flatnonzero(moments > 0)
    without, gained = (
        np.column_stack([_features(each, cohort, moments)[chosen] for each in some])
        for some in (known.values(), (*known.values(), scores))
    )
    positive, task = cohort.positive[chosen], cohort.task[chosen]
    fold = folds_of(task, cohort.n_tasks, seed)
    if not trainable(positive, fold):
        return None
    bits = _bits(without, positive, fold) - _bits(gained, positive, fold)
    return ratio(bits, np.ones(len(bits)), task, weights, ANY).interval()


def folds_of(task: Index, n_tasks: int, seed: int) -> Index:
    """Return (trace,) the fold of each; the traces of a task share one."""
    folds: Index = (np.random.default_rng(seed).permutation(n_tasks) % FOLDS)[task]
    return folds


def trainable(positive: Mask, fold: Index) -> bool:
    """Return whether both outcomes are left whichever fold is held out."""
    return all(len(np.unique(positive[fold != held])) == 2 for held in range(FOLDS))


def _features(scores: Scores, cohort: Cohort, moments: Index) -> Values:
    """Return the score of each trace at its moment."""
    held = scores_held(score_rows(cohort, scores))
    return finite(held[np.arange(len(moments)), moments])


def finite(score: Values) -> Values:
    """Return scores of any shape, with the lowest of them where there is none."""
    lowest = score[np.isfinite(score)].min(initial=0.0)
    return np.where(np.isfinite(score), score, lowest)


def _bits(features: Values, positive: Mask, fold: Index) -> Values:
    """Return the cross-fitted log loss of each trace, in bits."""
    margin = cross_fitted(features, positive, fold) * np.where(positive, 1, -1)
    loss: Values = np.logaddexp(0, -margin) / np.log(2)
    return loss


def cross_fitted(features: Values, positive: Mask, fold: Index) -> Values:
    """Return (trace,) log odds by a logistic regression of `features` (trace, feature).

    Each trace is read by the model of the other folds, standardised by these alone.
    """
    from sklearn.linear_model import LogisticRegression

    odds = np.empty(len(positive))
    for held in np.unique(fold):
        some, others = fold != held, fold == held
        mean, spread = features[some].mean(axis=0), features[some].std(axis=0)
        scaled = (features - mean) / np.where(spread > 0, spread, 1.0)
        model = LogisticRegression(max_iter=1000).fit(scaled[some], positive[some])
        odds[others] = model.decision_function(scaled[others])
    return odds
