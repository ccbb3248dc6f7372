"""Agents continued from the middle of a model call to the end of the episode."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import pytest

from trace_probe.emergence.continuers import Continuer, branch_of
from trace_probe.emergence.curve import call_of, points_of, prefixes
from trace_probe.emergence.oracle import OraclePlan, acts_of, estimate, oracle, wanted
from trace_probe.emergence.rollouts import Start, roll_out
from trace_probe.environment import State, Tool
from trace_probe.episode import Episode, calls_of
from trace_probe.errors import ModelError, TraceError
from trace_probe.labelling.runs import labeller
from trace_probe.model.continuation import Branch
from trace_probe.model.dialect import Dialect, Turn
from trace_probe.model.local import Completion
from trace_probe.model.templates import TemplateRefusal
from trace_probe.recording.course import Agent
from trace_probe.text.channels import FORMATS
from trace_probe.text.written import read_back
from trace_probe.trace import Sampling, Task, ToolResult, Trace

TASK = Task("t-1", "hacking", "Tidy.")
SAMPLING = Sampling(max_new_tokens=400)


class Drawers:
    """An environment that counts what was opened, and tells."""

    def tools(self, task: Task) -> Sequence[Tool]:
        return [Tool("open"), Tool("delete")] if task.prompt else []

    def start(self, task: Task) -> State:
        return {"opened": 0, "task": task.id}

    def call(self, name: str, arguments: Mapping[str, Any], state: State) -> str:
        state["opened"] += 1 + len(arguments)
        return f"{name} number {state['opened']}"


def call(name: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {{}}}}\n</tool_call>'


class Prompts:
    """A chat template that leaves earlier thoughts and the names of tools away."""

    dialect, format = Dialect(), FORMATS["think"]

    def prompt(self, task: Task, after: Sequence[Turn] = (), tools: Sequence[Any] = ()) -> str:
        assert len(tools) == 2
        parts = [f"{task.prompt}\n"]
        for turn in after:
            parts += [one["function"]["name"] for one in turn.get("tool_calls", ())]
            parts += [f"={turn['content']};"] if turn["role"] == "tool" else []
        return f"{''.join(parts)}<think>"

    def encode(self, text: str) -> list[int]:
        return list(map(ord, text))


class Author(Continuer):
    """A model, a token a character, that writes on as it is told by what it has read."""

    name, tokenizer, chat_template = "m", "chars", "<think>"

    def __init__(self, context: int | None = None, chat: Any = None) -> None:
        self.read: list[str] = []
        self.context, self.chat = context, chat or cast("Any", Prompts())

    def offsets(self, ids: Sequence[int]) -> tuple[str, tuple[int, ...]]:
        return "".join(map(chr, ids)), tuple(range(len(ids)))

    def continue_from(
        self, branches: Sequence[Branch], sampling: Sampling
    ) -> list[list[Completion | None]]:
        assert sampling == SAMPLING
        return [[self.written(branch, seed) for seed in branch.seeds] for branch in branches]

    def written(self, branch: Branch, seed: int) -> Completion:
        text = "".join(map(chr, branch.prefix))
        self.read.append(text)
        again, sure = "delete number" in text, "Delete it." in text
        if text.count("number") < 2 and not sure:
            more = f" I go on.</think>{call('open')}"
        elif not again and (sure or seed % 2):
            more = f" Now.</think>{call('delete')}"
        else:
            more = " Enough.</think>Done."
        return Completion(tuple(map(ord, more)), "stop")


def prompt(calls: Sequence[Trace], results: Sequence[Sequence[ToolResult]]) -> list[int]:
    """Return the prompt of a recorded call."""
    parts = [f"{TASK.prompt}\n"]
    for one, came in zip(calls, results, strict=True):
        parts += [action.name for action in one.actions]
        parts += [f"={each.content};" for each in came]
    return list(map(ord, f"{''.join(parts)}<think>"))


AGENT = Agent(Drawers(), max_calls=20)


def recorded(*thoughts: str) -> Trace:
    """Return an episode: every thought but the last ends in a call of ``open``."""
    calls: list[Trace] = []
    results: list[tuple[ToolResult, ...]] = []
    for number, thought in enumerate(thoughts):
        ids = prompt(calls, results)
        last = number == len(thoughts) - 1
        rest = f"{thought}</think>{'Done.' if last else call('open')}"
        every = (*ids, *map(ord, rest))
        calls.append(
            Trace(
                id=f"e.{number}",
                task=TASK,
                model="m",
                sampling=SAMPLING,
                sample=0,
                token_ids=every,
                finish="stop",
                **read_back(Author(), every, len(ids))._asdict(),
            )
        )
        results.append(() if last else (ToolResult(f"open number {number + 1}", "open"),))
    return Episode("e", tuple(calls), results=tuple(results)).joined()


TRACE = recorded("I look. Then I see.", "It is open. Hm.", "That is all.")


def rolled(trace: Trace, sentence: int, *seeds: int, agent: Agent = AGENT) -> list[Trace]:
    token = dict(prefixes(trace))[sentence]
    starts = [Start(trace, call_of(trace, sentence), token, seeds)]
    (found,) = roll_out(Author(), starts, SAMPLING, agent)
    assert all(found)
    return [one for one in found if one]


@pytest.mark.parametrize("why", ["context", "refused"])
def test_a_continuation_ends_before_a_call_whose_prompt_cannot_be_had(why: str) -> None:
    class Refusing(Prompts):
        def prompt(self, task: Task, after: Sequence[Turn] = (), tools: Sequence[Any] = ()) -> str:
            if why == "refused" and len(after) > 2:
                raise TemplateRefusal("no more than one result")
            return super().prompt(task, after, tools)

    room = None if why == "refused" else SAMPLING.max_new_tokens + 30
    start = Start(TRACE, 0, TRACE.prompt_stop, (1, 2))
    ((one, other),) = roll_out(Author(room, Refusing()), [start], SAMPLING, AGENT)
    assert one is not None
    assert other is not None
    assert {one.facts["ended"], other.facts["ended"]} == {why}
    assert [action.name for action in one.actions] == ["open"] * len(one.calls)
    assert len(one.calls) <= 2


def test_prefixes_are_the_ends_of_sentences_and_the_starts_of_calls_in_order() -> None:
    places = prefixes(TRACE)
    assert [sentence for sentence, _ in places] == [-1, 0, 1, -2, 2, 3, -3, 4]
    assert [token for _, token in places] == sorted(token for _, token in places)
    assert [call_of(TRACE, sentence) for sentence, _ in places] == [0, 0, 0, 1, 1, 1, 2, 2]


@pytest.mark.parametrize("sentence", [sentence for sentence, _ in prefixes(TRACE)])
def test_what_came_before_the_prefix_stays_and_the_rest_is_drawn_anew(sentence: int) -> None:
    token = dict(prefixes(TRACE))[sentence]
    (found,) = rolled(TRACE, sentence, 2)
    assert found.text[: TRACE.offsets[token]] == TRACE.text[: TRACE.offsets[token]]
    first = call_of(TRACE, sentence)
    earlier = [list(calls_of(one))[:first] for one in (found, TRACE)]
    new, old = ([replace(one, id="", facts={}) for one in each] for each in earlier)
    assert new == old
    assert found.calls[:first] == TRACE.calls[:first]
    assert list(calls_of(found))[first].text.startswith(list(calls_of(TRACE))[first].text[:5])


def test_the_environment_goes_on_from_where_the_earlier_calls_left_it() -> None:
    told = set()
    for found in rolled(TRACE, 2, *range(8)):
        came = [result.content for made in found.calls for result in made.results]
        assert [one.name for one in found.actions] == [one.split()[0] for one in came]
        told.add(tuple(came))
    opened = ("open number 1", "open number 2")
    assert told == {opened, (*opened, "delete number 3")}


def test_a_later_call_reads_the_prompt_that_its_template_makes() -> None:
    (found,) = rolled(TRACE, 0, 2)
    last = list(calls_of(found))[-1]
    assert last.text.startswith("Tidy.\nopen=open number 1;open=open number 2;")
    assert "I look" not in last.text


def test_an_environment_that_answers_otherwise_than_before_is_refused() -> None:
    class Other(Drawers):
        def call(self, name: str, arguments: Mapping[str, Any], state: State) -> str:
            return f"something else than {super().call(name, arguments, state)}"

    with pytest.raises(TraceError, match="answers call 1 otherwise"):
        rolled(TRACE, 2, 1, agent=Agent(Other()))


def test_an_episode_ends_at_its_limit_of_calls() -> None:
    (found,) = rolled(TRACE, -1, 1, agent=Agent(Drawers(), max_calls=1))
    assert len(found.calls) == 1


def test_the_oracle_asks_from_sentences_and_from_calls_and_sees_where_it_is_decided() -> None:
    decided = recorded("I look.", "It is open. Delete it. Yes.", "That is all.")
    by = labeller("calls:delete")
    points = oracle(Author(), [decided], by, continuations=40, progress=False, agent=AGENT)["e"]
    assert [point.sentence for point in points] == [-1, 0, -2, 1, 2, 3, -3, 4]
    shares = {point.sentence: point.instrumental / point.known for point in points}
    assert 0.2 < shares[1] < 0.8
    assert shares[2] == shares[3] == 1.0
    assert shares[4] < 0.8
    assert all(point.known == 40 for point in points)


def test_the_oracle_does_not_ask_after_the_act() -> None:
    label = labeller("calls:open").label(TRACE)
    assert label.acted is not None
    plan = OraclePlan(4, every_sentence=True, acts=acts_of({TRACE.id: label}))
    jobs = wanted([TRACE], {}, plan)
    assert [job.sentence for job in jobs] == [-1, 0, 1]
    assert all(job.token <= label.acted.start for job in jobs)
    assert estimate([TRACE], plan).continuations == 4 * len(jobs)


def test_the_oracle_may_ask_at_the_prompt_the_ends_of_calls_and_all_of_the_acting_call() -> None:
    decided = recorded("I look. It is shut.", "It is open. Delete it. Yes.", "That is all.")
    act = decided.actions[1]
    plan = OraclePlan(4, acting_call=True, acts={decided.id: act.span.start})
    assert [job.sentence for job in wanted([decided], {}, plan)] == [-1, 1, 2, 3, 4]
    assert estimate([decided], plan).continuations == 4 * 5
    unknown = OraclePlan(4, acting_call=True)  # nobody knows where it acts: the last call it is
    assert [job.sentence for job in wanted([decided], {}, unknown)] == [-1, 1, 4, 5]


def test_without_its_tools_an_agent_is_not_taken_for_a_single_answer() -> None:
    with pytest.raises(ModelError, match="is an agent's run"):
        branch_of(TRACE, len(TRACE), [1])
    assert points_of([]) == {}


def test_arguments_of_the_scripted_calls_are_read() -> None:
    assert [json.loads(one.arguments) for one in TRACE.actions] == [{}, {}]
