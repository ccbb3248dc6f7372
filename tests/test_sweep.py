import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray
from planted import World, plant

from trace_probe.errors import NotEnoughData
from trace_probe.probing.corpus import Corpus, task_folds
from trace_probe.probing.fitting import fit_corpus, probe_scores
from trace_probe.probing.probe import LinearProbe, Recipe
from trace_probe.probing.ridge import (
    Block,
    ridge_from_kernel,
    ridge_from_moments,
    ridge_paths,
    solve_path,
    sum_moments,
)
from trace_probe.probing.selection import FOLDS, criterion
from trace_probe.probing.sweep import Grid, choose_cell, layer_scores
from trace_probe.statistics.metrics import Scores

STRENGTHS = (1e-3, 1e-1, 10.0)


def rows(n: int, d: int, seed: int = 0) -> Block:
    rng = np.random.default_rng(seed)
    y = rng.random(n) < 0.3
    X = rng.normal(size=(n, d)) * rng.uniform(0.1, 30, d) + rng.normal(size=d) * 100
    X[:, 0] += 3 * y
    weight = rng.uniform(0.1, 1, n)
    return Block(X.astype(np.float32), y, weight, np.arange(n, dtype=np.intp) % 4)


def parts(block: Block, size: int) -> Iterator[Block]:
    for start in range(0, len(block.X), size):
        part = slice(start, start + size)
        yield Block(block.X[part], block.y[part], block.weight[part], block.fold[part])


@pytest.mark.parametrize("form", ["moments", "kernel"])
def test_a_swept_probe_is_the_ridge_probe_of_the_other_folds(form: str) -> None:
    block = rows(300, 12)
    learned = block.fold != 2
    path = (
        ridge_from_moments(sum_moments([block], 4), 2, STRENGTHS)
        if form == "moments"
        else ridge_from_kernel(block, 2, STRENGTHS)
    )
    for C, swept in zip(STRENGTHS, path.probes(), strict=True):
        fitted = LinearProbe("ridge", C).fit(
            block.X[learned], block.y[learned], sample_weight=block.weight[learned]
        )
        theirs = fitted.decision_function(block.X)
        np.testing.assert_allclose(swept.decision_function(block.X), theirs, atol=2e-3)


def test_both_forms_agree_where_rows_are_fewer_than_axes() -> None:
    block = rows(40, 64)
    (moments, kernel) = (
        ridge_from_moments(sum_moments([block], 4), 1, STRENGTHS),
        ridge_from_kernel(block, 1, STRENGTHS),
    )
    np.testing.assert_allclose(moments.coef, kernel.coef, rtol=1e-3, atol=1e-5)
    cheaper = ridge_paths(block, 4, STRENGTHS)[1]
    np.testing.assert_array_equal(cheaper.coef, kernel.coef)


def test_rows_that_are_held_out_do_not_matter() -> None:
    block = rows(200, 8)
    spoiled = Block(
        np.where((block.fold == 3)[:, None], block.X * -2, block.X),
        np.where(block.fold == 3, ~block.y, block.y),
        block.weight,
        block.fold,
    )
    before, after = (ridge_paths(each, 4, STRENGTHS)[3] for each in (block, spoiled))
    np.testing.assert_allclose(before.coef, after.coef, rtol=1e-3, atol=1e-6)


def test_the_order_and_size_of_blocks_do_not_matter() -> None:
    block = rows(500, 6)
    whole = ridge_from_moments(sum_moments([block], 4), 0, STRENGTHS)
    backwards = sum_moments(reversed(list(parts(block, 33))), 4)
    np.testing.assert_allclose(
        ridge_from_moments(backwards, 0, STRENGTHS).coef, whole.coef, rtol=1e-3, atol=1e-5
    )


def test_memory_does_not_grow_with_the_number_of_rows() -> None:
    def peak(blocks: int) -> int:
        tracemalloc.start()
        moments = sum_moments((rows(500, 48, seed) for seed in range(blocks)), 4)
        ridge_from_moments(moments, 0, STRENGTHS)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(1)
    assert peak(40) < 1.2 * peak(2)


