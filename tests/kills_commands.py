"""Kills commands at random moments of their work, and compares what they leave.

    python tests/kills_commands.py FOLDER [COMMAND ...] [--kills 8]

A command is first run whole. Then it is killed, after a time drawn by lot out of the time that
the whole run took, and started again on what it left, until a run ends by itself; that road is
compared with the whole run, file by file, and the next one begins, until enough runs have died.
After each kill, what was committed before must still be there and readable.

What is heavy is loaded once; each run is a fork, so that nearly all kills fall into work.
"""

import argparse
import gc
import hashlib
import importlib
import json
import os
import random
import shutil
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from kills import answer, known
from runs import make_run

ROOT = Path(__file__).parents[1]
VERDICTS = 60
SHARD = 300
"""Bytes of a shard: each trace gets one of its own."""
PROBE, OTHER = str(ROOT / "probes" / "demo"), str(ROOT / "traces" / "demo")
COMMANDS: dict[str, tuple[str, ...]] = {
    "record": (
        *("record", "organism:rl-s0", "run", "--tasks", "world:kills:4", "--samples", "2"),
        *("--max-new-tokens", "20", "--batch-size", "2"),
    ),
    "label": ("label", "run"),
    "train": (
        *("train", "run", "probe", "--layers", "2", "--features", "last", "--smoothing", "max"),
    ),
    "pack": (),
    "merge": ("store", "merge", "run", "first", "second"),
    "flag": ("flag", "run", PROBE, "--json"),
    "calibrate": ("calibrate", "run", "probe", "--json"),
    "oracle": (
        *("oracle", "run", "--name", "killed", "--traces", "8", "--continuations", "2"),
        *("--bisections", "0"),
    ),
    "study": ("study", "run", OTHER, "--json"),
    "efficiency": ("efficiency", "run", PROBE, "--json"),
    "steer": (
        *("steer", "run", PROBE, "--name", "killed", "--prompts", "2", "--continuations", "1"),
        *("--randoms", "1", "--unrelated", "1", "--doses", "0.1", "--dose", "0.1"),
        *("--at", "0.7", "--backend", "hooks", "--json"),
    ),
    "annotations": (),
}
HEAVY = (
    *("trace_probe.commands.main", "trace_probe.emergence.asking"),
    *("trace_probe.emergence.efficiency", "trace_probe.emergence.experiment"),
    *("trace_probe.emergence.oracle", "trace_probe.evaluation.panel"),
    *("trace_probe.labelling.annotations", "trace_probe.labelling.runs"),
    *("trace_probe.model.local", "trace_probe.monitor.calibrated", "trace_probe.monitor.flagging"),
    *("trace_probe.recording.record", "trace_probe.recording.served_agents"),
    *("trace_probe.recording.shares", "trace_probe.study.study", "trace_probe.study.tables"),
    *("trace_probe.tasks.environments", "trace_probe.tasks.sources", "trace_probe.training"),
    *("trace_probe.upkeep.merge", "trace_probe.upkeep.pack", "trace_probe.world.rules"),
    *("pyarrow.dataset", "pydantic.dataclasses", "safetensors.numpy", "scipy.stats"),
    "sentencepiece",
    *("sklearn.decomposition", "sklearn.linear_model", "transformers.convert_slow_tokenizer"),
    "transformers.models.qwen3.modeling_qwen3",
)
TOLD_AGAIN = {"record", "label", "pack", "merge"}
"""They say what they did themselves, which after a kill is less."""
NOT_COMPARED = {".lock", ".joined", "acknowledged", "said"}


def prepared(name: str, folder: Path) -> Path:
    """Return a folder with what a command is given."""
    folder.mkdir(parents=True)
    if name == "pack":
        make_run(folder / "run", range(60))
    elif name == "merge":
        make_run(folder / "first", range(30))
        make_run(folder / "second", range(30, 60))
    elif name != "record":
        shutil.copytree(OTHER, folder / "run")
    if name == "label":
        (folder / "run" / "labels.jsonl").unlink()
    if name == "calibrate":
        shutil.copytree(PROBE, folder / "probe")
    return folder


