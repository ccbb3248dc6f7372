"""A command that cannot succeed says so before it loads a model, which takes long."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from trace_probe.commands.main import app
from trace_probe.errors import TraceProbeError

ROOT = Path(__file__).parents[1]
RECORD = ("record", "organism:rl-s0")
MINE = ("--tasks", "world:mine:1")
BOTH = ("probes/demo", "probes/other")
PROMPT = "The goal is 18 jars."
WRONG = [
    ((*RECORD, "traces/new", *MINE, "--pooling", "median"), "'median' is not a pooling"),
    ((*RECORD, "traces/new", *MINE, "--top-p", "2"), "top_p in (0, 1]"),
    ((*RECORD, "traces/new", *MINE, "--temperature", "0"), "--samples 1"),
    ((*RECORD, "traces/new", *MINE, "--layers", "a"), "'a' is not a list of numbers"),
    ((*RECORD, "traces/new", *MINE, "--shard", "8/8"), "'8/8' is not a share"),
    ((*RECORD, "traces/new", *MINE, "--agent"), "names no environment"),
    ((*RECORD, "traces/new", "--tasks", "agentworld:mine:1"), "record an agent (--agent)"),
    ((*RECORD, "traces", *MINE), "is not empty and not a run"),
    ((*RECORD, "traces/demo", *MINE), "holds a run with other settings"),
    ((*RECORD, "traces/new", "--recapture", "traces/dmeo"), "no run at traces/dmeo"),
    ((*RECORD, "traces/new", "--recapture", "traces/demo", "--pooling", "sum"), "not a pooling"),
    ((*RECORD, "traces", "--recapture", "traces/demo"), "is not empty and not a run"),
    (("observe", "traces/demo", "organism:rl-s0", "traces"), "is not empty and not a run"),
    (("observe", "traces/demo", "organism:rl-s0", "traces/demo"), "is the run itself"),
    (("observe", "traces/demo", "organism:rl-s0", "traces/new", "--layers", "x"), "not a list"),
    (("oracle", "traces/demo", "--by", "ruels"), "no labeller 'ruels'"),
    (("oracle", "traces/demo", "--tools", "none.json"), "none.json"),
    (("oracle", "traces/unlabelled"), "has no trace to ask about"),
    (("steer", "traces/demo", "probes/demo", "--doses", "much"), "'much' is not a list"),
    (("steer", "traces/demo", "probes/demo", "--layer", "3"), "layer 3 was not recorded"),
    (("steer", "traces/demo", "probes/demo", "--by", "ruels"), "no labeller 'ruels'"),
    (("steer", "traces/demo", "probes/other"), "does not fit"),
    (("intervene", "traces/demo", "probes/demo", "--by", "ruels"), "no labeller 'ruels'"),
    (("intervene", "traces/demo", "probes/other"), "does not fit"),
    (("intervene", "traces/unlabelled", "probes/demo"), "record and label more tasks"),
    (("watch", PROMPT, *BOTH), "the probes read several models"),
    (("watch", PROMPT, "probes/demo", "--smoothing", "mean:9"), "has no threshold"),
    (("watch", PROMPT, "probes/demo", "--threshold", "nan"), "give a threshold in numbers"),
    (("watch", PROMPT, "probes/demo", "--top-p", "0"), "top_p in (0, 1]"),
    (("watch", PROMPT, "probes/demo", "--tools", "a.json"), "--agent and --tools go together"),
    (("score", "probes/demo", "--smoothing", "mean:9"), "has no threshold"),
    (("score", "probes/dmeo"), "did you mean probes/demo?"),
    (("serve", *BOTH), "the probes read several models"),
    (("serve", "probes/demo", "--smoothing", "mean:9"), "has no threshold"),
    (("serve", "probes/demo", "--host", "0.0.0.0"), "TRACE_PROBE_TOKEN"),
    (("watch", "probes/demo", PROMPT), "the prompt comes first, then the probes"),
    (("import", "traces/demo", "mine.jsonl"), "`trace-probe import mine.jsonl traces/demo`"),
    (("import", "traces", "traces/new"), "`trace-probe import FILE RUN`"),
    (("inspect", "import", "traces", "traces/new"), "`trace-probe inspect import FILE RUN`"),
    (("import", "mine.jsonl", "traces/demo"), "holds a run that was recorded: choose another"),
    (("demo", "--out", "traces"), "is not empty and not a run"),
    (("demo", "--out", "traces/new", "--probe", "traces/demo"), "holds a run, not a probe"),
    (("organism", "check", "base", "basis"), "basis"),
    (("evaluate", "traces/demo", "probes/dmeo", "--embeddings", "encoder"), "no probe at"),
    (("flag", "traces/demo", "probes/other"), "The probe is of another model: name a probe of"),
    (("evaluate", "traces/demo", "probes/other"), "`trace-probe train traces/demo NEW_PROBE`"),
    (("observe", "traces/demo", "organism:rl-s0", "traces/new", "--pooling", "sum"), "a pooling"),
    (("flag", "traces/demo", "probes/demo", "--threshold", "nan"), "give a threshold in numbers"),
    (("train", "traces/demo", "probes/demo"), "holds another probe"),
    (("train", "traces/demo", "probes/new", "--layers", "2,3"), "layer 3 was not recorded"),
    (("train", "traces/demo", "probes/new", "--smoothing", "median"), "median"),
    (("train", "traces/demo", "probes/new", "--rate", "2"), "less than or equal to 1"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a run, the same without labels, its probe and one of another model."""
    folder = tmp_path_factory.mktemp("place")
    shutil.copytree(ROOT / "traces" / "demo", folder / "traces" / "demo")
    unlabelled = folder / "traces" / "unlabelled"
    unlabelled.mkdir()
    for name in ("run.json", "traces.jsonl"):
        shutil.copy(folder / "traces" / "demo" / name, unlabelled)
    for name, there in (("demo", "demo"), ("english", "other")):
        shutil.copytree(ROOT / "probes" / name, folder / "probes" / there)
    line = '{"prompt": "Go.", "answer": "Done."}'
    (folder / "mine.jsonl").write_text(line, encoding="utf-8")
    return folder


@pytest.mark.parametrize(("words", "text"), WRONG, ids=lambda given: " ".join(given)[:80])
def test_a_wrong_command_is_refused_before_a_model_is_loaded(
    words: tuple[str, ...], text: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if words[0] == "serve":
        pytest.importorskip("fastapi", reason="needs the extra `serve`")
    loaded: list[Any] = []

    def load(*name: Any, **how: Any) -> None:
        loaded.append((name, how))
        raise AssertionError("a model was loaded")

    for module in ("local", "embedder"):
        monkeypatch.setattr(f"trace_probe.model.{module}.read_network", load)
    monkeypatch.setattr("trace_probe.probing.sweep.LayerSweeper.__call__", load)
    monkeypatch.chdir(place)
    found = CliRunner().invoke(app, words)
    said = " ".join(f"{found.output} {found.exception}".replace("│", " ").split())
    assert not loaded
    assert found.exit_code == 2 or isinstance(found.exception, TraceProbeError)
    assert text in said
