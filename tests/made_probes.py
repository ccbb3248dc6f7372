"""Probes with a planted direction and on tiny models, and what these models write."""

from pathlib import Path
from typing import Any

import numpy as np
from planted import World

from trace_probe.probing.probe import LinearProbe, ProbeCard, SavedProbe
from trace_probe.probing.recipe import Feature
from trace_probe.store import Store
from trace_probe.trace import Sampling, Task, Trace

WORLD = World(tasks=8, samples=4, strength=8.0)


def planted_probe(threshold: float = 4.0, model: str = "planted") -> SavedProbe:
    """Return a probe that reads the planted direction."""
    fitted = LinearProbe.of(WORLD.direction, 0.0)
    card = ProbeCard(
        name="truth",
        model=model,
        tokenizer="words",
        layers=(3,),
        d_model=WORLD.d_model,
        features=("mean",),
        rows="reasoning",
        guard=0,
        labeller="planted",
        method="logistic",
        C=1.0,
        training_tasks=(),
        calibration_tasks=(),
        threshold=threshold,
        target_false_alarm_rate=0.01,
        guaranteed_false_alarm_rate=0.01,
    )
    return SavedProbe(card, fitted)


def a_probe(
    model: Any, threshold: float = 1e9, layer: int = 2, feature: Feature = "mean"
) -> SavedProbe:
    direction = np.random.default_rng(0).standard_normal(32)
    # of length one, so that scores are in activations' units
    probe = LinearProbe.of(direction / np.linalg.norm(direction), 0.25)
    card = ProbeCard(
        name="p", model=model.name, tokenizer=model.tokenizer, layers=(layer,), d_model=32,
        features=(feature,), rows="before-said", guard=0, labeller="rule", method="logistic",
        C=0.01, training_tasks=(), calibration_tasks=(), threshold=threshold,
        target_false_alarm_rate=0.01, guaranteed_false_alarm_rate=0.01, row_end=model.row_end,
    )  # fmt: skip
    return SavedProbe(card, probe)


TASK = Task("t-01", "c", "the model must finish its task before they stop it .")


SAMPLING = Sampling(seed=1, max_new_tokens=40)


def recorded(model: Any, folder: Path, samples: int) -> list[Trace]:
    from trace_probe.recording.record import new_manifest, record

    store = Store.create(folder, new_manifest(model, SAMPLING))
    record(model, [TASK], store, samples=samples, progress=False)
    return sorted(store.traces(), key=lambda trace: trace.sample)
