"""What is drawn beside the scores of a trace: other detectors, the oracle, every layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trace_probe.emergence.curve import OraclePoint
from trace_probe.evaluation.layers import LayerRow
from trace_probe.explorer.rows import Scores
from trace_probe.explorer.words import ShownDetector
from trace_probe.visible import visible

TEXT_MONITOR = "text-monitor "
"""How the names of detectors begin that are a language model's estimate of a probability."""


@dataclass(frozen=True, eq=False)
class Beside:
    """What a page wants drawn with a trace, all of it optional."""

    others: tuple[tuple[ShownDetector, Scores], ...] = ()
    oracle: tuple[OraclePoint, ...] = ()
    layers: tuple[LayerRow, ...] = ()
    layer: int | None = None
    """The layer whose scores are shown."""

    def content(self) -> dict[str, Any]:
        """Return it as the reader takes it."""
        return {
            "beside": [curve(detector, scores) for detector, scores in self.others],
            "oracle": oracle(self.oracle),
            "layers": layer_map(self.layers, self.layer),
        }


def curve(detector: ShownDetector, scores: Scores) -> dict[str, Any]:
    """Return the curve of another detector; a text monitor speaks in probabilities."""
    monitor = detector.name.startswith(TEXT_MONITOR)
    return {
        "name": visible(detector.name),
        "kind": "probability" if monitor else "detector",
        "range": [detector.low, detector.high],
        "threshold": detector.threshold,
        "scores": rounded(scores),
        "over": over(scores, detector.threshold),
    }


def oracle(points: Sequence[OraclePoint]) -> dict[str, Any] | None:
    """Return the shares of continuations that act; None where no outcome of any is known.

    Each with its interval, that of Jeffreys. Reports count by its posterior mean, which lies
    nearer to a half: a reader who counts 8 of 8 expects 1.
    """
    drawn = [
        [point.token, _share(point.share), *map(_share, point.interval()), point.known]
        for point in points
        if point.known
    ]
    if not drawn:
        return None
    return {"name": "oracle: share of continuations that act, 95 %", "points": drawn}


def _share(value: float) -> float:
    return round(float(value), 3)


def layer_map(rows: Sequence[LayerRow], shown: int | None) -> dict[str, Any] | None:
    """Return every layer against its own threshold, or None where none was scored."""
    if not rows:
        return None
    found = [
        {
            "layer": row.layer,
            "threshold": row.threshold,
            "range": [row.low, row.high],
            "scores": rounded(row.scores, 2),
            "over": over(row.scores, row.threshold),
        }
        for row in rows
    ]
    return {"shown": shown, "rows": found}


def rounded(scores: Scores, digits: int = 4) -> list[float | None]:
    """Return scores as JSON holds them: short, and None where there is none."""
    return [None if np.isnan(score) else round(float(score), digits) for score in scores]


def over(scores: Scores, threshold: float | None) -> list[int]:
    """Return the sentences at or over a threshold; decided here, before any rounding."""
    if threshold is None:
        return []
    return [int(index) for index in np.flatnonzero(scores >= threshold)]
