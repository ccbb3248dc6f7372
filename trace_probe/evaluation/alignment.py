"""Scores around the sentence that says it, against harmless traces at moments like it."""

import numpy as np

from trace_probe.evaluation.report import EventAligned
from trace_probe.statistics.bootstrap import ANY, Index, Metric, Resampled, Values, ratio
from trace_probe.statistics.metrics import Cohort

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
