"""Scores of every recorded layer, as ``trace-probe layers`` keeps them beside a run.

    <run>/layers/<detector>.parquet    (trace_id, layer, scores), a row for each pair

Thresholds and spans of the layers are in the file's own metadata. Each layer has a probe of its
own, trained and calibrated on the same tasks, so its scores are read against its own threshold.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from trace_probe.errors import StoreError
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
class LayerRow:
    """One layer's scores of one trace."""

    layer: int
    threshold: float
    low: float
    high: float
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
    found = _by(store, detector, table, "layer")
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


def _by(store: Store, detector: str, table: "pa.Table", column: str) -> dict[Any, Scores]:
    """Return the scores in a table by one of its columns."""
    try:
        rows = zip(table[column].to_pylist(), table["scores"].to_pylist(), strict=True)
        return {name: np.asarray(row, np.float32) for name, row in rows}
    except (ValueError, KeyError, TypeError) as error:
        raise _strange(store, detector) from error


def _strange(store: Store, detector: str) -> StoreError:
    file = store.artifacts.url(FOLDER, detector)
    return StoreError(f"{file} is damaged: it holds no scores of layers: {AGAIN}")
