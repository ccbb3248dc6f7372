"""Packed rows read by a network: what it predicts, and how far that is from what is taught.

In its attention each thought sees the prompt and itself, and costs no more than that.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from trace_probe.organism.packing import Row

NAME = "trace_probe_packed"
FREQUENT = 8192
"""Tokens that always compete in the loss; the first of a byte-pair vocabulary are the commonest."""


@contextlib.contextmanager
def packed_attention(
    config: Any,  # noqa: ANN401
    starts: Sequence[int],
    bias: torch.Tensor,
) -> Iterator[None]:
    """Let a network attend block by block.

    `starts` says where each thought starts, so the prompt ends at the first; `bias` is the
    additive mask (token, token) of the whole row.
    """
    prompt, ends = starts[0], [*starts[1:], len(bias)]
    blocks = [(0, prompt, bias[:prompt, :prompt])]
    for start, stop in zip(starts, ends, strict=True):
        seen = torch.cat([bias[start:stop, :prompt], bias[start:stop, start:stop]], dim=1)
        blocks.append((start, stop, seen.contiguous()))

    def attend(
        module: Any,  # noqa: ANN401, ARG001 - the signature is that of transformers
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,  # noqa: ARG001
        scaling: float | None = None,
        **_: object,
    ) -> tuple[torch.Tensor, None]:
        groups = query.shape[1] // key.shape[1]
        key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
        found = []
        for start, stop, seen in blocks:
            keys, values = (
                x[:, :, :stop]
                if not start
                else torch.cat([x[:, :, :prompt], x[:, :, start:stop]], dim=2)
                for x in (key, value)
            )
            asked = query[:, :, start:stop]
            found.append(
                scaled_dot_product_attention(asked, keys, values, seen[None, None], scale=scaling)
            )
        return torch.cat(found, dim=2).transpose(1, 2), None

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, lambda *_, **__: None)
    before = config._attn_implementation
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before


def predicted(network: PreTrainedModel, packed: Row) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the log-probabilities of a row's items over the tokens that compete, and those."""
    inner = network.get_base_model() if hasattr(network, "get_base_model") else network
    hidden_by = torch.tensor(~packed.mask())
    bias = torch.zeros(hidden_by.shape, dtype=inner.dtype).masked_fill(hidden_by, -1e9)
    with packed_attention(inner.config, packed.starts, bias):
        states = inner.model(
            input_ids=torch.tensor([packed.ids]),
            position_ids=torch.tensor([packed.positions]),
            use_cache=False,
        ).last_hidden_state[0, torch.tensor(packed.places)]
    words = {token for target in packed.targets for token in target}
    frequent = min(FREQUENT, inner.config.vocab_size)
    kept = torch.tensor(sorted({*range(frequent), *words}))
    head = inner.get_output_embeddings().weight[kept]
    return (states @ head.T).float().log_softmax(-1), kept


def loss_of(network: PreTrainedModel, packed: Row) -> torch.Tensor:
    """Return the weighted mean cross-entropy of a row's items, each a distribution."""
    logs, kept = predicted(network, packed)
    place = {int(token): number for number, token in enumerate(kept)}
    total = torch.zeros(())
    items, tokens, shares = [], [], []
    for item, (target, weight) in enumerate(zip(packed.targets, packed.weights, strict=True)):
        for token, share in target.items():
            items.append(item)
            tokens.append(place[token])
            shares.append(share * weight)
    picked = logs[torch.tensor(items), torch.tensor(tokens)]
    total = total - (picked * torch.tensor(shares)).sum()
    return total / sum(packed.weights)
