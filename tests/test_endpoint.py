"""The endpoint under guard, asked by the official client: answers, policies, limits, faults."""

import asyncio
import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_probes import a_probe
from tiny_models import random_network, word_tokenizer

pytest.importorskip("fastapi", reason="the server needs fastapi: pip install -e .[test]")
pytest.importorskip("prometheus_client", reason="the server needs prometheus-client")

import openai
import uvicorn

from trace_probe.errors import ServerError, StoreError
from trace_probe.monitor.live import EXAMPLE
from trace_probe.monitor.sharing import seal_probe
from trace_probe.serving.audit import AuditLog
from trace_probe.serving.launch import punctual
from trace_probe.serving.limits import Limits, Refusal, check_address, check_host
from trace_probe.serving.protocol import ChatRequest, read_request

ROOT = Path(__file__).parents[1]
ASK: Any = [{"role": "user", "content": "the model must finish its task before they stop it ."}]
NAME = "tiny-qwen3"
LIMITS = Limits(tokens=48)


@dataclass
class Up:
    """A server that runs in this process."""

    port: int
    audit: Path
    served: Any

    def client(self, key: str = "none") -> openai.OpenAI:
        url = f"http://127.0.0.1:{self.port}/v1"
        return openai.OpenAI(base_url=url, api_key=key, max_retries=0, timeout=60)

    def post(self, body: bytes, **headers: str) -> tuple[int, dict[str, Any], Any]:
        """Return status, body and headers of a raw request."""
        given = {"content-type": "application/json"}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as at:
            at.request("POST", "/v1/chat/completions", body, given)
            answer = at.getresponse()
            return answer.status, json.loads(answer.read()), answer.headers

    def metric(self, name: str) -> float:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics") as page:
            lines = page.read().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    def entries(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.audit.read_text("utf-8").splitlines()]


@contextmanager
def up(
    model: Any,
    audit: Path,
    *,
    threshold: float = 1e9,
    policy: Any = "annotate",
    token: str | None = None,
    limits: Limits = LIMITS,
    small: bool = False,
    saved: Any = None,
    hook: Any = None,
) -> Iterator[Up]:
    from trace_probe.monitor.live import Monitor
    from trace_probe.serving.endpoint import build_app
    from trace_probe.serving.guarded import GuardedModel

    served = GuardedModel(
        Monitor(model, saved or a_probe(model, threshold)),
        AuditLog(audit),
        policy=policy,
        limits=limits,
        hook=hook,
    )
    sock = socket.socket()
    if small:  # else the system would take whole answers for a client that does not read
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    sock.bind(("127.0.0.1", 0))
    http: Any = punctual(limits, served.telemetry.slow.inc)
    config = uvicorn.Config(build_app(served, limits, token), log_level="warning", http=http)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield Up(sock.getsockname()[1], audit, served)
    finally:
        server.should_exit = True
        thread.join()
        sock.close()


def wait_until(holds: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.02)


def lowest_and_highest(model: Any, seed: int) -> tuple[float, float]:
    """Return the scores between which the sentences of a completion lie."""
    from trace_probe.monitor.live import Monitor
    from trace_probe.trace import Sampling

    sampling = Sampling(seed=seed, max_new_tokens=48)
    readings = Monitor(model, a_probe(model)).watch_ids(model.render_chat(ASK), seed, sampling)
    scores = [s.scores[0] for reading in readings for s in reading.ended if s.scores]
    return min(scores), max(scores)


def whole(server: Up, seed: int, **more: Any) -> dict[str, Any]:
    create: Any = server.client().chat.completions.create
    found: dict[str, Any] = create(model=NAME, messages=ASK, seed=seed, **more).model_dump()
    return found


def streamed(server: Up, seed: int, **more: Any) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """Return the text by field and all chunks."""
    create: Any = server.client().chat.completions.create
    more |= {"stream": True, "stream_options": {"include_usage": True}}
    chunks = [c.model_dump() for c in create(model=NAME, messages=ASK, seed=seed, **more)]
    text = {"reasoning_content": "", "content": ""}
    for chunk in chunks:
        for choice in chunk["choices"]:
            for name in text:
                text[name] += choice["delta"].get(name) or ""
    return text, chunks


