"""Where in a network the signal is, and when: a probe's recipe on every recorded layer.

``python -m benchmarks.depth --run build/deep --probe probes/english``

Each layer learns from the training tasks of the probe, with its features and its strength, and is
judged on tasks that the probe has not seen: by the AUROC within prompts after parts of the
thought, and up to where it is said. Nothing is chosen on these tasks.
"""

from dataclasses import dataclass

import numpy as np

from benchmarks.command import Say, run
from trace_probe.evaluation.layers import at_layer
from trace_probe.probing.corpus import Corpus, build_cohort, load_corpus
from trace_probe.probing.probe import SavedProbe, load_probe
from trace_probe.statistics.bootstrap import Metric, resample, shown
from trace_probe.statistics.metrics import Cohort, Scores, pairs_within, score_rows, scores_held
from trace_probe.store import Store

PARTS = (0.25, 0.5, 0.75, 1.0)
SHADES = " .:-=+*#"
"""From .5, which is chance, to .85."""


@dataclass(frozen=True)
class DepthPlan:
    """What is judged."""

    run: str = "build/deep"
    """A run of many layers, such as `trace-probe record --recapture` makes."""
    probe: str = "probes/english"


@dataclass(frozen=True)
class Layer:
    """One layer, and how it ranks the siblings of unseen tasks."""

    layer: int
    after: tuple[Metric | None, ...]
    """After each of the parts of the thought; the last is up to where it is said."""


@dataclass(frozen=True)
class Depth:
    """All layers."""

    model: str
    features: tuple[str, ...]
    own: int
    """The layer that the probe reads."""
    traces: int
    prompts: int
    layers: tuple[Layer, ...]


def measure(plan: DepthPlan, say: Say) -> Depth:
    """Where in a network is the signal, and when?"""
    store, saved = Store(plan.run), load_probe(plan.probe)
    found, cohort = [], None
    for layer in store.manifest.layers:
        say(f"layer {layer}")
        probe = at_layer(store, saved, layer)
        corpus = _unseen(store, saved, layer)
        cohort = build_cohort(corpus)
        found.append(Layer(layer, ranked(cohort, probe.smoothing.apply(probe.scores(corpus)))))
    return Depth(
        store.manifest.model,
        saved.card.features,
        saved.card.layer,
        len(cohort.ids) if cohort else 0,
        int(cohort.mixed().sum()) if cohort else 0,
        tuple(found),
    )


def _unseen(store: Store, saved: SavedProbe, layer: int) -> Corpus:
    """Return the labelled traces of test tasks that set nothing of the probe."""
    seen = saved.card.seen
    every = load_corpus(store, saved.card.labeller, (layer,), saved.card.target)
    return every.where(lambda trace: trace.task.id not in seen).judged()


def ranked(cohort: Cohort, scores: Scores) -> tuple[Metric | None, ...]:
    """Return the AUROC within prompts after each part of the thought, before it is said."""
    held, weights = scores_held(score_rows(cohort, scores)), resample(cohort.n_tasks)
    found = []
    for part in PARTS:
        read = np.ceil(part * cohort.length).astype(np.intp)
        pairs = pairs_within(cohort, np.minimum(read, cohort.before_said()))
        found.append(pairs.auroc(held, weights).interval())
    return tuple(found)


def shade(value: Metric | None) -> str:
    """Return a mark that is darker the higher an AUROC is."""
    if value is None:
        return "?"
    place = (value.estimate - 0.5) / 0.35 * (len(SHADES) - 1)
    return SHADES[int(np.clip(round(place), 0, len(SHADES) - 1))]


def text(found: Depth) -> str:
    """Return a line for each layer."""
    names = [*(f"{part:.0%} of it" for part in PARTS[:-1]), "before it is said"]
    lines = [
        f"{found.model}, {', '.join(found.features)}; AUROC within prompts on {found.traces} "
        f"traces of {found.prompts} mixed prompts of unseen tasks; the probe reads layer "
        f"{found.own}",
        "layer       " + "".join(f"{name:<24}" for name in names).rstrip(),
    ]
    for one in found.layers:
        marks = "".join(shade(value) * 2 for value in one.after)
        figures = "".join(f"{shown(value):<24}" for value in one.after)
        lines.append(f"{one.layer:5} {marks}  {figures}".rstrip())
    return "\n".join(lines)


if __name__ == "__main__":
    run(DepthPlan, measure, text)
