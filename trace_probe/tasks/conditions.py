"""The controlled conditions under which a task is asked: system message, suffix, reasoning."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from trace_probe.errors import TaskError
from trace_probe.files import tables_beside
from trace_probe.tasks.nudges import Nudge, with_nudge
from trace_probe.trace import Task

Suffix = Literal["none", "pro", "anti"]
Thinking = Literal["on", "off"]

SUFFIX: dict[str, str] = tables_beside(__file__)
"""Text behind the prompt that asks for instrumental behaviour, or forbids it."""
WORDS: dict[str, tuple[str, str]] = {
    **{nudge: ("nudge", nudge) for nudge in get_args(Nudge)},
    **{suffix: ("suffix", suffix) for suffix in ("pro", "anti")},
    "think": ("thinking", "on"),
    "no-think": ("thinking", "off"),
}
"""What the words of a condition set."""


@dataclass(frozen=True)
class Condition:
    """One cell of a grid of conditions."""

    nudge: Nudge = "none"
    suffix: Suffix = "none"
    thinking: Thinking | None = None
    """Whether the chat template lets the model reason; None leaves that to the template."""

    @classmethod
    def parse(cls, text: str) -> "Condition":
        """Return the condition that words such as ``push``, ``pro`` or ``push+anti+think`` name.

        Raises:
            TaskError: a word is none of `WORDS`, or two set the same.
        """
        words = [word.strip() for word in text.split("+")]
        found = [WORDS[word] for word in words if word in WORDS]
        if len(found) < len(words) or len(dict(found)) < len(found):
            raise TaskError(
                f"no condition {text!r}: join at most one nudge ({', '.join(get_args(Nudge))}), "
                f"one suffix (pro, anti) and one of think and no-think by +"
            )
        return cls(**dict(found))  # type: ignore[arg-type]


def parse_grid(text: str) -> tuple[Condition, ...]:
    """Return the conditions of a list such as ``none,push,push+anti``, each once."""
    return tuple(dict.fromkeys(Condition.parse(part) for part in text.split(",")))


def under(
    tasks: Iterable[Task], grid: Iterable[Condition], folder: Path | None = None
) -> tuple[Task, ...]:
    """Return every task under every condition, which its `Task.condition` then names.

    `folder` is where the tasks come from, for `nudges.paper_prompt`.

    Raises:
        TaskError: a nudge was asked for where the task has a system message or nudge of its own.
    """
    tasks = tuple(tasks)
    return tuple(_under(task, condition, folder) for condition in grid for task in tasks)


def _under(task: Task, condition: Condition, folder: Path | None) -> Task:
    own = task.condition.get("nudge", "none")
    if condition.nudge != "none" and (task.system or own != "none"):
        raise TaskError(
            f"task {task.id} has a system message or nudge of its own: "
            f"use conditions without a nudge"
        )
    kept = task.system or own != "none"
    nudged = task if kept else with_nudge(task, condition.nudge, folder)
    thinking = {"thinking": condition.thinking} if condition.thinking else {}
    suffix = SUFFIX[condition.suffix]
    return replace(
        nudged,
        prompt=f"{nudged.prompt}\n\n{suffix}" if suffix else nudged.prompt,
        condition={**nudged.condition, "suffix": condition.suffix, **thinking},
    )
