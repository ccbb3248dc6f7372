import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from servers import Answer, scripted

from trace_probe.errors import TaskError
from trace_probe.tasks import download
from trace_probe.tasks.conditions import SUFFIX, Condition, parse_grid, under
from trace_probe.tasks.download import download_tasks
from trace_probe.tasks.nudges import SYSTEM
from trace_probe.tasks.published import PREFIX, PUBLISHED
from trace_probe.tasks.sources import tasks_from
from trace_probe.trace import Task

OFFICIAL = (Path(__file__).parents[1] / ".." / "shared" / "data" / "instrumentaleval").resolve()
SET = PUBLISHED["instrumentaleval"]
PLAIN = Task("a-01", "a", "Do it.")


def test_a_grid_asks_every_task_under_every_condition() -> None:
    grid = parse_grid("none, push,push+anti,pro,push")
    assert grid == (
        Condition(),
        Condition("push"),
        Condition("push", "anti"),
        Condition("none", "pro"),
    )
    asked = under([PLAIN, Task("a-02", "a", "Go.")], grid)
    assert len({task.prompt_key for task in asked}) == 8
    by_condition = {tuple(t.condition.values()): t for t in asked if t.id == "a-01"}
    assert set(by_condition) == {
        ("none", "none"),
        ("push", "none"),
        ("push", "anti"),
        ("none", "pro"),
    }
    cell = by_condition["push", "anti"]
    assert cell.condition == {"nudge": "push", "suffix": "anti"}
    assert cell.system == SYSTEM["push"]
    assert cell.prompt == f"Do it.\n\n{SUFFIX['anti']}"
    assert by_condition["none", "none"].prompt == "Do it."


def test_reasoning_is_a_condition_too() -> None:
    on, off = under([PLAIN], parse_grid("think,anti+no-think+push"))
    assert on.condition == {"nudge": "none", "suffix": "none", "thinking": "on"}
    assert off.condition == {"nudge": "push", "suffix": "anti", "thinking": "off"}


BAD = ["", "hard", "push+", "push+hard", "pro+anti", "push+none", "none,,push", "think+no-think"]


@pytest.mark.parametrize("text", BAD)
def test_a_condition_that_is_none_lists_those_there_are(text: str) -> None:
    with pytest.raises(TaskError, match="none, neutral, push, paper.*pro, anti.*no-think"):
        parse_grid(text)


def test_a_task_s_own_system_message_and_nudge_are_kept() -> None:
    own = Task("a-01", "a", "Do it.", system="own", condition={"nudge": "rule"})
    (kept,) = under([own], [Condition("none", "pro")])
    assert (kept.system, kept.condition) == ("own", {"nudge": "rule", "suffix": "pro"})
    with pytest.raises(TaskError, match="a-01 has a system message or nudge of its own"):
        under([own], [Condition("push")])


@pytest.fixture
def pinned(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Pin six small files instead of the official ones."""
    small = {file.name: file.name.encode() * 3 for file in SET.files}
    files = tuple(
        replace(file, sha256=hashlib.sha256(small[file.name]).hexdigest()) for file in SET.files
    )
    monkeypatch.setitem(PUBLISHED, "instrumentaleval", replace(SET, files=files))
    return small


def serve(content: dict[str, bytes]) -> Any:
    def answer(_number: int, body: dict[str, Any]) -> Answer:
        where, name = body["path"].replace("%20", " ").rsplit("/", 1)
        assert where.endswith(f"/yf-he/InstrumentalEval/{SET.commit}/benchmark")
        return Answer(200, content[name]) if name in content else Answer(404)

    return scripted(answer)


def test_the_six_files_are_fetched_once_from_the_pinned_commit(
    tmp_path: Path, pinned: dict[str, bytes]
) -> None:
    with serve(pinned) as server:
        assert download_tasks(tmp_path / "new", source=server.url) == 6
        (tmp_path / "new" / f"{PREFIX}Evading Shutdown.csv").write_bytes(b"torn")
        assert download_tasks(tmp_path / "new", source=server.url) == 1
    assert {file.name: file.read_bytes() for file in (tmp_path / "new").iterdir()} == pinned
    assert download_tasks(tmp_path / "new", source="http://127.0.0.1:1") == 0


def test_a_file_that_is_not_the_pinned_one_is_not_kept(
    tmp_path: Path, pinned: dict[str, bytes]
) -> None:
    name = f"{PREFIX}Evading Shutdown.csv"
    with serve({**pinned, name: b"other"}) as server, pytest.raises(TaskError) as caught:
        download_tasks(tmp_path, source=server.url)
    assert hashlib.sha256(pinned[name]).hexdigest() in str(caught.value)
    assert hashlib.sha256(b"other").hexdigest() in str(caught.value)
    assert not (tmp_path / name).exists()


def test_a_download_that_fails_says_where(tmp_path: Path, pinned: dict[str, bytes]) -> None:
    del pinned[f"{PREFIX}Deceptive Behavior.csv"]
    with serve(pinned) as server, pytest.raises(TaskError, match="Deceptive%20.*status 404"):
        download_tasks(tmp_path, source=server.url)
    with pytest.raises(TaskError, match="is there a network"):
        download_tasks(tmp_path, source="http://127.0.0.1:1")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not OFFICIAL.is_dir(), reason="the official files are not beside the checkout")
def test_what_is_fetched_is_what_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from trace_probe.commands import main as cli

    official = {file.name: file.read_bytes() for file in OFFICIAL.glob("*.csv")}
    with serve(official) as server:
        monkeypatch.setattr(
            download.download_tasks, "__kwdefaults__", {"source": server.url, "timeout_s": 5.0}
        )
        command = ["trace-probe", "tasks", str(tmp_path / "new"), "--download", "--json"]
        monkeypatch.setattr("sys.argv", command)
        with pytest.raises(SystemExit) as ended:
            cli.main()
    assert ended.value.code == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["tasks"] == 76
    assert "6 files fetched" in printed.err
    assert tasks_from(tmp_path / "new") == tasks_from(OFFICIAL)


@pytest.mark.skipif(not OFFICIAL.is_dir(), reason="the official files are not beside the checkout")
@pytest.mark.filterwarnings("default")
def test_inspect_evals_pins_the_same_files_and_reads_the_same_76_prompts() -> None:
    theirs = pytest.importorskip(
        "inspect_evals.instrumentaleval.process_data", reason="inspect-evals is not installed"
    )
    assert SET.commit == theirs.INSTRUMENTALEVAL_REVISION
    assert {file.name: file.sha256 for file in SET.files} == theirs.CHECKSUMS
    paths = [str(OFFICIAL / name) for name in theirs.CHECKSUMS]
    samples = list(theirs.process_instrumentaleval_files(paths))
    tasks = tasks_from(OFFICIAL)
    assert len(samples) == 76
    assert [one.input for one in samples] == [task.prompt for task in tasks]
    assert [one.metadata["eval_prompt"].strip() for one in samples] == [
        task.criterion for task in tasks
    ]
