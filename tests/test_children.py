"""No process is left behind, however the one that started it ends."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
POOLED = """
import os, sys, time
from pathlib import Path
from trace_probe.execution.children import pool

def work(file):
    Path(file).write_text(str(os.getpid()))
    time.sleep(600)

if __name__ == "__main__":
    with pool(2) as started:
        for future in [started.submit(work, file) for file in sys.argv[1:]]:
            future.result()
"""


def wait_until(holds: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.05)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    status = Path(f"/proc/{pid}/stat")
    return status.is_file() and status.read_text("utf-8").rpartition(")")[2].split()[0] == "Z"


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_the_children_of_a_training_end_with_it(tmp_path: Path, sent: signal.Signals) -> None:
    script = tmp_path / "pooled.py"
    script.write_text(POOLED, "utf-8")
    files = [tmp_path / "a", tmp_path / "b"]
    command = [sys.executable, str(script), *map(str, files)]
    with open(tmp_path / "said", "wb") as said:
        parent = subprocess.Popen(command, env=environment(), stderr=said)
    wait_until(lambda: all(file.is_file() and file.read_text() for file in files))
    children = [int(file.read_text()) for file in files]
    assert not any(map(gone, children))
    parent.send_signal(sent)
    parent.wait(60)
    wait_until(lambda: all(map(gone, children)), 20)


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_nothing_of_the_explorer_is_left_when_its_command_ends(
    sent: signal.Signals,
) -> None:

    from benchmarks.serve import free_port

    port = free_port()
    code = "from trace_probe.commands.main import main; main()"
    words = ["explore", "--traces", str(ROOT / "traces"), "--port", str(port), "--headless"]
    started = subprocess.Popen(
        [sys.executable, "-c", code, *words],
        env=environment(),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_until(lambda: listens(port), 120)
        started.send_signal(sent)
        started.wait(60)
        wait_until(lambda: not listens(port), 20)
    finally:
        started.kill()
        started.wait()


def listens(port: int) -> bool:
    import socket

    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0
