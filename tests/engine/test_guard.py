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
from typing import Any

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


def wanted(answers: list[dict[str, Any]]) -> list[tuple[Any, np.ndarray]]:
    """Return each answer as a trace, and the scores of its sentences when it is read at once."""
    from trace_probe.model.local import load_model
    from trace_probe.monitor.detector import load_detector
    from trace_probe.monitor.scoring import as_if_written, read_scores
    from trace_probe.trace import Task

    model, saved = load_model(ORGANISM), load_detector(PROBE).saved
    traces = []
    for one in answers:
        prompt = one["prompt_token_ids"]
        ids = (*prompt, *one["choices"][0]["token_ids"])
        traces.append(as_if_written(model, Task("t", "c", ""), ids, len(prompt), "an answer"))
    return list(zip(traces, read_scores(model, saved, traces), strict=True))


Served = tuple[str, Path, Any]


@pytest.fixture(scope="module")
def answers(served: Served) -> list[dict[str, Any]]:
    """Return what 64 clients got who asked at once."""
    return asyncio.run(ask(served[0], bodies(64)))


def test_each_of_64_streams_is_scored_as_it_would_be_alone(answers: list[dict[str, Any]]) -> None:
    for one, (trace, scores) in zip(answers, wanted(answers), strict=True):
        told = one["trace_probe"]
        at = next((i for i, s in enumerate(told["sentences"]) if s["alarms"]), None)
        count = len(trace.sentences) if at is None else at + 1
        judged = told["sentences"][:count]
        found = [s["risk"][0]["score"] if s["risk"] else np.nan for s in judged]
        np.testing.assert_allclose(found, scores[:count], rtol=1e-4, atol=1e-4)
        start = trace.prompt_stop
        assert [s["tokens"] for s in judged] == [
            [s.start - start, s.stop - start] for s in trace.sentences[:count]
        ]
        assert told["alarm"] == bool(np.nanmax(found, initial=-np.inf) >= THRESHOLD)


def test_each_stream_is_stopped_by_its_own_alarm_and_no_other(
    served: Served, answers: list[dict[str, Any]]
) -> None:
    for one, (trace, _) in zip(answers, wanted(answers), strict=True):
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


def test_what_is_not_to_be_guarded_is_not_and_several_answers_are_told_apart(
    served: Served,
) -> None:
    body = bodies(1)[0]
    (free,) = asyncio.run(ask(served[0], [{**body, "vllm_xargs": {"trace_probe": 0}}]))
    assert "trace_probe" not in free
    (several,) = asyncio.run(ask(served[0], [{**body, "n": 3}]))
    assert [one["choice"] for one in several["trace_probe"]["choices"]] == [0, 1, 2]


def test_a_streamed_answer_says_it_in_its_last_event(served: Served) -> None:
    body = {**bodies(1)[0], "seed": 1}
    (whole,) = asyncio.run(ask(served[0], [body]))
    body["stream"] = True
    sent = httpx.post(f"{served[0]}/v1/chat/completions", json=body, timeout=600)
    *_, told, end = [event for event in sent.text.split("\n\n") if event]
    assert end == "data: [DONE]"
    sentences = json.loads(told.removeprefix("data: "))["trace_probe"]["sentences"]
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
