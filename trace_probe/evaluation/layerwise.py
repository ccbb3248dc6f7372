"""A probe's recipe on every recorded layer, so that depth can be seen beside position.

Every layer learns from the tasks of the probe and is calibrated on the same benign traces to the
same false-alarm rate, by the same guarantee. The probe's own layer is the probe itself.
"""

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from trace_probe.evaluation.layers import LayerScale, Scores, score_range, write_layers
from trace_probe.evaluation.panel import build_panel
from trace_probe.probing.dataset import Corpus, build_dataset, load_corpus
from trace_probe.probing.matrix import load_matrix
from trace_probe.probing.probe import (
    ProbeCard,
    SavedProbe,
    check_fits,
    fit_dataset,
    probe_scores,
)
from trace_probe.statistics.calibration import guaranteed_threshold
from trace_probe.statistics.metrics import trace_maxima
from trace_probe.store import Store

CELL = re.compile(r"/layer-(\d+)(?:/(\w+))?/C-(.+)$")

Progress = Callable[[str], None]


def score_layers(store: Store, saved: SavedProbe, progress: Progress) -> tuple[LayerScale, ...]:
    """Train, calibrate and score every recorded layer of a run, and keep the scores.

    Raises:
        ProbeError: the probe was trained on another model, or the run lacks what it reads.
        NotEnoughData: the tasks of the probe are not in this run.
    """
    check_fits(saved.card, store.manifest)
    traces = tuple(store.traces())
    scales: list[LayerScale] = []
    scores: dict[int, dict[str, Scores]] = {}
    for layer in store.manifest.layers:
        progress(f"layer {layer}: {len(scales) + 1} of {len(store.manifest.layers)}")
        probe = at_layer(store, saved, layer)
        corpus = Corpus(traces, {}, load_matrix(store, traces, (layer,)))
        scores[layer] = dict(probe.smoothing.apply(probe.scores(corpus)))
        low, high = score_range(scores[layer].values(), probe.card.threshold)
        scales.append(LayerScale(layer, probe.card.threshold, low, high))
    write_layers(store, saved.card.name, scales, scores)
    return tuple(scales)


def at_layer(store: Store, saved: SavedProbe, layer: int) -> SavedProbe:
    """Return a probe as it would have been on another layer, with a threshold of its own."""
    card = saved.card
    if card.layers == (layer,):
        return saved
    corpus = load_corpus(store, card.labeller, (layer,)).aimed(card.target)
    learned = corpus.only(card.training_tasks)
    recipe = replace(card.recipe, layers=(layer,), C=strength(card, layer))
    probe = fit_dataset(build_dataset(learned, recipe), recipe)
    held = corpus.only(card.calibration_tasks)
    ids = [trace.id for trace in build_panel(held, learned).calibration]
    maxima = trace_maxima(saved.smoothing.apply(probe_scores(probe, held, recipe)), ids)
    threshold = guaranteed_threshold(maxima, card.target_false_alarm_rate, card.guarantee)
    return SavedProbe(replace(card, layers=(layer,), C=recipe.C, threshold=threshold.value), probe)


def strength(card: ProbeCard, layer: int) -> float:
    """Return the strength that did best on a layer when the probe was chosen, else the probe's."""
    best, found = -np.inf, card.C
    for name, figure in card.figures.items():
        cell = CELL.search(name)
        if not cell or cell[2] not in (None, card.focus):
            continue
        if int(cell[1]) == layer and figure > best:
            best, found = figure, float(cell[3])
    return found
