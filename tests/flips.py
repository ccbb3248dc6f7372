"""Flips single bits in every kind of file of a run and of a probe, and looks whether it is found.

    python tests/flips.py --each 25

A flip is found if reading says so (an error of ours, or a line that is named) or if verifying
does. What is read in spite of it must be what was written. Caches are made again without a word.
"""

import argparse
import json
import logging
import random
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import numpy as np
from runs import LAYERS, MANIFEST, held_by, label_of, make_trace

from trace_probe.errors import TraceProbeError
from trace_probe.monitor.calibrated import (
    Calibration,
    Decoding,
    load_calibrations,
    write_calibrations,
)
from trace_probe.monitor.sharing import verify_probe
from trace_probe.probing.linear import LinearProbe
from trace_probe.probing.probe import ProbeCard, SavedProbe, load_probe, save_probe
from trace_probe.statistics.calibration import Threshold
from trace_probe.storage.artifacts import Kind
from trace_probe.store import Store
from trace_probe.upkeep.pack import pack
from trace_probe.upkeep.verify import verify_at

KINDS = {
    "manifest": "run.json",
    "traces": "traces.jsonl",
    "a part of traces": "traces/*.jsonl",
    "labels": "labels.jsonl",
    "a part of labels": "labels/*.jsonl",
    "activations": "activations/*",
    "raw tokens": "raw/*",
    "a shard": "shards/*.safetensors",
    "the index of shards": "shards/index.parquet",
    "scores": "scores/*",
    "a report": "reports/*",
    "layers": "layers/*",
    "a map": "maps/*",
    "settings of the oracle": "oracle/*.json",
    "continuations": "oracle/*.jsonl",
    "settings of an experiment": "experiments/*.json",
    "an experiment": "experiments/*.jsonl",
    "annotations": "annotations/*",
    "card": "../probe/card.json",
    "weights": "../probe/probe.safetensors",
    "alarms": "../probe/alarms.json",
    "cached index": "cache/traces.parquet",
    "cached matrix": "cache/matrix/*",
}
TEXT = (".json", ".jsonl")


def make(folder: Path) -> None:
    """Write a run and a probe that have all kinds of files, indexes of few lines among them."""
    from trace_probe.storage import journal

    with mock.patch.dict(journal.WORTH_KEEPING, lines=1):
        _make(folder)


def _make(folder: Path) -> None:
    run = Store.create(folder / "run", replace(MANIFEST, raw_tokens=True))

    def add(number: int) -> None:
        trace = make_trace(number, 2 + number % 4)
        rows = held_by(trace)
        tokens = np.random.default_rng(number).normal(size=(len(LAYERS), rows.reach, 5))
        run.add(trace, replace(rows, tokens=tokens.astype(np.float32)))

    with run.writing():
        for number in range(4):
            add(number)
    pack(run, shard_bytes=200, progress=False)
    with run.writing():
        for number in range(4, 8):
            add(number)
        run.add_labels(label_of(trace) for trace in run.traces())
    run.layer_matrix(3, progress=False)
    with run.joined("00000001"):
        for number in range(8, 10):
            add(number)
    run.lines_of("labels").put([_line(vars(label_of(make_trace(8))))], "00000001")
    scores = {t.id: np.arange(len(t.sentences), dtype=np.float32) / 7 for t in run.traces()}
    run.write_scores("demo", scores)
    run.write_report("demo", {"threshold": 0.25, "auroc": {"estimate": 0.75, "n": 31}})
    _artifacts(run, scores)
    _probe(folder / "probe")


