"""The README tells the truth: its commands exist, what it shows is printed, its Python runs."""

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from trace_probe.commands.main import app

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
OTHERS = (
    *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").glob("*.md")),
    "CONTRIBUTING.md",
    "SECURITY.md",
    "traces/FORMAT.md",
    "probes/FORMAT.md",
)


def blocks(language: str, text: str = TEXT) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def commands(text: str = TEXT) -> list[list[str]]:
    lines = "".join(blocks("console", text)).replace("\\\n", " ").splitlines()
    words = [shlex.split(line.removeprefix("$ "), comments=True) for line in lines if "$ " in line]
    parts = [" ".join(line).split(" && ") for line in words]
    return [part.split() for line in parts for part in line if part.startswith("trace-probe ")]


def test_the_road_is_there() -> None:
    assert {line[1] for line in commands()} >= {
        *("tasks", "record", "label", "train", "evaluate", "flag", "explore", "demo")
    }


@pytest.mark.parametrize(
    "words",
    [
        *commands(),
        *(line for name in OTHERS for line in commands((ROOT / name).read_text("utf-8"))),
    ],
    ids=" ".join,
)
def test_every_command_of_the_documents_parses(words: list[str]) -> None:
    group = get_command(app)
    context = group.make_context("trace-probe", words[1:], resilient_parsing=False)
    name, command, rest = group.resolve_command(context, words[1:])  # type: ignore[attr-defined]
    while rest and hasattr(command, "commands") and rest[0] in command.commands:
        command, rest = command.commands[rest[0]], rest[1:]
    assert command.make_context(name, list(rest), parent=context)


def test_the_readme_is_read_in_two_minutes() -> None:
    assert len(TEXT.splitlines()) <= 125


def test_the_trace_of_the_readme_is_there_and_alarms_before_it_is_said() -> None:
    shown = CliRunner().invoke(app, ["show", str(ROOT / "traces" / "english"), "00fc4b"])
    assert "show traces/english 00fc4b" in TEXT
    assert 0 < shown.stdout.index(" alarm  ") < shown.stdout.index(" said  ")


def test_the_python_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("python")
    small = code.replace("world:mine:48", "world:mine:12").replace(":400:", ":60:")
    assert small != code
    exec(compile(small, "README.md", "exec"), {})
    assert "within prompts" in capsys.readouterr().out
