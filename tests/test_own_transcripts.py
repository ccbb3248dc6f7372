"""Transcripts of one's own: what a message names is a command that leads on to `flag`."""

import json
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from trace_probe.store import Store
from trace_probe.trace import Trace

Command = Callable[..., tuple[int, str, str]]
NAMED = re.compile(r"`trace-probe ([^`]+)`")


@pytest.fixture(scope="module")
def known() -> list[Trace]:
    """Return a few recorded traces whose thought has come to its end."""
    closed = (trace for trace in Store("traces/demo").traces() if trace.thought == "closed")
    return [trace for trace, _ in zip(closed, range(4), strict=False)]


@pytest.fixture
def plain(known: list[Trace], tmp_path: Path) -> Path:
    """Return them as plain lines of prompt, reasoning and answer."""
    lines = [
        {
            "id": trace.id,
            "prompt": trace.task.prompt,
            **({"system": trace.task.system} if trace.task.system else {}),
            "reasoning": trace.channel_text("reasoning").strip(),
            "answer": trace.channel_text("answer").strip(),
        }
        for trace in known
    ]
    file = tmp_path / "mine.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return file


def named(error: str, out: Path) -> Sequence[str]:
    """Return the command that an error names first, with a folder to write to."""
    found = NAMED.search(error)
    assert found, error
    words = shlex.split(found[1].replace("NEW_RUN", str(out)).replace("MODEL", "organism:rl-s0"))
    assert str(out) in words
    return words


@pytest.mark.parametrize("tokens", [True, False], ids=["tokens", "words"])
def test_the_command_that_flag_names_leads_to_its_scores(
    command: Command, plain: Path, known: list[Trace], tmp_path: Path, tokens: bool
) -> None:
    run, out = tmp_path / "run", tmp_path / "read"
    option = ("--tokenizer", "organism:rl-s0") if tokens else ()
    assert command("import", plain, run, *option)[0] == 0
    code, _, error = command("flag", run, "probes/demo")
    assert code == 1
    assert "the run has no activations" in error
    assert "train a probe on this run" not in error
    words = named(error, out)
    assert words[0] == ("record" if tokens else "observe")
    code, _, error = command(*words)
    assert code == 0, error
    code, printed, error = command("flag", out, "probes/demo", "--json")
    assert code == 0, error
    assert json.loads(printed)["traces"] == len(known)
    if tokens:  # the same tokens as were recorded, so the same scores
        prompts = {trace.task.prompt: trace.id for trace in known}
        recorded, read = Store("traces/demo").scores("demo"), Store(out).scores("demo")
        for trace in Store(out).traces():
            own = recorded[prompts[trace.task.prompt]]
            np.testing.assert_allclose(read[trace.id][:2], own[:2], atol=1e-3)


def test_what_cannot_be_recaptured_names_a_command_that_reads_it(
    command: Command, plain: Path, tmp_path: Path
) -> None:
    run, out = tmp_path / "run", tmp_path / "read"
    assert command("import", plain, run)[0] == 0
    code, _, error = command("record", "organism:rl-s0", out, "--recapture", run)
    assert code == 1
    assert "no token ids" in error
    code, _, error = command(*named(error, out))
    assert code == 0, error
    assert command("flag", out, "probes/demo")[0] == 0


def test_an_observed_run_that_lacks_a_layer_is_observed_again(
    command: Command, plain: Path, tmp_path: Path
) -> None:
    run, few, out = tmp_path / "run", tmp_path / "few", tmp_path / "read"
    assert command("import", plain, run)[0] == 0
    options = ("--layers", "0", "--pooling", "mean")
    assert command("observe", run, "organism:rl-s0", few, *options)[0] == 0
    assert Store(few).manifest.poolings == ("mean",)
    code, _, error = command("flag", few, "probes/demo")
    assert code == 1
    assert "layers [0], without" in error
    code, _, error = command(*named(error, out))
    assert code == 0, error
    assert command("flag", out, "probes/demo")[0] == 0


def test_a_probe_that_cannot_read_the_model_named_speaks_of_the_model_and_of_no_run(
    command: Command,
) -> None:
    words = ("score", "probes/demo", "--model", "organism:base")
    code, _, error = command(*words, given="I must finish.")
    assert code == 1
    assert "probe demo cannot read organism:base@" in error
    assert "trained on another model (model 'organism:base@" in error
    assert "the run" not in error
    assert "Let organism:rl-s0 read" in error


def test_the_explorer_says_in_the_terminal_where_there_are_no_runs(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def launch(*_: object, **__: object) -> None:
        raise SystemExit(0)

    monkeypatch.setattr("trace_probe.explorer.launch.launch", launch)
    for folder, state in ((tmp_path, "there is no run in it"), (tmp_path / "no", "not exist")):
        error = command("explore", "--traces", folder)[2]
        assert error.startswith(f"no runs in {folder}: ")
        assert state in error
    assert command("explore", "--traces", "traces")[2] == ""


def test_training_without_activations_names_what_makes_them(
    command: Command, plain: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert command("import", plain, run)[0] == 0
    code, _, error = command("train", run, tmp_path / "probe")
    assert code == 1
    assert "`trace-probe observe RUN MODEL NEW_RUN`" in error
