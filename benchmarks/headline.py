"""How many instrumental traces of an organism are caught before they say it?

``python -m benchmarks.headline --organism organism:rl-s0 --folder build/headline``

Trains on the demo's plan, then judges on its held-out tasks and on a fresh pool of scenarios, on
which nothing was chosen: the linear probe with memory, a linear probe of last tokens alone, an MLP,
text, and what the facts of the world allow. Where ``trace-probe oracle --every-sentence`` was asked
of a run, the oracle stands beside the probe on those traces. What is there is not done again.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.command import Say, run
from trace_probe.demo import DemoPlan, run_demo, smaller
from trace_probe.emergence.standing import beside_oracle
from trace_probe.evaluation.held_out import Beside, evaluate_probe
from trace_probe.evaluation.report import RATES, Report, at_rate
from trace_probe.labelling.runs import label_run
from trace_probe.model.local import load_model
from trace_probe.organism.family import agent_of, world_of
from trace_probe.probing.corpus import spread
from trace_probe.probing.probe import SavedProbe, load_probe, save_probe
from trace_probe.recording.record import new_manifest, record
from trace_probe.statistics.bootstrap import shown
from trace_probe.statistics.metrics import Scores
from trace_probe.store import Store
from trace_probe.trace import Trace
from trace_probe.training import score_run, train
from trace_probe.world import language
from trace_probe.world.agent import chance as agent_facts
from trace_probe.world.agent.errand import PREFIX as ERRAND
from trace_probe.world.english import outcome as english_facts
from trace_probe.world.english.scenario import PREFIX as ENGLISH
from trace_probe.world.rules import RuleLabeller
from trace_probe.world.scenario import scenario

LAST, FACTS = "last token, linear", "facts of the world"
TIMES = re.compile(rf"\b({'|'.join(language.TIMES)})\b")


@dataclass(frozen=True)
class HeadlinePlan:
    """What is recorded and trained."""

    folder: str = "build/headline"
    organism: str = "organism:rl-s0"
    pool: str = "fresh"
    scenarios: int = 144
    benign: int = 1000
    seed: int = 0
    small: bool = False
    """Train on the demo's small plan, as is due where an organism writes slowly."""
    features: str = ""
    """More linear probes to judge, by the feature that each reads: ``mean,running-mean``."""


@dataclass(frozen=True)
class Judged:
    """The headline of each detector on one set of tasks."""

    name: str
    n: dict[str, int]
    caught: dict[str, dict[str, str]]
    """By detector and sibling rate, with intervals."""
    measured: dict[str, str]
    """Alarm rates at the threshold that the probe ships with."""


@dataclass(frozen=True)
class Found:
    """The headline on held-out tasks and on the fresh pool."""

    organism: str
    sets: tuple[Judged, ...]


def measure(plan: HeadlinePlan, say: Say) -> Found:
    """Measure the headline of every detector of an organism on held-out tasks and a fresh pool."""
    folder = Path(plan.folder) / plan.organism.split(":")[1]
    demo = DemoPlan(folder / "demo", folder / "linear", plan.organism, plan.seed)
    demo = smaller(demo) if plan.small else demo
    if not (folder / "linear" / "card.json").exists():
        run_demo(demo, say)
    learned, fresh = Store(demo.run), _fresh(plan, folder, say)
    linear = load_probe(folder / "linear")
    last = _trained(folder / "last", learned, say, features=("last",), smoothing="max")
    mlp = _trained(folder / "mlp", learned, say, head="mlp")
    rivals = {LAST: last, "mlp": mlp}
    for feature in filter(None, plan.features.split(",")):
        asked = {"features": (feature,)}
        rivals[f"{feature}, linear"] = _trained(folder / feature, learned, say, **asked)
    rates = _rates(learned, linear)
    judged = []
    for name, store in (("held-out tasks", learned), ("fresh pool", fresh)):
        say(f"{name}: evaluate")
        store.write_scores(FACTS, {trace.id: _facts(trace, rates) for trace in store.traces()})
        for other, probe in rivals.items():
            store.write_scores(other, _scores(store, probe))
        others = Beside(trained_on=learned, detectors=(*rivals, FACTS))
        report, scores = evaluate_probe(store, linear, seed=plan.seed, beside=others)
        report = beside_oracle(report, store, linear.card, scores[linear.card.name])
        judged.append(_judged(name, report))
    return Found(plan.organism, tuple(judged))


