"""What all commands share: groups, the version, Ctrl-C, and no overwriting without --force."""

import ast
import json
import re
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from trace_probe.commands.documented import Commands, Told
from trace_probe.commands.layout import INTERRUPTED, PANELS, RESUMES, after_interruption
from trace_probe.commands.main import app
from trace_probe.commands.model_options import Loading

ROOT = Path(__file__).parents[1]
Command = Callable[..., tuple[int, str, str]]


def stopped(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.fixture
def demo(tmp_path: Path) -> tuple[Path, Path]:
    for folder in ("traces", "probes"):
        shutil.copytree(ROOT / folder / "demo", tmp_path / folder / "demo")
    return tmp_path / "traces" / "demo", tmp_path / "probes" / "demo"


def test_every_command_stands_in_one_panel_of_the_help(command: Command) -> None:
    named = [name for names in PANELS.values() for name in names]
    group: Any = get_command(app)
    assert sorted(named) == sorted(group.commands)
    code, out, _ = command("--help")
    assert code == 0
    assert [panel for panel in PANELS if panel in out] == list(PANELS)


def parameters(group: Any) -> list[tuple[str, Any]]:
    found = []
    for name, below in group.commands.items():
        found += [(name, each) for each in below.params]
        found += parameters(below) if hasattr(below, "commands") else []
    return found


def test_every_option_has_a_text_of_its_own() -> None:
    assert [(name, each.opts) for name, each in parameters(get_command(app)) if not each.help] == []


def test_a_command_is_described_by_its_docstring_or_else_by_the_shared_one(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def plant(place: str, *, seed: int = 0, loud: bool = False, loading: Loading) -> Told:
        """Plant a seed.

        Args:
            place: Where it
                grows.
            loud: Say so: {"loud": true}.
        """
        given = {"place": place, "seed": seed, "loud": loud, "device": loading.device}
        return Told(given, f"{place} is planted", code=3 if loud else 0)

    own = Commands()
    own.command()(plant)
    params: Any = {one.name: one for one in get_command(own).params}
    fields = ["adapter", "device", "device_map", "dtype", "revision"]
    assert list(params)[:9] == ["place", "seed", "loud", "as_json", *fields]
    assert params["place"].help == "Where it grows."
    assert params["loud"].help == 'Say so: {"loud": true}.'
    assert params["seed"].help.startswith("Seed of all random numbers")
    assert params["loud"].secondary_opts == []
    assert params["device"].help == "cpu, cuda, cuda:1, mps."
    assert get_command(own).help == "Plant a seed."
    monkeypatch.setattr("trace_probe.commands.main.app", own)
    assert command("here") == (0, "here is planted\n", "")
    code, out, _ = command("here", "--loud", "--json", "--device", "cpu")
    found = {"place": "here", "seed": 0, "loud": True, "device": "cpu"}
    assert (code, json.loads(out)) == (3, found)


def test_no_command_describes_a_parameter_that_it_lacks() -> None:
    checked = 0
    for file in (ROOT / "trace_probe" / "commands").glob("*.py"):
        for one in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(one, ast.FunctionDef) and "Args:" in (ast.get_docstring(one) or ""):
                taken = {each.arg for each in (*one.args.args, *one.args.kwonlyargs)}
                _, _, entries = (ast.get_docstring(one) or "").partition("Args:")
                named = set(re.findall(r"^ {4}(\w+): ", entries, re.MULTILINE))
                assert named <= taken, (file.name, one.name)
                checked += 1
    assert checked > 30


def test_a_switch_is_not_shown_as_if_it_took_a_value(command: Command) -> None:
    out = command("evaluate", "--help")[1]
    assert "--json" in out
    assert "<bool>" not in out.partition("--help")[0]
    assert "RUN" in out


def test_a_probe_is_not_compared_with_itself(command: Command, demo: tuple[Path, Path]) -> None:
    run, probe = map(str, demo)
    code, _, err = command("compare", run, probe, probe)
    assert (code, "both probes are the same" in err) == (2, True)


def test_the_version_is_that_of_the_package(command: Command) -> None:
    assert command("--version")[:2] == (0, f"trace-probe {version('trace-probe')}\n")


def test_ctrl_c_says_how_to_go_on(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trace_probe.model.weights.Weights.__init__", stopped)
    code, out, err = command("record", "organism:rl", "a run", "--tasks", "world:mine:2")
    assert (code, out) == (INTERRUPTED, "")
    assert "trace-probe record organism:rl 'a run' --tasks world:mine:2" in err
    assert "Traceback" not in err
    assert all(name in after_interruption([name]) for name in RESUMES)


def test_a_recording_may_stop_after_some_tasks_and_goes_on_without_the_limit(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("record", "organism:rl", "run", "--tasks", "world:mine:3", "--samples", "1")
    short = (*words, "--max-new-tokens", "8", "--json")
    counts = [json.loads(command(*short, *more)[1]) for more in (("--limit", "1"), ())]
    assert [(one["recorded"], one["resumed"]) for one in counts] == [(1, 0), (2, 1)]
    code, _, err = command("record", "organism:rl", "x", "--recapture", "run", "--limit", "1")
    assert (code, "--limit goes with --tasks" in err) == (2, True)


def test_ctrl_c_promises_nothing_where_a_command_begins_anew(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trace_probe.tasks.sources.tasks_from", stopped)
    code, _, err = command("tasks", "world:mine:48")
    assert (code, err.strip()) == (INTERRUPTED, "stopped")


def test_another_probe_is_not_overwritten_unless_forced(
    command: Command, demo: tuple[Path, Path]
) -> None:
    run, probe = demo
    before = (probe / "card.json").read_bytes()
    quick = ("--layers", 2, "--features", "last", "--smoothing", "max")
    for rate in (0.2, json.loads(before)["target_false_alarm_rate"]):  # told before and after
        code, _, err = command("train", run, probe, *quick, "--rate", rate)
        assert (code, "--force" in err) == (1, True), err
        assert (probe / "card.json").read_bytes() == before
    assert command("train", run, probe, *quick, "--rate", 0.2, "--force")[0] == 0
    assert (probe / "card.json").read_bytes() != before
    assert command("train", run, probe, *quick, "--rate", 0.2)[0] == 0  # the same one again


def test_files_are_not_overwritten_unless_forced(
    command: Command, demo: tuple[Path, Path], tmp_path: Path
) -> None:
    file = tmp_path / "there"
    file.write_text("mine")
    for words in (("export", demo[0], file), ("show", demo[0], "d4414f", "--html", file)):
        code, _, err = command(*words)
        assert (code, "--force" in err, file.read_text()) == (1, True, "mine")
    assert command("export", demo[0], file, "--force")[0] == 0
    assert file.read_text("utf-8") != "mine"


def test_flag_lists_no_more_than_asked_for_and_counts_all(
    command: Command, demo: tuple[Path, Path]
) -> None:
    code, every, _ = command("flag", *demo, "--threshold=-1")
    code, out, _ = command("flag", *demo, "--threshold=-1", "--limit", 3)
    rows = out.splitlines()
    assert (code, [row[:16] for row in rows[:3]]) == (0, [r[:16] for r in every.splitlines()[:3]])
    assert rows[3].startswith("... and ")
    assert rows[4] in every.splitlines()
    assert len({row.index("  peak ") for row in every.splitlines() if "  peak " in row}) == 1
    found = json.loads(command("flag", *demo, "--threshold=-1", "--limit", 3, "--json")[1])
    assert len(found["alarms"]) == 3
    assert found["alarmed"] == len(
        json.loads(command("flag", *demo, "--threshold=-1", "--json")[1])["alarms"]
    )
