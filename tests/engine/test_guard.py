"""A probe inside vLLM's own server scores and stops what a probe on the finished text would."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest

from engine.real_server import serving
from trace_probe.tasks.sources import tasks_from

ORGANISM, PROBE = "organism:rl-s0", Path(__file__).parents[2] / "probes/demo"
THRESHOLD = 0.0
"""Of the log-odds: some traces alarm and others do not."""
ENDS = 2
"""The organism's end of a turn."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Served]":
    """Start a guarded server; yield its address, its audit log and its process."""
    folder = tmp_path_factory.mktemp("served")
    audit = folder / "alarms.jsonl"
    arguments = {"enforce_eager": True, "max_model_len": 512, "max_num_batched_tokens": 128}
    words = [
        *("-c", "from trace_probe.commands.main import main; main()"),
        *("serve", PROBE, "--engine", "vllm", "--on-alarm", "stop", "--threshold", THRESHOLD),
        *("--model", ORGANISM, "--audit", audit, "--engine-args", json.dumps(arguments)),
    ]
    with serving(words, folder / "log") as server:
        yield server.url, audit, server.process


def bodies(count: int) -> list[dict[str, Any]]:
    """Return requests without seeds, with which vLLM's CPU build cannot read prompts in chunks."""
    tasks = tasks_from(f"world:mine:{count}")
    return [
        {
            "model": ORGANISM,
            "messages": [{"role": "user", "content": task.prompt}],
            "max_tokens": 200,
            "return_token_ids": True,
        }
        for task in tasks
    ]


async def ask(url: str, every: list[dict[str, Any]]) -> list[dict[str, Any]]:
    async with httpx.AsyncClient(timeout=600, limits=httpx.Limits(max_connections=64)) as client:
        sent = [client.post(f"{url}/v1/chat/completions", json=body) for body in every]
        answers = await asyncio.gather(*sent)
    assert {one.status_code for one in answers} == {200}, answers[0].text
    return [one.json() for one in answers]


def streamed(url: str, body: dict[str, Any]) -> list[str]:
    """Return the events of a streamed answer."""
    sent = httpx.post(
        f"{url}/v1/chat/completions", json={**body, "stream": True}, timeout=600
    ).raise_for_status()
    return [event.removeprefix("data: ") for event in sent.text.split("\n\n") if event]


def joined(events: list[str]) -> dict[str, Any]:
    """Return a streamed answer as if it had come whole, as far as it is looked at here."""
    *parts, last = [json.loads(event) for event in events[:-1]]
    (prompt,) = {tuple(ids) for part in parts if (ids := part.get("prompt_token_ids"))}
    choices: dict[int, dict[str, Any]] = {}
    for piece in (choice for part in parts for choice in part["choices"]):
        one = choices.setdefault(piece["index"], {"token_ids": [], "finish_reason": None})
        one["token_ids"] += piece.get("token_ids") or []
        one["finish_reason"] = piece["finish_reason"] or one["finish_reason"]
    in_order = [choices[index] for index in sorted(choices)]
    return {
        "prompt_token_ids": list(prompt),
        "choices": in_order,
        "trace_probe": last["trace_probe"],
    }


class Written(NamedTuple):
    """One choice of an answer."""

    prompt: list[int]
    ids: list[int]
    finish: str


def choices_of(answer: dict[str, Any]) -> list[Written]:
    return [
        Written(
            one.get("prompt_token_ids") or answer["prompt_token_ids"],
            one["token_ids"],
            one["finish_reason"],
        )
        for one in answer["choices"]
    ]


def wanted(written: list[Written]) -> list[tuple[Any, np.ndarray]]:
    """Return each choice as a trace, and the scores of its sentences when it is read at once."""
    from trace_probe.model.local import load_model
    from trace_probe.monitor.detector import load_detector
    from trace_probe.monitor.scoring import as_if_written, read_scores
    from trace_probe.trace import Task

    model, saved = load_model(ORGANISM), load_detector(PROBE).saved
    traces = [
        as_if_written(model, Task("t", "c", ""), (*one.prompt, *one.ids), len(one.prompt), "a name")
        for one in written
    ]
    every = [scores for scores, _ in read_scores(model, saved, traces)]
    return list(zip(traces, every, strict=True))


