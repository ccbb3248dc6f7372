"""Continuations of agents: from the middle of a model call to the end of the episode.

The calls before the one that is continued stay as they were, and what they did is carried out once
more, so that the environment is where it was. The call is finished from its own ids; then tools
answer and the model is called again, until it calls none.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from trace_probe.emergence.continuers import Continuer
from trace_probe.environment import Environment, State, carry_out
from trace_probe.episode import Episode, calls_of
from trace_probe.errors import TraceError
from trace_probe.model.continuation import Branch
from trace_probe.model.local import Completion
from trace_probe.text.written import read_back
from trace_probe.trace import Sampling, Task, ToolResult, Trace, digest

Results = tuple[ToolResult, ...]
Prompt = Callable[[Task, Sequence[Trace], Sequence[Results]], Sequence[int]]
"""Returns what the next call reads, after the calls so far and what came back from each."""


@dataclass(frozen=True)
class Scene:
    """How an agent goes on after a call."""

    environment: Environment
    prompt: Prompt
    most_calls: int = 20
    """Of an episode, those before the continuation included."""


@dataclass(frozen=True)
class Start:
    """From where an agent is continued, and how often."""

    trace: Trace
    call: int
    """Which model call is finished, counted from 0."""
    token: int
    """Of the trace: what is kept is before it."""
    seeds: tuple[int, ...]


class _Rollout:
    """One continuation under way."""

    def __init__(self, before: "_Before", seed: int) -> None:
        self.trace, self.seed = before.trace, seed
        self.calls, self.results = list(before.calls), list(before.results)
        self.state: State = copy.deepcopy(before.state)
        self.over = self.failed = False

    def take(self, reader: Continuer, ids: Sequence[int], done: Completion, scene: Scene) -> None:
        """Take the rest of a call whose first ids were read; carry out what it asks for."""
        number, start = len(self.calls), self.trace.prompt_stop if not self.calls else None
        prompt_stop = self._prompt_stop if start is None else start
        every = (*ids, *done.ids)
        call = replace(
            self.trace,
            id=f"{self.trace.id}.{number}",
            token_ids=every,
            finish=done.finish,
            calls=(),
            uncertainty=(),
            **read_back(reader, every, prompt_stop)._asdict(),
        )
        self.calls.append(call)
        came = [carry_out(scene.environment, call.task, one, self.state) for one in call.actions]
        self.results.append(tuple(came))
        most = len(self.calls) >= scene.most_calls
        self.over = not came or done.finish == "length" or most

    _prompt_stop = 0
    """Tokens of the prompt of the call under way."""

    def wants(self, prompt_stop: int) -> None:
        """Say how long the prompt of the next call is."""
        self._prompt_stop = prompt_stop

    def joined(self, name: str) -> Trace:
        """Return the whole episode."""
        columns = {"results": tuple(self.results), "facts": self.trace.facts}
        agents = tuple(call.agent for call in self.trace.calls)
        if any(agents):
            known = (*agents, *[agents[-1]] * len(self.calls))
            columns["agents"] = known[: len(self.calls)]
        return Episode(name, tuple(self.calls), **columns).joined()


class _Before:
    """What a continuation starts from: earlier calls, and the environment after them."""

    def __init__(self, start: Start, scene: Scene) -> None:
        self.trace = start.trace
        every = list(calls_of(start.trace))
        self.calls = every[: start.call]
        self.results = [call.results for call in start.trace.calls[: start.call]]
        call, shift = every[start.call], start.token - _begin(start)
        self.prompt_stop = call.prompt_stop
        self.branch = Branch(
            call.token_ids[: call.prompt_stop + shift],
            start.seeds,
            max(start.trace.sampling.max_new_tokens - shift, 1),
        )
        self.state = scene.environment.start(self.trace.task)
        for number, (call, expected) in enumerate(zip(self.calls, self.results, strict=True)):
            self._again(scene.environment, call, expected, number)

    def _again(self, environment: Environment, call: Trace, expected: Results, number: int) -> None:
        """Carry out the calls of one model call once more."""
        for at, action in enumerate(call.actions):
            came = carry_out(environment, call.task, action, self.state)
            if at < len(expected) and came.content != expected[at].content:
                raise TraceError(
                    f"trace {self.trace.id}: the environment answers {action.name} of call "
                    f"{number + 1} otherwise than when it was recorded: continue it with the "
                    f"environment it was recorded in"
                )


def _begin(start: Start) -> int:
    """Return the token of the trace at which the call that is continued begins."""
    calls = start.trace.calls
    return calls[start.call].start if calls else start.trace.prompt_stop


def roll_out(
    continuer: Continuer, starts: Sequence[Start], sampling: Sampling, scene: Scene
) -> list[list[Trace | None]]:
    """Return for each start the episodes its continuations came to, None for those that failed.

    All episodes under way are continued together, call by call. A continuation is a function of
    its prefix and seed alone, as those of single calls are.

    Raises:
        TraceError: the environment is not the one that the trace was recorded in.
    """
    before = [_Before(start, scene) for start in starts]
    runs = [[_Rollout(one, seed) for seed in one.branch.seeds] for one in before]
    for one, mine in zip(before, runs, strict=True):
        for run in mine:
            run.wants(one.prompt_stop)
    branches = [(one.branch, mine) for one, mine in zip(before, runs, strict=True)]
    while branches:
        found = continuer.continue_from([branch for branch, _ in branches], sampling)
        going: list[_Rollout] = []
        for (branch, mine), completions in zip(branches, found, strict=True):
            for run, done in zip(mine, completions, strict=True):
                if done is None:
                    run.failed = True
                    continue
                run.take(continuer, branch.prefix, done, scene)
                going += [] if run.over else [run]
        branches = [(_next(run, scene), [run]) for run in going]
    return [
        [None if run.failed else run.joined(f"{run.trace.id}/{run.seed}") for run in mine]
        for mine in runs
    ]


def _next(run: _Rollout, scene: Scene) -> Branch:
    """Return what the next call of an episode under way is drawn from."""
    prompt = tuple(scene.prompt(run.trace.task, run.calls, run.results))
    run.wants(len(prompt))
    seed = int(digest(run.seed, len(run.calls)), 16) >> 1
    return Branch(prompt, (seed,), run.trace.sampling.max_new_tokens)