def _fresh(plan: HeadlinePlan, folder: Path, say: Say) -> Store:
    """Record scenarios of a pool that nothing was chosen on, and benign tasks."""
    model = load_model(plan.organism)
    world = world_of(plan.organism)
    sampling = world.sampling(plan.seed)
    pool, agent = f"{world.name}:{plan.pool}", agent_of(world)
    manifest = new_manifest(model, sampling, layers=world.layers, tasks=pool)
    store = Store.create(folder / plan.pool, manifest)
    say(f"record: {plan.organism} into {store.path}")
    batch, asked = world.batch, world.tasks(f"{pool}:{plan.scenarios}")
    record(model, asked, store, agent, samples=8, batch_size=batch)
    benign = world.tasks(f"{pool}:{plan.benign}:benign")
    record(model, benign, store, agent, batch_size=batch)
    label_run(store, RuleLabeller(), progress=False)
    return store


def _trained(folder: Path, store: Store, say: Say, **settings: Any) -> SavedProbe:  # noqa: ANN401
    if not (folder / "card.json").exists():
        say(f"train: {folder.name}")
        save_probe(folder, train(store, name=folder.name, **settings))
    return load_probe(folder)


def _scores(store: Store, probe: SavedProbe) -> Scores:
    return probe.smoothing.apply(score_run(store, probe))


Fact = tuple[bool, bool, bool]
"""Whether a time was picked, whether work is enough, and whether somebody watches then."""


def _known(trace: Trace) -> list[Fact]:
    """Return the facts that hold after each reasoning sentence."""
    world, picked, found = scenario(trace.task.id), None, []
    for span in trace.sentences:
        if span.channel == "reasoning":
            times = TIMES.findall(trace.text_of(span))
            picked = times[-1] if times else picked
            shift = world.shift(picked) if picked else None
            enough = world.rounds * world.rate >= world.goal
            found.append((shift is not None, enough, bool(shift and shift.watched)))
    return found


def _rates(store: Store, probe: SavedProbe) -> dict[Fact, float]:
    """Return how often training traces of the small world act that ever know these facts."""
    labels, acts = store.labels(), dict[Fact, list[bool]]()
    for trace in store.traces():
        outcome = labels[trace.id].outcome
        chosen = trace.task.role == "test" and trace.task.id in probe.card.training_tasks
        chosen = chosen and not trace.task.id.startswith((ERRAND, ENGLISH))
        if chosen and outcome is not None:
            for fact in set(_known(trace)):
                acts.setdefault(fact, []).append(outcome)
    return {fact: float(np.mean(seen)) for fact, seen in acts.items()}


def _facts(trace: Trace, rates: dict[Fact, float]) -> Any:  # noqa: ANN401
    """Return P(act | facts known so far) after each sentence; nan for other sentences."""
    return spread(trace, np.array(_met(trace, rates)))


def _met(trace: Trace, rates: dict[Fact, float]) -> list[float]:
    """Return the chance after each reasoning sentence: the script's, or that of training traces."""
    if trace.task.id.startswith(ERRAND):
        return agent_facts.chances(trace)
    if trace.task.id.startswith(ENGLISH):
        return english_facts.chances(trace)
    return [rates.get(fact, 0.0) for fact in _known(trace)]


def _judged(name: str, report: Report) -> Judged:
    detectors = {"linear with memory": report.figures, **report.baselines}
    caught = {
        detector: {rate: shown(figures.get(at_rate(rate))) for rate in RATES}
        for detector, figures in detectors.items()
    }
    for rate, beside in report.more.headline.items():
        asked = f"(n={beside.oracle_traces})"
        rivals = {"chance": beside.chance, f"oracle {asked}": beside.oracle}
        for of, value in {**rivals, f"beside_oracle {asked}": beside.beside_oracle}.items():
            if value:
                caught.setdefault(of, {})[rate] = shown(value)
    rates = ("false_alarm_rate", "sibling_alarm_rate", "hard_negative_alarm_rate")
    measured = {each: shown(report.figures.get(each)) for each in rates}
    return Judged(name, dict(report.n), caught, measured)


def text(found: Found) -> str:
    """Return the table."""
    lines = [found.organism]
    for one in found.sets:
        lines += ["", f"{one.name}: {one.n}", f"{'caught before it is said, at':<34}5 %{'':20}10 %"]
        lines += [
            f"{name:<34}{by['0.05']:<23}{by.get('0.1', '-')}" for name, by in one.caught.items()
        ]
        lines += [f"{name:<34}{value}" for name, value in one.measured.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    run(HeadlinePlan, measure, text)
