"""Data flows one way, heavy packages have one home, and modules can be read at once."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "trace_probe"

PIPELINE = (
    *(
        "errors",
        "visible",
        "files",
        "execution",
        "statistics",
        "trace",
        "episode",
        "environment",
        "activations",
        "labels",
    ),
    *("storage", "store", "upkeep"),
    *("world", "tasks", "text", "model", "engine", "recording", "labelling"),
    *("probing", "evaluation", "training", "run", "monitor", "interop", "serving", "emergence"),
    *("organism", "study", "demo", "explorer", "doctor", "commands"),
)
"""Packages and single modules in the order of the data; each imports only from those before it."""

HOMES = {
    "torch": ("model", "engine", "organism", "monitor.stopping", "probing.mlp"),
    "transformers": ("model", "organism", "monitor.stopping"),
    "trl": ("organism",),
    "peft": ("organism",),
    "transformer_lens": ("model",),
    "openai": ("model.endpoint", "serving.webhook"),
    "opentelemetry": ("monitor.spans",),
    "mlflow": ("interop.trackers",),
    "wandb": ("interop.trackers",),
    "fastapi": ("serving",),
    "uvicorn": ("serving",),
    "prometheus_client": ("serving",),
    "inspect_ai": (
        *("interop.inspect_log", "interop.inspect_events", "interop.inspect_scores"),
        *("interop.inspect_plugin", "interop.inspect_provider"),
        *("interop.inspect_verdict", "interop.inspect_watch", "interop.scout"),
    ),
    "inspect_scout": ("interop.scout",),
    "vllm": ("engine",),
    "ray": ("execution.executor",),
    "typer": ("commands",),
    "streamlit": ("explorer",),
    "umap": ("probing.sentence_map",),
}
"""Where a heavy package, or one that reaches the network or a screen, may be imported."""


@cache
def modules() -> dict[str, Path]:
    """Return every module of the package by dotted name, without ``trace_probe.``."""
    files = {file.relative_to(PACKAGE): file for file in PACKAGE.rglob("*.py")}
    return {
        ".".join(path.with_suffix("").parts): file
        for path, file in files.items()
        if path.name != "__init__.py"
    }


def imported(tree: ast.AST) -> Iterator[str]:
    """Yield the dotted name of everything imported anywhere in a tree, lazily or not."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def ours(tree: ast.AST) -> set[str]:
    """Return the modules of the package that a tree imports."""
    found = set()
    for name in imported(tree):
        parts = name.split(".")[1:] if name.startswith("trace_probe.") else []
        fits = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
        found |= set([name for name in fits if name in modules()][:1])
    return found


@cache
def trees() -> dict[str, ast.Module]:
    return {name: ast.parse(file.read_text("utf-8")) for name, file in modules().items()}


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = {name: ours(tree) for name, tree in trees().items()}
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"import cycle: {' <- '.join(error.args[1])}")


def test_data_flows_one_way() -> None:
    place = {name: number for number, name in enumerate(PIPELINE)}
    assert {name.split(".")[0] for name in modules()} == set(PIPELINE)
    against = [
        f"{name} imports {other}"
        for name, tree in trees().items()
        for other in ours(tree)
        if place[other.split(".")[0]] > place[name.split(".")[0]]
    ]
    assert not against


def test_the_packages_are_described_in_the_order_of_the_data() -> None:
    rows = re.findall(r"^\| (`.*`) \|", (ROOT / "docs/structure.md").read_text("utf-8"), re.M)
    assert re.findall(r"`(\w+)`", " ".join(rows)) == list(PIPELINE)


def test_heavy_packages_are_imported_at_home_only() -> None:
    strays = [
        f"{name} imports {package}"
        for name, tree in trees().items()
        for package in {dotted.split(".")[0] for dotted in imported(tree)} & set(HOMES)
        if not any(f"{name}.".startswith(f"{home}.") for home in HOMES[package])
    ]
    assert not strays


