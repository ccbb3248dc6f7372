"""``trace-probe store`` and recording in shares, as a user types them."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runs import make_run, make_trace

from trace_probe.commands.store import SHOWN, list_
from trace_probe.store import Store

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path) -> Store:
    return make_run(tmp_path / "traces" / "run", range(10))


def parsed(command: Command, *arguments: object) -> Any:
    code, out, err = command(*arguments, "--json")
    assert code == 0, err
    return json.loads(out)


def test_traces_and_runs_are_listed(command: Command, run: Store) -> None:
    code, out, _ = command("store", "list", run.path, "--instrumental", "--limit", "2")
    head, names, *rows = out.splitlines()
    assert (code, head, len(rows)) == (0, "5 of 10 traces", 2)
    columns = [match.start() for match in re.finditer(r"\S+", names)]
    assert names.split() == [*SHOWN]
    for row in rows:  # each cell begins below the name of its column
        assert [row[start:].split()[0] for start in columns] == row.split()
    assert command("store", "list", run.path, "--role", "benign")[1] == "0 of 10 traces\n"
    told = list_.__doc__ or ""
    assert all(re.search(rf"\b{name}\b", told) for name in SHOWN)
    found = parsed(command, "store", "list", run.path, "--harmless", "--category", "c-1")
    assert found["of"] == 10
    assert [row["sample"] for row in found["rows"]] == [4]
    runs = parsed(command, "store", "list", run.path.parent)
    assert runs == [{"run": str(run.path), "traces": 10}]
    assert command("store", "list", run.path / "activations")[1] == "no runs\n"


def test_a_run_is_verified_and_the_exit_code_says_so(command: Command, run: Store) -> None:
    assert "clean" in command("store", "verify", run.path)[1]
    run.place.write("activations/orphan.safetensors", [b"half"])
    assert len(parsed(command, "store", "verify", run.path)["leftovers"]) == 1
    assert parsed(command, "store", "verify", run.path, "--tidy")["leftovers"] == []
    (run.path / run.vault.file(make_trace(3).id)).unlink()
    code, out, _ = command("store", "verify", run.path)
    assert code == 1
    assert f"no activations of trace {make_trace(3).id}" in out


def test_runs_are_packed_and_merged(command: Command, run: Store, tmp_path: Path) -> None:
    assert parsed(command, "store", "pack", run.path)["packed"] == 10
    assert "0 traces packed into 0 shards" in command("store", "pack", run.path)[1]
    found = parsed(command, "store", "merge", tmp_path / "all", run.path)
    assert (found["traces"], found["labels"]) == (10, 10)
    assert list(Store(tmp_path / "all").traces()) == list(run.traces())


def test_what_cannot_be_done_is_one_line(command: Command, run: Store, tmp_path: Path) -> None:
    make_run(tmp_path / "other", range(2), model="m@2")
    for arguments, complaint in (
        (("verify", tmp_path / "none"), "error: no run at"),
        (("merge", tmp_path / "all", run.path, tmp_path / "other"), "has other settings"),
        (("list", tmp_path / "none"), ""),
    ):
        code, _, err = command("store", *arguments)
        assert code == (1 if complaint else 0)
        assert complaint in err
        assert "Traceback" not in err


def test_shares_are_recorded_by_jobs_that_know_their_number(
    command: Command, model_folder: Path, tmp_path: Path
) -> None:
    tasks = tmp_path / "tasks.jsonl"
    rows = ({"id": f"t-{n}", "category": "c", "prompt": f"stop it {'.' * n}"} for n in range(1, 4))
    tasks.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ("--tasks", tasks, "--samples", 2, "--max-new-tokens", 8, "--batch-size", 2)
    for number, expected in ((1, 2), (0, 4)):
        shard = ("--shard", f"{number}/2")
        code, out, err = command("record", model_folder, tmp_path / "run", *options, *shard)
        assert (code, f"{expected} traces recorded, 0 already there" in out) == (0, True), err
    assert "clean" in command("store", "verify", tmp_path / "run")[1]
    assert (
        "0 traces recorded, 6 already there"
        in command("record", model_folder, tmp_path / "run", *options)[1]
    )
    code, _, err = command("record", model_folder, tmp_path / "run", *options, "--shard", "2/2")
    assert (code, "'2/2' is not a share" in err) == (1, True)
    code, _, err = command(
        "record", "m", tmp_path / "x", *options, "--shard", "0/2", "--base-url", "u"
    )
    assert code == 2
