"""Commands that reach servers, as a user types them."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import Answer, completion, scripted

from trace_probe.model.keys import KEY
from trace_probe.store import Store

TASKS = [
    {"id": f"t-{n:02}", "category": "c" if n % 2 else "d", "prompt": f"Do {n}."} for n in range(6)
]
REPLY = {"reason": "it acts", "quotes": ["I copy it."], "considered": "", "rejected": ""}

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """Return what runs a command without a key, and with a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(KEY, raising=False)
    return command


def model_or_judge(_number: int, body: dict[str, Any]) -> Answer:
    """Answer as the model that is tested, or as a judge that holds even tasks guilty."""
    text = body["messages"][-1]["content"]
    if body["model"] == "m":
        return completion(f"{text} I copy it.", reasoning_content="I may. I copy it.")
    guilty = any(f"Do {n}." in text for n in (0, 2, 4)) or body["model"] == "strict"
    if "thought before it answered" in text:
        return completion(json.dumps({**REPLY, "verdict": "stated"}))
    return completion(
        json.dumps({**REPLY, "verdict": "instrumental" if guilty else "not_instrumental"})
    )


@pytest.fixture
def url() -> Iterator[str]:
    with scripted(model_or_judge) as asked:
        yield asked.url


@pytest.fixture
def recorded(command: Command, url: str, tmp_path: Path) -> Path:
    file = tmp_path / "tasks.jsonl"
    file.write_text("\n".join(map(json.dumps, TASKS)), encoding="utf-8")
    run = tmp_path / "run"
    options = ("--tasks", file, "--samples", 1, "--base-url", url, "--conditions", "none,push+anti")
    code, out, err = command("record", "m", run, *options)
    assert (code, "12 traces recorded, 0 already there" in out) == (0, True), err
    again = json.loads(command("record", "m", run, *options, "--json")[1])
    assert again == {"recorded": 0, "resumed": 12, "tokens": 0, "cut": 0, "tagged": 0}
    return run


def test_tasks_of_several_sources_make_one_run(command: Command, url: str, tmp_path: Path) -> None:
    """A threshold needs benign tasks, which a benchmark does not bring."""
    options: list[object] = ["--samples", 1, "--base-url", url]
    for name, role in (("risky", "test"), ("quiet", "benign")):
        file = tmp_path / f"{name}.jsonl"
        task = {"id": name, "category": "c", "prompt": f"Do {name}.", "role": role}
        file.write_text(json.dumps(task), encoding="utf-8")
        options += ["--tasks", file]
    code, _, err = command("record", "m", tmp_path / "run", *options)
    assert code == 0, err
    store = Store(tmp_path / "run")
    assert sorted(trace.task.role for trace in store.traces()) == ["benign", "test"]
    assert [part.partition("@")[0] for part in store.manifest.tasks.split(", ")] == [
        "risky.jsonl",
        "quiet.jsonl",
    ]


def test_a_served_run_is_judged_compared_and_studied(
    command: Command, recorded: Path, url: str
) -> None:
    store = Store(recorded)
    conditions = {tuple(trace.task.condition.values()) for trace in store.traces()}
    assert conditions == {("none", "none"), ("push", "anti")}
    judges = ("label", recorded, "--by", "judge:mild,strict", "--base-url", url, "--price", "2,8")
    code, out, _ = command(*judges, "--dry-run", "--json")
    assert code == 0
    assert {name: cost["requests"] for name, cost in json.loads(out).items()} == {
        "judge:mild": 24,
        "judge:strict": 24,
    }
    assert all(cost["dollars"] > 0 for cost in json.loads(out).values())
    assert not store.labellers()
    code, out, err = command(*judges, "--json")
    assert code == 0
    assert "about 24 requests" in err
    assert "$" in err
    mild, strict = json.loads(out)
    assert (mild["labelled"], mild["instrumental"], mild["unknown"]) == (12, 6, 0)
    assert (strict["instrumental"], strict["cost"]["completion_tokens"]) == (12, 120)
    assert (strict["estimate"]["requests"], strict["cost"]["requests"]) == (24, 24)
    assert strict["cost"]["dollars"] == pytest.approx((24 * 7 * 2 + 120 * 8) / 1e6)
    assert json.loads(command(*judges, "--json")[1])[0]["cost"]["requests"] == 0
    code, out, _ = command("agreement", recorded, "--json")
    assert code == 0
    (pair,) = json.loads(out)["pairs"]
    assert pair["iar"]["estimate"] == 0.5
    assert pair["confusion"]["all"] == {"yes/yes": 6, "no/yes": 6}
    code, out, _ = command("study", recorded, "--labeller", "judge:mild", "--json")
    assert code == 0
    rates = {
        (one["condition"], one["category"]): one["value"]["estimate"]
        for one in json.loads(out)["rates"]
    }
    assert rates["nudge=push, suffix=anti", "all"] == 0.5
    assert rates["nudge=none, suffix=none", "d"] == 1.0


def test_a_person_labels_and_a_run_goes_out_and_in(
    command: Command, recorded: Path, tmp_path: Path
) -> None:
    ids = sorted(Store(recorded).ids())
    file = tmp_path / "anna.csv"
    file.write_text("trace_id,outcome\n" + "".join(f"{i},1\n" for i in ids[:5]), encoding="utf-8")
    code, out, _ = command("label", recorded, "--by", f"human:{file}", "--json")
    assert (code, json.loads(out)["labelled"], json.loads(out)["instrumental"]) == (0, 5, 5)
    assert command("export", recorded, tmp_path / "x.jsonl")[0] == 0
    code, out, _ = command("import", tmp_path / "x.jsonl", tmp_path / "back", "--json")
    assert (code, json.loads(out)) == (0, {"added": 12})
    assert Store(tmp_path / "back").labels("human:anna") == Store(recorded).labels("human:anna")


def test_a_slip_is_an_error_in_one_line(command: Command, recorded: Path, url: str) -> None:
    assert command("label", recorded, "--by", "magic")[0] == 1
    code, _, err = command("label", recorded, "--by", "judge:gpt")
    assert (code, f"set {KEY}" in err) == (1, True)
    for options in (("--extra", "{"), ("--extra", "[1]"), ("--price", "cheap")):
        by = ("label", recorded, "--by", "judge:mild", "--base-url", url)
        assert command(*by, *options)[0] == 2
    record = ("record", "m", recorded, "--tasks", "x.jsonl", "--extra", "{}")
    assert command(*record)[0] == 2
    code, _, err = command("agreement", recorded)
    assert (code, "agreement takes two labellers" in err) == (1, True)


def test_a_hub_that_cannot_be_found_is_not_asked_again_and_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from trace_probe.commands.model_options import OFFLINE, PROXIES, Loading

    asked: list[object] = []

    def nowhere(*place: object) -> None:
        asked.append(place)
        raise OSError("Name or service not known")

    for name in (OFFLINE, *PROXIES):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr("socket.getaddrinfo", nowhere)
    for local in ("organism:rl", "smollm2", str(tmp_path)):
        Loading().weights(local)
    assert asked == []
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    Loading().weights("some/model")
    assert OFFLINE not in os.environ
    monkeypatch.delenv("HTTPS_PROXY")
    Loading().weights("some/model")
    assert os.environ[OFFLINE] == "1"