@cache
def reaches_model(name: str) -> bool:
    """Return whether importing a module imports torch other than lazily."""
    body = trees()[name].body
    top = ast.Module([n for n in body if not isinstance(n, ast.FunctionDef)], [])
    direct = ast.Module([n for n in body if isinstance(n, ast.Import | ast.ImportFrom)], [])
    return "torch" in {dotted.split(".")[0] for dotted in imported(direct)} or any(
        reaches_model(other) for other in ours(top)
    )


def test_all_but_what_runs_a_model_can_be_imported_without_torch() -> None:
    # scripts that Streamlit runs, and what Inspect alone imports
    guests = (
        "explorer.views",
        "interop.inspect_plugin",
        "interop.inspect_provider",
        "interop.scout",
    )
    light = sorted(n for n in modules() if not reaches_model(n) and not n.startswith(guests))
    assert {"store", "text.channels", "probing.probe", "commands.main"} <= set(light)
    code = "\n".join(
        (
            "import sys",
            *(f"import trace_probe.{name}" for name in light),
            "heavy = {'torch', 'transformers', 'trl', 'openai'} & set(sys.modules)",
            "assert not heavy, heavy",
        )
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_modules_and_functions_can_be_read_at_once() -> None:
    long = [
        f"{name}: {lines} lines"
        for name, file in modules().items()
        if (lines := len(file.read_text("utf-8").splitlines())) > 500
    ]
    for name, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[ast.get_docstring(node) is not None :] or node.body
                lines = (body[-1].end_lineno or 0) - body[0].lineno + 1
                long += [f"{name}.{node.name}: {lines} lines"] if lines > 40 else []
    assert not long


def written_lines(source: str) -> list[tuple[int, str]]:
    """Return the lines of a module with their numbers, less imports, signatures and docstrings."""
    passed: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            passed.update(range(node.lineno, node.body[0].lineno))
        elif isinstance(node, ast.Import | ast.ImportFrom) or (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        ):
            passed.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = enumerate(source.splitlines(), start=1)
    found = ((number, " ".join(line.split())) for number, line in lines if number not in passed)
    return [(number, line) for number, line in found if re.search(r"\w", line)]


def repeated(sources: dict[str, str], run: int = 9) -> list[str]:
    """Return the places where so many lines on end stand that stand somewhere before."""
    first: dict[tuple[str, ...], str] = {}
    found = []
    for name, source in sources.items():
        lines = written_lines(source)
        for at in range(len(lines) - run + 1):
            here = f"{name}:{lines[at][0]}"
            there = first.setdefault(tuple(line for _, line in lines[at : at + run]), here)
            found += [f"{here} repeats {there}"] if there != here else []
    return found


def test_nothing_is_written_twice() -> None:
    assert not repeated({name: file.read_text("utf-8") for name, file in modules().items()})
    once = "def add(a, b):\n    " + "\n    ".join(f"a{n} = b{n} + 1" for n in range(9))
    assert repeated({"one": once, "two": once.replace("add", "sum")}) == ["two:2 repeats one:2"]


def test_every_module_says_what_it_is_for_and_has_a_subject() -> None:
    vague = {"utils", "util", "common", "helpers", "base", "misc", "manager", "interfaces"}
    assert not [name for name in modules() if name.split(".")[-1] in vague]
    assert not [name for name, tree in trees().items() if not ast.get_docstring(tree)]


def test_no_file_names_a_machine() -> None:
    """A home folder or a workplace in a committed file would be wrong everywhere else."""
    tracked = subprocess.run(
        ["git", "ls-files", "*.py", "*.md", "*.toml", "*.json"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    if tracked.returncode:
        pytest.skip("not a git checkout: no list of committed files")
    places = tuple(f"/{folder}/" for folder in ("home", "root", "Users", "work"))
    named = [
        f"{file}: {place}"
        for file in tracked.stdout.split()
        if (ROOT / file).is_file()
        for place in places
        if place in (ROOT / file).read_text("utf-8")
    ]
    assert not named
