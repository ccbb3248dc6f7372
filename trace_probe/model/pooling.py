"""What is kept of the residual stream while it passes by: pooled rows, or every token."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from trace_probe.activations import Pooling
from trace_probe.trace import Span


class Collector(Protocol):
    """Takes what it wants of a batch, of which the columns may come in several parts."""

    layers: tuple[int, ...]

    def take(self, layer: int, hidden: torch.Tensor, start: int) -> None:
        """Take from (batch, token, d_model), whose first column is token `start`."""


class PooledRows:
    """A row for each span of each trace of a batch, pooled in float32."""

    def __init__(
        self, spans: Sequence[Sequence[Span]], layers: Sequence[int], pooling: Pooling
    ) -> None:
        """Say what is pooled; spans may overlap, and none is empty."""
        self.layers = tuple(layers)
        self._pooling = pooling
        every = [(trace, span) for trace, wanted in enumerate(spans) for span in wanted]
        ends = [
            (span.stop - 1 if pooling == "last" else span.start, span.stop) for _, span in every
        ]
        self._counts = torch.tensor([stop - start for start, stop in ends], dtype=torch.long)
        starts = torch.tensor([start for start, _ in ends], dtype=torch.long)
        traces = torch.tensor([trace for trace, _ in every], dtype=torch.long)
        before = self._counts.cumsum(0) - self._counts
        self._row = torch.arange(len(every)).repeat_interleave(self._counts)
        self._trace = traces[self._row]
        self._token = torch.arange(len(self._row)) + (starts - before)[self._row]
        self._where: dict[tuple[int, int, torch.device], tuple[torch.Tensor, torch.Tensor]] = {}
        self._held: dict[int, torch.Tensor] = {}

    def take(self, layer: int, hidden: torch.Tensor, start: int) -> None:
        """Add the tokens of some columns to their rows."""
        tokens, rows = self._at(start, hidden.shape[1], hidden.device)
        if layer not in self._held:
            empty = -torch.inf if self._pooling == "max" else 0.0
            shape = (len(self._counts), hidden.shape[2])
            self._held[layer] = hidden.new_full(shape, empty, dtype=torch.float32)
        held, chosen = self._held[layer], hidden.flatten(0, 1)[tokens].float()
        if self._pooling == "mean":
            held.index_add_(0, rows, chosen)
        elif self._pooling == "max":
            held.scatter_reduce_(0, rows[:, None].expand_as(chosen), chosen, "amax")
        else:
            held.index_copy_(0, rows, chosen)

    def _at(
        self, start: int, count: int, device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return which of the flattened tokens of some columns are wanted, and for which rows."""
        key = (start, count, device)
        if key not in self._where:
            here = (self._token >= start) & (self._token < start + count)
            tokens = self._trace[here] * count + self._token[here] - start
            self._where[key] = (tokens.to(device), self._row[here].to(device))
        return self._where[key]

    def rows(self) -> torch.Tensor:
        """Give (layer, row, d_model) in float32 away: the rows of all traces, one by one."""
        found = torch.empty(len(self.layers), *self._held[self.layers[0]].shape)
        for row, layer in zip(found, self.layers, strict=True):
            row.copy_(self._held.pop(layer))
        return found.div_(self._counts[:, None]) if self._pooling == "mean" else found


class RawTokens:
    """Every token of a range of each trace of a batch."""

    def __init__(self, ranges: Sequence[Span], layers: Sequence[int]) -> None:
        """Say which tokens of each trace are kept."""
        self.layers = tuple(layers)
        self._ranges = ranges
        self._held: dict[tuple[int, int], list[torch.Tensor]] = {}

    def take(self, layer: int, hidden: torch.Tensor, start: int) -> None:
        """Copy what lies in the range of each trace."""
        for trace, kept in enumerate(self._ranges):
            first, last = max(kept.start - start, 0), max(kept.stop - start, 0)
            part = hidden[trace, first:last].float().cpu().clone()
            self._held.setdefault((layer, trace), []).append(part)

    def of(self, trace: int) -> NDArray[np.float32]:
        """Return (layer, token, d_model) of one trace."""
        parts = [torch.cat(self._held[layer, trace]) for layer in self.layers]
        values: NDArray[np.float32] = torch.stack(parts).numpy()
        return values
