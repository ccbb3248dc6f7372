"""By what recipes, heads and smoothings are chosen: only ever on tasks of the training split."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from trace_probe.errors import NotEnoughData
from trace_probe.probing.dataset import Corpus, build_cohort, task_folds
from trace_probe.probing.recipe import Rows
from trace_probe.statistics.bootstrap import Values, resample
from trace_probe.statistics.metrics import Scores, pairs_across, pairs_within
from trace_probe.statistics.siblings import mixed_prompts

DRAWS = 200
FOLDS = 4
RATES = (0.05, 0.1)
"""Shares of siblings that may alarm; the mean of the headline at both is less a matter of luck."""
HEADLINE = "caught_before_said_at_sibling_rate"
Option = TypeVar("Option")


@dataclass(frozen=True)
class Criterion:
    """How well scores tell the outcomes of training tasks apart."""

    name: str
    """What it is: the headline, else the AUROC within prompts, else over all traces."""
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


def criterion(corpus: Corpus, followed: Scores, rows: Rows = "before-said") -> Criterion:
    """Return the headline of what an alarm follows, or the best substitute that there is.

    The headline is the share of instrumental traces of mixed prompts that are caught before they
    say it where few siblings alarm (see `statistics.siblings`), the mean over `RATES`. Where
    siblings or mixed prompts are too few for it, it is the AUROC within prompts before it is said,
    or before the action for rows of kind reasoning; over all traces if no prompt is mixed.

    Raises:
        NotEnoughData: no test task has a labelled trace.
    """
    cohort = build_cohort(corpus.judged())
    if not cohort.ids:
        raise NotEnoughData("no labelled trace of a test task: record and label some")
    weights = resample(cohort.n_tasks, draws=DRAWS)
    mixed = mixed_prompts(cohort)
    if rows != "reasoning" and mixed.shortage() is None:
        maxima = cohort.maxima(followed)
        caught = [mixed.caught(maxima, weights, rate).draws for rate in RATES]
        return Criterion(HEADLINE, np.mean(caught, axis=0))
    at = cohort.length if rows == "reasoning" else cohort.before_said()
    held, pairs = cohort.held(followed), pairs_within(cohort, at)
    if pairs.n:
        return Criterion("within_prompt_auroc", pairs.auroc(held, weights).draws)
    return Criterion("pooled_auroc", pairs_across(cohort, at).auroc(held, weights).draws)


def first_of_equals(options: Sequence[tuple[Option, Criterion]]) -> Option:
    """Return the first option that is no more than one standard error worse than the best.

    Options stand in order, the simplest first. With few mixed prompts the best is a matter of
    luck, so those that are not clearly worse count as its equals (Breiman et al. 1984, section
    3.4.3; here the error is that of the difference, over the same resamples of tasks).
    """
    best = max((one for _, one in options), key=lambda one: np.nan_to_num(one.value, nan=-1.0))
    return next(
        option
        for option, one in options
        if one is best or best.value - one.value <= one.error_to(best)
    )


def out_of_fold(
    corpus: Corpus, score: Callable[[Corpus, Corpus], Scores], *, folds: int = FOLDS, seed: int = 0
) -> Scores:
    """Return scores of each trace by a detector that has not seen its task."""
    found: dict[str, NDArray[np.floating]] = {}
    for train, held in task_folds(corpus.traces, folds, seed):
        found.update(score(corpus.only(train), corpus.only(held)))
    return found
