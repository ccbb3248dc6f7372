"""The store against raw bytes: one layer of a run scanned, single reads, traces listed.

All ways of scanning read the same bytes, warm, from a run or file that is open already (but for
first scans, which open the run and compare every checksum), take
turns within a round, and end in the same reduction. There are two: the sum of the values, which
is the least that a use of activations does, and the exclusive or of the words, which is as fast
as memory and shows what the reading alone costs. Scans are measured in time of the processor,
the system's share included, since nothing waits for a disk; reads and listings by the clock.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import starmap
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.command import Say, run
from benchmarks.spread import Spread, in_turns
from trace_probe.activations import Activations, pooled_spans
from trace_probe.labels import Label
from trace_probe.storage.tensors import Values, as_bytes
from trace_probe.store import Manifest, Store
from trace_probe.trace import Sampling, Span, Task, Trace, digest
from trace_probe.upkeep.listing import Wanted, list_traces
from trace_probe.upkeep.pack import pack

TOKENS_A_SENTENCE = 20
CATEGORIES = 6


@dataclass(frozen=True)
class StorePlan:
    """What is measured."""

    traces: int = 120
    rows: int = 160
    """Sentences of a trace, on average; they vary by a factor of four."""
    layers: int = 4
    width: int = 2048
    listed: int = 10_000
    """Traces of the run that is listed."""
    reads: int = 100
    """Single reads in a round."""
    rounds: int = 7
    seed: int = 0


@dataclass(frozen=True)
class StoreBench:
    """What came of it."""

    plan: StorePlan
    megabytes: float
    """Of one layer."""
    scan: Mapping[str, Mapping[str, Spread]]
    """Megabytes a second, by reduction and way of reading."""
    scan_ratio: Mapping[str, Mapping[str, Spread]]
    """Speed of each way over that of the raw memmap in the same round, by reduction."""
    read: Mapping[str, Spread]
    """Milliseconds for one layer of one trace, all reads of all rounds."""
    listing: Mapping[str, Spread]
    """Milliseconds to open a run and list the instrumental traces of a category."""


def bench_store(plan: StorePlan, say: Say) -> StoreBench:
    """Measure in a temporary folder, which takes about three times the bytes of the run."""
    with TemporaryDirectory(prefix="trace-probe-bench-") as folder:
        root = Path(folder)
        say(f"making {plan.traces} traces of {plan.layers} layers, twice and raw")
        files, packed = _make(root / "files", plan), _make(root / "packed", plan)
        pack(packed, progress=False)
        ways, size = _ways_to_scan(root, files, packed)
        say("scanning one layer")
        scans = {name: _scans(ways, by, size, plan.rounds) for name, by in REDUCTIONS.items()}
        scan = {name: speed for name, (speed, _) in scans.items()}
        ratio = {name: ratio for name, (_, ratio) in scans.items()}
        say("reading single layers of single traces")
        read = _reads(root, files, packed, plan)
        say(f"making and listing {plan.listed} traces")
        return StoreBench(plan, size / 1e6, scan, ratio, read, _listings(root / "many", plan))


def _make(path: Path, plan: StorePlan) -> Store:
    """Return a run of random activations; the same plan makes the same run."""
    rng = np.random.default_rng(plan.seed)
    layers = tuple(range(plan.layers))
    manifest = Manifest("bench@0", layers=layers, n_layers=plan.layers, d_model=plan.width)
    store = Store.create(path, manifest)
    with store.joined("0"):
        for number in range(plan.traces):
            trace = _trace(number, int(plan.rows * 4 ** rng.uniform(-0.5, 0.5)))
            spans = pooled_spans(trace)
            values = rng.standard_normal((plan.layers, len(spans), plan.width), dtype=np.float32)
            store.add(trace, Activations(values, layers, spans))
    with store.writing():
        return store


def _trace(number: int, sentences: int) -> Trace:
    stop = 8 + sentences * TOKENS_A_SENTENCE
    cuts = range(8, stop, TOKENS_A_SENTENCE)
    return Trace(
        id=digest("bench", number),
        task=Task(f"t-{number % 76:02d}", f"category-{number % CATEGORIES}", "prompt"),
        model="bench@0",
        sampling=Sampling(),
        sample=number,
        text="word " * stop,
        offsets=tuple(range(0, 5 * stop, 5)),
        spans=(Span(0, 8, "prompt"), Span(8, stop, "reasoning")),
        sentences=tuple(Span(at, at + TOKENS_A_SENTENCE) for at in cuts),
        token_ids=tuple((number + at) % 150_000 for at in range(stop)),
    )


def _ways_to_scan(
    root: Path, files: Store, packed: Store
) -> tuple[dict[str, Callable[[], Iterator[Values]]], int]:
    """Return ways to read one layer trace by trace, the raw one first, and its bytes."""
    layer = files.manifest.layers[-1]
    sizes = [len(values) for _, values in files.scan(layer)]
    ends = np.cumsum(sizes)
    np.save(root / "raw.npy", np.concatenate([values for _, values in files.scan(layer)]))
    raw = np.load(root / "raw.npy", mmap_mode="r")

    def cached() -> Iterator[Values]:
        yield from np.split(files.layer_matrix(layer, progress=False).values, ends[:-1])

    ways: dict[str, Callable[[], Iterator[Values]]] = {
        "raw memmap": lambda: iter(np.split(raw, ends[:-1])),
        "files": lambda: (values for _, values in files.scan(layer)),
        "packed": lambda: (values for _, values in packed.scan(layer)),
        "matrix cache": cached,
        "files, first scan": lambda: (values for _, values in Store(files.path).scan(layer)),
        "packed, first scan": lambda: (values for _, values in Store(packed.path).scan(layer)),
    }
    if len({sum(_words(values) for values in way()) for way in ways.values()}) > 1:
        raise AssertionError("the ways do not read the same bytes")
    return ways, int(ends[-1]) * files.manifest.d_model * 2


def _scans(
    ways: Mapping[str, Callable[[], Iterator[Values]]],
    reduce: Callable[[Values], float],
    size: int,
    rounds: int,
) -> tuple[dict[str, Spread], dict[str, Spread]]:
    """Return megabytes a second, and ratios to the first way of the same round."""

    def read(way: Callable[[], Iterator[Values]]) -> None:
        for values in way():
            reduce(values)

    taken = in_turns({name: partial(read, way) for name, way in ways.items()}, rounds, warm=1)
    first = next(iter(taken.values()))
    speeds = {name: [size / 1e6 / one for one in each] for name, each in taken.items()}
    return _spreads(speeds), {name: Spread.times(first, each) for name, each in taken.items()}


def _words(values: Values) -> int:
    return int(np.bitwise_xor.reduce(np.frombuffer(as_bytes(values), dtype=np.uint64)))


def _sum(values: Values) -> float:
    return float(values.sum(dtype=np.float32))


REDUCTIONS: Mapping[str, Callable[[Values], float]] = {"summed": _sum, "as words": _words}
"""What is done to what was read."""


def _reads(root: Path, files: Store, packed: Store, plan: StorePlan) -> dict[str, Spread]:
    """Return milliseconds of single reads; the traces are in memory, their activations are not."""
    rng = np.random.default_rng(plan.seed + 1)
    traces = list(files.traces())
    starts = np.cumsum([0, *(len(pooled_spans(trace)) for trace in traces)])
    raw = np.load(root / "raw.npy", mmap_mode="r")

    def by_memmap(place: int, _layer: int) -> None:
        np.array(raw[starts[place] : starts[place + 1]])

    ways: dict[str, Callable[[int, int], object]] = {
        "raw memmap": by_memmap,
        "files": lambda place, layer: files.activations(traces[place], (layer,)),
        "packed": lambda place, layer: packed.activations(traces[place], (layer,)),
    }
    places = rng.integers((len(traces), plan.layers), size=(plan.rounds * plan.reads, 2)).tolist()
    reads = {name: partial(next, starmap(way, places)) for name, way in ways.items()}
    return _spreads(in_turns(reads, len(places), clock=time.perf_counter), 1e3)


def _listings(path: Path, plan: StorePlan) -> dict[str, Spread]:
    """Return milliseconds to list, with the index, without it, and by parsing all lines."""
    store = Store.create(path, Manifest("bench@0"))
    traces = [_trace(number, 5) for number in range(plan.listed)]
    with store.joined("0"):
        for trace in traces:
            store.add(trace)
    with store.writing():
        store.add_labels(Label(one.id, "bench", one.sample % 5 == 0) for one in traces)
    wanted = Wanted(category="category-0", outcome=True)
    expected = len(range(0, plan.listed, 5 * CATEGORIES))

    def listed() -> int:
        return len(list_traces(Store(path), wanted).to_pylist())

    def parsed() -> int:
        labels = {raw["trace_id"]: raw for raw in map(json.loads, _lines(path, "labels"))}
        every = map(json.loads, _lines(path, "traces"))
        chosen = (raw for raw in every if raw["task"]["category"] == "category-0")
        return sum(labels[raw["id"]]["outcome"] is True for raw in chosen)

    ways = {"index": listed, "all lines parsed": parsed}
    if any(way() != expected for way in ways.values()):
        raise AssertionError(f"a way did not find the {expected} traces that are there")
    taken = in_turns(ways, plan.rounds, clock=time.perf_counter)
    return _spreads(taken, 1e3)


def _lines(path: Path, name: str) -> list[bytes]:
    return (path / f"{name}.jsonl").read_bytes().splitlines()


def _spreads(found: Mapping[str, Sequence[float]], times: float = 1.0) -> dict[str, Spread]:
    return {name: Spread.of([times * one for one in each]) for name, each in found.items()}


def format_store_bench(bench: StoreBench) -> str:
    """Return the measurement as a table: medians, and from lowest to highest."""
    plan = bench.plan
    lines = [
        f"{plan.traces} traces, {plan.layers} layers, width {plan.width}: "
        f"{bench.megabytes:.0f} MB a layer; {plan.rounds} rounds, taking turns",
    ]
    for reduction, speeds in bench.scan.items():
        head = f"one layer {reduction}"
        lines += ["", f"{head:26}MB/s of processor time    of the raw memmap"]
        for name, speed in speeds.items():
            ratio = bench.scan_ratio[reduction][name]
            lines.append(f"  {name:22}  {f'{speed:.0f}':24}  {ratio:.2f}")
    lines += ["", "one layer of one trace    ms"]
    lines += [f"  {name:22}  {one:.2f}" for name, one in bench.read.items()]
    lines += ["", f"{plan.listed} traces listed and filtered    ms"]
    lines += [f"  {name:22}  {one:.0f}" for name, one in bench.listing.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    run(StorePlan, bench_store, format_store_bench)
