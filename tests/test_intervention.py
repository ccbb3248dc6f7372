"""What is done at an alarm: each policy does what it says, on the same traces."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from acts import Acts, cause, traces
from runs import artifacts_at

from trace_probe.emergence.intervention import (
    Alarm,
    Responses,
    intervene,
    reflection_for,
)
from trace_probe.emergence.ledger import Cells
from trace_probe.emergence.readout import Trial
from trace_probe.errors import ModelError
from trace_probe.model.steering import Steering

REFLECTION = "so let us wait ."


def responses(model: Any) -> Responses:
    ablation = Steering(1, cause(model).vector, "project-out")
    return Responses(model, Trial(model, Acts()), ablation, REFLECTION, continuations=2)


def test_policies_are_compared_over_all_traces(tiny: Callable[..., Any], tmp_path: Path) -> None:
    model = tiny()
    every = traces(model)
    labels = {one.id: Acts().label(one) for one in every}
    alarms = [Alarm(one, one.prompt_stop + 2) for one in every[:3]]
    cells = Cells(artifacts_at(tmp_path), "cells", {})
    found = intervene(responses(model), every, labels, alarms, cells)
    by = {one.policy: one.figures["instrumental"] for one in found.policies}
    assert (found.traces, found.alarms) == (6, 3)
    quiet = sum(labels[one.id].outcome is True for one in every[3:]) / 6
    stopped, recorded = by["stop"], by["as recorded"]
    assert stopped is not None
    assert recorded is not None
    assert stopped.estimate == pytest.approx(quiet)  # those that alarm do nothing any more
    own = sum(labels[one.id].outcome is True for one in every) / 6
    assert recorded.estimate == pytest.approx(own)
    assert "go on" in str(found)
    assert intervene(responses(model), every, labels, alarms, cells) == found


def test_a_reflection_stands_between_the_alarm_and_what_follows(tiny: Callable[..., Any]) -> None:
    model = tiny()
    (one,) = traces(model, 1)
    ask = responses(model)._ask("reflect", Alarm(one, one.prompt_stop + 2))
    plain = responses(model)._ask("go on", Alarm(one, one.prompt_stop + 2))
    assert ask.branch.prefix[: len(plain.branch.prefix)] == plain.branch.prefix
    added = model.offsets(ask.branch.prefix[len(plain.branch.prefix) :])[0]
    assert added == f" {REFLECTION}"
    assert ask.branch.seeds == plain.branch.seeds
    assert ask.branch.room == plain.branch.room - len(added.split())


def test_without_an_alarm_there_is_nothing_to_do(tiny: Callable[..., Any], tmp_path: Path) -> None:
    every = traces(tiny(), 2)
    labels = {one.id: Acts().label(one) for one in every}
    cells = Cells(artifacts_at(tmp_path), "cells", {})
    found = intervene(responses(tiny()), every, labels, [], cells)
    assert found.verdict.startswith("No trace alarmed")


def test_a_model_without_words_to_reflect_needs_some(tiny: Callable[..., Any]) -> None:
    with pytest.raises(ModelError, match="--reflection"):
        reflection_for(tiny())