@pytest.mark.parametrize(("d", "rank"), [(1, 1), (7, 7), (150, 150), (150, 3)])
def test_all_penalties_are_solved_as_one_by_one(d: int, rank: int) -> None:
    rng = np.random.default_rng(d)
    factor = rng.normal(size=(d, rank)) * np.logspace(2, -2, rank)
    matrix, target = factor @ factor.T, rng.normal(size=d)
    penalties = np.array([1e-3, 1.0, 1e3])
    for penalty, found in zip(penalties, solve_path(matrix, target, penalties), strict=True):
        residual = (matrix + penalty * np.eye(d)) @ found - target
        assert np.linalg.norm(residual) < 1e-5 * np.linalg.norm(target)


def test_the_cell_of_the_signal_is_chosen() -> None:
    recipe, figures = choose_cell(plant(World(strength=4.0)), Grid(strengths=(1e-3, 1e-1)))
    assert recipe.layer == 3
    assert recipe.method == "logistic"
    of_cell = "caught_before_said_at_sibling_rate/layer-{}/{}/{}/C-{}"
    choices = product((0, 3), ("mean", "mean+running-mean"), ("last", "all"), (0.001, 0.1))
    assert set(figures) == {of_cell.format(*choice) for choice in choices}
    chosen = of_cell.format(3, "+".join(recipe.features), recipe.focus, f"{recipe.C:g}")
    assert figures[chosen] > max(figures.values()) - 0.1 > 0.7


def logistic_scores(recipe: Recipe, some: Corpus, held: Corpus) -> Scores:
    return probe_scores(fit_corpus(some, recipe), held, recipe)


def held_out(corpus: Corpus) -> list[Corpus]:
    return [held for _, held in corpus.folds(FOLDS)]


def out_of_fold(corpus: Corpus, score: Callable[[Corpus, Corpus], Scores]) -> Scores:
    """Return scores of each trace by a detector that has not seen its task."""
    found: dict[str, NDArray[np.floating]] = {}
    for train, held in task_folds(corpus.traces, FOLDS):
        found.update(score(corpus.only(train), corpus.only(held)))
    return found


def test_ridge_judges_a_cell_as_a_logistic_probe_does() -> None:
    corpus = plant(World(tasks=40, strength=1.2, d_model=24))
    strengths = (1e-4, 1e-2, 1.0)
    [every] = layer_scores(corpus, held_out(corpus), [Recipe((3,))], strengths)
    for C, swept in zip(strengths, every, strict=True):
        fitted = out_of_fold(corpus, partial(logistic_scores, Recipe((3,), C=C)))
        assert criterion(corpus, swept).value == pytest.approx(
            criterion(corpus, fitted).value, abs=0.02
        )


def test_rows_of_one_mean_teach_nothing_and_break_nothing() -> None:
    block = rows(80, 6)
    same = replace(block, X=np.zeros_like(block.X))
    for path in ridge_paths(same, 4, STRENGTHS):
        assert not path.coef.any()


def test_what_cannot_be_swept_is_refused() -> None:
    with pytest.raises(NotEnoughData, match="no rows"):
        sum_moments([], 4)
    block = rows(40, 4)
    one_sided = Block(block.X, block.fold == 0, block.weight, block.fold)
    with pytest.raises(NotEnoughData, match="one outcome only"):
        ridge_paths(one_sided, 4, STRENGTHS)
    few = Block(one_sided.X[:3], one_sided.y[:3], one_sided.weight[:3], one_sided.fold[:3])
    with pytest.raises(NotEnoughData, match="one outcome only"):
        ridge_paths(few, 4, STRENGTHS)


def test_the_moments_of_all_features_hold_those_of_each_choice() -> None:
    corpus = plant(World(tasks=24, samples=8, strength=1.0, d_model=6))
    one, both = (Recipe((3,), names) for names in (("mean",), ("mean", "running-mean")))
    alone, [first, _] = (
        layer_scores(corpus, held_out(corpus), [one], (0.1,)),
        layer_scores(corpus, held_out(corpus), [one, both], (0.1,)),
    )
    for trace in corpus.traces:
        np.testing.assert_allclose(first[0][trace.id], alone[0][0][trace.id], atol=1e-4)
