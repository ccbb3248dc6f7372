"""Every layer and strength of penalty, judged on held-out tasks, for little more than one fit.

Ridge probes of all strengths come from the moments of one pass over the rows of a layer; the
best cell is then worth a logistic fit.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from trace_probe.errors import NotEnoughData
from trace_probe.probing.dataset import (
    Corpus,
    Dataset,
    activations_of,
    build_dataset,
    count_rows,
    load_corpus,
    stream_rows,
    task_folds,
)
from trace_probe.probing.features import Feature, default_features
from trace_probe.probing.matrix import load_matrix
from trace_probe.probing.probe import several_scores
from trace_probe.probing.recipe import FOCUSES, Focus, Recipe, Rows, Target
from trace_probe.probing.ridge import Block, paths_from_moments, ridge_paths
from trace_probe.probing.selection import Criterion, alarm_power, criterion
from trace_probe.statistics.metrics import Scores
from trace_probe.store import Store

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
FOLDS = 4
LOGISTIC_TO_RIDGE = 0.25
"""Ridge strength that shrinks as a logistic strength of 1 does: the loss at a score of zero
has a curvature of 1/4, least squares one of 1 (after the factor 1/2 that both leave out)."""


@dataclass(frozen=True)
class Grid:
    """What is tried on each layer."""

    rows: Rows = "before-said"
    focuses: tuple[Focus, ...] = FOCUSES
    strengths: tuple[float, ...] = STRENGTHS
    """Of a logistic probe, the strongest penalty first."""
    seed: int = 0
    features: tuple[Feature, ...] | None = None
    """What is read of the layer; None means `default_features` of what was recorded."""


@dataclass(frozen=True)
class Cell:
    """A recipe and how well it does on training tasks that it has not seen."""

    recipe: Recipe
    found: Criterion
    power: float = 0.0
    """Share of positives caught; see `alarm_power`."""

    @property
    def name(self) -> str:
        """Return what the figure of this cell is called on a card."""
        one = self.recipe
        return f"{self.found.name}/layer-{one.layer}/{one.focus}/C-{one.C:g}"


def choose_cell(
    corpus: Corpus, grid: Grid = Grid(), *, progress: Callable[[str], None] | None = None
) -> tuple[Recipe, dict[str, float]]:
    """Choose among the cells of all layers of a corpus; see `choose`.

    Raises:
        NotEnoughData: there are no activations.
    """
    cells: list[Cell] = []
    for layer in corpus.matrix.layers if corpus.matrix else ():
        if progress:
            progress(f"choosing layer and strength, layer {layer}")
        cells += sweep_layer(corpus, layer, grid)
    return choose(cells)


def choose(cells: Iterable[Cell]) -> tuple[Recipe, dict[str, float]]:
    """Choose layer, focus and strength of a logistic probe, judged on training tasks held out.

    The cells are judged by ridge probes of the matching penalty; only the chosen one is then
    worth a logistic fit. With few mixed prompts the strength that ranks best is a matter of
    luck, so those no more than one standard error worse count as its equals (Breiman et al.
    1984, section 3.4.3; here the error of the difference, over the same resamples of tasks).
    Of them the one is taken that alarms best, which far more traces tell, and of equal ones
    that with the strongest penalty. Returns the recipe and the figure of every cell; of equal
    layers and focuses the first wins.

    Raises:
        NotEnoughData: there is no cell: the run has no activations.
    """
    every = list(cells)
    if not every:
        raise NotEnoughData("this run has no activations: a probe needs a recorded run")
    known = [cell for cell in every if np.isfinite(cell.found.value)]
    if not known:
        return every[0].recipe, {}
    best = max(known, key=lambda cell: cell.found.value)
    alike = [cell for cell in known if replace(cell.recipe, C=best.recipe.C) == best.recipe]
    enough = [
        cell
        for cell in alike
        if best.found.value - cell.found.value <= cell.found.error_to(best.found)
    ]
    chosen = max(enough, key=lambda cell: (cell.power, -cell.recipe.C))
    return chosen.recipe, {cell.name: cell.found.value for cell in known}


def sweep_layer(corpus: Corpus, layer: int, grid: Grid = Grid()) -> list[Cell]:
    """Return the cells of one layer. Layers share nothing, so that they may be swept at once."""
    cells = []
    features = grid.features or default_features(activations_of(corpus).pooling)
    for focus in grid.focuses:
        recipe = Recipe((layer,), features, rows=grid.rows, focus=focus)
        swept = layer_scores(corpus, recipe, grid.strengths, grid.seed)
        cells += [
            Cell(
                replace(recipe, C=C),
                criterion(corpus, scores, grid.rows),
                alarm_power(corpus, scores),
            )
            for C, scores in zip(grid.strengths, swept, strict=True)
        ]
    return cells


def layer_scores(
    corpus: Corpus, recipe: Recipe, strengths: Sequence[float], seed: int = 0
) -> list[Scores]:
    """Return for each logistic strength the out-of-fold scores of one layer.

    Rows are read in blocks of traces; what is held beside the activations is of the size of
    the moments.
    """
    folds = [held for _, held in task_folds(corpus.traces, FOLDS, seed)]
    fold_of = {task: fold for fold, tasks in enumerate(folds) for task in tasks}
    ridge = [C * LOGISTIC_TO_RIDGE for C in strengths]
    width = len(recipe.layers) * len(recipe.features) * activations_of(corpus).d_model
    if count_rows(corpus, recipe) < width:
        paths = ridge_paths(_as_block(build_dataset(corpus, recipe), fold_of), FOLDS, ridge)
    else:
        blocks = (_as_block(part, fold_of) for part in stream_rows(corpus, recipe))
        paths = paths_from_moments(blocks, FOLDS, ridge)
    found: list[dict[str, NDArray[np.float32]]] = [{} for _ in strengths]
    for held, path in zip(folds, paths, strict=True):
        swept = several_scores(list(path.probes()), corpus.only(held), recipe)
        for scores, its in zip(found, swept, strict=True):
            scores.update(its)
    return list(found)


def _as_block(rows: Dataset, fold_of: Mapping[str, int]) -> Block:
    fold = np.array([fold_of[task] for task in rows.task], dtype=np.intp)
    return Block(rows.X, rows.y, rows.weight, fold)


class LayerSweeper:
    """A worker that sweeps one layer after another of a run on disk, reading each by itself."""

    def __init__(
        self, run: str, labeller: str | None, target: Target, tasks: Sequence[str], grid: Grid
    ) -> None:
        """Read the traces of some tasks; activations are read layer by layer."""
        self._store = Store(run)
        corpus = load_corpus(self._store, labeller, ()).aimed(target)
        self._corpus, self._grid = corpus.only(tasks), grid

    def __call__(self, layer: int) -> list[Cell]:
        """Return the cells of a layer."""
        matrix = load_matrix(self._store, self._corpus.traces, (layer,))
        return sweep_layer(replace(self._corpus, matrix=matrix), layer, self._grid)