def test_streams_and_whole_answers_say_the_same_and_risk_stands_beside_each_sentence(
    tiny: Callable[..., Any], tmp_path: Path
) -> None:
    from trace_probe.monitor.live import Monitor
    from trace_probe.trace import Sampling

    model = tiny()
    with up(model, tmp_path / "a.jsonl") as server:
        assert [one.id for one in server.client().models.list()] == [NAME]
        for seed in range(4):
            answer = whole(server, seed)
            message, risk = answer["choices"][0]["message"], answer["trace_probe"]
            text, chunks = streamed(server, seed)
            assert text["reasoning_content"] == (message["reasoning_content"] or "")
            assert text["content"] == message["content"]
            ended = [
                c["trace_probe"]["sentence"]
                for c in chunks
                if "sentence" in (c.get("trace_probe") or {})
            ]
            assert ended == risk["sentences"]
            assert chunks[-1]["usage"] == answer["usage"]
            sampling = Sampling(seed=seed, max_new_tokens=48)
            watching = Monitor(model, a_probe(model)).watch_ids(
                model.render_chat(ASK), seed, sampling
            )
            live = [s for reading in watching for s in reading.ended]
            assert [s.text for s in live] == [one["text"] for one in ended]
            assert [list(s.scores) for s in live] == [
                [one["score"] for one in each["risk"]] for each in ended
            ]
        assert server.metric("trace_probe_traces_total") == 8
        assert server.entries() == []


@pytest.mark.parametrize("policy", ["annotate", "stop", "withhold"])
def test_an_alarm_is_written_down_and_the_policy_followed(
    tiny: Callable[..., Any], tmp_path: Path, policy: str
) -> None:
    model = tiny()
    seed = next(s for s in range(50) if "content" in free(model, s) and free(model, s)["content"])
    low, high = lowest_and_highest(model, seed)
    with up(model, tmp_path / "a.jsonl", threshold=low - 1, policy=policy) as server:
        answer, (text, chunks) = whole(server, seed), streamed(server, seed)
        choice, risk = answer["choices"][0], answer["trace_probe"]
        assert risk["alarm"]
        assert text["content"] == (choice["message"]["content"] or "")
        assert text["reasoning_content"] == (choice["message"]["reasoning_content"] or "")
        if policy == "annotate":
            assert choice["finish_reason"] in ("stop", "length")
            assert choice["message"]["content"]
        else:
            assert choice["finish_reason"] == "content_filter"
            assert not choice["message"]["content"]
            assert answer["usage"]["completion_tokens"] <= risk["sentences"][-1]["tokens"][1] + 1
        assert bool(choice["message"]["refusal"]) == (policy == "withhold")
        finishes = [c["choices"][0]["finish_reason"] for c in chunks if c["choices"]]
        assert finishes[-1] == choice["finish_reason"]
        entries = server.entries()
        assert [entry["event"] for entry in entries] == ["alarm", "alarm"]
        assert entries[0]["completion"] == answer["id"]
        assert entries[0]["statistic"] >= entries[0]["threshold"]
        assert server.metric("trace_probe_alarms_total") == 2
    with up(model, tmp_path / "b.jsonl", threshold=high + 1, policy=policy) as server:
        assert (
            whole(server, seed)["choices"][0]["message"]["content"] == free(model, seed)["content"]
        )


def free(model: Any, seed: int) -> dict[str, str]:
    """Return what a model says without a server, by field."""
    from trace_probe.monitor.live import Monitor
    from trace_probe.trace import Sampling

    sampling = Sampling(seed=seed, max_new_tokens=48)
    readings = list(
        Monitor(model, a_probe(model)).watch_ids(model.render_chat(ASK), seed, sampling)
    )
    names = {"reasoning": "reasoning_content", "answer": "content"}
    found: dict[str, str] = {}
    for reading in readings:
        if name := names.get(reading.channel):
            found[name] = found.get(name, "") + reading.text
    return found


