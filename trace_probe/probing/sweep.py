"""Every choice of features, layer and strength, judged on held-out tasks, for little over one fit.

Ridge probes of all strengths come from the moments of one pass over the rows of a layer; the
best cell is then worth a logistic fit.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from trace_probe.execution.executor import Executor
from trace_probe.probing.corpus import Corpus, load_corpus
from trace_probe.probing.features import build_dataset, learned_rows, stream_rows
from trace_probe.probing.fitting import several_scores
from trace_probe.probing.linear import LinearProbe
from trace_probe.probing.recipe import (
    FEATURES,
    FOCUSES,
    Feature,
    Focus,
    Recipe,
    Rows,
    Target,
    candidate_features,
)
from trace_probe.probing.ridge import (
    Block,
    Moments,
    ridge_from_moments,
    ridge_paths,
    sum_moments,
)
from trace_probe.probing.selection import FOLDS, Cell, choose, criterion
from trace_probe.statistics.bootstrap import Index
from trace_probe.statistics.metrics import Scores
from trace_probe.store import Store

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
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
    features: tuple[tuple[Feature, ...], ...] | None = None
    """Choices of what is read of the layer, the simplest first; None means
    `candidate_features` of what was recorded."""


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


def sweep_layer(corpus: Corpus, layer: int, grid: Grid = Grid()) -> list[Cell]:
    """Return the cells of one layer. Layers share nothing, so that they may be swept at once."""
    choices = grid.features or candidate_features(corpus.activations.pooling)
    held = [held for _, held in corpus.folds(FOLDS, grid.seed)]
    cells = []
    for focus in grid.focuses:
        recipe = Recipe((layer,), rows=grid.rows, focus=focus)
        recipes = [replace(recipe, features=features) for features in choices]
        swept = layer_scores(corpus, held, recipes, grid.strengths)
        cells += [
            Cell(replace(one, C=C), criterion(corpus, scores, grid.rows))
            for one, of_strength in zip(recipes, swept, strict=True)
            for C, scores in zip(grid.strengths, of_strength, strict=True)
        ]
    return cells


def layer_scores(
    corpus: Corpus, folds: Sequence[Corpus], recipes: Sequence[Recipe], strengths: Sequence[float]
) -> list[list[Scores]]:
    """Return for each recipe and logistic strength the scores of what each fold holds out.

    The recipes differ in their features only. Rows are read in blocks of traces; what is held
    beside the activations is of the size of the moments.
    """
    fold_of = {task: fold for fold, held in enumerate(folds) for task in held.tasks}
    ridge = [C * LOGISTIC_TO_RIDGE for C in strengths]
    every: list[list[Scores]] = []
    for recipe, of_folds in zip(recipes, _probes(corpus, recipes, fold_of, ridge), strict=True):
        found: list[dict[str, NDArray[np.float32]]] = [{} for _ in strengths]
        for held, probes in zip(folds, of_folds, strict=True):
            for scores, its in zip(found, several_scores(probes, held, recipe), strict=True):
                scores.update(its)
        every.append(list(found))
    return every


def _probes(
    corpus: Corpus, recipes: Sequence[Recipe], fold_of: Mapping[str, int], ridge: Sequence[float]
) -> Iterator[list[list[LinearProbe]]]:
    """Yield for each recipe the probes of each fold; the moments of one are a part of all."""
    every = tuple(one for one in FEATURES if any(one in recipe.features for recipe in recipes))
    whole, d_model = replace(recipes[0], features=every), corpus.activations.d_model
    count = len(learned_rows(corpus, whole)[0])
    moments: Moments | None = None
    for recipe in recipes:
        if count < len(recipe.features) * d_model:
            rows = build_dataset(corpus, recipe)
            paths = ridge_paths(Block.of(rows, fold_of), FOLDS, ridge)
        else:
            if moments is None:
                parts = stream_rows(corpus, whole)
                moments = sum_moments((Block.of(part, fold_of) for part in parts), FOLDS)
            its = moments.of(_columns(recipe.features, every, d_model))
            paths = [ridge_from_moments(its, fold, ridge) for fold in range(FOLDS)]
        yield [path.probes() for path in paths]


def _columns(features: Sequence[Feature], every: Sequence[Feature], d_model: int) -> Index:
    """Return where the columns of some features stand among those of all."""
    starts = [every.index(feature) * d_model for feature in features]
    return np.concatenate([np.arange(first, first + d_model) for first in starts])


def sweep_layers(
    executor: Executor,
    sweeper: tuple[str, str | None, Target, tuple[str, ...], Grid],
    layers: Sequence[int],
    tell: Callable[[str], None],
) -> list[Cell]:
    """Return the cells of all layers, the lowest layer first; `sweeper` makes a `LayerSweeper`."""
    tell(f"choosing layer and strength among layers {list(layers)}")
    found: dict[int, list[Cell]] = {}
    for result in executor.run(LayerSweeper, sweeper, layers):
        if result.error is not None:
            raise result.error
        found[result.item] = result.value or []
        tell(f"layer {result.item} done, {len(found)} of {len(layers)}")
    return [cell for layer in sorted(found) for cell in found[layer]]


class LayerSweeper:
    """A worker that sweeps one layer after another of a run on disk, reading each by itself."""

    def __init__(
        self, run: str, labeller: str | None, target: Target, tasks: Sequence[str], grid: Grid
    ) -> None:
        """Read the traces of some tasks; activations are read layer by layer."""
        self._store = Store(run)
        corpus = load_corpus(self._store, labeller, (), target)
        self._corpus, self._grid = corpus.only(tasks), grid

    def __call__(self, layer: int) -> list[Cell]:
        """Return the cells of a layer."""
        return sweep_layer(self._corpus.with_activations(self._store, (layer,)), layer, self._grid)
