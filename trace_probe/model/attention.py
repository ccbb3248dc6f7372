"""Attention of a chunk of queries over many keys: exact, without all scores in memory at once."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import sdpa_mask

NAME = "trace_probe_blockwise"
KEYS = 512
"""Keys of a block, where blocks are needed."""
MASK = 1 << 21
"""Most elements of an additive mask, queries times keys; more queries take turns."""


@contextlib.contextmanager
def blockwise(network: PreTrainedModel) -> Iterator[None]:
    """Let a network attend by `attend`, if it leaves the choice of its attention to others.

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
    """Return attention, (batch, query, head, d_head).

    Query is (batch, head, query, d_head); key and value are (batch, group, key, d_head), their
    groups not repeated; the mask (batch, 1, query, key) is true where a query sees a key. Every
    query must see at least one. Of `settings`, three count: ``scaling``, ``softcap`` and
    ``s_aux``, which holds one sink logit for each head.
    """
    batch, heads, count, width = query.shape
    by_group = query.view(batch, key.shape[1], -1, count, width)
    scaling, softcap = settings.get("scaling") or width**-0.5, settings.get("softcap")
    sinks = settings.get("s_aux")
    if softcap is None and sinks is None:
        found = _fused(by_group, key, value, attention_mask, scaling)
    else:
        found = _in_key_blocks(by_group * scaling, key, value, attention_mask, softcap, sinks)
    return found.view(batch, heads, count, -1).transpose(1, 2).contiguous(), None


def _fused(
    queries: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    seen: torch.Tensor,
    scaling: float,
) -> torch.Tensor:
    """Attend with the kernel of torch, which is faster but knows neither softcap nor sinks.

    The heads of a group take turns, so that keys and values need not be copied for each. The
    mask is made additive once, or the kernel would do it again for each turn.
    """
    found = queries.new_empty(*queries.shape[:4], value.shape[-1])
    most = max(MASK // key.shape[2], 1)
    for start in range(0, queries.shape[3], most):
        part = slice(start, start + most)
        hidden = ~seen[:, :, part]
        bias = torch.zeros_like(hidden, dtype=queries.dtype).masked_fill_(hidden, -torch.inf)
        for head in range(queries.shape[2]):
            found[:, :, head, part] = torch.nn.functional.scaled_dot_product_attention(
                queries[:, :, head, part], key, value, attn_mask=bias, scale=scaling
            )
    return found


def _in_key_blocks(
    queries: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """Attend by a running softmax over blocks of keys; maximum and sums are in float32.

    Source: Milakov and Gimelshein 2018, arXiv 1805.02867, algorithm 3.
    """
    batch, groups, shared, count, _ = queries.shape
    rows = queries.flatten(2, 3)
    lowest = torch.finfo(torch.float32).min
    top = rows.new_full((*rows.shape[:3], 1), lowest, dtype=torch.float32)
    total, out = torch.zeros_like(top), top.new_zeros(*rows.shape[:3], value.shape[-1])
    for start in range(0, key.shape[2], KEYS):
        block = slice(start, start + KEYS)
        seen = mask[..., block]
        if not seen.any():
            continue
        scores = (rows @ key[:, :, block].transpose(2, 3)).float()
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
    if sinks is not None:
        logits = sinks.float().reshape(1, groups, shared, 1, 1)
        logits = logits.expand(batch, -1, -1, count, 1).reshape(top.shape)
        total = total + (logits - top).exp()
    return (out / total).to(value.dtype)
