"""Commands that are killed at random moments lose nothing, and a last run leaves no trace of it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from kills_commands import COMMANDS

KILLS = int(os.environ.get("TRACE_PROBE_KILLS", "2"))
"""For each command; CI is content with few."""


class Outcome(NamedTuple):
    """What was found for each command, and what the process said about those it did not finish."""

    found: dict[str, dict[str, Any]]
    errors: str


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """Kill every command from one process, which loads torch and the rest only once."""
    script = Path(__file__).with_name("kills_commands.py")
    folder = tmp_path_factory.mktemp("kills")
    done = subprocess.run(
        [sys.executable, str(script), str(folder), "--kills", str(KILLS)],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return Outcome({line["command"]: line for line in lines}, done.stderr)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_was_killed_leaves_what_one_that_was_not_leaves(
    outcome: Outcome, command: str
) -> None:
    assert command in outcome.found, outcome.errors
    found = outcome.found[command]
    assert (found["kills"], found["lost"], found["differing"]) == (KILLS, 0, [])
