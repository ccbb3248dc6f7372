"""Probes with a planted direction, and on tiny models."""

from typing import Any

import numpy as np
from planted import World

from trace_probe.probing.features import Feature
from trace_probe.probing.probe import LinearProbe, ProbeCard, SavedProbe

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
        honest_false_alarm_rate=0.01,
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
        target_false_alarm_rate=0.01, honest_false_alarm_rate=0.01,
    )  # fmt: skip
    return SavedProbe(card, probe)
