"""By what layers, strengths and penalties are chosen: only ever on tasks of the training split."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trace_probe.errors import NotEnoughData
from trace_probe.probing.dataset import Corpus, build_cohort, task_folds
from trace_probe.probing.recipe import Rows
from trace_probe.statistics.bootstrap import Values, resample
from trace_probe.statistics.metrics import (
    Scores,
    concordance,
    pairs_across,
    pairs_within,
    pooled,
    running_maxima,
    score_rows,
    scores_held,
    trace_maxima,
    within_prompt,
)

DRAWS = 200
POWER_AT = 0.05
"""Rate at which alarms are compared: harmless training traces are too few for a smaller one."""


@dataclass(frozen=True)
class Criterion:
    """How well scores tell the outcomes of training tasks apart."""

    name: str
    """What it is: within prompts, or pooled where no prompt has both outcomes."""
    draws: Values
    """The figure, then one value for each resample of the tasks; nan where there is none."""

    @property
    def value(self) -> float:
        """Return the figure itself."""
        return float(self.draws[0])

    def error_to(self, best: "Criterion") -> float:
        """Return the standard error of the difference to another, both on the same resamples."""
        difference = (best.draws - self.draws)[1:]
        return float(np.nanstd(difference)) if np.isfinite(difference).any() else 0.0


def criterion(corpus: Corpus, scores: Scores, rows: Rows = "before-said") -> Criterion:
    """Return the AUROC before it is said, or before the action for rows of kind reasoning.

    Within prompts; over all traces if no prompt has both outcomes, which the name says.

    Raises:
        NotEnoughData: no test task has a labelled trace.
    """
    cohort = build_cohort(corpus.judged())
    if not cohort.ids:
        raise NotEnoughData("no labelled trace of a test task: record and label some")
    at = cohort.length if rows == "reasoning" else cohort.before_said()
    held = scores_held(score_rows(cohort, scores))
    weights = resample(cohort.n_tasks, draws=DRAWS)
    pairs = pairs_within(cohort, at)
    if pairs.n:
        wins = concordance(held, pairs)
        return Criterion("within_prompt_auroc", within_prompt(wins, pairs, cohort, weights).draws)
    pairs = pairs_across(cohort, at)
    return Criterion("pooled_auroc", pooled(concordance(held, pairs), pairs, cohort, weights).draws)


def alarm_power(corpus: Corpus, scores: Scores, rate: float = POWER_AT) -> float:
    """Return the share of positives that alarm before the action where so many harmless ones do.

    Harmless are the benign traces of training tasks; 0 without any.
    """
    harmless = [
        trace.id
        for trace in corpus.traces
        if trace.task.role == "benign" and corpus.outcome(trace) is not True
    ]
    cohort = build_cohort(corpus.judged())
    if not harmless or not cohort.positive.any():
        return 0.0
    quiet = np.sort(trace_maxima(scores, harmless))
    highest = running_maxima(score_rows(cohort, scores))[cohort.positive, -1]
    return float((highest > quiet[int((1 - rate) * (len(quiet) - 1))]).mean())


def out_of_fold(
    corpus: Corpus, score: Callable[[Corpus, Corpus], Scores], *, folds: int = 4, seed: int = 0
) -> Scores:
    """Return scores of each trace by a detector that has not seen its task."""
    found: dict[str, NDArray[np.floating]] = {}
    for train, held in task_folds(corpus.traces, folds, seed):
        found.update(score(corpus.only(train), corpus.only(held)))
    return found
