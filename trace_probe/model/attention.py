"""Attention over keys block by block: exact, in memory that does not grow with their number."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import sdpa_mask

NAME = "trace_probe_blockwise"
KEYS = 512
"""Keys of a block."""


@contextlib.contextmanager
def blockwise(network: PreTrainedModel) -> Iterator[None]:
    """Let a network attend block by block, if it leaves the choice of its attention to others.

    Masks stay those of transformers, so who sees whom is the model's own business.
    """
    if not getattr(network, "_supports_attention_backend", False):
        yield
        return
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, _whole_mask)
    config = network.get_decoder().config
    before = config._attn_implementation
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before


def _whole_mask(*args: Any, **settings: Any) -> torch.Tensor | None:  # noqa: ANN401
    """Return the Boolean mask even where it is causal and other kernels need none."""
    settings["allow_is_causal_skip"] = False
    return sdpa_mask(*args, **settings)  # type: ignore[no-any-return]


def attend(
    module: torch.nn.Module,  # noqa: ARG001 - the signature is that of transformers
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    **settings: Any,  # noqa: ANN401
) -> tuple[torch.Tensor, None]:
    """Return attention (batch, query, head, d_head) by a running softmax.

    Query is (batch, head, query, d_head); key and value (batch, group, key, d_head), their
    groups not repeated; the mask (batch, 1, query, key) is true where a query sees a key. Of
    `settings` count ``scaling``, ``softcap`` and ``s_aux``: sinks, a logit a head.
    Source: Milakov and Gimelshein 2018, arXiv 1805.02867, algorithm 3.
    """
    batch, heads, count, width = query.shape
    groups, shared = key.shape[1], heads // key.shape[1]
    scaling, softcap = settings.get("scaling") or width**-0.5, settings.get("softcap")
    queries = (query * scaling).reshape(batch, groups, shared * count, width)
    lowest = torch.finfo(torch.float32).min
    top = query.new_full((*queries.shape[:3], 1), lowest, dtype=torch.float32)
    total, out = torch.zeros_like(top), top.new_zeros(*queries.shape[:3], value.shape[-1])
    for start in range(0, key.shape[2], KEYS):
        block = slice(start, start + KEYS)
        seen = attention_mask[..., block]
        if not seen.any():
            continue
        scores = (queries @ key[:, :, block].transpose(2, 3)).float()
        if softcap is not None:
            scores = scores.div_(softcap).tanh_().mul_(softcap)
        if not seen.all():
            by_head = scores.view(batch, groups, shared, count, -1)
            by_head.masked_fill_(~seen[:, :, None], -torch.inf)
        highest = torch.maximum(top, scores.amax(-1, keepdim=True))
        shares = scores.sub_(highest).exp_()
        fade = (top - highest).exp_()
        total = total.mul_(fade).add_(shares.sum(-1, keepdim=True))
        out = out.mul_(fade).add_(shares.to(value.dtype) @ value[:, :, block])
        top = highest
    if settings.get("s_aux") is not None:
        sinks = settings["s_aux"].float().reshape(1, groups, shared, 1, 1)
        sinks = sinks.expand(batch, -1, -1, count, 1).reshape(top.shape)
        total = total + (sinks - top).exp()
    found = (out / total).to(query.dtype).view(batch, heads, count, -1)
    return found.transpose(1, 2).contiguous(), None
