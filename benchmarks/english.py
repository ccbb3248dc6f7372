"""How gradual is the signal of the English world? Measured on its script, without any model.

The figures are those of `trace-probe organism check` on an organism, with the script's own chances
in the place of an oracle. With ``--model`` a model is asked as well: how far its chance of using
the lever follows from what scripted thoughts of unseen scenarios have met.

    python -m benchmarks.english
    python -m benchmarks.english --model organism:english-base
"""

from dataclasses import dataclass
from itertools import islice

from benchmarks.command import Say, run
from trace_probe.emergence.curve import OraclePoint
from trace_probe.labels import Label
from trace_probe.model.local import load_model
from trace_probe.organism.degrees import Degrees, DegreesPlan, degrees, places
from trace_probe.organism.packing import Packer
from trace_probe.organism.schooling import Grasp, examine
from trace_probe.statistics.bootstrap import shown
from trace_probe.trace import Sampling, Span, Trace
from trace_probe.world.english.chance import Facts, chance
from trace_probe.world.english.outcome import chances, nudge_of
from trace_probe.world.english.scenario import PREFIX, scenario, task
from trace_probe.world.english.script import Script, script
from trace_probe.world.language import CATEGORIES
from trace_probe.world.pools import NUDGES, pool_ids
from trace_probe.world.rules import RuleLabeller

FINE = 10**6
"""Continuations that a chance of the script stands for."""


@dataclass(frozen=True)
class EnglishPlan:
    """How much is measured."""

    prompts: int = 240
    samples: int = 8
    model: str = ""
    """Also asked; none by default."""
    asked: int = 24
    """Prompts on which the model is asked."""


@dataclass(frozen=True)
class Found:
    """What was found."""

    traces: int
    instrumental: float
    script: Degrees
    model: Grasp | None


def measure(plan: EnglishPlan, say: Say) -> Found:
    """How gradual is the signal of the English world?"""
    rules, traces, labels = RuleLabeller(), list[Trace](), dict[str, Label]()
    for number, name in enumerate(islice(pool_ids("script", "none", PREFIX), plan.prompts)):
        nudge = NUDGES[number // len(CATEGORIES) % len(NUDGES)]
        for sample in range(plan.samples):
            traces.append(scripted(name, script(scenario(name), nudge, sample), sample, nudge))
            labels[traces[-1].id] = rules.label(traces[-1])
    points = {trace.id: known(trace, labels[trace.id]) for trace in traces}
    whole = DegreesPlan(len(traces), len(traces))
    return Found(
        len(traces),
        sum(label.outcome is True for label in labels.values()) / len(labels),
        degrees(traces, labels, points, whole),
        asked(plan, say) if plan.model else None,
    )


def asked(plan: EnglishPlan, say: Say) -> Grasp:
    """Return how far a model's chances follow the facts."""
    model = load_model(plan.model)
    say(f"asking {model.name} on {plan.asked} prompts")
    return examine(model.blocks.network, Packer(model.tokenizer), plan.asked)


def scripted(name: str, one: Script, sample: int, nudge: str) -> Trace:
    """Return a scripted run as a trace, whose tokens are its prompt, its sentences, its answer."""
    asked = task(name, nudge)  # type: ignore[arg-type]
    pieces = [f"{asked.prompt}\n", *(f"{line.text} " for line in one.lines), one.answer]
    offsets = [sum(map(len, pieces[:n])) for n in range(len(pieces))]
    last = len(pieces) - 1
    thoughts = tuple(Span(n, n + 1, "reasoning") for n in range(1, last))
    answer = Span(last, last + 1, "answer")
    return Trace(
        id=f"{name}/{sample}",
        task=asked,
        model="script",
        sampling=Sampling(),
        sample=sample,
        text="".join(pieces),
        offsets=tuple(offsets),
        spans=(Span(0, 1, "prompt"), Span(1, last, "reasoning"), answer),
        sentences=(*thoughts, answer),
    )


def known(trace: Trace, label: Label) -> tuple[OraclePoint, ...]:
    """Return the script's chance at each prefix as if it had been counted."""
    world = scenario(trace.task.id)
    curve = [chance(world, nudge_of(trace), Facts()), *chances(trace)]
    return tuple(
        OraclePoint(sentence, token, FINE, round(FINE * p))
        for (sentence, token), p in zip(places(trace, label), curve, strict=False)
    )


def text(found: Found) -> str:
    """Return the figures, a line each."""
    rows = found.script.rows("chance")
    lines = [f"{found.traces} scripted traces, {found.instrumental:.3f} of them instrumental"]
    lines += [f"{name:<59}{shown(value)}" for name, value in rows.items()]
    return "\n".join([*lines, *([f"model: {found.model}"] if found.model else [])])


if __name__ == "__main__":
    run(EnglishPlan, measure, text)
