"""Recording in shares: by workers on many machines, or by jobs that know only their number.

A share is a batch of the plan. Each is made by one worker, written by it, and committed in one
piece under a name that says where in the plan it stands; so shares can be made anywhere, in any
order and more than once, and the run is the same as if one process had recorded it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from trace_probe.activations import ALL_POOLINGS, parse_poolings
from trace_probe.engine.plan import EngineOptions
from trace_probe.errors import TraceProbeError
from trace_probe.execution.executor import Executor, Kind, executor_named, values
from trace_probe.model.weights import Weights
from trace_probe.recording.plan import (
    ObserveReport,
    RecordReport,
    check_samples,
    check_tools,
    resumed_dtype,
)
from trace_probe.storage.place import place_at
from trace_probe.store import Manifest, Store
from trace_probe.trace import Sampling, Task

if TYPE_CHECKING:
    from trace_probe.model.facts import ModelFacts
    from trace_probe.recording.course import Agent
    from trace_probe.recording.record import Writer


@dataclass(frozen=True)
class Share:
    """One of `of` equal parts of a recording, counted from 0."""

    number: int = 0
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> "Share":
        """Return the share that a text such as ``3/8`` names, counted from 0 to 7.

        Raises:
            TraceProbeError: it names none.
        """
        number, _, of = text.partition("/")
        if not (number.isdecimal() and of.isdecimal() and int(number) < int(of)):
            raise TraceProbeError(f"{text!r} is not a share such as 0/8, counted from 0 to 7")
        return cls(int(number), int(of))


@dataclass(frozen=True)
class Recording:
    """All that a worker must know; plain values, since it travels."""

    weights: Weights
    run: str
    tasks: tuple[Task, ...]
    source: str
    """Where the tasks came from."""
    samples: int = 1
    layers: tuple[int, ...] | None = None
    seed: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int | None = None
    """None means 4096, or half of the model's context if that is less."""
    batch_size: int = 32
    pooling: str = ALL_POOLINGS
    raw_tokens: bool = False
    tolerance: float | None = None
    """Most by which a replay may be off; None means by precision."""
    agent: "Agent | None" = None
    """What the model may call in an episode of several calls; None for one call a trace."""
    engine: EngineOptions | None = None
    """How vLLM is run; None for transformers."""

    def check(self) -> None:
        """Refuse what no model could record, before one is loaded.

        Raises:
            TraceProbeError: a setting is impossible, a task lacks its tools or has some that
                nothing could call, or the place holds something else.
        """
        parse_poolings(self.pooling)
        sampling = Sampling(self.seed, self.temperature, self.top_p, self.max_new_tokens or 1)
        check_samples(sampling, self.samples)
        check_tools(self.tasks, self.agent)

        def asked(there: Manifest) -> Manifest:
            room = self.max_new_tokens or there.sampling.max_new_tokens
            return replace(
                there,
                sampling=replace(sampling, max_new_tokens=room),
                layers=there.layers if self.layers is None else self.layers,
                pooling=self.pooling,
                raw_tokens=self.raw_tokens,
                tasks=self.source,
            )

        Store.check_settings(self.run, asked)

    def batches(self) -> Sequence[int]:
        """Return where in the plan each batch begins."""
        prompts = {task.prompt_key for task in self.tasks}
        return range(0, len(prompts) * self.samples, self.batch_size)


def record_shares(
    recording: Recording, executor: Executor, share: Share | None = None, *, progress: bool = True
) -> RecordReport:
    """Record with the workers of an executor: all of it, or one share.

    Raises:
        ModelError: the model cannot be loaded, or the run is of another.
        WorkerError: some batches failed; all others are done.
    """
    share = share or Share()
    batches = recording.batches()[share.number :: share.of]
    results = executor.run(Recorder, (recording,), batches)
    made: Iterator[RecordReport] = values(results)
    found = tqdm(made, total=len(batches), unit="batch", smoothing=0, disable=not progress)
    return sum(found, RecordReport())


def record_with(
    recording: Recording,
    kind: Kind,
    *,
    workers: int | None = None,
    shard: str | None = None,
    progress: bool = True,
) -> RecordReport:
    """Record as a command line says: alone, one share of many, or on a cluster."""
    recording.check()
    if kind == "local" and shard is None:
        return record_alone(recording, progress=progress)
    share = None if shard is None else Share.parse(shard)
    return record_shares(recording, executor_named(kind, workers), share, progress=progress)


