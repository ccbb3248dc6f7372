"""A model that calls tools: every call with its own ids, stopped and taken up at any call."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from acting import CALLS, SAMPLING, TASKS, acting_model, script

from trace_probe.activations import pooled_spans
from trace_probe.environment import State
from trace_probe.episode import calls_of
from trace_probe.errors import ModelError, StoreError, TaskError
from trace_probe.recording.course import Agent
from trace_probe.store import Store
from trace_probe.tasks.environments import Functions, scripted
from trace_probe.tasks.sources import tasks_from
from trace_probe.trace import Trace
from trace_probe.world.worlds import WORLDS

AGENT = Agent(scripted(script()), "script", max_calls=5, name="clerk")
LAYERS = (0, 2)


@pytest.fixture(scope="module")
def model() -> Any:
    return acting_model()


def recorded(model: Any, path: Path, agent: Agent = AGENT, **how: Any) -> Store:
    from trace_probe.recording.record import new_manifest, record

    store = Store.create(path, new_manifest(model, SAMPLING, layers=LAYERS))
    record(model, TASKS, store, agent, progress=False, **{"samples": 8, **how})
    return store


@pytest.fixture(scope="module")
def run(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Store:
    return recorded(model, tmp_path_factory.mktemp("agent") / "run")


def episodes(run: Store, ended: str) -> list[Trace]:
    found = [trace for trace in run.traces() if trace.facts["ended"] == ended]
    assert found, f"no episode ended by {ended}: the tiny model must be drawn anew"
    return found


def test_each_call_reads_what_the_template_makes_of_the_turns_before(
    model: Any, run: Store
) -> None:
    many = [trace for trace in run.traces() if len(trace.calls) > 2]
    assert many
    for trace in many:
        turns: list[dict[str, Any]] = []
        tools = [tool.schema for tool in AGENT.place(trace.task).tools(trace.task)]
        for call, kept in zip(calls_of(trace), trace.calls, strict=True):
            assert call.token_ids[: call.prompt_stop] == tuple(
                model.render(trace.task, turns, tools)
            )
            dialect = model.chat.dialect
            turns.append(dialect.assistant(call, model.chat.format))
            turns += dialect.results(kept.results)


def test_an_episode_ends_with_an_answer_a_cut_or_at_the_limit(run: Store) -> None:
    for trace in episodes(run, "answer"):
        assert trace.finish == "stop"
        assert not trace.calls[-1].results
        assert all(call.results for call in trace.calls[:-1])
    assert {trace.finish for trace in episodes(run, "length")} == {"length"}
    for trace in episodes(run, "calls"):
        assert len(trace.calls) == AGENT.max_calls
        assert trace.calls[-1].results
    assert {call.agent for trace in run.traces() for call in trace.calls} == {"clerk"}
    assert {trace.task.condition["tools"] for trace in run.traces()} == {"script"}


def test_an_episode_may_have_as_many_calls_as_its_world_allows_unless_told_otherwise() -> None:
    errand = tasks_from("agentworld:x:1")[0]
    assert Agent().most_calls(errand) == WORLDS["agentworld"].max_calls == 5
    assert Agent(max_calls=2).most_calls(errand) == 2
    assert Agent(AGENT.environment, "script").most_calls(errand) == 20
    assert Agent(max_calls=None).most_calls(TASKS[0]) == 20


def test_what_a_tool_answers_and_what_goes_wrong_is_read_by_the_next_call(run: Store) -> None:
    told = {
        "look": (" the key .", ""),
        "pay": ("Error: the box is shut", "RuntimeError"),
        "burn": ("Error: there is no tool 'burn'", "LookupError"),
        "": ("Error: there is no tool ''", "LookupError"),
    }
    seen = set()
    for trace in run.traces():
        results = [result for call in trace.calls for result in call.results]
        acts = [one for one in trace.actions if trace.call_at(one.span.start) < len(trace.calls)]
        for act, result in zip(acts, results, strict=False):
            content, error = told[act.name]
            assert result.content.startswith(content)
            assert result.error.startswith(error)
            assert result.name == act.name
            seen.add(act.name)
    assert seen == set(told)


def test_the_activations_of_a_recorded_episode_are_those_of_each_call(
    model: Any, run: Store
) -> None:
    from trace_probe.model.capture import Reading

    trace = max(run.traces(), key=lambda trace: len(trace.calls))
    rows = []
    for number, call in enumerate(calls_of(trace)):
        spans = pooled_spans(call)[bool(number) :]
        if spans:
            reading = Reading("last+mean+max")
            (held,) = model.replay([call.token_ids], [spans], LAYERS, reading)
            rows.append(held.values)
    np.testing.assert_allclose(
        run.activations(trace).values, np.concatenate(rows, axis=1), atol=2e-3
    )
    fidelity = run.vault.fidelity(trace.id)
    assert fidelity is not None
    assert fidelity.against == "log-probabilities"
    assert fidelity.error < 1e-3


def test_it_does_not_matter_which_episodes_advance_together(
    model: Any, run: Store, tmp_path: Path
) -> None:
    alone = recorded(model, tmp_path / "alone", batch_size=1)
    assert {trace.id: trace for trace in alone.traces()} == {
        trace.id: trace for trace in run.traces()
    }


def test_more_samples_are_recorded_beside_those_that_are_there(
    model: Any, run: Store, tmp_path: Path
) -> None:
    part = recorded(model, tmp_path / "part", samples=2)
    assert len(part) == 6
    whole = recorded(model, tmp_path / "part")
    assert {trace.id: trace for trace in whole.traces()} == {
        trace.id: trace for trace in run.traces()
    }


def test_an_interruption_between_two_calls_loses_none_of_them(
    model: Any, run: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trace_probe.recording import record as module

    asked: list[int] = []

    def stops(of: Any, prompts: Sequence[Any], seeds: Any, sampling: Any) -> Any:
        asked.append(len(prompts))
        if len(asked) == 4:
            raise KeyboardInterrupt
        return complete(of, prompts, seeds, sampling)

    complete: Any = vars(module)["complete"]
    monkeypatch.setattr(module, "complete", stops)
    with pytest.raises(KeyboardInterrupt):
        recorded(model, tmp_path / "run")
    assert list((tmp_path / "run" / "calls").glob("*.jsonl"))
    before, asked[:] = sum(asked[:3]), [-99]
    again = recorded(model, tmp_path / "run")
    assert {trace.id: trace for trace in again.traces()} == {
        trace.id: trace for trace in run.traces()
    }
    assert not list((tmp_path / "run" / "calls").glob("*"))
    total = sum(len(trace.calls) for trace in run.traces())
    assert sum(asked[1:]) == total - before


def test_a_process_that_is_killed_again_and_again_leaves_the_same_run(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("agent_kills.py")), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["kills"] == 10
    assert found["with_calls_left"] > 0
    assert found["same"]
    assert found["gap"] < 2e-3
    assert (found["left"], found["problems"]) == ([], [])


def test_time_ends_an_episode_before_its_next_call(model: Any, tmp_path: Path) -> None:
    run = recorded(model, tmp_path / "run", replace(AGENT, max_seconds=1e-9), samples=4)
    assert {len(trace.calls) for trace in run.traces()} == {1}
    assert episodes(run, "seconds")


def test_an_episode_ends_where_the_next_prompt_would_not_fit(tmp_path: Path) -> None:
    run = recorded(acting_model(context=100), tmp_path / "run", replace(AGENT, max_calls=50))
    room = 100 - SAMPLING.max_new_tokens
    assert episodes(run, "context")
    for trace in run.traces():
        assert all(call.prompt_stop <= room for call in calls_of(trace))


def test_tools_in_python_remember_within_an_episode_only(model: Any, tmp_path: Path) -> None:
    def look(item: str, state: State) -> str:
        """Look at a thing.

        More about it.
        """
        state["seen"] = state.get("seen", 0) + 1
        return f" {item} {state['seen']}"

    functions = Functions([look])
    (tool,) = functions.tools(TASKS[0])
    assert (tool.name, tool.description) == ("look", "Look at a thing.")
    assert tool.parameters == {
        "type": "object",
        "properties": {"item": {"type": "string"}},
        "required": ["item"],
    }
    run = recorded(model, tmp_path / "run", Agent(functions, "look", max_calls=6))
    most = 0
    for trace in run.traces():
        answers = [
            result.content
            for call in trace.calls
            for result in call.results
            if result.name == "look" and not result.error
        ]
        assert answers == [f" key {number}" for number in range(1, len(answers) + 1)]
        most = max(most, len(answers))
    assert most > 1


def test_an_answer_without_end_is_an_error_that_the_model_is_told(
    model: Any, tmp_path: Path
) -> None:
    def look(item: str) -> str:
        return item * (1 << 23)

    run = recorded(model, tmp_path / "run", Agent(Functions([look]), "look"), samples=2)
    results = [result for trace in run.traces() for call in trace.calls for result in call.results]
    looked = [result for result in results if result.name == "look"]
    assert any("ask for less" in result.error for result in looked)
    assert all(len(result.content) < 200 for result in looked)
    assert (run.path / "traces.jsonl").stat().st_size < 1 << 20


def test_a_task_without_an_environment_is_refused_with_what_to_do(
    model: Any, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="--tools"):
        recorded(model, tmp_path / "run", Agent())


def test_a_template_that_does_not_tell_the_model_its_tools_is_refused(
    tiny: Callable[..., Any], tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="trained to call tools"):
        recorded(tiny(), tmp_path / "run")


def test_a_state_that_cannot_be_kept_is_named(model: Any, tmp_path: Path) -> None:
    def look(item: str, state: State) -> str:
        state["seen"] = {item}
        return "x"

    with pytest.raises(StoreError, match="what JSON can"):
        recorded(model, tmp_path / "run", Agent(Functions([look]), "look"))


def test_a_state_goes_on_as_it_would_after_an_interruption(model: Any, tmp_path: Path) -> None:
    kinds: set[type] = set()

    def look(item: str, state: State) -> str:  # noqa: ARG001 - the model gives it
        kinds.add(type(state.get("seen")))
        state["seen"] = (1, 2)
        return "x"

    recorded(model, tmp_path / "run", Agent(Functions([look]), "look", max_calls=6))
    assert list in kinds  # in the next model call


def test_tasks_that_need_tools_are_not_recorded_without_them(model: Any, tmp_path: Path) -> None:
    from trace_probe.recording.record import new_manifest, record
    from trace_probe.recording.served import Served, served_manifest
    from trace_probe.recording.served_agents import record_from

    tasks = [AGENT.under(task) for task in TASKS]
    here = Store.create(tmp_path / "here", new_manifest(model, SAMPLING, layers=LAYERS))
    with pytest.raises(TaskError, match="done with tools .script.: record an agent"):
        record(model, tasks, here, progress=False)
    served = Served("m", ("http://127.0.0.1:1/v1",))
    there = Store.create(tmp_path / "there", served_manifest(served, SAMPLING))
    with pytest.raises(TaskError, match="done with tools .script.: record an agent"):
        record_from(served, tasks, there, progress=False)


def test_the_command_records_an_agent_from_a_script(
    model: Any, command: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    folder, tasks, tools = tmp_path / "model", tmp_path / "t.jsonl", tmp_path / "tools.json"
    model._network.save_pretrained(folder)
    model.chat._tokenizer.save_pretrained(folder)
    rows = [{"id": t.id, "category": t.category, "prompt": t.prompt} for t in TASKS]
    tasks.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    tools.write_bytes(script())
    where = [str(folder), str(tmp_path / "run"), "--tasks", str(tasks), "--samples", "4"]
    how = ["--max-new-tokens", "40", "--max-calls", "3"]
    code, out, err = command("record", *where, *how, "--agent", "--tools", str(tools), "--json")
    assert code == 0, err
    assert json.loads(out)["recorded"] == 12
    run = Store(tmp_path / "run")
    assert max(len(trace.calls) for trace in run.traces()) == 3
    (named,) = {trace.task.condition["tools"] for trace in run.traces()}
    assert named.startswith("tools.json@")
    code, _, err = command("record", *where, "--tools", str(tools))
    assert code == 2
    assert "--agent" in err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "tools.json is not a JSON object"),
        ('{"tools": [{"description": "x"}]}', "0.name: Field required"),
        ('{"tools": [{"name": "a", "answer": "x"}]}', "0.answer is 'x': Unexpected"),
        ('{"tools": [{"name": "a", "answers": [{"arguments": "x"}]}]}', "arguments is 'x'"),
        ('{"tools": [{"name": "a"}, {"name": "a"}]}', "there twice"),
    ],
)
def test_a_malformed_script_is_refused_with_the_place(text: str, said: str) -> None:
    with pytest.raises(TaskError, match=said):
        scripted(text.encode(), "tools.json")


def test_tools_come_from_files_modules_and_worlds(tmp_path: Path) -> None:
    from trace_probe.tasks.environments import environment_from

    file = tmp_path / "mine.py"
    file.write_text('def add(a: int, b: int = 1):\n    "Add."\n    return a + b\n', "utf-8")
    found = environment_from(f"{file}:add")
    assert found.name.startswith("mine.py:add@")
    assert found.environment.call("add", {"a": 2}, {}) == 3
    with pytest.raises(TypeError):
        found.environment.call("add", {"c": 2}, {})
    assert environment_from("agentworld").name == "agentworld"
    assert [t.name for t in environment_from("textwrap:dedent").environment.tools(TASKS[0])] == [
        "dedent"
    ]
    assert environment_from("textwrap:dedent").name.startswith("textwrap:dedent@")
    for source in ("nowhere", "nowhere:x", f"{file}:sub", str(tmp_path / "none.json")):
        with pytest.raises(TaskError):
            environment_from(source)


def test_calls_in_the_tiny_vocabulary_are_read() -> None:
    from trace_probe.text.tool_calls import parse_calls

    assert [parse_calls(text)[0].name for text in CALLS] == ["look", "pay", "burn", ""]
