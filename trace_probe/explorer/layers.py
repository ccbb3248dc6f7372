"""Scores of every recorded layer, as ``trace-probe layers`` keeps them beside a run.

    <run>/layers/<detector>.parquet    (trace_id, layer, scores), a row for each pair

Thresholds and spans of the layers are in the file's own metadata. Each layer has a probe of its
own, trained and calibrated on the same tasks, so its scores are read against its own threshold.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trace_probe.errors import StoreError
from trace_probe.explorer.rows import Scores
from trace_probe.files import write_bytes

FOLDER = "layers"
KEY = b"trace_probe.layers"
GROUP = 4096
"""Rows of the file that are read at once for one trace."""


@dataclass(frozen=True)
class LayerScale:
    """How the scores of one layer are read."""

    layer: int
    threshold: float
    low: float
    high: float
    """Lowest and highest score of the run."""


@dataclass(frozen=True, eq=False)
class LayerRow:
    """One layer's scores of one trace."""

    layer: int
    threshold: float
    low: float
    high: float
    scores: Scores


def layers_file(run: Path, detector: str) -> Path:
    """Return where the scores of all layers of a detector are kept."""
    return run / FOLDER / f"{detector}.parquet"


def write_layers(
    run: Path,
    detector: str,
    scales: Sequence[LayerScale],
    scores: Mapping[int, Mapping[str, Scores]],
) -> Path:
    """Keep the scores of all layers; the rows of a trace lie together."""
    import pyarrow as pa
    import pyarrow.parquet as pq

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
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(meta), sink, row_group_size=GROUP)
    file = layers_file(run, detector)
    write_bytes(file, sink.getvalue().to_pybytes())
    return file


def read_scales(run: Path, detector: str) -> tuple[LayerScale, ...]:
    """Return the layers that were scored, in order; none if the file is not there.

    Raises:
        StoreError: the file is broken.
    """
    import pyarrow.parquet as pq

    file = layers_file(run, detector)
    if not file.is_file():
        return ()
    try:
        raw = json.loads((pq.read_schema(file).metadata or {})[KEY])
        return tuple(LayerScale(**one) for one in raw)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise broken(file) from error


def read_layers(run: Path, detector: str, trace_id: str) -> tuple[LayerRow, ...]:
    """Return the scores of all layers on one trace; none if it was not scored.

    Raises:
        StoreError: the file is broken.
    """
    import pyarrow.parquet as pq

    scales = read_scales(run, detector)
    if not scales:
        return ()
    file = layers_file(run, detector)
    try:
        table = pq.read_table(file, filters=[("trace_id", "=", trace_id)])
        rows: list[dict[str, Any]] = table.to_pylist()
    except (ValueError, KeyError, OSError) as error:
        raise broken(file) from error
    found = {row["layer"]: np.asarray(row["scores"], np.float32) for row in rows}
    return tuple(
        LayerRow(**vars(scale), scores=found[scale.layer])
        for scale in scales
        if scale.layer in found
    )


def read_layer(run: Path, detector: str, layer: int) -> dict[str, Scores]:
    """Return the scores of one layer by trace id.

    Raises:
        StoreError: the file is not there or broken.
    """
    import pyarrow.parquet as pq

    file = layers_file(run, detector)
    try:
        table = pq.read_table(file, filters=[("layer", "=", layer)])
    except (ValueError, OSError) as error:
        raise broken(file) from error
    rows = zip(table["trace_id"].to_pylist(), table["scores"].to_pylist(), strict=True)
    return {name: np.asarray(row, np.float32) for name, row in rows}


def broken(file: Path) -> StoreError:
    """Return the error of a file that cannot be read."""
    return StoreError(f"{file} is broken: make it again with `trace-probe layers`")