def recapture_with(
    weights: Weights,
    source: Path,
    run: Path,
    layers: tuple[int, ...] | None,
    pooling: str,
    tolerance: float | None,
) -> ObserveReport:
    """Read the traces of one run again into another, as a command line says."""
    from trace_probe.model.bridge import load_weights
    from trace_probe.recording.observe import check_ids, recapture, recapture_manifest

    known = Store(source)
    parse_poolings(pooling)
    check_ids(known)
    Store.check_settings(run, lambda there: replace(there, pooling=pooling))
    dtype = resumed_dtype(weights.dtype, run)
    model = load_weights(replace(weights, dtype=dtype))
    out = Store.create(run, recapture_manifest(model, known, layers, pooling))
    return recapture(model, known, out, tolerance=tolerance)


def record_alone(recording: Recording, *, progress: bool = True) -> RecordReport:
    """Record in this process, as the only writer of the run; see `trace_probe.recording.record`."""
    from trace_probe.recording.record import record

    one, (model, store) = recording, _open(recording)
    how: Any = {"samples": one.samples, "batch_size": one.batch_size, "tolerance": one.tolerance}
    return record(model, one.tasks, store, one.agent, progress=progress, **how)


class Recorder:
    """A worker that loads the model, makes or opens the run, and records batches of the plan."""

    def __init__(self, recording: Recording) -> None:
        from trace_probe.recording.record import maker

        model, self._store = _open(recording)
        self._maker = maker(model, self._store, recording.agent, recording.tolerance, alone=False)
        self._plan = self._maker.plan(recording.tasks, recording.samples)
        self._size = recording.batch_size

    def __call__(self, start: int) -> RecordReport:
        """Record one batch, unless it is there."""
        batch = self._plan[start : start + self._size]
        known = self._store.ids()
        with self._store.joined(f"{start:08d}"):
            made = list(self._maker.run(batch, known))
        self._maker.forget()
        there = RecordReport(resumed=sum(one.id in known for one in batch))
        return sum(map(RecordReport.of, made), there)


def _load(recording: Recording) -> "Writer":
    dtype = resumed_dtype(recording.weights.dtype, recording.run)
    weights = replace(recording.weights, dtype=dtype)
    if recording.engine is not None:
        from trace_probe.engine.offline import load_engine

        return load_engine(weights, recording.layers, recording.engine)
    from trace_probe.model.bridge import load_weights

    return load_weights(weights)


def _open(recording: Recording) -> "tuple[Writer, Store]":
    """Load the model and make the run, or open it."""
    if recording.engine is not None:
        _check_resumed(recording)
    model = _load(recording)
    part = 2 if recording.agent is None else 4  # later calls read what came before
    room = recording.max_new_tokens or min(4096, (model.context or 8192) // part)
    return model, Store.create(recording.run, _manifest(recording, model, room))


def _manifest(one: Recording, model: "ModelFacts", room: int) -> Manifest:
    """Return what a run keeps of a recording with `room` new tokens at most."""
    from trace_probe.recording.record import new_manifest

    sampling = Sampling(one.seed, one.temperature, one.top_p, room)
    manifest = new_manifest(model, sampling, layers=one.layers, tasks=one.source)
    return replace(manifest, pooling=one.pooling, raw_tokens=one.raw_tokens)


def _check_resumed(recording: Recording) -> None:
    """Refuse to go on with a run of other settings before an engine is started, which takes long.

    Raises:
        StoreError: the settings differ.
    """
    from trace_probe.engine.offline import precision_of
    from trace_probe.model.facts import read_facts

    if place_at(recording.run).size("run.json") is None:
        return
    known, weights = Store(recording.run).manifest, recording.weights
    dtype = resumed_dtype(weights.dtype, recording.run)
    facts = read_facts(weights.name, weights.revision)
    facts.dtype, facts.dtype_chosen = precision_of(replace(weights, dtype=dtype))
    facts.engine = "vllm"
    # How many new tokens there is room for, vLLM itself says once it runs.
    room = recording.max_new_tokens or known.sampling.max_new_tokens
    Store.create(recording.run, _manifest(recording, facts, room))
