"""One trace as it is looked at: which layer's scores, and what is drawn beside them."""

from dataclasses import dataclass

from trace_probe.evaluation.layers import LayerRow
from trace_probe.explorer.curves import TEXT_MONITOR, Beside
from trace_probe.explorer.loading import Loaded
from trace_probe.explorer.rows import Row, build_row
from trace_probe.explorer.words import ShownDetector
from trace_probe.monitor.detector import Detector, Source
from trace_probe.statistics.smoothing import MAX
from trace_probe.trace import Trace


@dataclass(frozen=True, eq=False)
class Chosen:
    """A trace, the scores that are looked at, and everything on the same axis."""

    trace: Trace
    row: Row
    detector: ShownDetector | None
    beside: Beside

    @property
    def id(self) -> str:
        """Return the id of the trace."""
        return self.trace.id


def look(
    run: Loaded,
    row: Row,
    detector: ShownDetector | None,
    *,
    layer: int | None = None,
    own_threshold: float | None = None,
    other: str | None = None,
) -> Chosen:
    """Return a trace through a detector or one of its layers, with `other` drawn beside it.

    Text monitors and the oracle are always there, since they say what could be known.

    Raises:
        TraceProbeError: a file of the run is broken.
    """
    trace = run.trace(row.facts.id)
    rows = () if detector is None else run.layer_rows(detector.name, trace.id)
    found = next((one for one in rows if one.layer == layer), None)
    if found is not None and detector is not None and layer != run.own_layer(detector.name):
        detector = at_layer(detector, found, own_threshold)
        row = build_row(row.facts, row.label, found.scores, detector.threshold, row.split)
    shown = None if detector is None else run.own_layer(detector.name) if found is None else layer
    names = [name for name in run.detectors if name.startswith(TEXT_MONITOR) or name == other]
    others = [run.beside(name, trace.id) for name in names if not detector or name != detector.name]
    present = tuple(one for one in others if one is not None)
    return Chosen(trace, row, detector, Beside(present, run.oracle(trace.id), rows, shown))


def at_layer(
    detector: ShownDetector, found: LayerRow, own_threshold: float | None
) -> ShownDetector:
    """Return a detector as it is on another layer, at that layer's threshold."""
    own = Detector(detector.name, MAX, found.threshold, Source("card"))  # its scores are smoothed
    follows = own if own_threshold is None else own.at(own_threshold)
    return ShownDetector(follows, None, found.low, found.high, found.layer)