def _artifacts(run: Store, scores: dict[str, Any]) -> None:
    import pyarrow as pa

    rows = {"trace_id": list(scores), "scores": list(scores.values())}
    run.artifacts.write_table("layers", "demo", pa.table({**rows, "layer": [3] * len(scores)}))
    xy = np.linspace(0, 1, len(scores))
    run.artifacts.write_table("maps", "layer-3", pa.table({"trace_id": list(scores), "x": xy}))
    kinds: tuple[Kind, ...] = ("oracle", "experiments", "annotations")
    for kind in kinds:
        lines = run.artifacts.lines(kind, "one")
        lines.append(_line({"trace": name, "k": k, "p": 0.125}) for k, name in enumerate(scores))
    for kind in kinds[:2]:
        run.artifacts.write_json(kind, "one", {"seed": 31, "scale": 0.625})


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value, default=vars).encode() + b"\n"


def _probe(folder: Path) -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 5)), np.arange(40) % 2 == 0
    card = ProbeCard(**CARD)
    save_probe(folder, SavedProbe(card, LinearProbe().fit(X, y)))
    limit = Threshold(0.375, 0.05, 0.0625, 15, "conformal")
    decoding = Decoding(1.0, 0.95)
    write_calibrations(
        folder, [Calibration("m@1", decoding, {"max": limit}, (0.25, 0.5), ("t-1", "t-2"))]
    )


CARD: dict[str, Any] = {
    "name": "demo",
    "model": "m@1",
    "tokenizer": "0123",
    "layers": (3,),
    "d_model": 5,
    "features": ("mean",),
    "rows": "before-said",
    "guard": 0,
    "labeller": "rule",
    "method": "logistic",
    "C": 0.25,
    "training_tasks": ("t-0",),
    "calibration_tasks": ("t-1",),
    "threshold": 0.625,
    "target_false_alarm_rate": 0.05,
    "guaranteed_false_alarm_rate": 0.0625,
    "figures": {"layer-3/C-0.25": 0.875},
}


class Heard(logging.Handler):
    """Keeps what was said of broken lines."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one message."""
        self.said.append(record.getMessage())