def work(name: str) -> None:
    """Run a command in the current folder."""
    if name == "annotations":
        return judge(Path("run"))
    if name == "pack":
        from trace_probe.store import Store
        from trace_probe.upkeep.pack import pack

        pack(Store("run"), shard_bytes=SHARD, progress=False)
        return None
    from trace_probe.commands.main import main

    sys.argv = ["trace-probe", *COMMANDS[name]]
    try:
        main()
    except SystemExit as ended:
        if ended.code:
            raise RuntimeError(f"{name} ended with {ended.code}") from ended


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


def fork(name: str, folder: Path, moment: float | None) -> tuple[bool, float]:
    """Run a command in a child, perhaps kill it; return whether it died, and how long it ran."""
    start = time.monotonic()
    pid = os.fork()
    if pid == 0:
        try:
            os.chdir(folder)
            with open("said", "w", encoding="utf-8") as sys.stdout:
                work(name)
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


def committed(name: str, folder: Path) -> set[str]:
    """Return what nobody may lose again: whole lines, and traces with their activations."""
    found = set[str]()
    for file in folder.rglob("*.jsonl"):
        if "cache" not in file.parts:
            lines = file.read_bytes().split(b"\n")[:-1]
            found |= {hashlib.sha256(line).hexdigest() for line in lines}
    run = folder / "run"
    if name in ("record", "pack", "merge") and (run / "run.json").is_file():
        found |= {f"{one} {held}" for one, held in answer(lambda: known(run)).items()}
    return found


def held(folder: Path) -> dict[str, str]:
    """Return a digest of each file, of its lines in any order; caches may differ."""
    files = [file for file in folder.rglob("*") if file.is_file() and "cache" not in file.parts]
    return {
        str(file.relative_to(folder)): hashlib.sha256(
            b"\n".join(sorted(file.read_bytes().splitlines()))
        ).hexdigest()
        for file in files
        if file.name not in NOT_COMPARED
    }


def compared(name: str, folder: Path, whole: Path) -> list[str]:
    """Return in what a finished road differs from the whole run, stray files included."""
    if name == "annotations":  # one that was on disk but not acknowledged is given again
        lines = (folder / "run/annotations/anna.jsonl").read_text("utf-8").splitlines()
        kept = {json.loads(line).get("note") for line in lines}
        lost = set((folder / "acknowledged").read_text("utf-8").split()) - kept
        stray = set(held(folder)) - set(held(whole))
        return [*(f"verdict {one} is lost" for one in sorted(lost)), *sorted(stray)]
    one, other = held(folder), held(whole)
    differing = sorted(file for file in {*one, *other} if one.get(file) != other.get(file))
    same = (whole / "said").read_bytes() == (folder / "said").read_bytes()
    return differing + ["what it says"] * (name not in TOLD_AGAIN and not same)


def suffer(name: str, root: Path, kills: int) -> dict[str, Any]:
    """Return what came of so many kills of a command."""
    whole = prepared(name, root / "whole")
    _, seconds = fork(name, whole, None)
    draw, dealt, roads, differing, lost = random.Random(name), 0, 0, set[str](), 0
    while dealt < kills:
        folder, killed, before = prepared(name, root / f"road-{roads}"), True, set[str]()
        while killed:
            moment = draw.uniform(0.02, seconds) if dealt < kills else None
            killed, _ = fork(name, folder, moment)
            now = committed(name, folder)
            lost, before, dealt = lost + len(before - now), now, dealt + killed
        differing |= set(compared(name, folder, whole))
        roads += 1
        shutil.rmtree(folder)
    return {
        "command": name,
        "kills": dealt,
        "roads": roads,
        "seconds": round(seconds, 2),
        "lost": lost,
        "differing": sorted(differing),
    }


def main() -> None:
    """Kill each command, and say what was found as a line of JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("commands", nargs="*", choices=[*COMMANDS, []])
    parser.add_argument("--kills", type=int, default=8)
    given = parser.parse_args()
    for module in HEAVY:  # so that children need not
        importlib.import_module(module)
    import torch
    from tqdm import tqdm

    tqdm.monitor_interval = 0  # no thread of its own, which a fork would catch at something
    tqdm.set_lock(threading.RLock())  # its own is shared by all processes: the dead would hold it
    torch.set_num_threads(1)
    gc.freeze()  # else each child would look through it all
    for name in given.commands or COMMANDS:
        found = suffer(name, (given.folder / name).absolute(), given.kills)
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
