"""A benchmark on the command line: each field of its plan is an option."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.command import run

FOUND: list["Plan"] = []


@dataclass(frozen=True)
class Plan:
    rounds: int = 3
    rates: tuple[float, ...] = (0.1,)
    folder: Path = Path("here")


def measure(plan: Plan, say: Any) -> Plan:
    """Measure nothing."""
    say("measuring")
    FOUND.append(plan)
    return plan


def shown(plan: Plan) -> str:
    return f"{plan.rounds} rounds"


def test_every_field_of_the_plan_is_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    run(Plan, measure, shown, ["--rounds", "5", "--rates", "0.2,0.5", "--folder", "there"])
    assert FOUND.pop() == Plan(5, (0.2, 0.5), Path("there"))
    assert capsys.readouterr() == ("5 rounds\n", "measuring\n")


def test_without_options_the_plan_is_the_default_and_json_is_one_object(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run(Plan, measure, shown, ["--json"])
    assert FOUND.pop() == Plan()
    assert json.loads(capsys.readouterr().out) == {"rounds": 3, "rates": [0.1], "folder": "here"}


def test_a_wrong_value_is_refused_as_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(Plan, measure, shown, ["--rounds", "many"])
    assert ended.value.code == 2
    assert "--rounds" in capsys.readouterr().err
