"""Kills commands at random moments of their work, and compares what a last, whole run leaves.

    python tests/kills_commands.py FOLDER COMMAND [KILLS]

It loads what is heavy once and forks a child for each run, so that a kill costs no import.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
VERDICTS = 60
COMMANDS: dict[str, tuple[str, ...]] = {
    "oracle": ("--name", "killed", "--traces", "8", "--continuations", "2", "--bisections", "0"),
    "efficiency": ("PROBE", "--json"),
    "study": ("OTHER", "--json"),
    "steer": (
        *("PROBE", "--name", "killed", "--prompts", "2", "--continuations", "1", "--json"),
        *("--randoms", "1", "--unrelated", "1", "--doses", "0.1", "--dose", "0.1"),
        *("--backend", "hooks"),
    ),
    "annotations": (),
}


def command(name: str, run: Path) -> Callable[[], None]:
    """Return what runs a command on a run; what it prints goes to ``said``, once it is whole."""
    if name == "annotations":
        return lambda: judge(run)
    known = {"PROBE": str(ROOT / "probes" / "demo"), "OTHER": str(ROOT / "traces" / "demo")}
    words = [known.get(word, word) for word in COMMANDS[name]]

    def work() -> None:
        from trace_probe.commands.main import main

        sys.argv = ["trace-probe", name, str(run), *words]
        try:
            main()
        except SystemExit as ended:
            if ended.code:
                raise RuntimeError(f"{name} ended with {ended.code}") from ended

    return work


def judge(run: Path) -> None:
    """Give verdicts one after the other, and note each once it is acknowledged."""
    from trace_probe.labelling.annotations import Annotation, annotate, judged_place
    from trace_probe.store import Store

    store = Store(run)
    trace = next(store.traces())
    noted = run.with_name("acknowledged")
    held = len(noted.read_bytes().splitlines()) if noted.exists() else 0
    with open(noted, "ab", buffering=0) as file:
        for number in range(held, VERDICTS):
            start, stop, text = judged_place(trace, None)
            annotate(
                store,
                Annotation(
                    trace.id, None, "unsure", "anna", "2026-01-01T00:00:00+00:00", True,
                    start, stop, text, note=str(number),
                ),
            )  # fmt: skip
            file.write(f"{number}\n".encode())


def fork(work: Callable[[], None], said: Path, moment: float | None) -> tuple[bool, float]:
    """Run work in a child, perhaps kill it; return whether it was killed, and how long it ran."""
    start = time.monotonic()
    pid = os.fork()
    if pid == 0:
        try:
            with open(said, "w", encoding="utf-8") as sys.stdout:
                work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if moment is not None:
        time.sleep(moment)
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    killed = os.WIFSIGNALED(status)
    assert killed or status == 0, "a child failed: see above"
    return killed, time.monotonic() - start


def held(run: Path) -> dict[str, str]:
    """Return a digest of each file, of its lines in any order; caches may differ."""
    files = [file for file in run.rglob("*") if file.is_file() and "cache" not in file.parts]
    return {
        str(file.relative_to(run)): hashlib.sha256(
            b"\n".join(sorted(file.read_bytes().splitlines()))
        ).hexdigest()
        for file in files
        if file.name not in (".lock", ".joined")
    }


def main() -> None:
    """Kill, go on, and say what was found as a line of JSON."""
    folder, name, kills = Path(sys.argv[1]), sys.argv[2], int((sys.argv[3:] or ["8"])[0])
    import torch

    import trace_probe.model.local  # noqa: F401 - so that children need not

    torch.set_num_threads(1)
    runs = [shutil.copytree(ROOT / "traces" / "demo", folder / one / "run") for one in "ab"]
    _, seconds = fork(command(name, runs[0]), folder / "whole", None)
    draw, dealt = random.Random(name), 0
    for number in range(kills):
        moment = draw.uniform(0.0, seconds) * (number + 1) / kills
        dealt += fork(command(name, runs[1]), folder / "said", moment)[0]
    fork(command(name, runs[1]), folder / "said", None)
    left = sorted(str(file) for file in runs[1].rglob("*.tmp"))
    differing = [
        file
        for file in sorted({*held(runs[0]), *held(runs[1])})
        if held(runs[0]).get(file) != held(runs[1]).get(file)
    ]
    same = (folder / "whole").read_text("utf-8") == (folder / "said").read_text("utf-8")
    notes = {}
    if name == "annotations":
        lines = (runs[1] / "annotations" / "anna.jsonl").read_text("utf-8").splitlines()
        kept = {json.loads(line.partition("\t")[0]).get("note") for line in lines}
        told = set((runs[1].with_name("acknowledged")).read_text("utf-8").split())
        notes, differing = {"lost": len(told - kept), "told": len(told)}, []
    sys.stdout.write(
        json.dumps(
            {"kills": dealt, "left": left, "differing": differing, "same": same, **notes}
            | {"seconds": round(seconds, 2)}
        )
        + "\n"
    )


if __name__ == "__main__":
    main()
