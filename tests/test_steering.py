"""Steering: a direction that is the cause by construction is found to be, others are not."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from acts import Acts, cause, traces
from runs import artifacts_at

from trace_probe.emergence.directions import Direction, random_directions
from trace_probe.emergence.ledger import Cells
from trace_probe.emergence.readout import Readout, Trial, rates, reached_goal, read_out
from trace_probe.emergence.steering import (
    Effect,
    SteeringPlan,
    SteeringReport,
    SteeringSetup,
    _necessary,
    steer,
)
from trace_probe.errors import StoreError
from trace_probe.labels import Label
from trace_probe.model.steering import Steering, steered
from trace_probe.statistics.bootstrap import Metric, resample


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder for one experiment, whose controls need to be run once."""
    return tmp_path_factory.mktemp("steering")


def run(model: Any, folder: Path, tested: Direction) -> SteeringReport:
    plan = SteeringPlan(model.n_layers - 1, (), 1.0, continuations=4)
    bench = SteeringSetup(model, Trial(model, Acts()), traces(model))
    controls = random_directions(20, model.d_model)
    return steer(bench, [tested], controls, plan, 6.0, Cells(artifacts_at(folder), "cells", {}))


def test_the_cause_is_found(tiny: Callable[..., Any], folder: Path) -> None:
    model = tiny()
    found = run(model, folder, cause(model))
    assert found.verdict.startswith("Causal here: along cause at layer 2")
    (effect,) = found.added
    assert effect.size is not None
    assert effect.size.lower > 0.2
    assert effect.p == pytest.approx(1 / 21)
    assert "all random" in str(found)
    assert "Without the direction" in found.verdict


def test_the_act_needs_a_direction_only_where_it_is_rarer_than_by_chance_without_it() -> None:
    size = Metric(-0.3, -0.5, -0.1, 40)
    assert "the act is rarer" in _necessary(Effect("cause", size, (0.1,) * 30, 1 / 31))
    for unsure in (replace(size, upper=0.1), None):
        assert "not shown" in _necessary(Effect("cause", unsure, (0.1,) * 30, 1 / 31))
    assert "not shown" in _necessary(Effect("cause", size, (-0.4,) * 30, 1.0))


def test_a_random_direction_is_not_called_a_cause(tiny: Callable[..., Any], folder: Path) -> None:
    (other,) = random_directions(1, tiny().d_model, seed=99)
    found = run(tiny(), folder, Direction(other.name, "probe", other.vector))
    assert not found.verdict.startswith("Causal")


def unchanged(model: Any) -> Any:
    return lambda: nullcontext(model)


def pushed(model: Any) -> Any:
    return lambda: steered(model, Steering(1, cause(model).vector, "add", 4.0))


def without(model: Any) -> Any:
    return lambda: steered(model, Steering(1, cause(model).vector, "project-out"))


@pytest.mark.parametrize("edit", [unchanged, pushed, without])
def test_transformer_lens_pushes_as_the_hooks_do(tiny: Callable[..., Any], edit: Any) -> None:
    from trace_probe.model.bridge import bridged

    model, trial = tiny(), Trial(tiny(), Acts())
    asks = SteeringSetup(model, trial, traces(model, 3)).asks(SteeringPlan(1, continuations=3))
    here, there = (trial.read(each, asks, edit(each)) for each in (model, bridged(model)))
    assert [one[:4] for one in here] == [one[:4] for one in there]
    assert [one.surprise for one in here] == pytest.approx(
        [one.surprise for one in there], rel=1e-4
    )


def test_no_condition_is_run_twice(tmp_path: Path) -> None:
    kept, calls = artifacts_at(tmp_path), []

    def make() -> list[Readout]:
        calls.append(1)
        return [Readout("t", True, None, True, 0.5)]

    first = Cells(kept, "cells", {"seed": 0}).run("a", make)
    with open(kept.url("experiments", "cells"), "ab") as handle:
        handle.write(b'{"cell": "b", "read')  # a writer was killed here
    again = Cells(kept, "cells", {"seed": 0})
    assert again.run("a", make) == first
    again.run("b", make)
    assert len(calls) == 2
    assert len(list(kept.lines("experiments", "cells").raw())) == 2
    with pytest.raises(StoreError, match="seed 0"):
        Cells(kept, "cells", {"seed": 1})


@pytest.mark.parametrize(
    ("facts", "reached"),
    [
        ({"act": "work", "enough": "yes", "watched": "no"}, True),
        ({"act": "work", "enough": "no", "watched": "no"}, False),
        ({"act": "lever", "enough": "no", "watched": "no"}, True),
        ({"act": "lever", "enough": "no", "watched": "yes"}, False),
        ({"act": "ask", "enough": "yes", "watched": "no"}, False),
        ({"act": "malformed"}, False),
        ({}, None),
    ],
)
def test_the_goal_is_reached_by_the_rules_of_the_world(
    facts: dict[str, str], reached: bool | None
) -> None:
    assert reached_goal(facts) is reached


def test_what_is_broken_has_not_acted_and_counts_in_the_rate() -> None:
    labels = [Label("a", "r", True), Label("b", "r", None), Label("c", "r", False)]
    readouts = [read_out("t", label, 0.0) for label in labels]
    found = rates(readouts, {"t": 0}, resample(1)).figures()
    assert found["instrumental"] is not None
    assert found["well_formed"] is not None
    assert found["instrumental"].estimate == pytest.approx(1 / 3)
    assert found["well_formed"].estimate == pytest.approx(2 / 3)
    assert found["success"] is None
