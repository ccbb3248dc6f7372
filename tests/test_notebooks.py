"""The notebooks run as they are, from where they lie or from the root, and leave nothing behind."""

import ast
import importlib
import io
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from trace_probe.commands.main import app
from trace_probe.model.converted import models_cache
from trace_probe.model.naming import SMOLLM2

ROOT = Path(__file__).parents[1]
BOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MOST_BYTES = 250_000
MACHINE = re.compile(r"/(?:tmp|home|root|work|Users|private)/")
SHORTER = {
    "real_model": {"organism.traces(), 320)": "organism.traces(), 64)"},
    "train_a_probe": {
        "layers=range(model.n_layers)": "layers=(0, 2)",
        "choose_and_score))": "choose_and_score, folds=2))",
    },
    "emergence": {"continuations=10": "continuations=2"},
}
"""Long stretches of notebooks, and shorter ones that go the same way."""
every_notebook = pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.stem)


def cells(book: Path, kind: str | None = None) -> list[dict[str, Any]]:
    found = json.loads(book.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in found if kind in (None, cell["cell_type"])]


def tree(book: Path) -> ast.Module:
    return ast.parse("\n".join("".join(cell["source"]) for cell in cells(book, "code")))


def names_used(book: Path) -> Iterator[str]:
    for node in ast.walk(tree(book)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from (getattr(node, "module", None) or "").split(".")
            yield from (part for alias in node.names for part in alias.name.split("."))
        if isinstance(node, ast.Attribute):
            yield node.attr


def state(*folders: str) -> dict[Path, tuple[int, int]]:
    """Return times and sizes of files, less what the explorer of another test may cache."""
    files = (file for folder in folders for file in (ROOT / folder).rglob("*") if file.is_file())
    kept = (file for file in files if file.parent.name != "cache")
    return {file: (file.stat().st_mtime_ns, file.stat().st_size) for file in kept}


def test_there_are_six() -> None:
    assert {book.stem for book in BOOKS} == {
        *("quickstart", "activations", "train_a_probe", "emergence", "real_model", "gpu_recipe")
    }


@every_notebook
def test_a_notebook_ships_with_what_it_prints_and_draws(book: Path) -> None:
    """So that it can be read where nothing can be run, and shows nothing of where it was run."""
    printing = [cell for cell in cells(book, "code") if "print(" in "".join(cell["source"])]
    assert all(cell["outputs"] for cell in printing)
    kinds = [set(one.get("data", {})) for cell in cells(book, "code") for one in cell["outputs"]]
    assert book.stem == "gpu_recipe" or any("image/png" in kind for kind in kinds)
    assert not any("text/html" in kind for kind in kinds)
    assert not any(cell["execution_count"] for cell in cells(book, "code"))
    told = [one for cell in cells(book, "code") for one in cell["outputs"] if "text" in one]
    assert not [one for one in told if MACHINE.search("".join(one["text"]))]
    assert book.stat().st_size < MOST_BYTES


@every_notebook
def test_a_notebook_uses_public_names_only(book: Path) -> None:
    assert not [name for name in names_used(book) if name.startswith("_")]


@every_notebook
def test_a_notebook_is_short_and_says_what_it_does_not_show(book: Path) -> None:
    assert 8 <= len(cells(book)) <= 18
    assert 4 <= len(cells(book, "code")) <= 10
    assert "does not show" in "".join(cells(book)[-1]["source"])


def test_every_command_of_the_recipe_parses() -> None:
    (book,) = (book for book in BOOKS if book.stem == "gpu_recipe")
    text = "".join("".join(cell["source"]) + "\n" for cell in cells(book, "markdown"))
    blocks = "".join(re.findall(r"```console\n(.*?)```", text, flags=re.DOTALL))
    lines = blocks.replace("\\\n", " ").replace("$ ", "\n").replace(" && ", "\n").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    ours = [line[1:] for line in words if line[:1] == ["trace-probe"]]
    assert {line[0] for line in ours} >= {"doctor", "tasks", "record", "label", "train", "explore"}
    for line in ours:
        context = get_command(app).make_context("trace-probe", list(line))
        name, command, rest = context.command.resolve_command(context, list(line))  # type: ignore[attr-defined]
        while hasattr(command, "commands"):
            command, rest = command.commands[rest[0]], rest[1:]
        assert command.make_context(name, rest, parent=context)


@pytest.fixture
def pyplot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Let a notebook draw without a screen, and write where temporary files go, only here."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    pytest.importorskip("matplotlib", reason="notebooks draw with matplotlib").use("agg")
    return importlib.import_module("matplotlib.pyplot")


def run_cell(source: str, names: dict[str, Any], pyplot: Any) -> None:
    """Do what Jupyter does: run a cell, show the value of its last line, draw its figures."""
    body = ast.parse(source).body
    last = body.pop() if isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), "cell", "exec"), names)
    if isinstance(last, ast.Expr):
        value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
        getattr(value, "_repr_html_", value.__repr__)()
    for number in pyplot.get_fignums():
        pyplot.figure(number).savefig(io.BytesIO())
        pyplot.close(number)


@every_notebook
def test_a_notebook_opens_from_the_root_as_well(
    book: Path, monkeypatch: pytest.MonkeyPatch, pyplot: Any
) -> None:
    monkeypatch.chdir(ROOT)
    run_cell("".join(cells(book, "code")[0]["source"]), {}, pyplot)


@every_notebook
def test_a_notebook_runs_and_writes_only_temporary_files(
    book: Path, monkeypatch: pytest.MonkeyPatch, pyplot: Any
) -> None:
    if book.stem == "real_model" and not (models_cache() / SMOLLM2).is_dir():
        pytest.skip("smollm2 is not fetched: trace-probe fetch smollm2")
    before = state("notebooks", "traces/demo", "probes/demo")
    monkeypatch.chdir(book.parent)
    source = "\0".join("".join(cell["source"]) for cell in cells(book, "code"))
    for long, short in SHORTER.get(book.stem, {}).items():
        assert long in source
        source = source.replace(long, short)
    names: dict[str, Any] = {}
    for cell in source.split("\0"):
        run_cell(cell, names, pyplot)
    assert state("notebooks", "traces/demo", "probes/demo") == before
