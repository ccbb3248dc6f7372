"""The activations of many traces in one array."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trace_probe.activations import Pooling, parse_poolings
from trace_probe.errors import NotEnoughData, ProbeError
from trace_probe.statistics.bootstrap import Index
from trace_probe.store import Store
from trace_probe.trace import Trace
from trace_probe.upkeep.matrix import layer_matrix, worth_caching


@dataclass(frozen=True)
class ActivationMatrix:
    """Activations of many traces in one array."""

    values: NDArray[np.floating[Any]]
    """(layer, row, width), in the precision of the store; poolings lie side by side in a row."""
    layers: tuple[int, ...]
    start: Index
    """For each trace its first row, the last prompt token; its sentences follow. There may be
    rows of other traces between them."""
    pooling: str = "mean"
    """What a row holds, as the manifest of the run says it."""

    @property
    def d_model(self) -> int:
        """Return the width of one pooling."""
        return int(self.values.shape[2]) // len(parse_poolings(self.pooling))

    def at(self, layer: int) -> NDArray[np.floating[Any]]:
        """Return (row, width) of a layer.

        Raises:
            ProbeError: the layer was not loaded.
        """
        if layer not in self.layers:
            raise ProbeError(f"layer {layer} is not here; there are {list(self.layers)}")
        values: NDArray[np.floating[Any]] = self.values[self.layers.index(layer)]
        return values

    def part(self, layer: int, pooling: Pooling | None = None) -> NDArray[np.floating[Any]]:
        """Return (row, d_model) of one pooling of a layer, without copying it.

        The first pooling where none is named.

        Raises:
            ProbeError: the layer was not loaded, or its rows lack that pooling.
        """
        held = parse_poolings(self.pooling)
        chosen = pooling or held[0]
        if chosen not in held:
            raise ProbeError(
                f"the rows hold {self.pooling}, not {chosen}: record them with --recapture"
            )
        first = held.index(chosen) * self.d_model
        return self.at(layer)[:, first : first + self.d_model]


def load_matrix(
    store: Store, traces: Sequence[Trace], layers: Iterable[int] | None = None
) -> ActivationMatrix:
    """Load the activations of traces, of all recorded layers or of those named.

    Raises:
        StoreError: a trace or a layer has no activations.
    """
    if not traces:
        raise NotEnoughData(f"no labelled traces in {store.path}: record and label some first")
    chosen, pooling = store.known_layers(layers), store.manifest.pooling
    if worth_caching(store, traces):
        return _mapped(store, traces, chosen)
    parts = [store.activations(trace, chosen).values for trace in traces]
    sizes = [part.shape[1] for part in parts]
    start = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.intp)
    return ActivationMatrix(np.concatenate(parts, axis=1), chosen, start, pooling)


def _mapped(store: Store, traces: Sequence[Trace], layers: Sequence[int]) -> ActivationMatrix:
    """Return whole layers of a run as they lie on disk; a single one is not copied."""
    found = [layer_matrix(store, layer) for layer in layers]
    for trace in traces:
        if found[0].keys.get(trace.id) != store.key(trace):
            store.activations(trace, layers)  # says what is wrong with it
            raise ProbeError(f"trace {trace.id} has changed since it was read: read it again")
    values = found[0].values[None] if len(found) == 1 else np.stack([one.values for one in found])
    start = np.array([found[0].start[trace.id] for trace in traces], dtype=np.intp)
    return ActivationMatrix(values, tuple(layers), start, store.manifest.pooling)
