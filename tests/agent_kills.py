"""Kills a process that records an agent, again and again, and compares what came of it in the end.

python tests/agent_kills.py FOLDER --kills 10
"""

import argparse
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
from acting import SAMPLING, TASKS, acting_model, script
from tqdm import tqdm

from trace_probe.recording.course import Agent
from trace_probe.recording.record import new_manifest, record
from trace_probe.store import Store
from trace_probe.tasks.environments import scripted
from trace_probe.upkeep.verify import verify


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    sys.stdout.write(json.dumps(suffer(given.folder, given.kills, given.seed)) + "\n")


def suffer(folder: Path, kills: int, seed: int) -> dict[str, object]:
    """Return what came of so many kills."""
    tqdm.monitor_interval = 0
    model, agent, lot = acting_model(), Agent(scripted(script()), "script", 6), random.Random(seed)
    manifest = new_manifest(model, SAMPLING, layers=(0, 2))

    def walk(run: Path) -> None:
        store = Store.create(run, manifest)
        record(model, TASKS, store, agent, samples=8, batch_size=8, progress=False)

    began = time.monotonic()
    walk(folder / "whole")
    seconds, dead, logged, tries = time.monotonic() - began, 0, 0, 0
    run = folder / "killed"
    while dead < kills and tries < 50 * kills:
        tries += 1
        dead += killed(lambda: walk(run), lot.uniform(0, seconds / 4))
        logged += any((run / "calls").glob("*.jsonl")) if (run / "calls").is_dir() else 0
        if dead < kills and (run / "run.json").is_file() and len(Store(run)) == len(TASKS) * 8:
            for file in sorted(run.rglob("*"), reverse=True):
                file.rmdir() if file.is_dir() else file.unlink()
    walk(run)
    ours, theirs = Store(folder / "whole"), Store(run)
    gaps = [
        np.abs(ours.activations(trace).values - theirs.activations(trace).values).max()
        for trace in ours.traces()
    ]
    return {
        "kills": dead,
        "with_calls_left": logged,
        "same": {t.id: t for t in ours.traces()} == {t.id: t for t in theirs.traces()},
        "gap": float(max(gaps)),
        "left": [file.name for file in run.glob("calls/*")],
        "problems": [str(one) for one in verify(theirs, progress=False).problems],
        "episodes": len(ours),
        "calls": sum(len(trace.calls) for trace in ours.traces()),
        "seconds": round(seconds, 2),
    }


def killed(work: object, moment: float) -> bool:
    """Do work in a child that is killed at a moment; return whether it was still at it."""
    child = os.fork()
    if not child:
        try:
            work()  # type: ignore[operator]
            os._exit(0)
        finally:
            os._exit(1)
    time.sleep(moment)
    ended, status = os.waitpid(child, os.WNOHANG)
    if not ended:
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the child failed by itself"
    return not ended


if __name__ == "__main__":
    main()