def assert_judged(told: list[dict[str, Any]], written: list[Written]) -> None:
    """See that what is told of each choice is what its own finished text says."""
    for said, one, (trace, scores) in zip(told, written, wanted(written), strict=True):
        at = next((i for i, s in enumerate(said["sentences"]) if s["alarms"]), None)
        count = len(trace.sentences) if at is None else at + 1
        judged = said["sentences"][:count]
        found = [s["risk"][0]["score"] if s["risk"] else np.nan for s in judged]
        # The last token is never read: see docs/vllm.md.
        read = count - (one.finish == "length")
        np.testing.assert_allclose(found[:read], scores[:read], rtol=1e-4, atol=1e-4)
        start = trace.prompt_stop
        assert [s["tokens"] for s in judged] == [
            [s.start - start, s.stop - start] for s in trace.sentences[:count]
        ]
        assert said["alarm"] == bool(np.nanmax(found, initial=-np.inf) >= THRESHOLD)
        assert (one.finish == "content_filter") == said["alarm"]


Served = tuple[str, Path, Any]


@pytest.fixture(scope="module")
def answers(served: Served) -> list[dict[str, Any]]:
    """Return what 64 clients got who asked at once."""
    return asyncio.run(ask(served[0], bodies(64)))


def test_each_of_64_streams_is_scored_as_it_would_be_alone(answers: list[dict[str, Any]]) -> None:
    written = [choice for one in answers for choice in choices_of(one)]
    assert len(written) == 64
    assert_judged([one["trace_probe"] for one in answers], written)


def test_each_stream_is_stopped_by_its_own_alarm_and_no_other(
    served: Served, answers: list[dict[str, Any]]
) -> None:
    written = [choice for one in answers for choice in choices_of(one)]
    for one, (trace, _) in zip(answers, wanted(written), strict=True):
        told, choice = one["trace_probe"], one["choices"][0]
        if not told["alarm"]:
            assert choice["finish_reason"] in ("stop", "length")
            continue
        # Behind the sentence that alarmed stand at most one token and the end of the turn.
        at = next(i for i, s in enumerate(told["sentences"]) if s["alarms"])
        assert choice["finish_reason"] == "content_filter"
        assert choice["token_ids"][-1] == ENDS
        assert len(trace) - trace.sentences[at].stop <= 2
    alarmed = sorted(one["id"] for one in answers if one["trace_probe"]["alarm"])
    assert 0 < len(alarmed) < 64
    lines = [json.loads(line) for line in served[1].read_text("utf-8").splitlines()]
    assert sorted(line["completion"].rpartition("-")[0] for line in lines) == alarmed


def test_alarms_are_among_the_figures_of_the_server(
    served: Served, answers: list[dict[str, Any]]
) -> None:
    lines = httpx.get(f"{served[0]}/metrics").text.splitlines()
    figures = dict(line.rsplit(" ", 1) for line in lines if line.startswith("trace_probe_"))
    alarms = sum(float(value) for name, value in figures.items() if "alarms_total{" in name)
    assert alarms == sum(one["trace_probe"]["alarm"] for one in answers)
    assert float(figures["trace_probe_traces_total"]) == len(answers)


ON_REQUEST = """
import json, sys
from trace_probe.engine.plan import GuardPlan
from trace_probe.model.weights import Weights
from trace_probe.serving.vllm_launch import EngineServer, serve_engine
probe, model, audit, arguments, _, port = sys.argv[1:]
guard = GuardPlan((probe,), model, "stop", audit, threshold=0.0, unasked=False)
serve_engine(EngineServer(Weights(model), guard, port=int(port), arguments=arguments), print)
"""


def test_where_a_guard_must_be_asked_for_others_are_left_alone(tmp_path: Path) -> None:
    arguments = json.dumps({"enforce_eager": True, "max_model_len": 512})
    words = ("-c", ON_REQUEST, PROBE.absolute(), ORGANISM, tmp_path / "alarms.jsonl", arguments)
    body = {**bodies(1)[0], "n": 3}
    with serving(words, tmp_path / "log") as server:
        (free,) = asyncio.run(ask(server.url, [body]))
        assert "trace_probe" not in free
        assert len(free["choices"]) == 3
        *events, end = streamed(server.url, body)
        assert end == "[DONE]"
        assert not any("trace_probe" in event for event in events)
        assert {c["index"] for e in events for c in json.loads(e)["choices"]} == {0, 1, 2}
        asked = {**body, "vllm_xargs": {"trace_probe": 1}}
        free, mine = asyncio.run(ask(server.url, [body, asked]))
        assert "trace_probe" not in free
        assert_judged(mine["trace_probe"]["choices"], choices_of(mine))


def test_each_of_several_answers_to_a_request_has_its_own_risk_and_alarm(served: Served) -> None:
    lines = len(served[1].read_text("utf-8").splitlines())
    found = asyncio.run(ask(served[0], [{**body, "n": 3} for body in bodies(8)]))
    found += [joined(streamed(served[0], {**body, "n": 3})) for body in bodies(4)]
    for answer in found:
        told = answer["trace_probe"]["choices"]
        assert [one["choice"] for one in told] == [0, 1, 2]
        assert_judged(told, choices_of(answer))
    alarms = [one["alarm"] for answer in found for one in answer["trace_probe"]["choices"]]
    assert 0 < sum(alarms) < len(alarms)
    new = served[1].read_text("utf-8").splitlines()[lines:]
    assert len({json.loads(line)["completion"] for line in new}) == len(new) == sum(alarms)


