"""Attention of packed rows: each thought sees the prompt and itself, and costs no more than that.

A mask over the whole row would do the same at three times the price.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

NAME = "trace_probe_packed"


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
