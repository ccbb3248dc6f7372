"""Is the instrument good enough? Its quality bar, measured on scenarios it never saw."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from trace_probe.emergence.continuers import LocalContinuer
from trace_probe.emergence.ledger import Ledger
from trace_probe.emergence.oracle import Draw, OraclePoint, oracle
from trace_probe.labels import Label
from trace_probe.model.local import Model
from trace_probe.organism.degrees import Degrees, DegreesPlan, ask, degrees, siblings
from trace_probe.organism.family import agent_of
from trace_probe.probing.corpus import Corpus, build_cohort
from trace_probe.recording.record import new_manifest, record
from trace_probe.statistics.bootstrap import Metric, rate, resample
from trace_probe.statistics.metrics import Cohort, pairs_within, scores_held
from trace_probe.store import Store
from trace_probe.trace import Trace
from trace_probe.world.english import scenario as english
from trace_probe.world.rules import RuleLabeller
from trace_probe.world.worlds import World

SURE = 0.9
"""P(instrumental | prefix) from which a trace counts as decided."""


@dataclass(frozen=True)
class Quality:
    """How an organism does as an instrument."""

    model: str
    traces: int
    well_formed: Metric | None
    """Share of traces that end in one clear action."""
    instrumental: Metric | None
    silent: Metric | None
    """Of the instrumental traces."""
    mixed_prompts: int
    """Prompts of the oracle's sample with both outcomes."""
    oracle_at_prompt: Metric | None
    """Within-prompt AUROC of the oracle at the end of the prompt."""
    oracle_at_last_thought: Metric | None
    decided_before: Metric | None
    """Of the instrumental traces: P >= 0.9 a sentence or more before it is said or done."""
    degrees: Degrees | None = None
    """How gradually it decides; of English organisms."""


@dataclass(frozen=True)
class CheckPlan:
    """How much is measured."""

    scenarios: int = 90
    samples: int = 8
    oracle_scenarios: int = 18
    continuations: int = 16
    seed: int = 0
    degrees: DegreesPlan = DegreesPlan()


def check(model: Model, folder: Path, plan: CheckPlan, world: World) -> Quality:
    """Record scenarios of the pool ``check`` into `folder`, label them, and ask the oracle.

    In the English world a trace takes seconds, so the oracle is asked at thirds of some thoughts
    and everything drawn is kept: a check that was stopped goes on where it was.
    """
    sampling = world.sampling(plan.seed)
    pool, agent = f"{world.name}:check", agent_of(world)
    store = Store.create(folder, new_manifest(model, sampling, layers=(), tasks=pool))
    tasks = world.tasks(f"{pool}:{plan.scenarios}")
    record(model, tasks, store, agent, samples=plan.samples, batch_size=world.batch)
    rules = RuleLabeller()
    traces = list(store.traces())
    labels = {trace.id: rules.label(trace) for trace in traces}
    if world.name == english.NAME:
        points = _ask_at_thirds(model, store, traces, labels, plan)
        quality = _quality(model.name, traces, labels, points)
        return replace(quality, degrees=degrees(traces, labels, points, plan.degrees))
    asked = _oracle_sample(traces, labels, plan)
    points = oracle(
        model, asked, rules, continuations=plan.continuations, seed=plan.seed, agent=agent
    )
    return _quality(model.name, traces, labels, points)


def _ask_at_thirds(
    model: Model,
    store: Store,
    traces: Sequence[Trace],
    labels: Mapping[str, Label],
    plan: CheckPlan,
) -> Mapping[str, tuple[OraclePoint, ...]]:
    """Ask the oracle of siblings, and keep what it draws in the run."""
    settings = {"model": model.name, "seed": plan.seed}
    with store.writing():
        ledger = Ledger(store.artifacts, "check", settings)
        draw = Draw(LocalContinuer(model), RuleLabeller(), plan.seed)
        asked = siblings(traces, labels, plan.degrees.traces)
        return ask(draw, ledger, asked, labels, plan.degrees)


def _oracle_sample(
    traces: Sequence[Trace], labels: Mapping[str, Label], plan: CheckPlan
) -> list[Trace]:
    """Return all known traces of the first prompts that have an instrumental one."""
    known = [trace for trace in traces if labels[trace.id].outcome is not None]
    some = dict.fromkeys(trace.task.id for trace in known if labels[trace.id].outcome)
    chosen = set(list(some)[: plan.oracle_scenarios])
    return [trace for trace in known if trace.task.id in chosen]


def _quality(
    name: str,
    traces: Sequence[Trace],
    labels: Mapping[str, Label],
    points: Mapping[str, tuple[OraclePoint, ...]],
) -> Quality:
    found = [labels[trace.id] for trace in traces]
    known = np.array([label.outcome is not None for label in found])
    acted = np.array([label.outcome is True for label in found])
    silent = np.array([label.silent for label in found])
    names, task = np.unique([trace.task.id for trace in traces], return_inverse=True)
    weights = resample(len(names))
    asked = tuple(trace for trace in traces if trace.id in points)
    cohort = build_cohort(Corpus(asked, labels))
    return Quality(
        model=name,
        traces=len(traces),
        well_formed=rate(known, np.ones(len(found), dtype=bool), task, weights),
        instrumental=rate(acted, known, task, weights),
        silent=rate(silent, acted, task, weights),
        mixed_prompts=int(cohort.mixed().sum()),
        oracle_at_prompt=_within(cohort, {name: each[0] for name, each in points.items()}),
        oracle_at_last_thought=_within(cohort, _last(asked, labels, points)),
        decided_before=_decided(cohort, asked, labels, points),
    )


def _last(
    traces: Sequence[Trace],
    labels: Mapping[str, Label],
    points: Mapping[str, tuple[OraclePoint, ...]],
) -> dict[str, OraclePoint]:
    """Return for each trace the last point before its act."""
    found = {}
    for trace in traces:
        acted = labels[trace.id].acted
        end = len(trace) if acted is None else acted.start
        found[trace.id] = [point for point in points[trace.id] if point.token <= end][-1]
    return found


def _within(cohort: Cohort, points: Mapping[str, OraclePoint]) -> Metric | None:
    """Return the oracle's within-prompt AUROC at one point of each trace."""
    pairs = pairs_within(cohort, np.ones(len(cohort.ids), dtype=np.intp))
    if not pairs.n:
        return None
    known = np.array([[points[trace_id].probability] for trace_id in cohort.ids])
    return pairs.auroc(scores_held(known), resample(cohort.n_tasks)).interval()


def _decided(
    cohort: Cohort,
    traces: Sequence[Trace],
    labels: Mapping[str, Label],
    points: Mapping[str, tuple[OraclePoint, ...]],
) -> Metric | None:
    """Return the share of instrumental traces decided a sentence before they say or do it."""
    if not cohort.positive.any():
        return None
    early = np.array([_is_decided(trace, labels[trace.id], points[trace.id]) for trace in traces])
    return rate(early, cohort.positive, cohort.task, resample(cohort.n_tasks))


def _is_decided(trace: Trace, label: Label, points: Sequence[OraclePoint]) -> bool:
    """Return whether P passes `SURE` at a point with a whole sentence before it is said or done."""
    mark = label.said or label.acted
    before = [span for span in trace.sentences if mark and span.stop <= mark.start]
    limit = before[-1].start if before else 0
    return any(point.probability >= SURE for point in points if point.token <= limit)