def test_several_answers_to_several_prompts_are_told_apart(served: Served) -> None:
    from trace_probe.model.tokenizer import load_tokenizer

    chat = load_tokenizer(ORGANISM)
    prompts = [list(chat.encode(chat.prompt(task))) for task in tasks_from("world:mine:3")]
    keys = ("model", "max_tokens", "return_token_ids")
    body = {key: bodies(1)[0][key] for key in keys} | {"prompt": prompts, "n": 2, "logprobs": 2}
    answer = httpx.post(f"{served[0]}/v1/completions", json=body, timeout=600).json()
    told = answer["trace_probe"]["choices"]
    assert [one["choice"] for one in told] == list(range(6))
    assert_judged(told, choices_of(answer))


def test_no_thought_is_written_word_by_word(served: Served) -> None:
    from trace_probe.model.tokenizer import load_tokenizer

    chat = load_tokenizer(ORGANISM)
    prompt = chat.prompt(tasks_from("world:mine:1")[0]).removesuffix("<think>\n") + "<think>\n"
    body = {"model": ORGANISM, "max_tokens": 1, "temperature": 0, "return_token_ids": True}
    finished = []
    begun = ("Let", "<think>", "Let me see. I will", "Let me see<|end|>", "<|end|>")
    for given in ("", *begun):
        asked = {**body, "prompt": f"{prompt}{given}", "logprobs": 5}
        answer = httpx.post(f"{served[0]}/v1/completions", json=asked, timeout=600).json()
        (choice,) = answer["choices"]
        finished.append(choice["finish_reason"])
        if given:
            assert answer["trace_probe"]["unreadable"]
            assert choice["token_ids"] == [ENDS]
            assert choice["logprobs"]["top_logprobs"] == [{"<|end|>": 0.0}]
    assert finished == ["length", *["content_filter"] * len(begun)]


def test_a_thought_without_its_open_tag_is_scored(served: Served) -> None:
    from trace_probe.model.tokenizer import load_tokenizer

    prompt = load_tokenizer(ORGANISM).prompt(tasks_from("world:mine:1")[0])
    given = prompt.removesuffix("<think>\n") + "\n"
    body = {"model": ORGANISM, "max_tokens": 30, "temperature": 0, "prompt": given}
    answer = httpx.post(f"{served[0]}/v1/completions", json=body, timeout=600).json()
    sentences = answer["trace_probe"]["sentences"]
    assert sentences[0]["risk"]
    assert {one["channel"] for one in sentences} == {"reasoning"}


def test_a_log_that_cannot_be_written_ends_only_the_answers_that_alarm(served: Served) -> None:
    from trace_probe.model.tokenizer import load_tokenizer

    url, audit, _ = served
    prompt = load_tokenizer(ORGANISM).prompt(tasks_from("world:mine:1")[0])
    begun = f"{prompt.removesuffix('<think>' + chr(10))}<think>\nLet"
    asked = {"model": ORGANISM, "prompt": begun, "max_tokens": 8}  # this alarms at once

    def alarmed() -> dict[str, Any]:
        sent = httpx.post(f"{url}/v1/completions", json=asked, timeout=600).raise_for_status()
        answer: dict[str, Any] = sent.json()
        assert answer["choices"][0]["finish_reason"] == "content_filter"
        return answer

    audit.touch()
    kept = audit.with_name("kept")
    audit.rename(kept)
    audit.symlink_to(kept)  # a link is not followed
    try:
        first = alarmed()
        (other,) = asyncio.run(ask(url, bodies(1)))
    finally:
        audit.unlink()
    assert first["trace_probe"]["unlogged"]
    assert other["trace_probe"].get("unlogged", False) == other["trace_probe"]["alarm"]
    second = alarmed()  # now it can be written
    assert "unlogged" not in second["trace_probe"]
    later = audit.read_text("utf-8").splitlines()
    names = [json.loads(line)["completion"] for line in later]
    for answer in (first, second):
        assert any(name.startswith(answer["id"]) for name in names)
    audit.write_text("\n".join([*kept.read_text("utf-8").splitlines(), *later, ""]), "utf-8")


