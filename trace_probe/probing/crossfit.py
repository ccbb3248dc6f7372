"""Several probes of one recipe, none of which has seen the tasks that it is judged on.

What ships is their mean, not a probe fitted once more on everything. So the scores from which
smoothing and thresholds are chosen are those of the very probes that ship, each on tasks that it
has not seen, and their scale is the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from trace_probe.probing.binary import BinaryProbe
from trace_probe.probing.dataset import Corpus, task_folds
from trace_probe.probing.probe import fit_corpus, probe_scores
from trace_probe.probing.recipe import Head, Recipe
from trace_probe.probing.selection import FOLDS, Criterion, criterion, first_of_equals
from trace_probe.probing.sweep import Cell, leaders
from trace_probe.statistics.metrics import Scores

MLP_STRENGTH = 1.0


@dataclass(frozen=True)
class CrossFitted:
    """Probes that each learned from all training tasks but those of one fold."""

    recipe: Recipe
    probes: tuple[BinaryProbe, ...]
    scores: Scores
    """Of every training trace, by the probe that has not seen its task."""

    def mean(self) -> BinaryProbe:
        """Return the probe that ships: its score is the mean score of all."""
        return type(self.probes[0]).mean_of(self.probes)


def cross_fit(learned: Corpus, recipe: Recipe, *, folds: int = FOLDS, seed: int = 0) -> CrossFitted:
    """Fit a recipe to the training tasks, once for each fold that it leaves out.

    Raises:
        NotEnoughData: there are too few tasks, or a fold leaves one outcome only.
    """
    probes: list[BinaryProbe] = []
    scores: dict[str, NDArray[np.floating]] = {}
    for known, held in task_folds(learned.traces, folds, seed):
        probe = fit_corpus(learned.only(known), recipe)
        scores.update(probe_scores(probe, learned.only(held), recipe))
        probes.append(probe)
    return CrossFitted(recipe, tuple(probes), scores)


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
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> tuple[CrossFitted, dict[str, float]]:
    """Fit the linear recipe and its rivals, and return the one that ships.

    ``auto`` keeps the linear one unless a rival is better by more than one standard error.
    Returns the figures of all of them by name.
    """
    fitted: list[tuple[CrossFitted, Criterion]] = []
    for recipe in (linear, *rivals) if head != "mlp" else rivals:
        if progress:
            read = "+".join(recipe.features)
            progress(f"fitting a {recipe.head} probe of {read} of layer {recipe.layer}")
        one = cross_fit(learned, recipe, seed=seed)
        fitted.append((one, criterion(learned, one.scores, recipe.rows)))
    figures = {
        f"{found.name}/{one.recipe.head}/{'+'.join(one.recipe.features)}": found.value
        for one, found in fitted
    }
    return first_of_equals(fitted), figures
