"""Continuations of agents: from the middle of a model call to the end of the episode.

The calls before the one that is continued stay as they were, and what they did is carried out once
more, so that the environment is where it was. The call is finished from its own ids; then tools
answer and the model is called again, as when the episode was recorded.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from trace_probe.emergence.continuers import Continuer
from trace_probe.episode import calls_of
from trace_probe.errors import TraceError
from trace_probe.model.continuation import Branch
from trace_probe.model.local import Completion
from trace_probe.model.tokenizer import ChatTokenizer
from trace_probe.recording.course import Agent, Course
from trace_probe.text.written import read_back
from trace_probe.trace import Sampling, Trace


@dataclass(frozen=True)
class Start:
    """From where an agent is continued, and how often."""

    trace: Trace
    call: int
    """Which model call is finished, counted from 0."""
    token: int
    """Of the trace: what is kept is before it."""
    seeds: tuple[int, ...]


@dataclass
class _Rollout:
    """One continuation under way."""

    course: Course
    seed: int
    trace: Trace
    """The one that is continued."""
    prompt_stop: int
    """Tokens of the prompt of the call under way."""
    failed: bool = False

    def take(self, reader: Continuer, ids: Sequence[int], done: Completion | None) -> bool:
        """Take the rest of a call whose first ids were read; return whether another follows."""
        if done is None:
            self.failed = True
            return False
        every = (*ids, *done.ids)
        written = read_back(reader, every, self.prompt_stop)._asdict()
        call = replace(
            self.trace,
            id=f"{self.trace.id}.{len(self.course.calls)}",
            token_ids=every,
            finish=done.finish,
            calls=(),
            uncertainty=(),
            **written,
        )
        self.course.take(call, 0.0)
        return not self.course.ended

    def next(self, by: Continuer) -> Branch | None:
        """Return what the next call is drawn from, None where the episode ends before it."""
        course, room = self.course, self.trace.sampling.max_new_tokens
        chat = by.chat
        prompt = course.prompt(
            lambda task, turns, tools: chat.encode(chat.prompt(task, turns, tools)),
            room,
            by.context,
        )
        if prompt is None:
            return None
        self.prompt_stop = len(prompt)
        return Branch(prompt, (Course.seed(self.seed, len(course.calls)) >> 1,), room)


def roll_out(
    continuer: Continuer, starts: Sequence[Start], sampling: Sampling, agent: Agent
) -> list[list[Trace | None]]:
    """Return for each start the episodes its continuations came to, None for those that failed.

    All episodes under way are continued together, call by call. A continuation is a function of
    its prefix and seed alone, as those of single calls are.

    Raises:
        TraceError: the environment is not the one that the trace was recorded in.
    """
    begun = [_begin(start, agent, continuer.chat) for start in starts]
    branches = list(begun)
    while branches:
        found = continuer.continue_from([branch for branch, _ in branches], sampling)
        going = [
            run
            for (branch, mine), completions in zip(branches, found, strict=True)
            for run, done in zip(mine, completions, strict=True)
            if run.take(continuer, branch.prefix, done)
        ]
        wanted = [(run.next(continuer), [run]) for run in going]
        branches = [(branch, mine) for branch, mine in wanted if branch is not None]
    return [[None if run.failed else run.course.joined() for run in mine] for _, mine in begun]


def _begin(start: Start, agent: Agent, chat: ChatTokenizer) -> tuple[Branch, list[_Rollout]]:
    """Return what the first call of a start's continuations is drawn from, and these."""
    trace, every = start.trace, list(calls_of(start.trace))
    call, shift = every[start.call], start.token - trace.calls[start.call].start
    prefix = call.token_ids[: call.prompt_stop + shift]
    room = max(trace.sampling.max_new_tokens - shift, 1)
    runs = [
        _Rollout(_course(start, every, agent, chat), seed, trace, call.prompt_stop)
        for seed in start.seeds
    ]
    return Branch(prefix, start.seeds, room), runs


def _course(start: Start, every: Sequence[Trace], agent: Agent, chat: ChatTokenizer) -> Course:
    """Return an episode up to the call that is continued, its tool calls carried out once more."""
    trace = start.trace
    course = Course(trace.id, trace.task, agent, chat.dialect, chat.format)
    for number, call in enumerate(every[: start.call]):
        course.take(call, 0.0)
        came, kept = course.results[-1], trace.calls[number].results
        if [one.content for one in came] != [one.content for one in kept]:
            raise TraceError(
                f"trace {trace.id}: its environment answers call {number + 1} otherwise than when "
                f"it was recorded: name the one it was recorded in with --tools"
            )
    return course
