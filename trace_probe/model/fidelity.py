"""Whether what is read again is what was there when a trace was written."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from transformers import PreTrainedModel

from trace_probe.activations import Activations, Fidelity
from trace_probe.errors import ModelError
from trace_probe.model.blocks import Blocks, input_device
from trace_probe.model.capture import Reading, replay
from trace_probe.model.chunks import comes_apart, only_block
from trace_probe.model.pooling import Collector, PooledRows
from trace_probe.trace import Span

CHECKED = 64
"""Tokens of a trace, evenly spread, whose log-probabilities are compared."""
OF_TRACES = 32
"""Traces of which one, the longest, is read a second time where no log-probabilities were noted."""
HEAD_ROWS = 128
"""Tokens that go through the head at a time, since a vocabulary is wide."""
NATS = {"float32": 1e-3, "float16": 0.1, "bfloat16": 0.5}
"""Tolerated by precision: one token at a time rounds otherwise than all at once."""
SHARE = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
"""The same for activations, as a share of the greatest value of a layer."""
STORED = {**SHARE, "float32": 1e-3}
"""The same where one side was rounded to float16 when it was stored."""
TOLERATED = {
    "log-probabilities": NATS,
    "second-pass": SHARE,
    "recorded-rows": STORED,
    "transformers": SHARE,
}
GAPS = {
    "log-probabilities": "nats from the log-probabilities noted while it was written",
    "second-pass": "of the greatest value from a second reading in other chunks",
    "recorded-rows": "of the greatest value from what was recorded of it",
    "transformers": "of the greatest value from what transformers reads",
}


def checked_replay(
    blocks: Blocks,
    token_ids: Sequence[Sequence[int]],
    spans: Sequence[Sequence[Span]],
    layers: Sequence[int],
    reading: Reading,
    logprobs: Sequence[Sequence[float]] | None = None,
) -> list[Activations]:
    """Replay as `replay` does and say for each trace how faithful that was.

    `logprobs` are those noted for the last tokens of each trace while it was written; they
    are compared with what the last block gives, so all blocks run. Without them the longest of
    every `OF_TRACES` traces is read a second time, alone and in other chunks; the others have
    no fidelity. What a second reading can show is a fault of how this model is read, and such
    a fault shows in long traces first.

    Raises:
        ModelError: a span is empty or outside its trace.
    """
    if logprobs is None or not comes_apart(blocks.network.get_decoder()):
        found = replay(blocks, token_ids, spans, layers, reading)
        for i in _longest(token_ids):
            fidelity = _second_pass(blocks, token_ids[i], found[i], reading)
            found[i] = replace(found[i], fidelity=fidelity)
        return found
    checks: list[_LogprobCheck] = []

    def beside(batch: Sequence[int]) -> list[Collector]:
        ids, noted = [token_ids[i] for i in batch], [logprobs[i] for i in batch]
        checks.append(_LogprobCheck(batch, ids, noted, blocks.network))
        return [checks[-1].before]

    found = replay(blocks, token_ids, spans, layers, reading, beside)
    by_trace = {i: one for check in checks for i, one in check.outcome()}
    return [replace(one, fidelity=by_trace[i]) for i, one in enumerate(found)]


class _LogprobCheck:
    """Compares some tokens of each trace of a batch with what was noted for them."""

    def __init__(
        self,
        batch: Sequence[int],
        token_ids: Sequence[Sequence[int]],
        noted: Sequence[Sequence[float]],
        network: PreTrainedModel,
    ) -> None:
        self._network = network
        self._batch = batch
        chosen = [_spread(len(ids), some) for ids, some in zip(token_ids, noted, strict=True)]
        self._counts = [len(some) for some in chosen]
        pairs = list(zip(token_ids, noted, chosen, strict=True))
        self._ids = [ids[token] for ids, _, some in pairs for token in some]
        self._noted = [lps[token - len(ids)] for ids, lps, some in pairs for token in some]
        last = network.get_decoder().config.num_hidden_layers - 1
        spans = [[Span(token - 1, token) for token in some] for some in chosen]
        self.before = PooledRows(spans, (last,), "last")
        """The last stream at the token before each."""

    def outcome(self) -> Iterator[tuple[int, Fidelity]]:
        """Yield each trace of the batch with its fidelity, once the batch is read."""
        read = list(read_logprobs(self._network, self.before.rows()[0], self._ids))
        squares = np.square(np.subtract(read, self._noted))
        for i, part in zip(
            self._batch, np.split(squares, np.cumsum(self._counts)[:-1]), strict=True
        ):
            error = float(np.sqrt(part.mean())) if len(part) else 0.0
            yield i, Fidelity("log-probabilities", error)


def _spread(length: int, noted: Sequence[float]) -> list[int]:
    """Return the positions of the tokens that are checked: among the noted ones, evenly.

    Where nan was noted there is nothing to compare.
    """
    there = np.flatnonzero(~np.isnan(noted)) + length - len(noted)
    places = np.linspace(0, len(there) - 1, min(len(there), CHECKED)).round().astype(int)
    return [int(place) for place in there[np.unique(places)] if place > 0]


@torch.inference_mode()
def read_logprobs(
    network: PreTrainedModel, stream: torch.Tensor, following: Sequence[int]
) -> Iterator[float]:
    """Yield the log-probability, in nats, of the token that follows each row of a stream.

    `stream` (row, d_model) comes out of the last block; norm and head are applied here.
    """
    base = network.get_decoder()
    name = next(name for name, module in network.named_children() if module is base)
    head: PreTrainedModel = copy.copy(network)
    head._modules = {**network._modules, name: only_block(base, None)}
    for start in range(0, len(following), HEAD_ROWS):
        rows = stream[start : start + HEAD_ROWS].to(input_device(network), network.dtype)
        logits = head(inputs_embeds=rows[None], use_cache=False).logits[0].float()
        ids = torch.tensor(following[start : start + HEAD_ROWS], device=logits.device)
        found = logits.gather(1, ids[:, None])[:, 0] - logits.logsumexp(-1)
        yield from found.tolist()


def _longest(token_ids: Sequence[Sequence[int]]) -> list[int]:
    """Return the index of the longest of every `OF_TRACES` traces."""
    every = range(len(token_ids))
    groups = [every[start : start + OF_TRACES] for start in every[::OF_TRACES]]
    return [max(group, key=lambda i: len(token_ids[i])) for group in groups]


def _second_pass(
    blocks: Blocks, ids: Sequence[int], first: Activations, reading: Reading
) -> Fidelity:
    chunk = max(min(len(ids) // 2, reading.chunk * 3 // 4), 1)
    other = replace(reading, pass_tokens=1, chunk=chunk, raw_tokens=False)
    (second,) = replay(blocks, [ids], [first.spans], first.layers, other)
    return Fidelity("second-pass", _gap(first, second))


def _gap(found: Activations, wanted: Activations) -> float:
    """Return the greatest difference, as a share of the greatest value that a layer should have."""
    scale = np.abs(wanted.values).max(axis=(1, 2), initial=1e-30)
    gap = np.abs(wanted.values - found.values).max(axis=(1, 2), initial=0.0)
    return float((gap / scale).max())


def against_transformers(found: Activations, wanted: Activations, dtype: str) -> Fidelity:
    """Return how far the rows of an engine are from those that transformers reads."""
    return Fidelity("transformers", _gap(found, wanted), SHARE.get(dtype, SHARE["bfloat16"]))


def refuse_unfaithful(
    trace_id: str, activations: Activations, dtype: str, tolerance: float | None = None
) -> None:
    """Raise ModelError if a replay is further off than is tolerated in this precision."""
    fidelity = activations.fidelity
    if fidelity is None:
        return
    usual = TOLERATED[fidelity.against]
    most = usual.get(dtype, usual["bfloat16"]) if tolerance is None else tolerance
    if not np.isfinite(activations.values).all():
        raise ModelError(
            f"trace {trace_id} is unreadable: the model's activations hold nan or infinity; "
            f"choose another --dtype, or look at the weights"
        )
    if not fidelity.error <= most:
        same = "see that the same weights are read" if dtype == "float32" else "load it in float32"
        raise ModelError(
            f"trace {trace_id}, read again, is {fidelity.error:.2g} {GAPS[fidelity.against]}; "
            f"{most:g} is tolerated in {dtype}: {same}, or allow more with --tolerance"
        )
