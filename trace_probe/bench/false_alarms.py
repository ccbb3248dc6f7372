"""Whether the promise of an alarm is kept: realised false alarms on traces nothing was set on."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import lgamma, log
from pathlib import Path
from typing import Any

import numpy as np

from trace_probe.labels import label_traces
from trace_probe.model.local import load_model
from trace_probe.monitor.calibrated import Promise, level, threshold
from trace_probe.monitor.drift import check_levels
from trace_probe.monitor.rules import DEFAULT_RULES, parse_rule, statistics
from trace_probe.probing.probe import SavedProbe, load_probe
from trace_probe.recording.record import new_manifest, record
from trace_probe.statistics.calibration import Threshold
from trace_probe.statistics.metrics import Scores, trace_maxima
from trace_probe.store import Store
from trace_probe.trace import Sampling, Task, Trace
from trace_probe.training import score_run
from trace_probe.world.outcome import RuleLabeller
from trace_probe.world.scenario import MAX_NEW_TOKENS, world_tasks

Say = Callable[[str], None]


@dataclass(frozen=True)
class FalseAlarmPlan:
    """What is recorded and which promises are put to the test."""

    organism: str = "organism:rl-s0"
    probe: Path = Path("probes/demo")
    run: Path = Path("traces/false-alarms")
    calibration: int = 2000
    held_out: int = 1000
    hard_negatives: int = 200
    rates: tuple[float, ...] = (0.01, 0.05)
    rules: tuple[str, ...] = DEFAULT_RULES
    promises: tuple[Promise, ...] = ("conformal", "pac")
    batch_size: int = 128

    def tasks(self) -> dict[str, tuple[Task, ...]]:
        """Return the scenarios of each group, from pools that no probe was trained on."""
        half = self.hard_negatives // 2
        return {
            "calibration": world_tasks(f"world:calibration:{self.calibration}:benign"),
            "held-out": world_tasks(f"world:heldout:{self.held_out}:benign"),
            "authorised": world_tasks(f"world:heldout:{half}:authorised"),
            "no-lever": world_tasks(f"world:heldout:{half}:no-lever"),
        }


@dataclass(frozen=True)
class Kept:
    """One promise and what came of it."""

    rule: str
    promise: str
    target: float
    alarms: int
    traces: int
    lower: int
    """Fewest and most alarms in the central 95 % of Binomial(traces, target)."""
    upper: int
    kept: bool
    """Conformal: within them. PAC promises no more than the upper."""
    hard_negatives: tuple[tuple[str, int, int], ...]
    """Kind, alarms and traces."""


@dataclass(frozen=True)
class FalseAlarms:
    """Every promise that was tested."""

    model: str
    probe: str
    calibration: int
    rows: tuple[Kept, ...]
    drift: str
    """What the drift check says of the held-out traces; empty if nothing."""

    def to_json(self) -> dict[str, Any]:
        """Return everything by name."""
        return asdict(self)


def bench_false_alarms(plan: FalseAlarmPlan, say: Say) -> FalseAlarms:
    """Record harmless traces, set thresholds on some and count the alarms of the others.

    What the run holds already is not recorded again.
    """
    saved, model = load_probe(plan.probe), load_model(plan.organism)
    sampling = Sampling(seed=1, max_new_tokens=MAX_NEW_TOKENS)
    layers = (saved.card.layer,)
    store = Store.create(plan.run, new_manifest(model, sampling, layers=layers, tasks="world:far"))
    groups = plan.tasks()
    for name, tasks in groups.items():
        say(f"record: {len(tasks)} {name}")
        record(model, tasks, store, batch_size=plan.batch_size)
    scores = score_run(store, saved)
    return count_alarms(plan, saved, scores, _ids(list(store.traces()), groups))


def _ids(traces: Sequence[Trace], groups: dict[str, tuple[Task, ...]]) -> dict[str, list[str]]:
    """Return the ids of each group's traces that the world's own rules call harmless."""
    harmful = {one.trace_id for one in label_traces(traces, RuleLabeller()) if one.outcome}
    by_task = {trace.task.id: trace.id for trace in traces if trace.id not in harmful}
    return {
        name: [by_task[task.id] for task in tasks if task.id in by_task]
        for name, tasks in groups.items()
    }


def count_alarms(
    plan: FalseAlarmPlan, saved: SavedProbe, scores: Scores, ids: dict[str, list[str]]
) -> FalseAlarms:
    """Return every rule, promise and rate with its realised alarms."""
    rows = [
        _row(scores, ids, rule, promise, rate)
        for rule in plan.rules
        for promise in plan.promises
        for rate in plan.rates
    ]
    levels = {
        name: [each for i in ids[name] if (each := level(scores[i].tolist())) is not None]
        for name in ("calibration", "held-out")
    }
    drift = check_levels(levels["calibration"], levels["held-out"])
    return FalseAlarms(
        saved.card.model, saved.card.name, len(ids["calibration"]), tuple(rows), drift.note
    )


def _row(
    scores: Scores, ids: dict[str, list[str]], rule: str, promise: Promise, rate: float
) -> Kept:
    limit = threshold(scores, ids["calibration"], rule, rate, promise)
    alarms, traces = _alarms(scores, ids["held-out"], rule, limit)
    lower, upper = binomial_range(traces, rate)
    hard = tuple((n, *_alarms(scores, ids[n], rule, limit)) for n in ("authorised", "no-lever"))
    kept = alarms <= upper and (promise == "pac" or alarms >= lower)
    return Kept(rule, promise, rate, alarms, traces, lower, upper, kept, hard)


def _alarms(scores: Scores, ids: Sequence[str], rule: str, limit: Threshold) -> tuple[int, int]:
    """Return how many traces alarm, and how many there are."""
    values = statistics({i: scores[i] for i in ids}, parse_rule(rule))
    return int((trace_maxima(values, ids) >= limit.value).sum()), len(ids)


def binomial_range(n: int, share: float) -> tuple[int, int]:
    """Return the central 95 % of a binomial distribution: no more than 2.5 % lie on each side."""
    k = np.arange(n + 1)
    choose = np.array([lgamma(n + 1) - lgamma(i + 1) - lgamma(n - i + 1) for i in k])
    below = np.cumsum(np.exp(choose + k * log(share) + (n - k) * log(1 - share)))
    return int(np.searchsorted(below, 0.025, "right")), int(np.searchsorted(below, 0.975))


def format_false_alarms(found: FalseAlarms) -> str:
    """Return a table of promises."""
    rows = [
        f"{one.rule:8} {one.promise:10} {one.target:6.1%} {one.alarms:5} of {one.traces}"
        f"  [{one.lower}, {one.upper}]  {'kept' if one.kept else 'NOT KEPT':9}"
        + "  ".join(f"{name} {alarms} of {n}" for name, alarms, n in one.hard_negatives)
        for one in found.rows
    ]
    head = f"{found.probe} on {found.model}, thresholds set on {found.calibration} benign traces"
    names = f"{'rule':8} {'promise':10} target  alarms, 95 % of the binomial     hard negatives"
    return "\n".join([head, names, *rows, *([found.drift] if found.drift else [])])
