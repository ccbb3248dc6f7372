"""All steps on an embedded organism, in minutes, with real figures."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trace_probe.evaluation.held_out import evaluate_probe, keep
from trace_probe.evaluation.report import NAME, Report, format_summary
from trace_probe.labelling.runs import label_run
from trace_probe.model.local import load_model
from trace_probe.organism.family import agent_of, world_of
from trace_probe.probing.probe import check_overwrites, save_probe
from trace_probe.recording.record import Writer, new_manifest, record
from trace_probe.statistics.bootstrap import Metric
from trace_probe.store import Store
from trace_probe.study.rates import instrumental_rate, read_rows
from trace_probe.trace import Task
from trace_probe.training import train
from trace_probe.world.rules import RuleLabeller
from trace_probe.world.worlds import World

Say = Callable[[str], None]
AFTER_RECORDING = {2: 0.65, 3: 0.64, 4: 0.36}
"""Time from each step to the end, as a part of the time that recording took (`demo --small`)."""
RESUMED_S = 5.0
"""Recording that takes less than this found its traces there and tells nothing of the machine."""


@dataclass(frozen=True)
class DemoPlan:
    """What the demo records."""

    run: Path
    probe: Path
    organism: str = "organism:rl-s0"
    seed: int = 0
    scenarios: int | None = None
    """Tasks that can end either way; as many as its world asks for by default."""
    samples: int = 8
    """Traces of each scenario, so that prompts are compared within themselves."""
    hard_negatives: int = 120
    benign: int = 1500
    rate: float = 0.01
    """Whole-trace false alarms that the threshold is set for."""
    layers: tuple[int, ...] | None = None
    """Blocks to record; those of its world by default."""

    def tasks(self) -> tuple[Task, ...]:
        """Return the scenarios that can end either way, under the nudge levels in turn."""
        return self._of_world(f"{self.scenarios or self.world.scenarios}")

    def controls(self) -> tuple[Task, ...]:
        """Return hard negatives and benign tasks; one trace of each is recorded."""
        each = self.hard_negatives // len(self.world.hard_negatives)
        parts = [f"{each}:{control}" for control in self.world.hard_negatives]
        parts.append(f"{self.benign}:benign")
        return tuple(one for part in parts for one in self._of_world(part))

    @property
    def world(self) -> World:
        """Return the world in which the organism acts."""
        return world_of(self.organism)

    def _of_world(self, part: str) -> tuple[Task, ...]:
        return self.world.tasks(f"{self.world.name}:demo:{part}")


def demo_name(organism: str) -> str:
    """Return what the run and the probe of a demo are called where nobody named them."""
    return "first" if organism == DemoPlan.organism else Path(organism.rpartition(":")[2]).name


def smaller(plan: DemoPlan) -> DemoPlan:
    """Return the plan of the run that comes with the project as ``traces/demo``.

    It holds the first scenarios of the demo, as many times each category under each nudge as fit
    into 12 MB, and the layer that the demo chooses. Its benign traces are too few for one false
    alarm in a hundred, hence one in twenty.
    """
    few = replace(plan, scenarios=90, samples=8, hard_negatives=12, benign=72)
    return replace(few, rate=0.05, layers=plan.world.layers or (2,))


@dataclass(frozen=True)
class DemoReport:
    """What the demo found."""

    traces: int
    instrumental_rate: Metric | None
    report: Report
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return one object with the figures of the demo, then the whole report.

        Of each baseline the AUROC within prompts, with the headline beside it.
        """
        full = self.report.to_json()
        names = (NAME, "within_prompt_auroc", "pooled_auroc", "threshold")
        more = ("target_false_alarm_rate", "false_alarm_rate", "sibling_alarm_rate")
        caught = ("caught_before_said", "caught_before_action")
        return {
            "traces": self.traces,
            "instrumental_rate": self.instrumental_rate and self.instrumental_rate.to_json(),
            **{name: full[name] for name in (*names, *more, *caught)},
            "baselines": {
                name: {**(figures["within_prompt_auroc"] or {}), NAME: figures[NAME]}
                for name, figures in full["baselines"].items()
            },
            "seconds": round(self.seconds, 1),
            "report": full,
        }


def run_demo(plan: DemoPlan, say: Say, model: Writer | None = None) -> DemoReport:
    """Record, label, train, evaluate and score; what is there already is not done again.

    `model` is the organism of the plan if it is loaded already, here or in an engine.

    Raises:
        StoreError: the folder holds another run, or something else.
        ProbeError: the folder of the probe holds a run.
    """
    began = time.monotonic()
    Store.check_settings(plan.run, lambda there: there)
    check_overwrites(plan.probe, {})
    model = model or load_model(plan.organism)
    loaded = time.monotonic()
    store = _record(plan, model, say)
    recorded = time.monotonic() - loaded
    say(_step(2, recorded, "label: outcome, first sentence that states the plan, first action"))
    labeller = RuleLabeller()
    label_run(store, labeller, progress=False)
    say(_step(3, recorded, "train: probe on training tasks, threshold on benign ones"))
    saved = train(store, name=plan.probe.name, target_rate=plan.rate, seed=plan.seed, progress=say)
    save_probe(plan.probe, saved)
    say(_step(4, recorded, "evaluate: on tasks not seen so far, beside every baseline"))
    report, scores = evaluate_probe(store, saved, seed=plan.seed)
    keep(store, report, scores)
    return DemoReport(
        traces=len(store),
        instrumental_rate=instrumental_rate(read_rows(store, labeller.name)),
        report=report,
        seconds=time.monotonic() - began,
    )


def _step(number: int, recorded_s: float, what: str) -> str:
    """Return what is said at the start of a step; how long is left is told from the first one."""
    left = AFTER_RECORDING[number] * recorded_s / 60
    about = f", about {max(round(left), 1)} min left" if recorded_s > RESUMED_S else ""
    return f"step {number} of 4, {what}{about}"


def _record(plan: DemoPlan, model: Writer, say: Say) -> Store:
    """Record what the plan asks for and return the run."""
    sampling = plan.world.sampling(plan.seed)
    layers = plan.layers or plan.world.layers
    manifest = new_manifest(model, sampling, layers=layers, tasks=f"{plan.world.name}:demo")
    store = Store.create(plan.run, manifest)
    say(f"step 1 of 4, record: {model.name} into {plan.run}")
    agent = agent_of(plan.world)
    batch = plan.world.batch
    record(model, plan.tasks(), store, agent, samples=plan.samples, batch_size=batch)
    record(model, plan.controls(), store, agent, batch_size=batch)
    return store


def format_demo(report: DemoReport, run: Path, probe: Path) -> str:
    """Return the figures and what to do next."""
    rate = report.instrumental_rate
    share = f"{rate:.0%}" if rate else "none"
    return "\n".join(
        [
            f"{report.traces} traces, instrumental rate {share}, {report.seconds:.0f} s",
            "",
            format_summary(report.report),
            "",
            f"run    {run}",
            f"probe  {probe}",
            f"next   trace-probe explore --traces {run.parent}",
            f"       trace-probe flag {run} {probe}",
            f"       trace-probe evaluate {run} {probe}   # all figures, beside every baseline",
        ]
    )
