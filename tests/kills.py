"""Kills a process that records, labels and packs, again and again, while another one reads.

    python tests/kills.py FOLDER --kills 100

A road is capture, label, pack, from nothing. It is first walked uninterrupted; then by children
that are killed in a phase chosen by lot, after a time chosen by lot, each child resuming what
the last one left. When a road is finished the run is verified and compared with the
uninterrupted one, and the next road begins, until there have been enough kills. All the while a
reader opens the run and compares every committed trace and its activations with the
uninterrupted run; nothing that it has once seen may be gone.

The children are forked from a process that has loaded all it needs, so that most kills fall
into work. With --by model the traces are sampled from an organism, with --by hand they are made
up, which is much quicker and goes the same way through the store.
"""

import argparse
import hashlib
import json
import os
import random
import select
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from runs import MANIFEST, fill, label_of
from tqdm import tqdm

from trace_probe.store import Store
from trace_probe.upkeep.pack import pack
from trace_probe.upkeep.verify import verify

PHASES = ("capture", "label", "pack")
SHARD = 300


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--by", choices=("model", "hand"), default="model")
    sys.stdout.write(json.dumps(suffer(**vars(parser.parse_args()))) + "\n")


def suffer(folder: Path, kills: int, seed: int, by: str) -> dict[str, Any]:
    """Return what came of so many kills."""
    tqdm.monitor_interval = 0  # no thread of its own, which a fork would catch at something
    tqdm.set_lock(threading.RLock())  # its own is shared by all processes: the dead would hold it
    capture = sampling() if by == "model" else made_up
    lot, dealt, roads = random.Random(seed), Counter[str](), 0

    def road(run: Path) -> Callable[[Callable[[str], None]], None]:
        return lambda say: walk(run, capture, say)

    whole = folder / "whole"
    seconds, died = child(road(whole), None, 0)
    assert died is None, "the uninterrupted road ended early"
    truth = answer(lambda: known(whole))
    while sum(dealt.values()) < kills:
        run = folder / f"road-{roads}"
        stop, reader = watch(run, truth)
        finished = False
        while not finished:
            enough = sum(dealt.values()) >= kills
            phase = None if enough else lot.choices(PHASES, weights=(5, 1, 1))[0]
            moment = lot.uniform(0, seconds[phase]) if phase else 0
            _, died = child(road(run), phase, moment)
            dealt.update([died] if died else [])
            finished = died is None
        os.close(stop)
        _, status = os.waitpid(reader, 0)
        assert status == 0, f"the reader of {run} saw what it must not see: see above"
        problem = answer(partial(compared, run, whole))
        assert not problem, problem
        roads += 1
        sys.stderr.write(f"{dict(dealt)} in {roads} roads\n")
    return {
        "kills": sum(dealt.values()),
        "by_phase": {phase: dealt[phase] for phase in PHASES},
        "roads": roads,
        "seconds": {phase: round(value, 2) for phase, value in seconds.items()},
        "traces": len(truth),
    }


def sampling() -> Callable[[Path], Any]:
    """Return what records a run from an organism."""
    import torch

    from trace_probe.model.local import load_model
    from trace_probe.recording.record import new_manifest, record
    from trace_probe.store import Store
    from trace_probe.trace import Sampling, Span
    from trace_probe.world.scenario import world_tasks

    torch.set_num_threads(1)
    model, tasks = load_model("organism:rl-s0"), world_tasks("world:kills:4")
    model.replay([[1, 2, 3]], [[Span(0, 3)]], [0])  # whatever is made on first use

    def capture(run: Path) -> Store:
        store = Store.create(run, new_manifest(model, Sampling(max_new_tokens=20)))
        record(model, tasks, store, samples=2, batch_size=2, progress=False)
        return store

    return capture


def made_up(run: Path) -> Any:
    """Fill a run, alone and beside others, with traces that nobody sampled."""
    store = Store.create(run, MANIFEST)
    with store.writing():
        fill(store, range(12))
    for start in range(12, 24, 4):
        with store.joined(f"{start:08d}"):
            fill(store, range(start, start + 4))
    return store


