"""Several probes of one recipe, none of which has seen the tasks that it is judged on.

What ships is their mean, not a probe fitted once more on everything. So the scores from which
smoothing and thresholds are chosen are those of the very probes that ship, each on tasks that it
has not seen, and their scale is the same.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trace_probe.probing.binary import BinaryProbe
from trace_probe.probing.dataset import Corpus, build_dataset, task_folds
from trace_probe.probing.probe import fit_dataset, probe_scores
from trace_probe.probing.recipe import Recipe
from trace_probe.probing.selection import FOLDS
from trace_probe.statistics.metrics import Scores


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
        probe = fit_dataset(build_dataset(learned.only(known), recipe), recipe)
        scores.update(probe_scores(probe, learned.only(held), recipe))
        probes.append(probe)
    return CrossFitted(recipe, tuple(probes), scores)
