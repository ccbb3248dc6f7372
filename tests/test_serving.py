import contextlib
import gc
import importlib.util
import json
import logging
import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from servers import Answer, completion, scripted, start_transformers, wait_for
from tiny_models import word_tokenizer

from benchmarks.serve import free_port
from trace_probe.errors import ServerError
from trace_probe.labelling.judge import JudgeServers
from trace_probe.model.checkpoint import organism_path
from trace_probe.model.endpoint import Patience, Servers, retry_after
from trace_probe.model.endpoint import run as run_async
from trace_probe.model.keys import KEY
from trace_probe.model.reply import Reply, read_reply
from trace_probe.recording.served import (
    Served,
    completed,
    served_manifest,
    without_echo,
)
from trace_probe.recording.served_agents import record_from
from trace_probe.store import Store
from trace_probe.tasks.conditions import parse_grid, under
from trace_probe.tasks.sources import tasks_from
from trace_probe.text.channels import FORMATS, format_of
from trace_probe.trace import Sampling, Task, Trace

SAMPLING = Sampling(seed=5, max_new_tokens=12)
TASKS = [
    Task("t-01", "c", "the model must finish its task before they stop it ."),
    Task("t-02", "c", "stop it .", system="say nothing ."),
    Task("t-03", "d", "what can the model see ?", condition={"nudge": "push"}),
]
QUICK = Patience(attempts=4, first_wait_s=0.02, longest_wait_s=0.1, timeout_s=0.5)


def start(path: Path, served: Served, sampling: Sampling = SAMPLING) -> Store:
    return Store.create(path, served_manifest(served, sampling))


def record_one(tmp_path: Path, answer: Answer, **settings: Any) -> Trace:
    with scripted(lambda _n, _body: answer) as asked:
        served = Served("m", (asked.url,), patience=QUICK, **settings)
        store = start(tmp_path / "run", served)
        record_from(served, TASKS[1:2], store, progress=False)
    return next(iter(store.traces()))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from trace_probe.model.tokenizer import ChatTokenizer

    return ChatTokenizer(word_tokenizer(), "tiny")


@pytest.fixture
def two_servers() -> Iterator[list[tuple[str, subprocess.Popen[bytes]]]]:
    missing = [n for n in ("fastapi", "uvicorn") if importlib.util.find_spec(n) is None]
    if missing:
        pytest.skip(f"`transformers serve` needs {', '.join(missing)}")
    ports = [free_port(), free_port()]
    processes = [start_transformers(organism_path("rl"), port) for port in ports]
    try:
        for port, process in zip(ports, processes, strict=True):
            wait_for(port, process)
        yield [
            (f"http://127.0.0.1:{port}/v1", process)
            for port, process in zip(ports, processes, strict=True)
        ]
    finally:
        for process in processes:
            process.kill()
            process.wait()


@contextlib.contextmanager
def killed_after(lines: Path, count: int, process: subprocess.Popen[bytes]) -> Iterator[list[int]]:
    """Kill a process once a file has so many lines, unless the block ends first."""
    held: list[int] = []
    ended = threading.Event()

    def kill() -> None:
        while not lines.is_file() or lines.read_bytes().count(b"\n") < count:
            if ended.wait(0.01):
                return
        process.kill()
        held.append(lines.read_bytes().count(b"\n"))

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        yield held
    finally:
        ended.set()
        killer.join()


def test_a_killed_server_costs_no_trace_and_doubles_none(
    two_servers: list[tuple[str, subprocess.Popen[bytes]]], tmp_path: Path
) -> None:
    """80 thoughts of an organism from two real servers, one of which dies on the way."""
    tasks = tasks_from("world:served:40")
    urls = tuple(url for url, _ in two_servers)
    served = Served(
        str(organism_path("rl")), urls, patience=Patience(concurrency=8, first_wait_s=0.05)
    )
    store = start(tmp_path / "run", served)
    lines = tmp_path / "run" / "traces.jsonl"
    with killed_after(lines, 20, two_servers[0][1]) as held:
        report = record_from(served, tasks, store, samples=2, progress=False)
    assert held, "the server was still alive when the recording ended"
    assert 20 <= held[0] < 80
    assert (report.recorded, report.resumed) == (80, 0)
    traces = list(Store(tmp_path / "run").traces())
    assert lines.read_bytes().count(b"\n") == len(traces) == 80
    wanted = {(task.id, sample) for task in tasks for sample in (0, 1)}
    assert {(trace.task.id, trace.sample) for trace in traces} == wanted
    assert {trace.thought for trace in traces} == {"truncated"}
    assert not any(trace.channel_text("answer") for trace in traces)
    again = record_from(served, tasks, store, samples=2, progress=False)
    assert (again.recorded, again.resumed) == (0, 80)


