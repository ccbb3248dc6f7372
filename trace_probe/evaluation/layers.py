"""Scores of every recorded layer, as ``trace-probe layers`` keeps them beside a run.

    <run>/layers/<detector>.parquet    (trace_id, layer, scores), a row for each pair

Thresholds and spans of the layers are in the file's own metadata. Each layer has a probe of its
own, trained and calibrated on the same tasks, so its scores are read against its own threshold.

A probe's recipe on every recorded layer, so that depth can be seen beside position.

Every layer learns from the tasks of the probe and is calibrated on the same benign traces to the
same false-alarm rate, by the same guarantee. The probe's own layer is the probe itself.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from trace_probe.errors import StoreError
from trace_probe.probing.corpus import Corpus, load_corpus
from trace_probe.probing.fitting import fit_corpus, probe_scores
from trace_probe.probing.probe import ProbeCard, SavedProbe, check_fits
from trace_probe.statistics.calibration import guaranteed_threshold
from trace_probe.statistics.metrics import trace_maxima
from trace_probe.storage.seals import Wanted
from trace_probe.store import Store

if TYPE_CHECKING:
    import pyarrow as pa


Scores = NDArray[np.floating[Any]]
"""(sentence,), nan where there is no score."""
FOLDER: Literal["layers"] = "layers"
AGAIN = "make it again with `trace-probe layers`"
KEY = b"trace_probe.layers"
GROUP = 4096
"""Rows of the file that are read at once for one trace."""
DEPTH = 2.0
"""How far below the threshold an axis goes, as a multiple of what lies above it."""


@dataclass(frozen=True)
class LayerScale:
    """How the scores of one layer are read."""

    layer: int
    threshold: float
    low: float
    high: float
    """Ends of its axis."""


@dataclass(frozen=True, eq=False)
class LayerRow(LayerScale):
    """One layer's scores of one trace."""

    scores: Scores


def score_range(scores: Iterable[Scores], threshold: float | None) -> tuple[float, float]:
    """Return the axis of a detector: [0, 1] for probabilities, else what its scores span.

    It goes no deeper below the threshold than `DEPTH` times as far as the highest score lies
    above it: a few scores far below would make all others look alike.
    """
    limit = np.array([] if threshold is None else [threshold])
    values = np.concatenate([*(row[~np.isnan(row)] for row in scores), limit])
    if not values.size or (values.min() >= 0.0 and values.max() <= 1.0):
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    if threshold is not None and high > threshold:
        low = max(low, threshold - DEPTH * (high - threshold))
    return low, high


def write_layers(
    store: Store,
    detector: str,
    scales: Sequence[LayerScale],
    scores: Mapping[int, Mapping[str, Scores]],
) -> None:
    """Keep the scores of all layers; the rows of a trace lie together."""
    import pyarrow as pa

    order = [scale.layer for scale in scales]
    pairs = sorted((name, layer) for layer in order for name in scores[layer])
    table = pa.table(
        {
            "trace_id": [name for name, _ in pairs],
            "layer": pa.array([layer for _, layer in pairs], pa.int32()),
            "scores": [np.asarray(scores[layer][name], np.float32) for name, layer in pairs],
        }
    )
    meta = {KEY: json.dumps([vars(scale) for scale in scales]).encode()}
    store.artifacts.write_table(FOLDER, detector, table.replace_schema_metadata(meta), group=GROUP)


def read_scales(store: Store, detector: str) -> tuple[LayerScale, ...]:
    """Return the layers that were scored, in order; none if there is no such file.

    Raises:
        StoreError: the file is broken.
    """
    table = _table(store, detector)
    return () if table is None else _scales(store, detector, table)


def read_layers(store: Store, detector: str, trace_id: str) -> tuple[LayerRow, ...]:
    """Return the scores of all layers on one trace; none if it was not scored.

    Raises:
        StoreError: the file is broken.
    """
    table = _table(store, detector, ("trace_id", trace_id))
    if table is None:
        return ()
    try:
        rows = zip(table["layer"].to_pylist(), table["scores"].to_pylist(), strict=True)
        found = {layer: np.asarray(row, np.float32) for layer, row in rows}
    except (ValueError, KeyError, TypeError) as error:
        raise _strange(store, detector) from error
    return tuple(
        LayerRow(**vars(scale), scores=found[scale.layer])
        for scale in _scales(store, detector, table)
        if scale.layer in found
    )


def _table(store: Store, detector: str, wanted: Wanted | None = None) -> "pa.Table | None":
    return store.artifacts.read_table(FOLDER, detector, AGAIN, wanted)


def _scales(store: Store, detector: str, table: "pa.Table") -> tuple[LayerScale, ...]:
    try:
        raw = json.loads((table.schema.metadata or {})[KEY])
        return tuple(LayerScale(**one) for one in raw)
    except (ValueError, KeyError, TypeError) as error:
        raise _strange(store, detector) from error


def _strange(store: Store, detector: str) -> StoreError:
    file = store.artifacts.url(FOLDER, detector)
    return StoreError(f"{file} is damaged: it holds no scores of layers: {AGAIN}")


CELL = re.compile(r"/layer-(\d+)(?:/(\w+))?/C-(.+)$")

Progress = Callable[[str], None]


def score_layers(store: Store, saved: SavedProbe, progress: Progress) -> tuple[LayerScale, ...]:
    """Train, calibrate and score every recorded layer of a run, and keep the scores.

    Raises:
        ProbeError: the probe was trained on another model, or the run lacks what it reads.
        NotEnoughData: the tasks of the probe are not in this run.
    """
    check_fits(saved.card, store)
    corpus = Corpus(tuple(store.traces()), {})
    scales: list[LayerScale] = []
    scores: dict[int, dict[str, Scores]] = {}
    for layer in store.manifest.layers:
        progress(f"layer {layer}: {len(scales) + 1} of {len(store.manifest.layers)}")
        probe = at_layer(store, saved, layer)
        found = probe.scores(corpus.with_activations(store, (layer,)))
        scores[layer] = dict(probe.smoothing.apply(found))
        low, high = score_range(scores[layer].values(), probe.card.threshold)
        scales.append(LayerScale(layer, probe.card.threshold, low, high))
    write_layers(store, saved.card.name, scales, scores)
    return tuple(scales)


def at_layer(store: Store, saved: SavedProbe, layer: int) -> SavedProbe:
    """Return a probe as it would have been on another layer, with a threshold of its own."""
    card = saved.card
    if card.layers == (layer,):
        return saved
    corpus = load_corpus(store, card.labeller, (layer,), card.target)
    learned = corpus.only(card.training_tasks)
    recipe = replace(card.recipe, layers=(layer,), C=strength(card, layer))
    probe = fit_corpus(learned, recipe)
    held = corpus.only(card.calibration_tasks)
    ids = [trace.id for trace in held.benign_sample.traces]
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
