"""The road end to end, on a shipped organism: the demo, its JSON, and what the commands say."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from trace_probe.commands.main import app, main
from trace_probe.demo import DemoPlan, DemoReport, format_demo, run_demo
from trace_probe.store import Store
from trace_probe.visible import visible

KEYS = {
    "traces",
    "instrumental_rate",
    "within_prompt_auroc",
    "pooled_auroc",
    "baselines",
    "threshold",
    "target_false_alarm_rate",
    "false_alarm_rate",
    "caught_before_said",
    "caught_before_action",
    "seconds",
}


def plan(folder: Path) -> DemoPlan:
    return DemoPlan(
        folder / "traces" / "run",
        folder / "probes" / "run",
        scenarios=18,
        samples=4,
        hard_negatives=8,
        benign=60,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def report(folder: Path) -> DemoReport:
    return run_demo(plan(folder), say=lambda _: None)


def invoke(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_the_demo_reports_what_it_promises(report: DemoReport) -> None:
    value = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert value.keys() >= KEYS
    assert value["traces"] == 18 * 4 + 8 + 60
    assert {"category-only", "prompt-only", "tfidf", "layer 0"} <= value["baselines"].keys()
    assert 0 < value["instrumental_rate"]["estimate"] < 1


def test_a_second_demo_records_nothing_anew(report: DemoReport, folder: Path) -> None:
    before = (folder / "traces" / "run" / "traces.jsonl").read_bytes()
    again = run_demo(plan(folder), say=lambda _: None)
    assert (folder / "traces" / "run" / "traces.jsonl").read_bytes() == before
    assert {**again.to_json(), "seconds": 0} == {**report.to_json(), "seconds": 0}


def test_the_summary_says_where_the_run_is_and_how_to_open_it(
    report: DemoReport, folder: Path
) -> None:
    text = format_demo(report, folder / "traces" / "run", folder / "probes" / "run")
    assert str(folder / "traces" / "run") in text
    assert "trace-probe explore" in text
    assert "benign traces that alarm" in text
    assert "smoothing mean" not in text
    assert len(text.splitlines()) < 25


@pytest.mark.usefixtures("report")
def test_flag_gates_a_pipeline_by_its_exit_code(folder: Path) -> None:
    run, probe = folder / "traces" / "run", folder / "probes" / "run"
    calm = invoke("flag", run, probe, "--threshold", "1e9", "--fail-on-alarm", "--json")
    assert calm.exit_code == 0
    assert json.loads(calm.stdout)["alarms"] == []
    assert invoke("flag", run, probe, "--threshold=-1e9").exit_code == 0
    assert invoke("flag", run, probe, "--threshold=-1e9", "--fail-on-alarm").exit_code == 6


@pytest.mark.usefixtures("report")
def test_show_prints_one_trace_as_text_and_as_json(folder: Path) -> None:
    run = folder / "traces" / "run"
    trace = next(Store(run).traces())
    shown = invoke("show", run, trace.id, "--json")
    lines = json.loads(shown.stdout)["lines"]
    assert "".join(line["text"] for line in lines) == "".join(
        trace.text_of(span) for span in trace.sentences
    )
    assert visible(lines[0]["text"]).strip() in invoke("show", run, trace.id).stdout


@pytest.mark.usefixtures("report")
def test_every_step_can_be_taken_by_command(folder: Path) -> None:
    run, probe = folder / "traces" / "run", folder / "probes" / "again"
    assert invoke("label", run, "--json").exit_code == 0
    assert invoke("train", run, probe, "--rate", "0.05", "--json").exit_code == 0
    found = invoke("evaluate", run, probe, "--json")
    assert found.exit_code == 0
    assert json.loads(found.stdout)["target_false_alarm_rate"] == 0.05


@pytest.mark.usefixtures("report")
def test_an_oracle_is_asked_once_and_sets_the_probe_on_its_axis(folder: Path) -> None:
    run, probe = folder / "traces" / "run", folder / "probes" / "run"
    ask = ("oracle", run, "--probe", probe, "--traces", 12, "--continuations", 2)
    expected = json.loads(invoke(*ask, "--estimate", "--json").stdout)
    found = invoke(*ask, "--json")
    assert found.exit_code == 0, found.output
    asked = json.loads(found.stdout)["traces"]
    assert asked == expected["traces"] > 0
    assert "\n0 continuations drawn" in invoke(*ask).stderr  # all of them are kept
    compared = invoke("efficiency", run, probe, "--json")
    assert compared.exit_code == 0, compared.output
    value = json.loads(compared.stdout)
    assert value["traces"] == asked
    detectors = value["auroc"]["before it is said"].keys()
    assert detectors >= {"oracle", "run", "tfidf", "prompt-only"}


@pytest.mark.usefixtures("report")
def test_steering_and_intervening_end_in_a_verdict(folder: Path) -> None:
    run, probe = folder / "traces" / "run", folder / "probes" / "run"
    few = ("--randoms", 2, "--unrelated", 1, "--prompts", 2, "--continuations", 1)
    # What is left of a thought is soon written, and one dose is enough for a verdict.
    short = ("--at", 0.8, "--doses", "0.1", "--dose", 0.1)
    steered = invoke("steer", run, probe, *few, *short, "--json")
    assert steered.exit_code == 0, steered.output
    value = json.loads(steered.stdout)
    assert value["controls"] == {"random": 2, "unrelated": 1}
    assert "causal" in value["verdict"].lower() or "specific" in value["verdict"]
    alarmed = ("--threshold=-1e9", "--traces", 2, "--continuations", 1)
    answered = invoke("intervene", run, probe, *alarmed, "--json")
    assert answered.exit_code == 0, answered.output
    assert json.loads(answered.stdout)["alarms"] == 2
    assert invoke("intervene", run, probe, *alarmed).stdout.strip().endswith(".")


def command(*words: object) -> subprocess.CompletedProcess[str]:
    code = "from trace_probe.commands.main import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, check=False
    )


def test_an_error_is_one_line_on_standard_error(tmp_path: Path) -> None:
    done = command("flag", tmp_path / "nowhere", tmp_path / "no-probe")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert "trace-probe" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", [("flag",), ("train", "run", "probe", "--layers", "a,b")])
def test_wrong_usage_exits_with_two(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["trace-probe", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2


def test_help_needs_neither_torch_nor_a_second() -> None:
    code = (
        "import sys, trace_probe, trace_probe.commands.main; from typer.main import get_command;"
        "get_command(trace_probe.commands.main.app);"
        "heavy = {'torch', 'transformers', 'sklearn', 'streamlit', 'pandas'} & set(sys.modules);"
        "sys.exit(', '.join(heavy) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "name",
    ["tasks", "record", "import", "label", "train", "evaluate", "flag", "show", "demo", "explore"],
)
def test_every_command_has_help(name: str) -> None:
    shown = invoke(name, "--help")
    assert shown.exit_code == 0
    assert len(shown.stdout.split()) > 20