def walk(run: Path, capture: Callable[[Path], Any], say: Callable[[str], None]) -> None:
    """Go the whole road, or what is left of it."""
    say("capture")
    store = capture(run)
    say("label")
    with store.writing():
        store.add_labels(label_of(trace) for trace in store.traces())
    say("pack")
    pack(store, shard_bytes=SHARD, progress=False)


def child(
    work: Callable[[Callable[[str], None]], None], phase: str | None, moment: float
) -> tuple[dict[str, float], str | None]:
    """Run work in a child, perhaps kill it; return the length of phases and where it died."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        leave(lambda: work(lambda name: (os.write(write, f"{name}\n".encode()), None)[1]))
    os.close(write)
    began, now = dict[str, float](), ""
    deadline = None
    while True:
        wait = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not select.select([read], [], [], wait)[0]:
            os.kill(pid, signal.SIGKILL)
            deadline = None
        data = os.read(read, 100).decode()
        if not data:
            break
        for now in data.split():
            began[now] = time.monotonic()
        if now == phase:
            deadline = time.monotonic() + moment
    began["end"] = time.monotonic()
    os.close(read)
    _, status = os.waitpid(pid, 0)
    killed = os.WIFSIGNALED(status)
    assert killed or status == 0, "a child failed: see above"
    names = list(began)
    lengths = {a: began[b] - began[a] for a, b in zip(names, names[1:], strict=False)}
    return lengths, now if killed else None


def leave(work: Callable[[], object]) -> None:
    """Do work as the last thing of this process."""
    try:
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    sys.stderr.flush()
    os._exit(0)


def answer(ask: Callable[[], Any]) -> Any:
    """Return what a child finds out, so that this process stays as it is and can be forked."""
    read, write = os.pipe()
    if os.fork() == 0:
        os.close(read)

        def reply() -> None:
            with os.fdopen(write, "w") as pipe:
                json.dump(ask(), pipe)

        leave(reply)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    os.wait()
    return json.loads(text)


def known(run: Path) -> dict[str, str]:
    """Return a digest of each trace and its activations."""
    store = Store(run)
    return {trace.id: fingerprint(store, trace) for trace in store.traces()}


def fingerprint(store: Any, trace: Any) -> str:
    values = store.activations(trace).values
    return hashlib.sha256(repr(trace).encode() + values.tobytes()).hexdigest()


def watch(run: Path, truth: dict[str, str]) -> tuple[int, int]:
    """Start a reader; it ends when what is returned first is closed."""
    read, stop = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(stop)
        leave(lambda: read_on(run, truth, read))
    os.close(read)
    return stop, pid


def read_on(run: Path, truth: dict[str, str], stop: int) -> None:
    """Read a run over and over: with one store that stays open, and with a new one each time."""
    while not (run / "run.json").is_file():
        time.sleep(0.01)
    old, seen, labelled = Store(run), set[str](), set[str]()
    while not select.select([stop], [], [], 0.05)[0]:
        for store in (old, Store(run)):
            labels = set(store.labels())  # first: a label comes after its trace
            ids = store.ids()
            assert seen <= ids, f"gone: {seen - ids}"
            assert labelled <= labels <= ids, "labels are gone, or of traces that are not there"
            seen, labelled = ids, labels
            for trace in store.traces():
                assert truth[trace.id] == fingerprint(store, trace), f"{trace.id} is not whole"


def compared(run: Path, whole: Path) -> str:
    """Return in what two finished runs differ, or what is wrong with the first."""
    report = verify(Store(run), progress=False)
    if report.problems or report.leftovers:
        return f"{run}: {report.problems} {report.leftovers}"
    if Store(run).labels() != Store(whole).labels():
        return f"{run}: other labels"
    for name in ("run.json", "traces.jsonl", "shards/index.parquet", *shards(whole)):
        if (run / name).read_bytes() != (whole / name).read_bytes():
            return f"{run}: {name} differs"
    return "" if shards(run) == shards(whole) else f"{run}: other shards"


def shards(run: Path) -> list[str]:
    return sorted(str(file.relative_to(run)) for file in run.glob("shards/*.safetensors"))


if __name__ == "__main__":
    main()
