"""What a recording will hold: for each trace an id that says what it is, and a seed."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, astuple, dataclass
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from trace_probe.environment import NAMED_BY
from trace_probe.errors import ModelError, TaskError
from trace_probe.storage.place import place_at
from trace_probe.store import Store
from trace_probe.text.parts import tags_left
from trace_probe.trace import Sampling, Task, Trace, digest

if TYPE_CHECKING:
    from trace_probe.recording.course import Agent


class Planned(NamedTuple):
    """One trace to be recorded."""

    id: str
    task: Task
    sample: int
    seed: int
    prompt: tuple[int, ...] = ()
    """Empty where a server makes it."""


@dataclass(frozen=True)
class RecordReport:
    """What a call of `record` did."""

    recorded: int = 0
    resumed: int = 0
    """Traces that were in the run before."""
    tokens: int = 0
    """Tokens written by the model."""
    cut: int = 0
    """Recorded traces that reached `max_new_tokens` before they ended."""
    tagged: int = 0
    """Recorded traces whose answer still holds tags, so that it may be no answer alone."""

    @classmethod
    def of(cls, trace: Trace) -> "RecordReport":
        """Return the report of one recorded trace."""
        tagged = bool(tags_left(trace.channel_text("answer")))
        written = len(trace) - trace.prompt_stop
        return cls(1, tokens=written, cut=int(trace.finish == "length"), tagged=int(tagged))

    def __add__(self, other: "RecordReport") -> "RecordReport":
        """Return both together."""
        return RecordReport(*map(add, astuple(self), astuple(other)))


@dataclass(frozen=True)
class ObserveReport:
    """What a call of `observe` or `recapture` did."""

    read: int
    resumed: int
    """Traces that had been read before."""
    checked: int
    """Traces whose reading was compared: with a second one, or with the rows of the run."""


def check_samples(sampling: Sampling, samples: int) -> None:
    """Raise ModelError if several samples of a task were all to be the same."""
    if sampling.temperature == 0 and samples > 1:
        raise ModelError(
            "at temperature 0 all samples of a task are the same: record one of each (--samples 1)"
        )


def refuse_tools(tasks: Iterable[Task]) -> None:
    """Refuse tasks that name tools where no agent is recorded, so that nothing can be called.

    Raises:
        TaskError: a task names tools.
    """
    for task in tasks:
        if tools := task.condition.get(NAMED_BY):
            raise TaskError(
                f"task {task.id} is done with tools ({tools}): record an agent (--agent), or take "
                f"{NAMED_BY!r} out of its condition"
            )


def check_tools(tasks: Sequence[Task], agent: "Agent | None") -> None:
    """Refuse tasks that name tools where there is no agent, or no tools where there is one.

    Raises:
        TaskError: a task names tools, and there is no agent.
        ModelError: a task of an agent has no environment.
    """
    if agent is None:
        refuse_tools(tasks)
    else:
        for task in tasks:
            agent.place(task)


def planned_traces(
    model: str, prompts: Iterable[tuple[Task, tuple[int, ...]]], sampling: Sampling, samples: int
) -> list[Planned]:
    """Return all traces of a run: the first sample of every task first.

    Each has an id that says what it will be, and a seed that no other trace has.
    """
    each = list(prompts)
    return [
        Planned(
            trace_id(model, task, sampling, sample),
            task,
            sample,
            trace_seed(sampling, task, sample),
            prompt,
        )
        for sample in range(samples)
        for task, prompt in each
    ]


def trace_id(model: str, task: Task, sampling: Sampling, sample: int) -> str:
    """Return the id that the trace of a model has before it is made."""
    return digest(model, task.prompt_key, asdict(sampling), sample)


def trace_seed(sampling: Sampling, task: Task, sample: int) -> int:
    """Return the seed of one trace; under one sampling seed no other trace has it."""
    return int(digest(sampling.seed, task.prompt_key, sample), 16)


def resumed_dtype(wanted: str | None, run: Path | str) -> str | None:
    """Return the precision to load a model in: for ``auto`` that of the run, if it is there."""
    if wanted != "auto" or place_at(run).size("run.json") is None:
        return wanted
    return Store(run).manifest.dtype or wanted
