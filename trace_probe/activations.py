"""What a model held in its residual stream while it read, thought and said."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from trace_probe.errors import ProbeError, TraceError
from trace_probe.trace import Span, Trace

Pooling = Literal["mean", "last", "max", "token"]


@dataclass(frozen=True)
class Activations:
    """Residual stream after chosen blocks, one row per span of tokens.

    Layer ``l`` is the 0-based block index, and its values are the residual stream *after*
    that block, before the model's final norm. (``hidden_states[-1]`` of transformers is
    after that norm and is therefore never used.)
    """

    values: NDArray[np.floating]
    """(layer, row, d_model), in the order of `layers` and `spans`."""
    layers: tuple[int, ...]
    spans: tuple[Span, ...]
    """The tokens of each row: first the last prompt token, then the sentences of the trace."""
    pooling: Pooling = "mean"

    def __post_init__(self) -> None:
        """Refuse values whose shape contradicts layers or spans."""
        if self.values.ndim != 3 or self.values.shape[:2] != (len(self.layers), len(self.spans)):
            raise TraceError(
                f"activations of shape {self.values.shape} do not fit "
                f"{len(self.layers)} layers and {len(self.spans)} spans"
            )

    def at(self, layer: int) -> NDArray[np.floating]:
        """Return (row, d_model) of one layer.

        Raises:
            ProbeError: the layer was not recorded.
        """
        if layer not in self.layers:
            raise ProbeError(f"layer {layer} was not recorded; there are {list(self.layers)}")
        values: NDArray[np.floating] = self.values[self.layers.index(layer)]
        return values


def pooled_spans(trace: Trace) -> tuple[Span, ...]:
    """Return the rows that are recorded for a trace: the last prompt token, then each sentence."""
    stop = trace.prompt_stop
    return (Span(max(stop - 1, 0), stop, "prompt"), *trace.sentences)
