"""How a cell is chosen: on training tasks, and with no weaker penalty than that needs."""

from dataclasses import replace

import numpy as np
import pytest
from planted import World, plant

from trace_probe.activations import ALL_POOLINGS
from trace_probe.errors import NotEnoughData
from trace_probe.probing.corpus import Corpus, thought_scores
from trace_probe.probing.recipe import Feature, Focus, Recipe
from trace_probe.probing.selection import (
    HEADLINE,
    Cell,
    Criterion,
    choose,
    criterion,
    first_of_equals,
    leaders,
)
from trace_probe.probing.sweep import Grid, choose_cell


def cell(
    C: float,
    value: float,
    *,
    noise: float = 0.0,
    layer: int = 1,
    focus: Focus = "all",
    features: tuple[Feature, ...] = ("last",),
) -> Cell:
    """Return a cell whose difference to others varies by `noise` over the resamples."""
    shared = np.random.default_rng(0).normal(size=200) / 10
    own = np.random.default_rng(int(C * 1e6) + layer + 7 * len(features)).normal(size=200) * noise
    draws = np.concatenate([[value], value + shared + own])
    found = Criterion("within_prompt_auroc", draws)
    return Cell(Recipe((layer,), features, C=C, focus=focus), found)


def test_the_strongest_penalty_within_one_standard_error_is_chosen() -> None:
    cells = [cell(0.01, 0.81, noise=0.02), cell(0.1, 0.815, noise=0.02), cell(1.0, 0.82)]
    assert choose(cells)[0].C == 0.01
    sharp = [cell(0.01, 0.80, noise=0.001), cell(0.1, 0.8195, noise=0.001), cell(1.0, 0.82)]
    assert choose(sharp)[0].C == 0.1


def test_the_simplest_features_that_are_not_clearly_worse_are_chosen() -> None:
    memory: tuple[Feature, ...] = ("last", "running-mean")
    rich = cell(0.1, 0.82, noise=0.02, features=memory)
    assert choose([rich, cell(0.1, 0.81, noise=0.02)])[0].features == ("last",)
    assert choose([rich, cell(0.1, 0.70, noise=0.02)])[0].features == memory


def test_features_stand_for_their_best_layer_and_focus() -> None:
    cells = [cell(0.1, 0.6, layer=0), cell(0.1, 0.7), cell(0.1, 0.65, features=("last", "max"))]
    assert [one.found.value for one in leaders(cells)] == [0.7, 0.65]


def test_options_are_compared_by_the_error_of_their_difference() -> None:
    options = [(one.name, one.found) for one in (cell(0.01, 0.81, noise=0.02), cell(1.0, 0.82))]
    assert first_of_equals(options) == options[0][0]
    assert first_of_equals(list(reversed(options))) == options[1][0]


def test_the_criterion_is_the_headline_where_siblings_are_enough() -> None:
    corpus = plant(World(tasks=24, samples=8))
    right = thought_scores(corpus, lambda trace: float(corpus.outcome(trace) is True))
    found = criterion(corpus, right)
    assert (found.name, found.value) == (HEADLINE, 1.0)
    few = plant(World(tasks=8, samples=4))
    known = thought_scores(few, lambda trace: float(few.outcome(trace) is True))
    assert criterion(few, known).name == "within_prompt_auroc"


def test_what_all_cells_share_is_no_error_of_their_difference() -> None:
    assert choose([cell(0.01, 0.79), cell(1.0, 0.82)])[0].C == 1.0


def test_a_penalty_is_not_traded_for_another_layer_or_focus() -> None:
    cells = [
        cell(0.01, 0.81, noise=0.1, layer=0),
        cell(0.01, 0.81, noise=0.1, focus="last"),
        cell(0.1, 0.82, noise=0.1),
    ]
    recipe, figures = choose(cells)
    assert (recipe.layer, recipe.focus, recipe.C) == (1, "all", 0.1)
    assert figures["within_prompt_auroc/layer-1/last/last/C-0.01"] == pytest.approx(0.81)


def test_cells_without_a_figure_are_passed_over_and_no_cell_is_an_error() -> None:
    unknown = Cell(Recipe((0,)), Criterion("pooled_auroc", np.full(3, np.nan)))
    assert choose([unknown, cell(0.1, 0.6)])[0].C == 0.1
    assert choose([unknown]) == (Recipe((0,)), {})
    with pytest.raises(NotEnoughData, match="no activations"):
        choose([])


def two_facts(seed: int = 0) -> Corpus:
    """Return traces that act if two facts hold, which are met in different sentences."""
    corpus = plant(World(tasks=40, samples=8, d_model=8, layers=(1,), said=6, seed=seed))
    assert corpus.matrix is not None
    values, rng = corpus.matrix.values.copy(), np.random.default_rng(seed)
    for trace, first in zip(corpus.traces, corpus.matrix.start + 1, strict=True):
        acts = corpus.outcome(trace)
        other = ((True, False), (False, True), (False, False))[int(rng.integers(3))]
        held = (True, True) if acts else other
        for axis, sentence, holds in zip((2, 3), (1, 4), held, strict=True):
            values[:, first + sentence, axis] += 8.0 * float(holds)
    values = np.concatenate([values] * 3, axis=2)  # sentences of one token
    return replace(corpus, matrix=replace(corpus.matrix, values=values, pooling=ALL_POOLINGS))


def test_an_and_of_two_facts_met_at_different_times_needs_a_memory() -> None:
    corpus = two_facts()
    recipe, figures = choose_cell(corpus, Grid(strengths=(1e-2, 1.0)))
    memory = ("last", "running-mean", "running-max")
    assert (recipe.features, recipe.focus) == (memory, "last")
    best = {
        names: max(value for name, value in figures.items() if name.split("/")[2] == names)
        for names in ("last", "+".join(memory))
    }
    assert best["last"] < 0.4
    assert best["+".join(memory)] > 0.8


def test_where_nobody_looked_for_it_rows_are_judged_before_the_action() -> None:
    corpus = plant(World(tasks=8, samples=4, said=None))
    unheard = {
        name: replace(label, facts={"said": "unknown"}) for name, label in corpus.labels.items()
    }
    blind = replace(corpus, labels=unheard)
    right = thought_scores(blind, lambda trace: float(blind.outcome(trace) is True))
    assert criterion(blind, right, "reasoning").value == 1.0
    assert np.isnan(criterion(blind, right).value)
    with pytest.raises(NotEnoughData, match="no labelled trace"):
        criterion(Corpus((), {}), {})
