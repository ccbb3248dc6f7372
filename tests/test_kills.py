"""Commands that are killed at random moments lose nothing, and a last run leaves no trace of it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from kills_commands import COMMANDS

KILLS = int(os.environ.get("TRACE_PROBE_KILLS", "2"))
"""For each command; CI is content with few."""


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_was_killed_leaves_what_one_that_was_not_leaves(
    tmp_path: Path, command: str
) -> None:
    script = Path(__file__).with_name("kills_commands.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), command, "--kills", str(KILLS)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["kills"], found["lost"], found["differing"]) == (KILLS, 0, [])
