"""The reader in a notebook: ``display(trace, scores)`` as the last line of a cell."""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trace_probe.evaluation.layers import score_range
from trace_probe.explorer.payload import payload
from trace_probe.explorer.reader.page import page
from trace_probe.explorer.rows import build_row, facts_of
from trace_probe.explorer.words import ShownDetector
from trace_probe.files import write_bytes
from trace_probe.labels import Label
from trace_probe.monitor.detector import Detector, Source
from trace_probe.statistics.smoothing import MAX
from trace_probe.trace import Trace


@dataclass(frozen=True)
class Display:
    """A trace to look at, in a notebook or as a file."""

    html: str
    """The whole page."""
    height: int = 860
    """Of the frame in a notebook, in pixels."""

    def _repr_html_(self) -> str:
        """Return a frame that may run the reader's script and has no origin to act for."""
        return (
            f'<iframe title="trace_probe reader" sandbox="allow-scripts" width="100%" '
            f'height="{self.height}" style="border:0" srcdoc="{html.escape(self.html)}"></iframe>'
        )

    def save(self, path: Path | str) -> None:
        """Write the page to a file, whole or not at all."""
        write_bytes(Path(path), self.html.encode())


def display(
    trace: Trace,
    scores: Sequence[float] | NDArray[np.floating] | None = None,
    *,
    threshold: float | None = None,
    label: Label | None = None,
    name: str = "detector",
) -> Display:
    """Return the reader on one trace, with one score a sentence; nan is *no score*.

    Raises:
        StoreError: there is another number of scores than of sentences.
    """
    values = None if scores is None else np.asarray(scores, dtype=float)
    row = build_row(facts_of(trace), label, values, threshold)
    low, high = score_range([] if values is None else [values], threshold)
    source = Source("none" if threshold is None else "hand")
    follows = Detector(name, MAX, math.inf if threshold is None else threshold, source)
    eye = None if values is None else ShownDetector(follows, None, low, high)
    return Display(page([payload(trace, row, eye)]))