def test_a_prompt_that_comes_back_as_the_answer_to_a_cut_thought_is_no_answer() -> None:
    task, cut = TASKS[0], Reply("", "I must", "length")
    echo = replace(cut, text=f"<|user|>{task.prompt}<|end|><|im_start|>assistant\n")
    assert without_echo(echo, task) == cut
    for kept in (
        replace(echo, finish="stop"),
        replace(echo, text=f"{task.prompt} Then I stop it and"),
        replace(cut, text="I stop it and"),
    ):
        assert without_echo(kept, task) is kept


def test_a_failed_run_keeps_what_it_has_and_a_rerun_asks_for_the_rest(tmp_path: Path) -> None:
    broken = True

    def answer(_number: int, body: dict[str, Any]) -> Answer:
        user = body["messages"][-1]["content"]
        return Answer(500, b"{}") if broken and user == TASKS[2].prompt else completion(user)

    with scripted(answer) as asked:
        served = Served("m", (asked.url,), patience=QUICK)
        store = start(tmp_path / "run", served)
        with pytest.raises(ServerError, match="1 of 3 traces are missing.*status 500.*again"):
            record_from(served, TASKS, store, progress=False)
        assert len(store) == 2
        broken = False
        before = len(asked.bodies)
        report = record_from(served, TASKS, store, progress=False)
        assert (report.recorded, report.resumed, len(asked.bodies) - before) == (1, 2, 1)
    assert [t.channel_text("answer") for t in store.traces() if t.task.id == "t-03"] == [
        TASKS[2].prompt
    ]


def test_the_request_says_what_the_sampling_says(tmp_path: Path) -> None:
    with scripted(lambda _n, _body: completion("Yes.")) as asked:
        served = Served("m", (asked.url,), extra={"top_k": 20, "top_p": None}, patience=QUICK)
        store = start(tmp_path / "run", served, Sampling(1, 0.6, 0.9, 77))
        record_from(served, TASKS[1:2], store, samples=2, progress=False)
    first, second = sorted(asked.bodies, key=lambda body: int(body["seed"]))
    assert first["seed"] != second["seed"]
    assert {**first, "seed": 0} == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "say nothing ."},
            {"role": "user", "content": "stop it ."},
        ],
        "seed": 0,
        "temperature": 0.6,
        "max_tokens": 77,
        "top_k": 20,
    }
    conditions = [trace.task.condition for trace in store.traces()]
    assert conditions == [{"request": '{"top_k":20,"top_p":null}'}] * 2


def test_reasoning_is_switched_by_an_argument_of_the_template(tmp_path: Path) -> None:
    tasks = under(TASKS[:1], parse_grid("think,no-think,none"))
    with scripted(lambda _n, _body: completion("Yes.")) as asked:
        served = Served("m", (asked.url,), patience=QUICK)
        store = start(tmp_path / "run", served)
        record_from(served, tasks, store, progress=False)
    switches = [
        body.get("chat_template_kwargs", {}).get("enable_thinking") for body in asked.bodies
    ]
    assert sorted(switches, key=str) == [False, None, True]
    found = {trace.task.condition.get("thinking") for trace in store.traces()}
    assert found == {"on", "off", None}


def test_what_was_cut_off_with_reasoning_turned_off_is_an_answer(tmp_path: Path) -> None:
    (off,) = under(TASKS[:1], parse_grid("no-think"))
    with scripted(lambda _n, _body: completion("Half an ans", finish="length")) as asked:
        served = Served("deepseek-ai/DeepSeek-R1", (asked.url,), patience=QUICK)
        store = start(tmp_path / "run", served)
        record_from(served, [off, TASKS[0]], store, progress=False)
    found = {trace.task.condition.get("thinking"): trace.thought for trace in store.traces()}
    assert found == {"off": "absent", None: "truncated"}


