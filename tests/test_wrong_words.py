"""What a newcomer mistypes is answered with what he meant, or with a command that runs."""

import io
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from trace_probe.commands.main import app
from trace_probe.commands.standard_input import json_lines, text_brought
from trace_probe.errors import (
    ModelError,
    NotEnoughData,
    ProbeError,
    StoreError,
    TaskError,
    TraceError,
)
from trace_probe.labelling.annotations import AnnotationLabeller
from trace_probe.model.checkpoint import locate
from trace_probe.model.naming import organism_path
from trace_probe.probing.corpus import load_corpus
from trace_probe.probing.probe import check_overwrites, load_probe, save_probe
from trace_probe.store import Manifest, Store
from trace_probe.tasks.sources import tasks_from
from trace_probe.training import train

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


def test_a_relative_path_says_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError, match=f"no run at traces/mine in {tmp_path}: go to the folder"):
        Store("traces/mine")


def test_the_bare_name_of_an_organism_is_not_looked_up_on_the_hub() -> None:
    with pytest.raises(ModelError, match="rl is an organism of the package: write organism:rl$"):
        locate("rl")


@pytest.mark.usefixtures("here")
def test_a_run_after_the_new_probe_is_named_by_train() -> None:
    said = CliRunner().invoke(app, ["train", "probes/none", "traces/demo"])
    assert (said.exit_code, "name the run first" in said.stderr) == (2, True)


@pytest.mark.parametrize("text", ["id,prompt\na,b\n", '[{"id": "a"}]', '{"tasks": []}\n'])
def test_a_task_file_of_another_shape_is_told_the_right_one(text: str, tmp_path: Path) -> None:
    file = tmp_path / "tasks.jsonl"
    file.write_text(text)
    with pytest.raises(TaskError, match='such as {"id": "a-1"'):
        tasks_from(str(file))


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


def test_a_probe_is_not_written_into_the_folder_of_a_run(here: Path) -> None:
    saved = load_probe(ROOT / "probes" / "demo")
    for write in (save_probe, lambda path, _: check_overwrites(path, {})):
        with pytest.raises(ProbeError, match="traces/demo holds a run.*such as probes/demo"):
            write("traces/demo", saved)
    assert [file.name for file in (here / "traces" / "demo").iterdir()] == ["run.json"]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("prüfen".encode("latin-1"), "standard input is not UTF-8: convert it"),
        (b" \n", "standard input is empty: give the text there"),
    ],
)
@pytest.mark.parametrize("options", [[], ["--jsonl"]])
def test_text_that_cannot_be_read_is_refused_before_a_model_is_loaded(
    given: bytes, text: str, options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if options and not given.strip():
        pytest.skip("no line of JSON is nothing to score")
    for errors in ("strict", "surrogateescape"):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given), "utf-8", errors))
        read = json_lines if options else text_brought
        with pytest.raises(TraceError, match=text):
            list(read())


def test_a_file_in_another_encoding_is_not_called_no_json(tmp_path: Path) -> None:
    file = tmp_path / "tasks.jsonl"
    file.write_bytes('{"id": "für"}\n'.encode("latin-1"))
    with pytest.raises(TaskError, match="is not UTF-8: convert the file, for example with `iconv"):
        tasks_from(file)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("organism:rll", "no organism 'organism:rll': did you mean organism:rl?"),
        ("organism:zebra", "; there are organism:agent-base, organism:base, "),
    ],
)
def test_a_misspelt_organism_is_answered_with_names_that_can_be_typed(name: str, text: str) -> None:
    with pytest.raises(ModelError) as error:
        organism_path(name)
    assert text in str(error.value)


def test_record_names_the_organisms_before_it_loads_anything(tmp_path: Path) -> None:
    typed = ["record", "organism:rll", str(tmp_path / "run"), "--tasks", "world:mine:2"]
    with pytest.raises(ModelError, match="did you mean organism:rl"):
        CliRunner().invoke(app, typed, catch_exceptions=False)


def test_a_labeller_who_gave_no_label_is_answered_with_those_who_did() -> None:
    with pytest.raises(NotEnoughData, match="no labels by 'bob'; there are labels by rules"):
        load_corpus(Store(ROOT / "traces" / "demo"), "bob", (), needed=True)


def test_verdicts_that_are_not_there_are_not_called_empty(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="there is no file .*missing.jsonl: the page Label"):
        AnnotationLabeller(tmp_path / "missing.jsonl")


@pytest.mark.parametrize(("tasks", "by"), [("world:demo", "rules"), ("pack@1f", "judge:MODEL")])
def test_a_run_without_labels_is_answered_with_the_labeller_that_can_label_it(
    tmp_path: Path, tasks: str, by: str
) -> None:
    manifest = Manifest("m", layers=(0,), n_layers=1, d_model=2, tasks=tasks)
    with pytest.raises(NotEnoughData, match=f"label it with `trace-probe label .* --by {by}`"):
        train(Store.create(tmp_path / "run", manifest))


def test_the_demo_is_of_organisms_only() -> None:
    found = CliRunner().invoke(app, ["demo", "--organism", "smollm2"])
    assert found.exit_code == 2
    assert "smollm2 is no organism: see `trace-probe organism list`" in " ".join(
        found.output.replace("│", " ").split()
    )
