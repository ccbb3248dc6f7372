"""What training chooses, and by what: only ever on tasks of the training split, out of fold.

In this order: features, layer, focus and strength; then the head; then what the alarm follows,
and from where on.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from trace_probe.errors import NotEnoughData
from trace_probe.probing.corpus import Corpus
from trace_probe.probing.fitting import CrossFitted, cross_fit
from trace_probe.probing.recipe import Feature, Head, Recipe, Rows
from trace_probe.statistics.bootstrap import Values, resample
from trace_probe.statistics.calibration import (
    Guarantee,
    Threshold,
    guaranteed_threshold,
)
from trace_probe.statistics.metrics import (
    Scores,
    pairs_across,
    pairs_within,
    score_rows,
    scores_held,
    trace_maxima,
)
from trace_probe.statistics.siblings import mixed_prompts, sibling_limits
from trace_probe.statistics.smoothing import CANDIDATES, CUSUM, Smoothing, parse_smoothing

MLP_STRENGTH = 1.0
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
    cohort = corpus.cohort
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
    for train, held in corpus.folds(folds, seed):
        found.update(score(train, held))
    return found


@dataclass(frozen=True)
class Cell:
    """A recipe and how well it does on training tasks that it has not seen."""

    recipe: Recipe
    found: Criterion

    @property
    def name(self) -> str:
        """Return what the figure of this cell is called on a card."""
        one = self.recipe
        read = "+".join(one.features)
        return f"{self.found.name}/layer-{one.layer}/{read}/{one.focus}/C-{one.C:g}"


def choose(cells: Iterable[Cell]) -> tuple[Recipe, dict[str, float]]:
    """Choose features, layer, focus and strength of a logistic probe on held-out training tasks.

    The cells are judged by ridge probes of the matching penalty; only the chosen one is then
    worth a logistic fit. Of each choice of features the best layer and focus stands for it, and
    the first that is not clearly worse than the best is taken; likewise the strongest penalty
    that is not (see `first_of_equals`). Returns the recipe and the figure of every cell.

    Raises:
        NotEnoughData: there is no cell: the run has no activations.
    """
    every = list(cells)
    if not every:
        raise NotEnoughData(
            "this run has no activations: record one, or let a model read this one, "
            "`trace-probe observe RUN MODEL NEW_RUN`"
        )
    known = [cell for cell in every if np.isfinite(cell.found.value)]
    if not known:
        return every[0].recipe, {}
    best = first_of_equals([(cell, cell.found) for cell in leaders(known)])
    alike = [cell for cell in known if replace(cell.recipe, C=best.recipe.C) == best.recipe]
    alike.sort(key=lambda cell: cell.recipe.C)
    chosen = first_of_equals([(cell, cell.found) for cell in alike])
    return chosen.recipe, {cell.name: cell.found.value for cell in known}


def leaders(cells: Iterable[Cell]) -> list[Cell]:
    """Return the best cell of each choice of features, the simplest choice first.

    Of equal cells the first wins.
    """
    of_features: dict[tuple[Feature, ...], Cell] = {}
    for cell in cells:
        best = of_features.setdefault(cell.recipe.features, cell)
        if cell.found.value > best.found.value:
            of_features[cell.recipe.features] = cell
    return [of_features[features] for features in sorted(of_features, key=len)]


def rival_recipes(cells: Sequence[Cell], head: Head | Literal["auto"]) -> tuple[Recipe, ...]:
    """Return the MLPs to be compared, one for each choice of features with a memory.

    Each reads the layer and learns from the rows that did best for a linear probe of the same
    features. Without any memory it is the one choice that there is.
    """
    if head == "linear":
        return ()
    best = [cell.recipe for cell in leaders(cells)]
    chosen = best[1:] or best
    return tuple(replace(recipe, head="mlp", C=MLP_STRENGTH) for recipe in chosen)


def choose_head(
    learned: Corpus,
    linear: Recipe,
    rivals: Sequence[Recipe],
    head: Head | Literal["auto"],
    *,
    seed: int,
    tell: Callable[[str], None],
) -> tuple[CrossFitted, dict[str, float]]:
    """Fit the linear recipe and its rivals, and return the one that ships.

    ``auto`` keeps the linear one unless a rival is better by more than one standard error.
    Returns the figures of all of them by name.
    """
    folds = learned.folds(FOLDS, seed)
    fitted: list[tuple[CrossFitted, Criterion]] = []
    for recipe in (linear, *rivals) if head != "mlp" else rivals:
        read = "+".join(recipe.features)
        tell(f"fitting a {recipe.head} probe of {read} of layer {recipe.layer}")
        one = cross_fit(folds, recipe)
        fitted.append((one, criterion(learned, one.scores, recipe.rows)))
    figures = {
        f"{found.name}/{one.recipe.head}/{'+'.join(one.recipe.features)}": found.value
        for one, found in fitted
    }
    return first_of_equals(fitted), figures


def choose_smoothing(
    learned: Corpus, unseen: Scores, rows: Rows, names: Sequence[str] = (*CANDIDATES, CUSUM)
) -> tuple[Smoothing, dict[str, float]]:
    """Return what the alarm follows, and the figure of each candidate by name.

    The first candidate that is not clearly worse than the best, so plain scores where they will
    do. `unseen` are scores of training tasks by probes that have not seen them; from them the
    drift of a CUSUM is learned, if one is among the `names`.

    Raises:
        NotEnoughData: only a CUSUM is named, and outcomes or scores are too few for its drift.
    """
    if CUSUM in names:
        learnt = _cusum(learned, unseen)
        names = [name for name in names if name != CUSUM] + learnt
    if not names:
        raise NotEnoughData("no scores of both outcomes to learn a drift from: name cusum:DRIFT")
    found = [
        (name, criterion(learned, parse_smoothing(name).apply(unseen), rows)) for name in names
    ]
    figures = {f"{one.name}/smoothing-{name}": one.value for name, one in found}
    known = [(name, one) for name, one in found if np.isfinite(one.value)]
    return parse_smoothing(first_of_equals(known) if known else names[0]), figures


def _cusum(learned: Corpus, unseen: Scores) -> list[str]:
    """Return the name of the CUSUM for some scores; none if they lack an outcome.

    Its drift is the middle between the mean score of harmless traces and that of instrumental
    ones where their time is up, the best there is if both are normal and equally wide.
    """
    cohort = learned.cohort
    scored = score_rows(cohort, unseen)
    calm = scored[~cohort.positive]
    last = scores_held(scored)[np.arange(len(scored)), cohort.before_said()][cohort.positive]
    calm, last = calm[np.isfinite(calm)], last[np.isfinite(last)]
    if not len(calm) or not len(last):
        return []
    return [f"{CUSUM}:{(calm.mean() + last.mean()) / 2:.3g}"]


def set_threshold(
    harmless: Scores,
    siblings: tuple[Corpus, Scores] | None,
    *,
    rate: float,
    sibling_rate: float | None,
    guarantee: Guarantee = "conformal",
) -> Threshold:
    """Return the threshold that keeps two guarantees: the higher of what each of them asks for.

    At most a share `rate` of benign traces alarms, and at most a share `sibling_rate` of siblings.
    Without siblings enough the second is not guaranteed, and its rate stays unknown.

    Args:
        harmless: What the alarm follows in benign traces, one of each task.
        siblings: Traces among which there are mixed prompts, with what the alarm follows in them,
            by probes that have not seen their tasks.
        rate: Share of whole benign traces.
        sibling_rate: Share of siblings; None gives no guarantee for them.
        guarantee: Whether both hold on average or for this very threshold.

    Raises:
        NotEnoughData: there is no benign trace with scores, or a rate is not between 0 and 1.
    """
    maxima, limits = trace_maxima(harmless, list(harmless)), None
    if siblings is not None and sibling_rate is not None:
        cohort = siblings[0].cohort
        limits = sibling_limits(cohort, cohort.maxima(siblings[1]), sibling_rate)
    return guaranteed_threshold(maxima, rate, guarantee, sibling_rate, limits)