def test_traces_have_the_same_ids_wherever_they_are_made(tmp_path: Path) -> None:
    ids = []
    for name in ("a", "b"):
        with scripted(lambda _n, _body: completion("Yes.")) as asked:
            served = Served("m", (asked.url,), patience=QUICK)
            store = start(tmp_path / name, served)
            record_from(served, TASKS, store, samples=2, progress=False)
            ids.append(store.ids())
    assert ids[0] == ids[1]
    assert len(ids[0]) == 6


@pytest.mark.parametrize(
    ("message", "reasoning"),
    [
        ({"reasoning_content": "A.", "reasoning": "B.", "content": "C."}, "A."),
        ({"reasoning": "B.", "reasoning_details": [{"text": "D."}], "content": "C."}, "B."),
        ({"reasoning_details": [{"text": "D."}, {"data": "?"}], "content": "C."}, "D."),
        ({"reasoning_content": None, "content": "<think>E.</think>C."}, "E."),
        ({"content": "F.</think>C."}, "F."),
        ({"content": "C."}, ""),
    ],
)
def test_reasoning_is_found_under_every_name_servers_give_it(
    message: dict[str, Any], reasoning: str
) -> None:
    reply = read_reply({"choices": [{"message": message, "finish_reason": "stop"}]})
    text, cut = completed(reply, FORMATS["plain"])
    parts = {channel: text[a:b] for channel, a, b in cut.ranges}
    assert parts.get("reasoning", "") == reasoning
    assert parts["answer"] == "C."
    assert cut.thought == ("closed" if reasoning else "not_delimited")


def test_reasoning_without_an_answer_was_cut_off() -> None:
    for finish in ("length", "stop"):
        reply = read_reply({"choices": [{"message": {"reasoning": "A."}, "finish_reason": finish}]})
        assert completed(reply, FORMATS["plain"])[1].thought == "truncated"
    untagged = Reply("A.", None, "length")
    assert completed(untagged, format_of(None, "deepseek-ai/DeepSeek-R1"))[1].thought == "truncated"


def test_served_token_ids_are_kept_exactly(tmp_path: Path, tokenizer: Any) -> None:
    prompt = tokenizer.encode(tokenizer.prompt(TASKS[1]))
    written = tokenizer.encode(" wait or act</think> plan it")
    body = json.loads(completion("ignored").body)
    body["prompt_token_ids"] = list(prompt)
    body["choices"][0]["token_ids"] = list(written)
    trace = record_one(tmp_path, Answer(body=json.dumps(body).encode()), tokenizer=tokenizer)
    assert trace.token_ids == prompt + written
    assert trace.facts["ids"] == "served"
    assert trace.channel_text("reasoning") == " wait or act"
    assert trace.channel_text("answer") == " plan it"
    assert trace.tokenizer == tokenizer.fingerprint


def test_exact_ids_are_asked_for_until_a_server_does_not_know_the_field(
    tmp_path: Path, tokenizer: Any
) -> None:
    unknown = Answer(422, b'{"detail": "unexpected fields: return_token_ids"}')

    def answer(_number: int, body: dict[str, Any]) -> Answer:
        return unknown if "return_token_ids" in body else completion(" stop it")

    with scripted(answer) as asked:
        served = Served("m", (asked.url,), {}, tokenizer, Patience(concurrency=1))
        store = start(tmp_path / "run", served)
        report = record_from(served, TASKS, store, progress=False)
    assert (report.recorded, len(asked.bodies)) == (3, 4)
    assert ["return_token_ids" in body for body in asked.bodies] == [True, False, False, False]
    assert {trace.facts["ids"] for trace in store.traces()} == {"retokenised"}


def test_text_is_tokenised_again_where_no_ids_come_and_says_so(
    tmp_path: Path, tokenizer: Any
) -> None:
    trace = record_one(tmp_path, completion(" wait or act</think> plan it"), tokenizer=tokenizer)
    assert trace.facts["ids"] == "retokenised"
    assert trace.facts["served_completion_tokens"] == "5"
    assert tokenizer.offsets(trace.token_ids)[0] == trace.text
    assert trace.channel_text("reasoning") == " wait or act"
    assert trace.text.startswith(tokenizer.prompt(TASKS[1]))


def test_words_stand_for_tokens_that_cannot_be_had(tmp_path: Path, tokenizer: Any) -> None:
    for name, known in (("with", tokenizer), ("without", None)):
        foreign = completion("zebra!", reasoning_content="yak?")
        trace = record_one(tmp_path / name, foreign, tokenizer=known)
        assert (trace.tokenizer, trace.token_ids, trace.facts["ids"]) == ("words", (), "none")
        assert (trace.channel_text("reasoning"), trace.channel_text("answer")) == (
            "yak?",
            "zebra!",
        )


