"""What a tool answers, and what it does wrong, is told to the model."""

import sys
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from trace_probe.environment import LONGEST_ERROR, Environment, State, Tool, carry_out
from trace_probe.errors import TaskError
from trace_probe.tasks.environments import Functions
from trace_probe.trace import Span, Task, ToolCall

TASK = Task("till-01", "shop", "Count the till.")


class Till:
    def tools(self, task: Task) -> list[Tool]:  # noqa: ARG002 - the same for every task
        return [Tool("add"), Tool("break")]

    def start(self, task: Task) -> State:  # noqa: ARG002
        return {"sum": 0}

    def call(self, name: str, arguments: Mapping[str, Any], state: State) -> str:
        if name == "break":
            raise OSError("the till is stuck")
        state["sum"] += arguments["amount"]
        return str(state["sum"])


def asked(name: str, arguments: str) -> ToolCall:
    return ToolCall(name, arguments, Span(0, 1, "action"), id="c1")


def test_whatever_has_the_three_methods_is_an_environment() -> None:
    assert isinstance(Till(), Environment)
    assert not isinstance(TASK, Environment)


def test_a_state_goes_on_from_call_to_call() -> None:
    state = Till().start(TASK)
    answers = [carry_out(Till(), TASK, asked("add", '{"amount": 2}'), state) for _ in range(2)]
    assert [(one.content, one.call_id, one.error) for one in answers] == [
        ("2", "c1", ""),
        ("4", "c1", ""),
    ]


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (asked("break", "{}"), "Error: the till is stuck"),
        (asked("add", "{}"), "Error: 'amount'"),
        (asked("add", "2"), "Error: the arguments must be one JSON object"),
        (asked("add", '{"amount"'), "Error: the arguments are not JSON"),
        (asked("sell", "{}"), "Error: there is no tool 'sell', only add, break"),
    ],
)
def test_what_goes_wrong_is_told_to_the_model_and_noted(call: ToolCall, told: str) -> None:
    result = carry_out(Till(), TASK, call, Till().start(TASK))
    assert result.content.startswith(told)
    assert result.error


def test_an_error_is_bounded_as_an_answer_is_and_may_have_no_words() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    class Box(Till):
        def call(self, name: str, arguments: Mapping[str, Any], state: State) -> Any:  # noqa: ARG002
            raise state["error"]

    long = carry_out(Box(), TASK, asked("add", "{}"), {"error": ValueError("y" * (6 << 20))})
    assert len(long.content) < 2 * LONGEST_ERROR > len(long.error)
    mute = carry_out(Box(), TASK, asked("add", "{}"), {"error": Mute()})
    assert mute.error == "Mute: its words cannot be read (RuntimeError)"


def test_an_asynchronous_function_is_refused_as_a_tool() -> None:
    async def look(item: str) -> str:
        return item

    with pytest.raises(TaskError, match="look is asynchronous"):
        Functions([look])


@pytest.mark.parametrize(
    ("gives", "told", "error"),
    [
        (lambda: 5, "5", ""),
        (lambda: None, "null", ""),
        (lambda: {"a": [1]}, '{"a": [1]}', ""),
        (lambda: "half \ud83d of a pair", "half \ufffd of a pair", ""),
        (lambda: b"x", "Error: Object of type bytes is not JSON serializable", "TypeError"),
        (lambda: sys.exit(3), "Error: 3", "SystemExit"),
        (
            lambda: int("\ud83d"),
            "Error: invalid literal for int() with base 10: '\\ud83d'",
            "Value",
        ),
    ],
)
def test_whatever_a_tool_gives_is_told_as_text(
    gives: Callable[[], object], told: str, error: str
) -> None:
    class Box(Till):
        def call(self, name: str, arguments: Mapping[str, Any], state: State) -> Any:  # noqa: ARG002
            return gives()

    result = carry_out(Box(), TASK, asked("add", "{}"), {})
    assert (result.content, result.error.startswith(error)) == (told, True)
    result.content.encode()