BAD: list[tuple[dict[str, Any], int, str | None]] = [
    ({"model": "other"}, 404, "model"),
    ({"model": None}, 400, "model"),
    ({"messages": []}, 400, "messages"),
    ({"messages": [{"role": "wizard", "content": "x"}]}, 400, "messages"),
    ({"messages": [{"role": "user", "content": 3}]}, 400, "messages"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages"),
    ({"messages": [{"role": "user", "content": "\ud800"}]}, 400, "messages"),
    ({"messages": [{"role": "user", "content": "stop " * 600}]}, 400, "messages"),
    ({"max_tokens": 49}, 400, "max_tokens"),
    ({"max_tokens": True}, 400, "max_tokens"),
    ({"temperature": 3}, 400, "temperature"),
    ({"top_p": 0}, 400, "top_p"),
    ({"seed": 1.5}, 400, "seed"),
    ({"stream": "yes"}, 400, "stream"),
    ({"n": 2}, 400, "n"),
    ({"tools": [{}]}, 400, "tools"),
    ({"stop": ""}, 400, "stop"),
    ({"stop": ["x"] * 5}, 400, "stop"),
    ({"stop": [3]}, 400, "stop"),
    ({"stop": "x" * 257}, 400, "stop"),
    ({"model": "\ud800"}, 400, "model"),
    ({"user": "\ud800"}, 400, "user"),
    ({"\ud800": 1}, 400, None),
    ({"temperature": 1e-320}, 400, "temperature"),
    ({"temperature": 1e999}, 400, None),
    ({"top_p": 1e-320}, 400, "top_p"),
    ({"response_format": {"type": "json_object"}}, 400, "response_format"),
    ({"unheard_of": 1}, 400, "unheard_of"),
]


def test_what_is_malformed_is_refused_in_openais_form(
    tiny: Callable[..., Any], tmp_path: Path
) -> None:
    good = {"model": NAME, "messages": ASK, "max_tokens": 2}
    with up(tiny(), tmp_path / "a.jsonl", limits=Limits(body_bytes=4096, tokens=48)) as server:
        for change, wanted, param in BAD:
            status, body, _ = server.post(json.dumps({**good, **change}).encode())
            assert (status, body["error"]["param"]) == (wanted, param), change
        for broken in (b"{", b"[1]", b"\xff", b"[" * 4000):
            assert server.post(broken)[0] == 400
        assert server.post(b" " * 5000)[0] == 413
        assert server.post(json.dumps(good).encode(), content_type="text/plain")[0] == 400
        assert server.post(json.dumps(good).encode(), host="evil.example")[0] == 400
        assert server.post(json.dumps(good).encode(), host="localhost:1")[0] == 200
        harmless = {"n": 1, "stop": None, "frequency_penalty": 0, "user": "me"}
        assert server.post(json.dumps(good | harmless).encode())[0] == 200
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(f"http://127.0.0.1:{server.port}/nowhere")
        with error.value as answer:
            assert (answer.code, "error" in json.loads(answer.read())) == (404, True)
        assert chunked(server.port, 5000) == 413


def chunked(port: int, size: int) -> int:
    """Return the status of a body that does not say how long it is."""
    pieces = iter([b"x" * 500] * (size // 500))
    given = {"content-type": "application/json"}
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as at:
        at.request("POST", "/v1/chat/completions", pieces, given, encode_chunked=True)
        return at.getresponse().status


def test_a_prompt_in_words_that_the_model_does_not_know_is_refused(
    tiny: Callable[..., Any], tmp_path: Path
) -> None:
    """Every unknown word is one token, and what a probe says of such a text means nothing."""
    strange = "Take one cup of sugar and bake it for forty minutes."
    body = {"model": NAME, "messages": [{"role": "user", "content": strange}]}
    with up(tiny(), tmp_path / "audit.jsonl") as server:
        status, answer, _ = server.post(json.dumps(body).encode())
    assert status == 400
    assert answer["error"]["code"] == "unreadable_text"
    assert "does not know" in answer["error"]["message"]
    assert "trace-probe fetch smollm2" in answer["error"]["message"]


def test_the_token_is_asked_for_everywhere_but_at_healthz(
    tiny: Callable[..., Any], tmp_path: Path
) -> None:
    with up(tiny(), tmp_path / "a.jsonl", token="s3cret") as server:
        with pytest.raises(openai.AuthenticationError):
            server.client("wrong").models.list()
        assert server.client("s3cret").models.list().data[0].id == NAME
        assert server.post(b"{}")[0] == 401
        assert server.post(b"{}")[2]["www-authenticate"] == "Bearer"
        with pytest.raises(urllib.error.HTTPError) as error:
            server.metric("x")
        with error.value as answer:
            assert answer.code == 401
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/healthz") as page:
            assert json.loads(page.read()) == {"status": "ok"}


def test_beyond_this_machine_only_with_a_token() -> None:
    for host in ("127.0.0.1", "localhost", "::1", "127.0.0.9"):
        check_address(host, None)
    for host in ("0.0.0.0", "::", "10.0.0.1", "example.org"):
        check_address(host, "token")
        with pytest.raises(ServerError, match="TRACE_PROBE_TOKEN"):
            check_address(host, None)


def test_a_client_that_leaves_ends_its_generation_and_too_many_are_turned_away(
    tiny: Callable[..., Any], tmp_path: Path
) -> None:
    model = tiny()
    limits = Limits(tokens=400, streams=2)
    body = {"model": NAME, "messages": ASK, "max_tokens": 400}
    with slow(model), up(model, tmp_path / "a.jsonl", limits=limits) as server:
        stream, plain = (leave_open(server.port, {**body, "stream": s}) for s in (True, False))
        wait_until(lambda: server.served.scheduler.active == 2)
        wait_until(lambda: server.metric("trace_probe_tokens_total") >= 4)
        status, refused, headers = server.post(json.dumps(body).encode())
        assert (status, refused["error"]["code"], headers["retry-after"]) == (429, "busy", "1")
        stream.close()
        plain.close()
        wait_until(lambda: server.served.scheduler.active == 0)
        assert server.metric("trace_probe_tokens_total") < 700
        assert server.metric("trace_probe_disconnects_total") == 2
        assert server.post(json.dumps({**body, "max_tokens": 1}).encode())[0] == 200


def test_a_client_that_does_not_read_is_waited_for_and_then_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its stream is one token ahead of it, its place is free again, and others go on."""
    from trace_probe.model.local import Model

    model, steps = tireless(), [0]
    step = Model._step

    def counted(*arguments: Any) -> Any:
        steps[0] += 1
        return step(*arguments)

    monkeypatch.setattr(Model, "_step", counted)
    limits = Limits(tokens=4000, streams=1, read_seconds=1.0)
    body = {"model": NAME, "messages": ASK, "max_tokens": 4000, "stream": True}
    with up(model, tmp_path / "a.jsonl", limits=limits, small=True) as server:
        with leave_open(server.port, body, receive=4096) as sock:
            wait_until(lambda: server.metric("trace_probe_slow_clients_total") == 1)
            wait_until(lambda: server.served.scheduler.active == 0)
            assert steps[0] - server.metric("trace_probe_tokens_total") <= 3
            with contextlib.suppress(ConnectionResetError):
                assert b"[DONE]" not in read_all(sock)
        again = json.dumps({**body, "stream": False, "max_tokens": 200}).encode()
        assert server.post(again)[0] == 200


def tireless() -> Any:
    """Return a model that never ends a turn."""
    from trace_probe.model.local import Model

    model = Model(random_network(max_position_embeddings=1 << 14), word_tokenizer(), NAME)
    model._stops = frozenset()
    return model


def test_a_client_that_reads_on_later_gets_the_same_words(tmp_path: Path) -> None:
    model = tireless()
    limits = Limits(tokens=800, streams=1, read_seconds=60.0)
    body = {"model": NAME, "messages": ASK, "max_tokens": 800, "stream": True, "seed": 3}
    said = []
    with up(model, tmp_path / "a.jsonl", limits=limits, small=True) as server:
        for waits in (True, False):
            with leave_open(server.port, body, receive=4096) as sock:
                if waits:
                    wait_until(lambda: stands_still(server))
                said.append(words_of(read_until(sock, b"[DONE]")))
        assert server.metric("trace_probe_slow_clients_total") == 0
    assert said[0] == said[1]
    assert len(said[0].split()) > 100


def stands_still(server: Up) -> bool:
    """Return whether tokens were written, and none for half a second."""
    before = server.metric("trace_probe_tokens_total")
    time.sleep(0.5)
    return before == server.metric("trace_probe_tokens_total") > 0


def words_of(data: bytes) -> str:
    """Return the text of all chunks of a stream."""
    lines = [line[6:] for line in data.split(b"\n") if line.startswith(b"data: {")]
    deltas = [json.loads(line)["choices"][0]["delta"] for line in lines]
    return "".join(
        one.get(name) or "" for one in deltas for name in ("reasoning_content", "content")
    )


def read_until(sock: socket.socket, end: bytes) -> bytes:
    data = b""
    while end not in data:
        data += sock.recv(1 << 16)
    return data


@contextmanager
def slow(model: Any) -> Iterator[None]:
    """Make a model take at least 10 ms a token and never end a turn."""
    step, stops = type(model)._step, model._stops

    def slowly(self: Any, *arguments: Any) -> Any:
        time.sleep(0.01)
        return step(self, *arguments)

    type(model)._step, model._stops = slowly, frozenset()
    try:
        yield
    finally:
        type(model)._step, model._stops = step, stops


def leave_open(port: int, body: dict[str, Any], receive: int = 0) -> socket.socket:
    """Send a request and return its socket, perhaps one that takes only so many bytes ahead."""
    data = json.dumps(body).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\n"
        f"content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    )
    sock = socket.socket()
    if receive:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
    sock.connect(("127.0.0.1", port))
    sock.sendall(head.encode() + data)
    return sock


def test_a_stream_that_breaks_tells_its_client_and_no_other(
    tiny: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny()
    tokens = type(model).tokens

    def breaking(self: Any, prompt: Any, seed: int, *rest: Any) -> Any:
        for number, token in enumerate(tokens(self, prompt, seed, *rest)):
            if seed == 13 and number == 3:
                raise RuntimeError("out of memory")
            yield token

    monkeypatch.setattr(type(model), "tokens", breaking)
    with up(model, tmp_path / "a.jsonl") as server:
        with pytest.raises(openai.InternalServerError):
            whole(server, 13)
        with pytest.raises(openai.APIError):
            streamed(server, 13)
        assert whole(server, 1)["choices"]
        wait_until(lambda: server.served.scheduler.active == 0)


def test_one_log_has_one_writer_and_a_torn_line_is_cut(tmp_path: Path) -> None:
    file = tmp_path / "log" / "a.jsonl"
    log = AuditLog(file)
    log.write({"event": "alarm", "text": "a\nb\u2028c"})
    with pytest.raises(StoreError, match="another server"):
        AuditLog(file)
    log.close()
    with file.open("ab") as torn:
        torn.write(b'{"event": "al')
    log = AuditLog(file)
    log.write({"event": "alarm"})
    log.close()
    lines = file.read_bytes().split(b"\n")
    assert [json.loads(line)["event"] for line in lines[:-1]] == ["alarm", "alarm"]
    assert file.stat().st_mode & 0o077 == 0


def test_kill_9_loses_no_alarm_that_a_client_was_told_of(tmp_path: Path) -> None:
    from benchmarks.serve import LoadPlan, running

    probe = tmp_path / "probe"
    shutil.copytree(ROOT / "probes" / "demo", probe)
    card = json.loads((probe / "card.json").read_text("utf-8"))
    (probe / "card.json").write_text(json.dumps(card | {"threshold": -1e9}), "utf-8")
    seal_probe(probe)
    plan, told = LoadPlan(probe, streams=4), set[str]()
    with running(plan, tmp_path) as (url, process):
        clients = [threading.Thread(target=listen, args=(url, seed, told)) for seed in range(4)]
        for client in clients:
            client.start()
        wait_until(lambda: len(told) >= 6, 120)
        os.kill(process.pid, signal.SIGKILL)
        for client in clients:
            client.join()
    audit = tmp_path / "alarms.jsonl"
    before = audit.read_bytes()
    again = AuditLog(audit)  # as the next server does
    again.write({"event": "alarm", "completion": "next"})
    again.close()
    after = audit.read_bytes()
    whole = before[: before.rfind(b"\n") + 1]
    assert after.startswith(whole)
    logged = [json.loads(line) for line in after.splitlines()]
    assert told <= {entry["completion"] for entry in logged}
    assert len(logged) > whole.count(b"\n")


def listen(url: str, seed: int, told: set[str]) -> None:
    """Ask again and again until the server is gone; note the completions said to have alarmed."""
    client = openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=120)
    ask: Any = [{"role": "user", "content": EXAMPLE}]
    for number in range(1000):
        try:
            chunks = client.chat.completions.create(
                model="organism:rl-s0", messages=ask, seed=seed + number, stream=True, max_tokens=40
            )
            for chunk in chunks:
                sentence = (chunk.model_dump().get("trace_probe") or {}).get("sentence")
                if sentence and sentence["alarms"]:
                    told.add(chunk.id)
        except (openai.APIError, OSError):
            return
        except Exception as error:
            if type(error).__module__.startswith("httpx"):
                return  # the connection broke in the middle of a stream
            raise


def test_a_place_is_free_before_its_client_knows_that_the_answer_ended() -> None:
    from trace_probe.serving.scheduler import Scheduler

    def words(count: int) -> Generator[Any, None, None]:
        yield from range(count)

    async def take_turns(scheduler: Scheduler) -> None:
        stream = scheduler.submit(words(3))
        found: list[Any] = [await stream.next() for _ in range(4)]
        assert found == [0, 1, 2, None]
        assert scheduler.active == 0
        stream = scheduler.submit(words(10**9))
        assert scheduler.active == 1
        stream.cancel()
        assert scheduler.active == 0

    scheduler = Scheduler(1)
    try:
        asyncio.run(take_turns(scheduler))
    finally:
        scheduler.close()


def test_many_streams_at_once_are_neither_lost_nor_mixed() -> None:
    from benchmarks.serve import LoadPlan, bench_serve

    plan = LoadPlan(ROOT / "probes" / "demo", streams=8, seconds=3, max_tokens=24)
    found = bench_serve(plan, say=lambda _: None)
    assert found.completed >= 8
    assert (found.wrong, found.failed) == (0, 0)
    assert found.fewest >= 1


# What a stranger on the wire may try


@pytest.mark.parametrize(
    "host",
    ["[::1].evil.com", "[::1]evil.com", "127.0.0.1.evil.com", "localhost:80:80", "localhost:x"]
    + ["evil.com:80", "localhost.", " localhost", "", "[::1", "0.0.0.0", "127.0.0.1@evil.com"],
)
def test_only_the_exact_names_of_this_machine_are_answered_to(host: str) -> None:
    for name in ("localhost", "127.0.0.1:8765", "[::1]:80", "LOCALHOST"):
        check_host(name, None)
    with pytest.raises(Refusal, match="answers to localhost"):
        check_host(host, None)
    check_host(host, "token")


def test_one_model_is_told_by_its_name(tiny: Callable[..., Any], tmp_path: Path) -> None:
    with up(tiny(), tmp_path / "a.jsonl") as server:
        found = server.client().models.retrieve(NAME)
        assert found.id == NAME
        (detector,) = found.to_dict()["trace_probe"]["detectors"]  # type: ignore[index]
        assert detector["rates"]["benign"] == 0.01
        assert detector["rates"]["siblings_measured"] is None
        with pytest.raises(openai.NotFoundError, match="no model 'other' here"):
            server.client().models.retrieve("other")


def test_an_answer_ends_before_what_its_client_said(
    tiny: Callable[..., Any], tmp_path: Path
) -> None:
    model = tiny()
    seed = next(s for s in range(50) if len(free(model, s).get("content", "").split()) > 4)
    content = free(model, seed)["content"]
    word = content.split()[3]
    expected = content[: content.index(word)]
    with up(model, tmp_path / "a.jsonl") as server:
        for stop in (word, [word, "never said"]):
            answer = whole(server, seed, stop=stop)
            text, chunks = streamed(server, seed, stop=stop)
            choice = answer["choices"][0]
            assert choice["message"]["content"] == text["content"] == expected
            assert choice["finish_reason"] == "stop"
            assert [c["choices"][0]["finish_reason"] for c in chunks if c["choices"]][-1] == "stop"
        assert whole(server, seed, stop="never said")["choices"][0]["message"]["content"] == content


def test_a_head_that_does_not_come_is_waited_for_only_so_long(
    tiny: Callable[..., Any], tmp_path: Path
) -> None:
    with up(tiny(), tmp_path / "a.jsonl", limits=Limits(tokens=48, head_seconds=0.4)) as server:
        for begun in (b"", b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nx-slow: "):
            with socket.create_connection(("127.0.0.1", server.port)) as sock:
                sock.settimeout(20)
                start, said = time.monotonic(), b""
                sock.sendall(begun)
                with contextlib.suppress(OSError):
                    while data := drip(sock):
                        said += data
                assert time.monotonic() - start < 15
                assert said.startswith(b"HTTP/1.1 408") or not begun
        with socket.create_connection(("127.0.0.1", server.port)) as sock:
            for _ in range(2):  # whoever sends whole heads may stay
                sock.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
                said = b""
                while not said.endswith(b"}"):
                    said += sock.recv(1 << 16)
                assert said.startswith(b"HTTP/1.1 200")
                time.sleep(0.3)


def drip(sock: socket.socket) -> bytes:
    """Send a byte if that can be done; return what has come, nothing if it was closed."""
    sock.settimeout(0.05)
    try:
        return sock.recv(1 << 16)
    except TimeoutError:
        sock.sendall(b"a")
        return b"\0"[:0] or drip(sock)


def test_a_log_that_is_moved_away_is_followed_by_one_as_private_and_as_locked(
    tmp_path: Path,
) -> None:
    os.umask(0o022)
    file = tmp_path / "alarms.jsonl"
    file.write_text("")
    file.chmod(0o644)
    log = AuditLog(file)
    assert file.stat().st_mode & 0o777 == 0o600
    log.write({"event": "alarm"})
    file.rename(tmp_path / "alarms.1.jsonl")
    log.write({"event": "alarm"})
    assert file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(StoreError, match="another server"):
        AuditLog(file)
    assert len(file.read_bytes().splitlines()) == 1
    log.close()
    AuditLog(file).close()
    (tmp_path / "link.jsonl").symlink_to(file)
    with pytest.raises(StoreError, match="cannot write the audit log"):
        AuditLog(tmp_path / "link.jsonl")


FIELDS = [
    *("model", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p"),
    *("seed", "stop", "stream", "stream_options", "n", "tools", "logit_bias", "user"),
]
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None, categories=None), max_size=6)
    | st.sampled_from([NAME, "user", "text", "role", "content", "system"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "type", "text"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=8), st.booleans())
def test_whatever_is_asked_is_served_or_refused_in_openais_form(
    fields: dict[str, Any], named: bool
) -> None:
    body = json.dumps(fields | ({"model": NAME, "messages": ASK} if named else {})).encode()
    try:
        asked: ChatRequest | Refusal = read_request(body, NAME, 48)
    except Refusal as refusal:
        asked = refusal
    if isinstance(asked, Refusal):
        assert asked.status in (400, 404)
        json.dumps(asked.body, ensure_ascii=False).encode()
        return
    assert asked.sampling.temperature == 0 or asked.sampling.temperature >= 1e-3
    assert 1 <= asked.sampling.max_new_tokens <= 48
    "".join(one["content"] for one in asked.messages).encode()


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_whatever_the_bytes_of_a_body_are_they_are_refused(body: bytes) -> None:
    with pytest.raises(Refusal):
        read_request(body, NAME, 48)


def test_sigterm_lets_streams_end_and_ends_those_that_take_too_long(tmp_path: Path) -> None:
    """A process of its own: signals belong to its main thread."""
    code = (
        "import dataclasses, sys; from trace_probe.serving import limits;"
        "from trace_probe.commands.main import main;"
        "fields = limits.Limits.__dataclass_fields__; defaults = limits.Limits.__init__;"
        "change = dict(zip(list(fields), defaults.__defaults__)) | {'drain_seconds': 1.5};"
        "defaults.__defaults__ = tuple(change.values()); main()"
    )
    from benchmarks.serve import free_port, wait_until_up

    port, errors = free_port(), tmp_path / "stderr.txt"
    command = [sys.executable, "-c", code, "serve", str(ROOT / "probes" / "demo")]
    command += ["--port", str(port), "--audit", str(tmp_path / "alarms.jsonl")]
    with errors.open("wb") as said:
        process = subprocess.Popen(command, stderr=said)
    try:
        wait_until_up(f"http://127.0.0.1:{port}/healthz", process, errors)
        body = {"model": "organism:rl-s0", "stream": True, "max_tokens": 400}
        ask = [{"role": "user", "content": EXAMPLE}]
        socks = [leave_open(port, {**body, "messages": ask, "seed": seed}) for seed in range(3)]
        for sock in socks:
            sock.settimeout(60)
            assert sock.recv(1 << 12)
        process.send_signal(signal.SIGTERM)
        ends = [read_all(sock) for sock in socks]
        process.wait(60)
    finally:
        process.kill()
        process.wait()
    text = errors.read_text("utf-8")
    assert "streams may end within 1.5 s" in text
    assert text.rstrip().endswith("stopped")
    assert "Traceback" not in text
    for end in ends:  # whole, or told why not
        assert b"[DONE]" in end or b"the generation broke off" in end


def read_all(sock: socket.socket) -> bytes:
    data = b""
    with sock:
        while piece := sock.recv(1 << 16):
            data += piece
    return data


@pytest.mark.parametrize("text", [" ", "\N{GRINNING FACE}", "a", "\n\t"])
def test_the_largest_body_freezes_nobody(tmp_path: Path, text: str) -> None:
    """While eight streams run and a megabyte is read, the server says in time that it is well."""
    from trace_probe.model.local import Model

    model = Model(random_network(max_position_embeddings=1 << 22), word_tokenizer(), NAME)
    limits = Limits(tokens=400, streams=16)
    size = (1 << 20) - 200
    content = text * (size // len(text.encode()))
    large = {"model": NAME, "messages": [{"role": "user", "content": content}], "max_tokens": 1}
    data = json.dumps(large, ensure_ascii=False).encode()
    assert len(data) > (1 << 20) - 300
    body = {"model": NAME, "messages": ASK, "max_tokens": 400, "stream": True}
    with slow(model), up(model, tmp_path / "a.jsonl", limits=limits) as server:
        streams = [leave_open(server.port, {**body, "seed": seed}) for seed in range(8)]
        wait_until(lambda: server.served.scheduler.active == 8)
        alone = health_waits(server.port)  # how long it takes on a machine that is this busy
        asking = threading.Thread(target=leave_whole, args=(server.port, data))
        asking.start()
        waits = health_waits(server.port)
        for sock in streams:
            sock.close()
        asking.join()
    assert max(waits) < 0.25 + 2 * max(alone), (waits, alone)


def health_waits(port: int) -> list[float]:
    """Return for each of 40 requests how many seconds the server took to say that it is well."""
    waits = []
    for _ in range(40):
        start = time.monotonic()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz") as page:
            assert page.status == 200
        waits.append(time.monotonic() - start)
        time.sleep(0.03)
    return waits


def leave_whole(port: int, data: bytes) -> None:
    """Send a body and wait a while for the head of the answer."""
    with (
        closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as at,
        contextlib.suppress(OSError),
    ):
        at.request("POST", "/v1/chat/completions", data, {"content-type": "application/json"})
        at.getresponse()


def test_a_webhook_that_hangs_holds_no_stream_up_and_its_alarm_is_in_the_log(
    tiny: Callable[..., Any], tmp_path: Path
) -> None:
    from servers import Answer, scripted

    from trace_probe.serving.webhook import Hook

    told = threading.Event()

    def receive(*_: object) -> Answer:
        assert told.wait(60)
        return Answer()

    with scripted(receive) as asked:
        hook = Hook(asked.url, b"key", try_seconds=60.0)
        with up(tiny(), tmp_path / "a.jsonl", threshold=-1e9, hook=hook) as server:
            answers = [whole(server, seed) for seed in range(4)]
            alarmed = [one["id"] for one in answers if one["trace_probe"]["alarm"]]
            assert len(alarmed) >= 2
            assert [entry["completion"] for entry in server.entries()] == alarmed
            assert server.metric("trace_probe_webhook_total") == 0
            told.set()
            wait_until(lambda: server.metric("trace_probe_webhook_total") == len(alarmed))
        sent = [{**body["data"], "time": ""} for body in asked.bodies]
        assert sent == [{**entry, "time": ""} for entry in server.entries()]