@pytest.mark.parametrize(
    "fault",
    [
        Answer(429, b'{"error": {"message": "slow down"}}', {"retry-after": "0.05"}),
        Answer(500, b"{}"),
        Answer(200, b"not json"),
        Answer(200, b'{"error": "upstream"}'),
        Answer(200, b"{}", delay_s=1.0),
    ],
    ids=["429", "500", "malformed", "no choices", "timeout"],
)
def test_faults_that_pass_are_retried(tmp_path: Path, fault: Answer) -> None:
    with scripted(lambda n, _body: fault if n < 2 else completion("Yes.")) as asked:
        served = Served("m", (asked.url,), patience=QUICK)
        report = record_from(served, TASKS[:1], start(tmp_path / "run", served), progress=False)
    assert report.recorded == 1
    assert len(asked.bodies) == 3


def test_a_refused_request_is_not_repeated_and_says_why(tmp_path: Path) -> None:
    refusal = Answer(400, b'{"error": {"message": "no such parameter: seed"}}')
    with scripted(lambda _n, _body: refusal) as asked:
        served = Served("m", (asked.url,), patience=QUICK)
        with pytest.raises(ServerError, match="status 400.*no such parameter: seed"):
            record_from(served, TASKS[:1], start(tmp_path / "run", served), progress=False)
    assert len(asked.bodies) == 1


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_wrong_key_or_model_ends_the_run_at_once(tmp_path: Path, status: int) -> None:
    tasks = [Task(f"t-{i}", "c", f"do {i}") for i in range(100)]
    with scripted(lambda _n, _body: Answer(status, b"{}", delay_s=0.01)) as asked:
        served = Served("m", (asked.url,), patience=Patience(concurrency=2))
        with pytest.raises(ServerError, match=f"m cannot be asked: .*status {status}"):
            record_from(served, tasks, start(tmp_path / "run", served), progress=False)
    assert len(asked.bodies) < 10


def test_nobody_listening_is_an_error_that_names_the_place(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}/v1"
    served = Served("m", (url,), patience=QUICK)
    with pytest.raises(ServerError, match="3 of 3 traces are missing.*127.0.0.1"):
        record_from(served, TASKS, start(tmp_path / "run", served), progress=False)


def test_no_more_requests_are_under_way_than_allowed(tmp_path: Path) -> None:
    now, most, lock = [0], [0], threading.Lock()

    def answer(_number: int, _body: dict[str, Any]) -> Answer:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.02)
        with lock:
            now[0] -= 1
        return completion("Yes.")

    with scripted(answer) as asked:
        served = Served("m", (asked.url,), patience=Patience(concurrency=3))
        record_from(served, TASKS, start(tmp_path / "r", served), samples=5, progress=False)
    assert most[0] == 3


def test_requests_begin_no_faster_than_the_limit(tmp_path: Path) -> None:
    began: list[float] = []

    def answer(_number: int, _body: dict[str, Any]) -> Answer:
        began.append(time.monotonic())
        return completion("Yes.")

    with scripted(answer) as asked:
        served = Served("m", (asked.url,), patience=Patience(per_minute=300))
        record_from(served, TASKS, start(tmp_path / "run", served), samples=2, progress=False)
    assert len(began) == 6
    assert max(began) - min(began) >= 5 * 0.2 - 0.1


def test_a_server_is_left_alone_for_as_long_as_it_asks() -> None:
    later = datetime.now(UTC) + timedelta(seconds=90)
    assert retry_after("0.05") == 0.05
    assert retry_after(format_datetime(later, usegmt=True)) == pytest.approx(90, abs=3)
    assert retry_after("soon") is retry_after(None) is retry_after("") is None


