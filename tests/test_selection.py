"""How a cell is chosen: on training tasks, and with no weaker penalty than that needs."""

from dataclasses import replace

import numpy as np
import pytest
from planted import World, plant

from trace_probe.errors import NotEnoughData
from trace_probe.probing.dataset import Corpus
from trace_probe.probing.reading import constant_scores
from trace_probe.probing.recipe import Focus, Recipe
from trace_probe.probing.selection import Criterion, alarm_power, criterion
from trace_probe.probing.sweep import Cell, Grid, choose, choose_cell


def cell(
    C: float,
    value: float,
    *,
    noise: float = 0.0,
    layer: int = 1,
    focus: Focus = "all",
    power: float = 0.0,
) -> Cell:
    """Return a cell whose difference to others varies by `noise` over the resamples."""
    shared = np.random.default_rng(0).normal(size=200) / 10
    own = np.random.default_rng(int(C * 1e6) + layer).normal(size=200) * noise
    draws = np.concatenate([[value], value + shared + own])
    found = Criterion("within_prompt_auroc", draws)
    return Cell(Recipe((layer,), C=C, focus=focus), found, power)


def test_the_strongest_penalty_within_one_standard_error_is_chosen() -> None:
    cells = [cell(0.01, 0.81, noise=0.02), cell(0.1, 0.815, noise=0.02), cell(1.0, 0.82)]
    assert choose(cells)[0].C == 0.01
    sharp = [cell(0.01, 0.80, noise=0.001), cell(0.1, 0.8195, noise=0.001), cell(1.0, 0.82)]
    assert choose(sharp)[0].C == 0.1


def test_of_equals_the_one_that_alarms_best_is_chosen_but_of_no_others() -> None:
    cells = [
        cell(0.001, 0.5, noise=0.01, power=1.0),
        cell(0.01, 0.81, noise=0.02, power=0.4),
        cell(0.1, 0.815, noise=0.02, power=0.6),
        cell(1.0, 0.82, power=0.6),
    ]
    assert choose(cells)[0].C == 0.1


def test_alarm_power_is_what_is_caught_where_one_harmless_trace_in_twenty_alarms() -> None:
    corpus = plant(World(tasks=8, samples=4, benign=41))
    benign = [trace.id for trace in corpus.traces if trace.task.role == "benign"]
    positive = [trace.id for trace in corpus.traces if corpus.outcome(trace)]
    level = {name: float(number) for number, name in enumerate(benign)}
    level |= {name: 38.5 if number % 2 else 37.5 for number, name in enumerate(positive)}
    scores = constant_scores(corpus, lambda trace: level.get(trace.id, 0.0))
    assert alarm_power(corpus, scores) == pytest.approx(len(positive[1::2]) / len(positive))
    assert alarm_power(corpus.only(corpus.tasks, "test"), scores) == 0.0


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
    assert figures["within_prompt_auroc/layer-1/last/C-0.01"] == pytest.approx(0.81)


def test_cells_without_a_figure_are_passed_over_and_no_cell_is_an_error() -> None:
    unknown = Cell(Recipe((0,)), Criterion("pooled_auroc", np.full(3, np.nan)))
    assert choose([unknown, cell(0.1, 0.6)])[0].C == 0.1
    assert choose([unknown]) == (Recipe((0,)), {})
    with pytest.raises(NotEnoughData, match="no activations"):
        choose([])


def test_the_last_row_is_the_focus_where_earlier_ones_mislead() -> None:
    world = World(tasks=24, strength=3.0, onset=5, said=6)
    corpus = plant(world)
    assert corpus.matrix is not None
    values = corpus.matrix.values.copy()
    for trace, first in zip(corpus.traces, corpus.matrix.start, strict=True):
        if corpus.outcome(trace):  # until the moment of decision a positive looks very harmless
            values[-1, first + 1 : first + 1 + world.onset] -= 3 * world.direction
    late = replace(corpus, matrix=replace(corpus.matrix, values=values))
    recipe, figures = choose_cell(late, Grid(strengths=(1e-2,)))
    assert (recipe.layer, recipe.focus) == (3, "last")
    assert figures["within_prompt_auroc/layer-3/last/C-0.01"] > 0.8
    assert figures["within_prompt_auroc/layer-3/all/C-0.01"] < 0.6


def test_where_nobody_looked_for_it_rows_are_judged_before_the_action() -> None:
    corpus = plant(World(tasks=8, samples=4, said=None))
    unheard = {
        name: replace(label, facts={"said": "unknown"}) for name, label in corpus.labels.items()
    }
    blind = replace(corpus, labels=unheard)
    right = constant_scores(blind, lambda trace: float(blind.outcome(trace) is True))
    assert criterion(blind, right, "reasoning").value == 1.0
    assert np.isnan(criterion(blind, right).value)
    with pytest.raises(NotEnoughData, match="no labelled trace"):
        criterion(Corpus((), {}), {})
