"""What a newcomer mistypes is answered with what he meant, or with a command that runs."""

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from trace_probe.commands.main import app
from trace_probe.errors import ProbeError, StoreError, TaskError
from trace_probe.probing.probe import load_probe
from trace_probe.store import Store
from trace_probe.tasks.sources import tasks_from

ROOT = Path(__file__).parents[1]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("traces/demo/run.json", "probes/demo/card.json"):
        (tmp_path / name).parent.mkdir(parents=True)
        shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("here")
def test_a_misspelt_run_or_probe_is_answered_with_the_one_that_is_there() -> None:
    with pytest.raises(StoreError, match="no run at traces/dmeo: did you mean traces/demo\\?"):
        Store("traces/dmeo")
    with pytest.raises(ProbeError, match="no probe at probes/dmeo: did you mean probes/demo\\?"):
        load_probe("probes/dmeo")
    with pytest.raises(StoreError, match="no run at traces/mine; there is traces/demo$"):
        Store("traces/mine")


@pytest.mark.usefixtures("here")
def test_a_run_in_the_place_of_a_probe_is_called_what_it_is() -> None:
    with pytest.raises(StoreError, match="no run at probes/demo: it is a probe;.*wrong order"):
        Store("probes/demo")
    with pytest.raises(ProbeError, match="no probe at traces/demo: it is a run;.*wrong order"):
        load_probe("traces/demo")


def test_where_there_is_nothing_the_demo_makes_it(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="make one with `trace-probe demo`$"):
        Store(tmp_path / "run")


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("pakc", "did you mean pack?"),
        ("wrold:mine:48", "did you mean world:mine:48?"),
        ("tasks.jsonl", "that file does not exist. Tasks that come with the package: pack"),
        ("benchmark", "`trace-probe tasks benchmark --download`"),
    ],
)
@pytest.mark.usefixtures("here")
def test_a_source_of_tasks_that_is_not_there_is_answered_by_what_it_looks_like(
    source: str, text: str
) -> None:
    with pytest.raises(TaskError) as error:
        tasks_from(source)
    assert text in str(error.value)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["fetch", "smolm2"], "'smolm2' is not one of 'smollm2'"),
        (["doctor", "--json", "true"], "options such as --json and --force take no value"),
        (["record", "organism:rl", "traces/x"], "no tasks are given: add, for example, --tasks"),
    ],
)
def test_wrong_words_of_a_command_are_named_in_plain_english(words: list[str], text: str) -> None:
    found = CliRunner().invoke(app, words)
    said = " ".join(found.output.replace("│", " ").split())
    assert found.exit_code == 2
    assert text in said
    assert "Value error" not in said