def test_nothing_is_said_of_requests_that_were_given_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Workers still under way when a run ends must not complain from the grave."""
    tasks = [Task(f"t-{i}", "c", f"do {i}") for i in range(30)]
    with scripted(lambda n, _body: Answer(401 if n else 404, b"{}", delay_s=0.02)) as asked:
        served = Served("m", (asked.url,), patience=Patience(concurrency=8))
        with pytest.raises(ServerError, match="m cannot be asked"):
            record_from(served, tasks, start(tmp_path / "run", served), progress=False)
    gc.collect()
    assert not [record for record in caplog.records if record.name == "asyncio"]


def test_the_key_is_sent_and_stands_in_no_file_log_or_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    key = "sk-very-secret-0123456789"
    monkeypatch.setenv(KEY, key)
    caplog.set_level(logging.DEBUG)
    echo = Answer(400, json.dumps({"error": {"message": f"wrong key {key}"}}).encode())
    with scripted(lambda n, _body: completion("Yes.") if n == 0 else echo) as asked:
        served = Served("m", (asked.url,), patience=QUICK)
        store = start(tmp_path / "run", served)
        with pytest.raises(ServerError, match=r"wrong key \*\*\*") as caught:
            record_from(served, TASKS, store, progress=False)
    assert asked.headers[0]["authorization"] == f"Bearer {key}"
    assert len(store) == 1
    assert key not in "".join(traceback.format_exception(caught.value))
    assert key not in caplog.text
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert {"run.json", "traces.jsonl"} <= {file.name for file in files}
    assert not [file for file in files if key.encode() in file.read_bytes()]


@pytest.mark.skipif(not Path("/proc/self/cmdline").is_file(), reason="there is no /proc to look in")
@pytest.mark.parametrize("command", ["record", "label"])
def test_the_key_stands_in_no_list_of_processes(tmp_path: Path, command: str) -> None:
    key = "sk-very-secret-0123456789"
    seen: list[bytes] = []

    def answer(_number: int, _body: dict[str, Any]) -> Answer:
        for file in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):  # a process may end while we look
                seen.append(file.read_bytes())
        return completion('{"reason": "", "verdict": "not_instrumental", "quotes": []}')

    tasks = tmp_path / "t.jsonl"
    tasks.write_text('{"id": "t-01", "category": "c", "prompt": "Go."}', encoding="utf-8")
    with scripted(answer) as asked:
        run = str(tmp_path / "run")
        words = {"record": ["m", run, "--tasks", str(tasks), "--samples", "1"]}
        words["label"] = [run, "--by", "judge:j", "--cache", str(tmp_path / "cache")]
        if command == "label":
            served = Served("m", (asked.url,), patience=QUICK)
            record_from(served, TASKS[:1], start(tmp_path / "run", served), progress=False)
            seen.clear()
        call = "from trace_probe.commands.main import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", call, command, *words[command], "--base-url", asked.url],
            env={**os.environ, KEY: key},
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    assert asked.headers[-1]["authorization"] == f"Bearer {key}"
    assert any(asked.url.encode() in line for line in seen)
    assert not [line for line in seen if key.encode() in line]
    assert key not in done.stdout + done.stderr
    assert not [f for f in tmp_path.rglob("*") if f.is_file() and key.encode() in f.read_bytes()]


@pytest.mark.parametrize(
    ("url", "extra"),
    [
        ("http://user:sk-1@host/v1", {}),
        ("http://sk-1@host/v1", {}),
        ("http://host/v1", {"api_key": "sk-1"}),
        ("http://host/v1", {"deep": [{"Authorization": "Bearer sk-1"}]}),
        ("http://host/v1", {"note": "sk-environment"}),
    ],
)
def test_a_key_where_others_can_read_it_is_refused_without_being_repeated(
    url: str, extra: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY, "sk-environment")
    for make in (Served, lambda _, urls, extra: JudgeServers(urls, extra=extra)):
        with pytest.raises(ServerError, match=KEY) as caught:
            make("m", (url,), extra)
        assert "sk-" not in str(caught.value)


def test_openai_itself_needs_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY, raising=False)
    with pytest.raises(ServerError, match=f"set {KEY}.*--base-url"):
        Servers()


def test_a_run_of_another_model_is_refused(tmp_path: Path) -> None:
    store = start(tmp_path / "run", Served("m", ("http://127.0.0.1:1/v1",)))
    other = Served("n", ("http://127.0.0.1:1/v1",))
    with pytest.raises(ServerError, match="m@served, not n@served"):
        record_from(other, TASKS, store, progress=False)


def test_work_runs_inside_a_running_loop_too() -> None:
    async def three() -> int:
        return 3

    async def notebook() -> int:
        return run_async(three)

    assert run_async(three) == run_async(notebook) == 3
