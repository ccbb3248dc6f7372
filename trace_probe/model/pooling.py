"""What is kept of the residual stream while it passes by: pooled rows, or every token."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from trace_probe.activations import parse_poolings
from trace_probe.trace import Span


class Collector(Protocol):
    """Takes what it wants of a batch, of which the columns may come in several parts."""

    layers: tuple[int, ...]

    def take(self, layer: int, hidden: torch.Tensor, start: int) -> None:
        """Take from (batch, token, d_model), whose first column is token `start`."""


class _Chosen(NamedTuple):
    """Which of the flattened tokens of some columns are wanted, and for which rows."""

    tokens: torch.Tensor
    rows: torch.Tensor


class PooledRows:
    """A row for each span of each trace of a batch, pooled in float32 in one pass.

    Several poolings of a span lie side by side in its row, in the order in which they are named.
    """

    def __init__(
        self, spans: Sequence[Sequence[Span]], layers: Sequence[int], pooling: str
    ) -> None:
        """Say what is pooled; spans may overlap, and none is empty."""
        self.layers = tuple(layers)
        self._poolings = parse_poolings(pooling)
        every = [(trace, span) for trace, wanted in enumerate(spans) for span in wanted]
        traces = torch.tensor([trace for trace, _ in every], dtype=torch.long)
        starts = torch.tensor([span.start for _, span in every], dtype=torch.long)
        self._counts = torch.tensor([len(span) for _, span in every], dtype=torch.long)
        rows = torch.arange(len(every))
        self._last = (traces, starts + self._counts - 1, rows)
        """Trace, token and row of what is wanted: here of the last token of each span."""
        row = rows.repeat_interleave(self._counts)
        before = self._counts.cumsum(0) - self._counts
        self._all = (traces[row], torch.arange(len(row)) + (starts - before)[row], row)
        self._where: dict[tuple[int, int, torch.device], tuple[_Chosen, _Chosen]] = {}
        self._held: dict[int, torch.Tensor] = {}

    def take(self, layer: int, hidden: torch.Tensor, start: int) -> None:
        """Add the tokens of some columns to their rows."""
        last, every = self._at(start, hidden.shape[1], hidden.device)
        if layer not in self._held:
            self._held[layer] = self._empty(hidden)
        flat, parts = hidden.flatten(0, 1), self._held[layer].chunk(len(self._poolings), dim=1)
        for pooling, part in zip(self._poolings, parts, strict=True):
            if pooling == "last":
                part.index_copy_(0, last.rows, flat[last.tokens].float())
        if self._poolings == ("last",):
            return
        tokens = flat[every.tokens].float()
        for pooling, part in zip(self._poolings, parts, strict=True):
            if pooling == "mean":
                part.index_add_(0, every.rows, tokens)
            elif pooling == "max":
                part.scatter_reduce_(0, every.rows[:, None].expand_as(tokens), tokens, "amax")

    def _empty(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return (row, width) that no token has been added to."""
        shape = (len(self._counts), hidden.shape[2])
        parts = [
            hidden.new_full(shape, -torch.inf if pooling == "max" else 0.0, dtype=torch.float32)
            for pooling in self._poolings
        ]
        return torch.cat(parts, dim=1)

    def _at(self, start: int, count: int, device: torch.device) -> tuple[_Chosen, _Chosen]:
        """Return the last tokens of spans, and all tokens of spans, among some columns."""
        key = (start, count, device)
        if key not in self._where:
            chosen = []
            for trace, token, row in (self._last, self._all):
                here = (token >= start) & (token < start + count)
                tokens = trace[here] * count + token[here] - start
                chosen.append(_Chosen(tokens.to(device), row[here].to(device)))
            self._where[key] = (chosen[0], chosen[1])
        return self._where[key]

    def rows(self) -> torch.Tensor:
        """Give (layer, row, width) in float32 away: the rows of all traces, one by one."""
        found = torch.empty(len(self.layers), *self._held[self.layers[0]].shape)
        for row, layer in zip(found, self.layers, strict=True):
            row.copy_(self._held.pop(layer))
        parts = found.chunk(len(self._poolings), dim=2)
        for pooling, part in zip(self._poolings, parts, strict=True):
            if pooling == "mean":
                part.div_(self._counts[:, None])
        return found


Values = NDArray[np.floating] | torch.Tensor


def array_of(values: Values) -> NDArray[np.floating]:
    """Return values as an array; of a tensor in float32, as numpy has no bfloat16."""
    if isinstance(values, torch.Tensor):
        found: NDArray[np.float32] = values.detach().float().cpu().numpy()
        return found
    return np.asarray(values)


def pooled_rows(
    values: NDArray[np.floating],
    spans: Sequence[Span],
    layers: Sequence[int],
    pooling: str,
    start: int = 0,
) -> NDArray[np.float32]:
    """Return (layer, row, width) for spans of one trace.

    `values` is (layer, token, d_model) from token `start` on.
    """
    collected = PooledRows([spans], layers, pooling)
    for layer, rows in zip(layers, values, strict=True):
        collected.take(layer, torch.from_numpy(np.ascontiguousarray(rows))[None], start)
    found: NDArray[np.float32] = collected.rows().numpy()
    return found


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