def read(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Return all that is read from a run and a probe, and what was said of it meanwhile."""
    heard = Heard()
    log = logging.getLogger("trace_probe.store")
    log.addHandler(heard)
    log.propagate = False
    found: dict[str, Any] = {}

    def look(name: str, get: Callable[[], Any]) -> None:
        try:
            found[name] = get()
        except TraceProbeError as error:
            heard.said.append(str(error))

    try:
        look("probe", lambda: _shown(load_probe(folder / "probe")))
        look("alarms", lambda: load_calibrations(folder / "probe"))
        look("run", lambda: Store(folder / "run"))
        if "run" in found:
            _read_run(found.pop("run"), found, look)
    finally:
        log.removeHandler(heard)
        log.propagate = True
    return found, heard.said


def _shown(saved: SavedProbe) -> object:
    return saved.card, saved.probe.coef_.tolist(), saved.probe.intercept_


def _read_run(
    run: Store, found: dict[str, Any], look: Callable[[str, Callable[[], Any]], None]
) -> None:
    found["manifest"] = run.manifest
    _read_rows(run, found, look)
    found.update({f"label {name}": label for name, label in run.labels().items()})
    found.update({f"listed {name}": True for name in run.index()["id"].to_pylist()})
    look("scores", lambda: {name: row.tolist() for name, row in run.scores("demo").items()})
    look("report", partial(run.report, "demo"))

    def table(kind: Any, name: str) -> object:
        read = run.artifacts.read_table(kind, name)
        return None if read is None else read.to_pylist()

    look("layers", partial(table, "layers", "demo"))
    look("maps", partial(table, "maps", "layer-3"))
    kinds: tuple[Kind, ...] = ("oracle", "experiments", "annotations")
    for kind in kinds:
        for line in run.artifacts.lines(kind, "one").raw():
            found[f"{kind} {line['trace']}"] = line
        look(f"settings {kind}", partial(run.artifacts.read_json, kind, "one"))


def _read_rows(
    run: Store, found: dict[str, Any], look: Callable[[str, Callable[[], Any]], None]
) -> None:
    def scan() -> None:
        for name, rows in run.scan(1):
            found[f"scan {name}"] = rows.tobytes()

    def matrix() -> None:
        found.update(_matrix(run))

    for trace in run.traces():
        found[f"trace {trace.id}"] = trace
        look(f"rows {trace.id}", partial(run.activations, trace))
        look(f"raw {trace.id}", partial(run.vault.raw, trace.id, 3))
        for name in (f"rows {trace.id}", f"raw {trace.id}"):
            held = found.pop(name, None)
            if held is not None:
                found[name] = getattr(held, "values", held).tobytes()
    look("scan", scan)
    look("matrix", matrix)


def _matrix(run: Store) -> dict[str, bytes]:
    """Return the rows of each trace in the cached matrix."""
    held = run.layer_matrix(3, progress=False)
    ends = [*list(held.start.values())[1:], len(held.values)]
    places = zip(held.start.items(), ends, strict=True)
    return {f"matrix {name}": held.values[first:end].tobytes() for (name, first), end in places}


@dataclass
class Count:
    """What became of the flips in one kind of file."""

    flips: int = 0
    reading: int = 0
    """Found on reading."""
    verify: int = 0
    """Found by verifying, and by nothing that was read."""
    cached: int = 0
    """Made again."""


def flip(folder: Path, whole: Path, kind: str, lot: random.Random, truth: dict[str, Any]) -> str:
    """Flip a bit in a copy of everything; return how it was found, or raise AssertionError."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)
    file = lot.choice(sorted((folder / "run").glob(KINDS[kind])))
    data = bytearray(file.read_bytes())
    places = range(len(data))
    if file.suffix in TEXT and lot.random() < 0.5:  # digits hide best
        places = [at for at in places if chr(data[at]).isdigit()]  # type: ignore[assignment]
    at, bit = lot.choice(places), lot.randrange(8)
    data[at] ^= 1 << bit
    file.write_bytes(data)
    where = f"{file.name}, byte {at}, bit {bit}"
    found, said = read(folder)
    changed = [name for name in found if name not in truth or found[name] != truth[name]]
    lost = [name for name in truth if name not in found]
    cache = kind.startswith("cached")
    if not said:
        assert not changed, f"{where} changes {changed} without a word"
        assert not lost, f"{where} loses {lost} without a word"
    assert not changed, f"{where} changes {changed}"
    if kind in ("traces", "labels", "a part of traces", "a part of labels"):
        gone = [name for name in lost if name.split()[0] in ("trace", "label")]
        assert len(gone) <= 1, f"{where} takes {gone} with it"
    if said or cache:
        return "cached" if cache and not said else "reading"
    problems = [*verify_at(folder / "run", progress=False).problems]
    problems += verify_probe(folder / "probe").problems
    assert problems, f"{where} is not found"
    return "verify"


def suffer(each: int, seed: int = 0) -> dict[str, Count]:
    """Return what became of so many flips in each kind of file."""
    lot, counts = random.Random(seed), {kind: Count() for kind in KINDS}
    with TemporaryDirectory(prefix="trace-probe-flips-") as name:
        whole, folder = Path(name) / "whole", Path(name) / "flipped"
        make(whole)
        truth, said = read(whole)
        assert not said, said
        assert not verify_at(whole / "run", progress=False).problems
        for kind, count in counts.items():
            for _ in range(each):
                how = flip(folder, whole, kind, lot, truth)
                count.flips += 1
                setattr(count, how, getattr(count, how) + 1)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--each", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    counts = suffer(**vars(parser.parse_args()))
    rows = [
        "| kind of file | flips | found on reading | by verify | made again |",
        "| --- " * 5 + "|",
    ]
    rows += [
        f"| {kind} (`{KINDS[kind]}`) | {one.flips} | {one.reading} | {one.verify} | {one.cached} |"
        for kind, one in counts.items()
    ]
    total = sum(one.flips for one in counts.values())
    sys.stdout.write("\n".join([*rows, "", f"{total} flips"]) + "\n")


if __name__ == "__main__":
    main()
