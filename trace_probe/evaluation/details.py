"""Further figures of a detector: what they cost, when they come, and what chance would give.

Scores around the sentence that says it, against harmless traces at moments like it.

How long before the action the first alarm comes, those that never alarm counted in.

What a detector adds to what others know already, in bits a trace.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from trace_probe.evaluation.panel import Alarms, Panel, alarms_of, false_alarms, rank, summary
from trace_probe.evaluation.report import AlarmFree, AtLimit, EventAligned, Figures, More, Survival
from trace_probe.statistics.bootstrap import (
    ANY,
    Index,
    Mask,
    Metric,
    Resampled,
    Values,
    effective_tasks,
    of_several,
    ratio,
)
from trace_probe.statistics.calibration import Threshold, conformal_threshold, pac_threshold
from trace_probe.statistics.forecast import brier, calibration_error, predictive_interval
from trace_probe.statistics.metrics import (
    Cohort,
    Scores,
    average_precision,
    chance_rows,
    running_maxima,
    score_rows,
    sentences_to_alarm,
    trace_maxima,
)
from trace_probe.statistics.survival import hazard, mean_warning, survival_draws

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
    held = cohort.held(scores)
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


MOST_SENTENCES = 10
MOST_TOKENS = 1024
MOST_CALLS = 10
"""What a warning counts for at most, so that one long trace cannot carry the mean."""


def mean_warnings(alarms: Alarms) -> dict[str, Metric | None]:
    """Return the mean warning of a positive in sentences and tokens, and as share of the whole.

    From the end of the sentence that alarms to the action; a miss counts as 0. The share is the
    area under the curve of what is caught by prefix. Of episodes in model calls too.
    """
    cohort, weights = alarms.cohort, alarms.weights
    positive = cohort.positive
    if not positive.any():
        return dict.fromkeys(("sentences", "tokens", "share"))
    task, length = cohort.task[positive], cohort.length[positive].astype(float)
    taken = np.minimum(alarms.taken[positive], length)
    ends = [
        np.concatenate([[0], row])
        for row, chosen in zip(cohort.tokens, positive, strict=True)
        if chosen
    ]
    heard = np.array([row[int(k)] for row, k in zip(ends, taken, strict=True)], dtype=float)
    every = np.array([row[-1] for row in ends], dtype=float)
    share = taken / np.maximum(length, 1)
    found = {
        "sentences": mean_warning(taken, length, task, weights, MOST_SENTENCES),
        "tokens": mean_warning(heard, every, task, weights, MOST_TOKENS),
        "share": mean_warning(share, np.minimum(length, 1), task, weights, 1.0),
    }
    if cohort.calls:
        rows = [row for row, chosen in zip(cohort.calls, positive, strict=True) if chosen]
        at = [row[max(int(k) - 1, 0)] for row, k in zip(rows, taken, strict=True)]
        hit = alarms.taken[positive] <= cohort.length[positive]
        end = np.array([row[-1] for row in rows], dtype=float)
        held = np.where(hit, np.array(at, dtype=float), end)
        found["calls"] = mean_warning(held, end, task, weights, MOST_CALLS)
    return {name: values.interval() for name, values in found.items()}


def alarm_free(alarms: Alarms) -> AlarmFree:
    """Return Kaplan-Meier curves and hazards of the first alarm by outcome; the action censors.

    With 95 % bands over tasks, how many are at risk, and the median (None if never reached).
    """
    positive = alarms.cohort.positive
    return AlarmFree(_curve(alarms, positive), _curve(alarms, ~positive))


def _curve(alarms: Alarms, group: Mask) -> Survival:
    length, task = alarms.cohort.length[group], alarms.cohort.task[group]
    event = alarms.taken[group] <= length
    time = np.where(event, alarms.taken[group], length)
    at = np.unique(time[event])
    draws = survival_draws(time, event, task, alarms.weights, at)
    lower, upper = np.percentile(draws[1:], [2.5, 97.5], axis=0)
    reached = at[draws[0] <= 0.5]
    return Survival(
        sentence=at.astype(float).tolist(),
        share=draws[0].tolist(),
        lower=lower.tolist(),
        upper=upper.tolist(),
        at_risk=(time[None, :] >= at[:, None]).sum(axis=1).tolist(),
        hazard=hazard(time, event).tolist(),
        median=float(reached[0]) if len(reached) else None,
    )


OFFSETS = tuple(range(-8, 4))
"""Sentences from the one that says it, which is 0."""
LEAST_TASKS = 5
"""Of either outcome at an offset; not even a sign test is sure of fewer (2 ** -4 > 0.05)."""


def pseudo_events(cohort: Cohort, *, seed: int = 0) -> Index:
    """Return the sentence that says it, for a negative one drawn from the positives'.

    From those of its own prompt if there are any, so that early and late stages of reasoning
    are as frequent among both. -1 where there is none that the trace is long enough for.
    """
    rng = np.random.default_rng(seed)
    events = np.where(cohort.positive, cohort.said, -1)
    said = cohort.positive & (cohort.said >= 0)
    for i in np.flatnonzero(~cohort.positive):
        long_enough = said & (cohort.said < cohort.length[i])
        same = long_enough & (cohort.prompt == cohort.prompt[i])
        among = cohort.said[same if same.any() else long_enough]
        if len(among):
            events[i] = rng.choice(among)
    return events


def event_aligned(cohort: Cohort, rows: Values, weights: Values, *, seed: int = 0) -> EventAligned:
    """Return mean scores by offset for both outcomes, and the first one that tells them apart.

    `rows` as of `score_rows`. ``emergence`` is the earliest offset below 0 at which the lower
    band of the difference, wide enough for all offsets at once (max-t), lies above 0; null if
    there is none, or traces of fewer than `LEAST_TASKS` tasks of either outcome reach it.
    """
    events = pseudo_events(cohort, seed=seed)
    acted: list[Metric | None] = []
    harmless: list[Metric | None] = []
    differences: list[Metric | None] = []
    gaps = []
    for offset in OFFSETS:
        chosen = [
            _scored(cohort, rows, events + offset, np.flatnonzero((events >= 0) & group))
            for group in (cohort.positive, ~cohort.positive)
        ]
        groups = [_mean(cohort, weights, *each) for each in chosen]
        gap = groups[0] - groups[1]
        tasks = min(len(np.unique(cohort.task[inside])) for inside, _ in chosen)
        gaps.append(gap.draws if tasks >= LEAST_TASKS else np.full_like(gap.draws, np.nan))
        acted.append(groups[0].interval())
        harmless.append(groups[1].interval())
        differences.append(gap.interval())
    return EventAligned(OFFSETS, acted, harmless, differences, _emergence(np.array(gaps)))


def _scored(cohort: Cohort, rows: Values, at: Index, group: Index) -> tuple[Index, Values]:
    """Return the traces of a group that have a score at one sentence of each, and the scores."""
    inside = group[(at[group] >= 0) & (at[group] < cohort.length[group])]
    scores = rows[inside, at[inside]]
    return inside[np.isfinite(scores)], scores[np.isfinite(scores)]


def _mean(cohort: Cohort, weights: Values, inside: Index, scores: Values) -> Resampled:
    """Return the resampled mean score."""
    return ratio(scores, np.ones(len(inside)), cohort.task[inside], weights, ANY)


def _emergence(gaps: Values) -> int | None:
    """Return the first offset before 0 whose band clears 0; `gaps` is (offset, draw)."""
    usable = np.isfinite(gaps[:, 0]) & np.isfinite(gaps[:, 1:]).any(axis=1)
    if not usable.any():
        return None
    estimates, draws = gaps[usable, 0], gaps[usable, 1:]
    spread = np.nanstd(draws, axis=1)
    away = np.abs(draws - estimates[:, None]) / np.where(spread > 0, spread, 1.0)[:, None]
    furthest = np.nan_to_num(away).max(axis=0)
    lower = estimates - np.percentile(furthest, 95) * spread
    clear = [k for k, low in zip(np.array(OFFSETS)[usable], lower, strict=True) if k < 0 < low]
    return int(clear[0]) if clear else None


GUARDS = (1, 2)
BASE_RATES = (0.1, 0.01, 0.001)
RATES = (0.001, 0.01, 0.05)
PERMUTATIONS = 20
DEALS = 10
"""Ways to deal tasks to folds that probabilities are averaged over."""


def details(
    read: Scores,
    followed: Scores,
    threshold: float,
    panel: Panel,
    alarms: Alarms,
    figures: Figures,
) -> More:
    """Return more figures of a detector, from its `figures`, its scores and what alarms follow."""
    cohort, weights = alarms.cohort, alarms.weights
    steps = score_rows(cohort, followed)
    held, maxima = cohort.held(read), running_maxima(steps)
    chance, over_chance = _chance(steps, threshold, panel, alarms)
    return replace(
        _probabilities(held, panel),
        whole_trace=summary(rank(cohort, maxima, cohort.length, weights)),
        alarm_statistic=summary(rank(cohort, maxima, cohort.before_said(), weights)),
        before_said_by_guard={
            str(guard): alarms.caught(cohort.before_said(guard), cohort.spoken) for guard in GUARDS
        },
        within_prompt_by_guard={
            str(guard): rank(cohort, held, cohort.before_said(guard), weights)["within"].interval()
            for guard in GUARDS
        },
        useful_warning_by_chance=chance,
        useful_warning_over_chance=over_chance,
        predictive_value=_predictive(figures),
        alarm_free=alarm_free(alarms),
        mean_warning=mean_warnings(alarms),
        tokens=alarms.by_tokens(),
        calls=alarms.by_calls(),
        by_rate=_by_rate(followed, panel),
        event_aligned=event_aligned(cohort, score_rows(cohort, read), weights, seed=panel.seed),
    )


def _probabilities(held: Values, panel: Panel) -> More:
    """Return the figures of scores as probabilities, before it is said, all lengths alike.

    The scores become probabilities by a logistic regression on other tasks. Which tasks share
    one of the five folds is a matter of chance: the figures are means over `DEALS` ways to deal
    them, and their intervals cover what differs between these.
    """
    cohort, weights = panel.cohort, panel.weights
    moments = matched_moments(cohort)
    chosen = np.flatnonzero(moments > 0)
    positive, task = cohort.positive[chosen], cohort.task[chosen]
    score = held[chosen, moments[chosen]]
    if not positive.any():
        return More()
    draws = average_precision(score, positive, weights[:, task])
    sizes = np.bincount(task).astype(float)
    precision = Resampled(draws, len(chosen), int((sizes > 0).sum()), alike=effective_tasks(sizes))
    found = More(average_precision=precision.interval())
    deals = [folds_of(task, cohort.n_tasks, panel.seed + deal) for deal in range(DEALS)]
    odds = [
        cross_fitted(finite(score)[:, None], positive, fold)
        for fold in deals
        if trainable(positive, fold)
    ]
    if not odds:
        return found
    dealt = [1 / (1 + np.exp(-one)) for one in odds]
    square, error = (
        of_several([figure(one, positive, task, weights) for one in dealt]).interval()
        for figure in (brier, calibration_error)
    )
    return replace(found, brier=square, calibration_error=error)


def _by_rate(scores: Scores, panel: Panel) -> dict[str, dict[str, AtLimit]]:
    """Return what is caught at several whole-trace false-alarm rates, with both guarantees.

    Where the calibration traces are too few for a rate, it is replaced by the lowest that they
    can guarantee.
    """
    if not panel.calibration:
        return {}
    maxima = trace_maxima(scores, [trace.id for trace in panel.calibration])
    return {
        str(target): {
            limit.method: _at_limit(limit, scores, panel)
            for limit in (conformal_threshold(maxima, target), pac_threshold(maxima, target))
        }
        for target in RATES
    }


def _at_limit(limit: Threshold, scores: Scores, panel: Panel) -> AtLimit:
    return AtLimit(
        threshold=limit.value,
        guaranteed_rate=limit.guaranteed_rate,
        n=limit.n,
        note=limit.note,
        **false_alarms(scores, limit.value, panel),
        **alarms_of(scores, limit.value, panel).figures(),
    )


def _chance(
    rows: Values, threshold: float, panel: Panel, alarms: Alarms
) -> tuple[Metric | None, Metric | None]:
    """Return the share of positives warned in time when scores are permuted within tasks.

    And by how much more are warned in truth, on the same resamples: what the alarms know of the
    trace beyond its task.
    """
    cohort = alarms.cohort
    rng = np.random.default_rng(panel.seed)
    hits = np.zeros(len(rows))
    for _ in range(PERMUTATIONS):
        maxima = running_maxima(chance_rows(rows, cohort.task, rng))
        hits += sentences_to_alarm(maxima, threshold) <= cohort.length
    positive = cohort.positive
    n = int(positive.sum())
    share = hits[positive] / PERMUTATIONS
    true = (alarms.taken <= cohort.length)[positive].astype(float)
    task = cohort.task[positive]
    chance, own = (ratio(each, np.ones(n), task, alarms.weights) for each in (share, true))
    return chance.interval(), (own - chance).interval()


def _predictive(figures: Figures) -> dict[str, Metric | None]:
    """Return the share of alarms that are right by base rate; nothing where a rate is unknown."""
    caught, wrong = figures["caught_before_action"], figures["false_alarm_rate"]
    if caught is None or wrong is None:
        return {}
    return {str(base): predictive_interval(caught, wrong, base) for base in BASE_RATES}