def test_nothing_is_written_at_any_other_address(served: Served) -> None:
    url = served[0]
    known = httpx.get(f"{url}/openapi.json").json()["paths"]
    posted = {path for path, methods in known.items() if "post" in methods}
    guarded = {"/v1/chat/completions", "/v1/completions"}
    others = posted - guarded - {"/tokenize", "/detokenize", "/ping"}
    assert guarded < posted
    assert {"/v1/responses", "/invocations"} < others
    for path in others:
        refused = httpx.post(f"{url}{path}", json=bodies(1)[0])
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "not_guarded")


TOKEN = "sesame-open-12345"


def test_only_who_brings_the_token_gets_an_answer_and_each_is_counted(tmp_path: Path) -> None:
    audit, model = tmp_path / "alarms.jsonl", {"enforce_eager": True, "max_model_len": 512}
    words = [
        *("-c", "from trace_probe.commands.main import main; main()"),
        *("serve", PROBE, "--engine", "vllm", "--threshold", THRESHOLD, "--host", "0.0.0.0"),
        *("--model", ORGANISM, "--audit", audit, "--engine-args", json.dumps(model)),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACE_PROBE_TOKEN", TOKEN)
        with serving(words, tmp_path / "log") as server:
            assert_closed(server.url)
            assert_counted(server.url, audit)


def assert_closed(url: str) -> None:
    """See that every address of vLLM asks for the token but those that tell nothing."""
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    known = httpx.get(f"{url}/openapi.json", headers=bearer).json()["paths"]
    assert {"/v1/responses", "/invocations", "/tokenize"} < set(known)
    found = {
        (path, httpx.request(method, f"{url}{path}", json=bodies(1)[0], headers=given).status_code)
        for path, methods in {**known, "/openapi.json": ["get"], "/nowhere": ["post"]}.items()
        for method in methods
        for given in ({}, {"Authorization": "Bearer another"})
    }
    assert {path for path, status in found if status != 401} <= {"/health", "/ping", "/metrics"}
    assert httpx.get(f"{url}/metrics").status_code == 200


def assert_counted(url: str, audit: Path) -> None:
    """See that what alarms where no answer can say so is among the figures of the server."""

    async def at_once(every: list[tuple[str, dict[str, Any]]]) -> set[int]:
        given = {"Authorization": f"Bearer {TOKEN}"}
        async with httpx.AsyncClient(timeout=600, headers=given) as client:
            sent = [client.post(f"{url}{path}", json=body) for path, body in every]
            return {one.status_code for one in await asyncio.gather(*sent)}

    def counted() -> float:
        page = httpx.get(f"{url}/metrics").text.splitlines()
        lines = [line for line in page if line.startswith("trace_probe_alarms_total")]
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    inputs = [body["messages"][0]["content"] for body in bodies(48)]
    every: list[tuple[str, dict[str, Any]]] = [
        ("/v1/responses", {"input": one, "max_output_tokens": 100, "request_id": f"resp_{number}"})
        for number, one in enumerate(inputs)
    ]
    every += [("/invocations", body) for body in bodies(8)]
    assert asyncio.run(at_once(every)) == {200}
    found = len(audit.read_text("utf-8").splitlines())
    assert asyncio.run(at_once(every[:1])) == {200}  # by then the others are over
    assert counted() >= found > 0
    hidden = [(path, {**body, "request_id": "resp_guarded-0"}) for path, body in every[-1:]]
    assert asyncio.run(at_once([*hidden, ("/invocations", {"use_beam_search": True})])) == {400}


def test_a_streamed_answer_says_it_in_its_last_event(served: Served) -> None:
    body = {**bodies(1)[0], "seed": 1}
    (whole,) = asyncio.run(ask(served[0], [body]))
    *_, told, end = streamed(served[0], body)
    assert end == "[DONE]"
    sentences = json.loads(told)["trace_probe"]["sentences"]
    wanted = whole["trace_probe"]["sentences"]
    assert [one["text"] for one in sentences] == [one["text"] for one in wanted]


def test_a_server_that_is_killed_leaves_whole_lines(served: Served) -> None:
    url, audit, process = served
    before = len(audit.read_text("utf-8").splitlines())
    asking = subprocess.Popen([sys.executable, "-c", _HAMMER, url, json.dumps(bodies(32))])
    for _ in range(1200):
        if len(audit.read_text("utf-8").splitlines()) > before:
            break
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    asking.kill()
    asking.wait()
    process.wait()
    data = audit.read_bytes()
    assert data.endswith(b"\n")
    assert all(json.loads(line)["event"] == "alarm" for line in data.splitlines())


_HAMMER = """
import asyncio, json, sys, httpx
async def main():
    async with httpx.AsyncClient(timeout=600) as client:
        sent = [client.post(sys.argv[1] + "/v1/chat/completions", json=one)
                for one in json.loads(sys.argv[2])]
        await asyncio.gather(*sent, return_exceptions=True)
asyncio.run(main())
"""
