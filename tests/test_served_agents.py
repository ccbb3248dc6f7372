"""Agents on models that servers have: tools are sent, calls are read back and carried out here."""

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from acting import CALLS, SAMPLING, TASKS, acting_tokenizer, script
from servers import Answer, completion
from servers import scripted as serve

from trace_probe.episode import calls_of
from trace_probe.errors import ServerError
from trace_probe.model.endpoint import Patience
from trace_probe.recording.course import Agent
from trace_probe.recording.served import Served, served_manifest
from trace_probe.recording.served_agents import record_from
from trace_probe.store import Store
from trace_probe.tasks.environments import Functions, scripted

AGENT = Agent(scripted(script()), "script", max_calls=4)
QUICK = Patience(concurrency=1, attempts=2, first_wait_s=0.01, longest_wait_s=0.02, timeout_s=2)
LOOK = {
    "id": "call_7",
    "type": "function",
    "function": {"name": "look", "arguments": '{"item": "key"}'},
}


def acts(_number: int, body: dict[str, Any]) -> Answer:
    """Call a tool until two results are there, then answer."""
    results = [turn for turn in body["messages"] if turn["role"] == "tool"]
    if len(results) < 2:
        return completion("", finish="tool_calls", reasoning_content="Look.", tool_calls=[LOOK])
    return completion("It is the key .", reasoning_content="Done.")


def recorded(path: Path, url: str, **settings: Any) -> Store:
    served = Served("m", (url,), patience=QUICK, **settings)
    store = Store.create(path, served_manifest(served, SAMPLING))
    record_from(served, TASKS[:2], store, AGENT, progress=False)
    return store


def test_calls_are_carried_out_and_thoughts_go_back_to_the_server(tmp_path: Path) -> None:
    with serve(acts) as asked:
        run = recorded(tmp_path / "run", asked.url)
    assert len(asked.bodies) == 6
    first, _, third = asked.bodies[:3]
    assert [tool["function"]["name"] for tool in first["tools"]] == ["look", "pay"]
    _, called, result, *_ = third["messages"]
    assert called["reasoning_content"] == "Look."
    assert called["tool_calls"] == [LOOK]
    assert result == {
        "role": "tool",
        "name": "look",
        "tool_call_id": "call_7",
        "content": " the key .",
    }
    assert len({body["seed"] for body in asked.bodies}) == 6
    for trace in run.traces():
        assert [(one.name, one.arguments, one.id) for one in trace.actions] == [
            ("look", '{"item": "key"}', "call_7")
        ] * 2
        assert [len(call.results) for call in trace.calls] == [1, 1, 0]
        assert trace.channel_text("answer").strip() == "It is the key ."
        assert (trace.facts["ended"], trace.facts["ids"]) == ("answer", "none")
        assert trace.thought == "closed"


def test_a_tool_that_takes_long_holds_up_no_other_episode(tmp_path: Path) -> None:
    begun, free = threading.Event(), threading.Event()
    order = []

    def look(item: str, state: dict[str, Any]) -> str:
        if not begun.is_set():  # the first call of all waits until another episode has ended
            begun.set()
            assert free.wait(20)
        state["looked"] = state.get("looked", 0) + 1
        if state["looked"] == 2:
            order.append(item)
            free.set()
        return "the key"

    agent = Agent(Functions([look]), "look", max_calls=4, max_seconds=15)
    with serve(acts) as asked:
        served = Served("m", (asked.url,), patience=replace(QUICK, concurrency=2))
        store = Store.create(tmp_path / "run", served_manifest(served, SAMPLING))
        record_from(served, TASKS[:2], store, agent, progress=False)
    assert {trace.facts["ended"] for trace in store.traces()} == {"answer"}
    assert len(order) == 2


def test_ids_that_a_server_gives_are_kept_for_each_call(tmp_path: Path) -> None:
    from trace_probe.model.tokenizer import ChatTokenizer

    tokenizer = ChatTokenizer(acting_tokenizer(), "tiny")
    written = [tokenizer.encode(f" wait</think>{CALLS[0]}<|im_end|>")] * 2
    written.append(tokenizer.encode(" now</think> the key .<|im_end|>"))

    def exact(number: int, body: dict[str, Any]) -> Answer:
        results = [turn for turn in body["messages"] if turn["role"] == "tool"]
        answer = json.loads(acts(number, body).body)
        answer["prompt_token_ids"] = [7] * (number % 3 + 3)
        answer["choices"][0]["token_ids"] = list(written[len(results)])
        return Answer(body=json.dumps(answer).encode())

    with serve(exact) as asked:
        run = recorded(tmp_path / "run", asked.url, tokenizer=tokenizer)
    assert all(body["return_token_ids"] for body in asked.bodies)
    for trace in run.traces():
        assert trace.facts["ids"] == "served"
        calls = list(calls_of(trace))
        assert [call.token_ids for call in calls] == [
            (*[7] * (number + 3), *ids) for number, ids in enumerate(written)
        ]
        assert [one.name for one in trace.actions] == ["look", "look"]


def test_an_episode_goes_on_at_the_call_at_which_the_server_failed(tmp_path: Path) -> None:
    def breaks(number: int, body: dict[str, Any]) -> Answer:
        return Answer(404, b"gone") if number == 4 else acts(number, body)

    with serve(breaks) as asked, pytest.raises(ServerError):
        recorded(tmp_path / "run", asked.url)
    assert len(Store(tmp_path / "run")) == 1
    with serve(acts) as asked:
        run = recorded(tmp_path / "run", asked.url)
    assert len(asked.bodies) == 2
    with serve(acts) as asked:
        whole = recorded(tmp_path / "whole", asked.url)
    assert list(run.traces()) == list(whole.traces())
    assert not list((tmp_path / "run" / "calls").glob("*"))


def test_a_conversation_that_the_server_finds_too_long_ends_there(tmp_path: Path) -> None:
    def short(number: int, body: dict[str, Any]) -> Answer:
        if len(body["messages"]) > 4:
            return Answer(400, b'{"message": "maximum context length is 9 tokens"}')
        return acts(number, body)

    with serve(short) as asked:
        run = recorded(tmp_path / "run", asked.url)
    assert {(trace.facts["ended"], len(trace.calls)) for trace in run.traces()} == {("context", 2)}


def test_a_run_records_an_agent_at_a_server(tmp_path: Path) -> None:
    from trace_probe.run import Run

    with serve(acts) as asked:
        served = Served("m", (asked.url,), patience=QUICK)
        run = Run.create(tmp_path / "run", served, sampling=SAMPLING)
        report = run.record(served, TASKS, agent=AGENT, progress=False)
    assert report.recorded == 3
    assert [len(trace.calls) for trace in run.traces()] == [3, 3, 3]


def test_without_an_agent_calls_of_a_server_are_kept_as_actions(tmp_path: Path) -> None:
    with serve(acts) as asked:
        served = Served("m", (asked.url,), patience=QUICK)
        store = Store.create(tmp_path / "run", served_manifest(served, SAMPLING))
        record_from(served, TASKS[:1], store, progress=False)
    (trace,) = store.traces()
    assert [one.name for one in trace.actions] == ["look"]
    assert (trace.channel_text("answer"), trace.calls) == ("", ())


def test_several_answers_to_one_request_are_refused_since_only_one_would_be_kept() -> None:
    with pytest.raises(ServerError, match="--samples"):
        Served("m", ("http://localhost:1/v1",), {"n": 3})
    assert Served("m", ("http://localhost:1/v1",), {"n": 1}).extra == {"n": 1}
