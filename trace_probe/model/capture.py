"""Replay: recorded token ids through the base model, and what it held pooled on the way."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from trace_probe.activations import Activations
from trace_probe.errors import ModelError
from trace_probe.model.blocks import Blocks, input_device
from trace_probe.model.chunks import DeepEnough, read_in_chunks
from trace_probe.model.pooling import Collector, PooledRows, RawTokens
from trace_probe.trace import Span

EAGER_TOKENS = 2048
"""The longest trace whose scores are held whole by a model with eager attention."""


@dataclass(frozen=True)
class Reading:
    """How traces are read."""

    pooling: str = "mean"
    """``last``, ``mean``, ``max``, or several joined by ``+``."""
    raw_tokens: bool = False
    """Keep every token beside the rows, from the first of the first row on."""
    pass_tokens: int | None = None
    """The most tokens, padding included, of one pass; longer traces are read in chunks.
    None means 2048 on a CPU and 8192 elsewhere."""
    chunk: int = 256
    """Tokens of a chunk."""


def replay(
    blocks: Blocks,
    token_ids: Sequence[Sequence[int]],
    spans: Sequence[Sequence[Span]],
    layers: Sequence[int],
    reading: Reading,
    beside: Callable[[Sequence[int]], Sequence[Collector]] = lambda _: (),
) -> list[Activations]:
    """Read recorded ids again and return for each trace a row for each of its spans.

    Only the base model runs, without the head and no deeper than the deepest layer. Traces
    of similar length share a pass; `beside` may send more collectors along, for the traces
    of a batch as named by their indices.

    Raises:
        ModelError: a span is empty or outside its trace.
    """
    _check_spans(token_ids, spans)
    found: dict[int, Activations] = {}
    for batch in batches(blocks, [len(ids) for ids in token_ids], reading):
        ids, wanted = [token_ids[i] for i in batch], [spans[i] for i in batch]
        rows = PooledRows(wanted, layers, reading.pooling)
        collectors: list[Collector] = [rows]
        if reading.raw_tokens:
            raw = RawTokens([_range(some) for some in wanted], layers)
            collectors.append(raw)
        read(blocks, ids, [*collectors, *beside(batch)], reading)
        ends = np.cumsum([len(some) for some in wanted])[:-1]
        for at, (i, values) in enumerate(
            zip(batch, np.split(rows.rows().numpy(), ends, axis=1), strict=True)
        ):
            tokens = raw.of(at) if reading.raw_tokens else None
            chosen = tuple(layers), tuple(spans[i]), reading.pooling
            found[i] = Activations(values, *chosen, tokens)
    return [found[i] for i in range(len(token_ids))]


def _check_spans(token_ids: Sequence[Sequence[int]], spans: Sequence[Sequence[Span]]) -> None:
    for ids, wanted in zip(token_ids, spans, strict=True):
        if any(not len(span) or span.stop > len(ids) for span in wanted):
            raise ModelError(f"a span to pool is empty or ends after token {len(ids)}")


def _range(spans: Sequence[Span]) -> Span:
    """Return the tokens from the first of the first span to the last of any."""
    return Span(spans[0].start, max(span.stop for span in spans)) if spans else Span(0, 0)


@torch.inference_mode()
def read(
    blocks: Blocks,
    token_ids: Sequence[Sequence[int]],
    collectors: Sequence[Collector],
    reading: Reading,
) -> None:
    """Read one batch of ids, and let each collector take from the layers that it names.

    A collector is given (batch, token, d_model) and the column at which that starts; rows are
    padded on the right.
    """
    layers = sorted({layer for collector in collectors for layer in collector.layers})

    def take(layer: int, hidden: torch.Tensor, start: int) -> None:
        for collector in collectors:
            if layer in collector.layers:
                collector.take(layer, hidden, start)

    def keep(layer: int, hidden: torch.Tensor) -> None:
        take(layer, hidden, 0)
        if layer == layers[-1]:
            raise DeepEnough

    ids, _ = padded(token_ids, "right")
    ids = ids.to(input_device(blocks.network))
    if ids.shape[1] > whole_tokens(blocks, reading):
        read_in_chunks(blocks, ids, layers[-1], reading.chunk, take)
        return
    # With causal attention nothing real can see the padding to the right of it, so there is no
    # need for a mask, without which attention is faster.
    with blocks.tapped(layers, keep), contextlib.suppress(DeepEnough):
        blocks.network.get_decoder()(input_ids=ids, use_cache=False)


def whole_tokens(blocks: Blocks, reading: Reading) -> int:
    """Return how long a trace may be to be read in one pass."""
    on_cpu = input_device(blocks.network).type == "cpu"
    most = reading.pass_tokens or (2048 if on_cpu else 8192)
    eager = blocks.network.get_decoder().config._attn_implementation == "eager"
    return min(most, EAGER_TOKENS) if eager else most


def batches(blocks: Blocks, lengths: Sequence[int], reading: Reading) -> Iterator[list[int]]:
    """Yield indices in batches of similar length that stay, padded, within a pass.

    A trace that is longer than a pass is a batch of its own.
    """
    budget, batch = whole_tokens(blocks, reading), list[int]()
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[i] > budget:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def padded(
    rows: Sequence[Sequence[int]], side: Literal["left", "right"], pad_id: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and attention mask, (row, token), padded to the longest row."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), pad_id)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        where = slice(width - len(row), width) if side == "left" else slice(len(row))
        ids[i, where] = torch.tensor(row)
        mask[i, where] = 1
    return ids, mask
