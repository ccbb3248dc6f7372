"""One long trace a piece at a time, so that memory hardly grows with its length.

Block by block: a block reads the whole trace in chunks before the next one starts, so that
only its own keys and values are held beside the residual stream itself. Networks that cannot
be taken apart that way are read chunk by chunk behind an ordinary cache.

Attention of a chunk of queries over many keys: exact, without all scores in memory at once.
"""

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, PreTrainedModel
from transformers.masking_utils import sdpa_mask

from trace_probe.model.blocks import Blocks, find_blocks

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


Take = Callable[[int, torch.Tensor, int], None]
"""Takes a layer, the stream after it, (1, token, d_model), and which token comes first."""


class DeepEnough(Exception):
    """Ends a forward pass after the deepest block that is needed."""


def read_in_chunks(blocks: Blocks, ids: torch.Tensor, deepest: int, chunk: int, take: Take) -> None:
    """Hand the stream after blocks 0 to `deepest` to `take`, chunk by chunk; ids are (1, token)."""
    base = blocks.network.get_decoder()
    own = blockwise(blocks.network) if blocks.backend == "hooks" else contextlib.nullcontext()
    with own:
        if comes_apart(base):
            _by_blocks(blocks, base, ids, deepest, chunk, take)
        else:
            _by_chunks(blocks, base, ids, deepest, chunk, take)


def _by_blocks(
    blocks: Blocks, base: PreTrainedModel, ids: torch.Tensor, deepest: int, chunk: int, take: Take
) -> None:
    stream = base.get_input_embeddings()(ids)
    positions = torch.arange(ids.shape[1], device=ids.device)[None]
    cache = OneBlockCache(base, ids.shape[1])
    for layer in range(deepest + 1):
        cache.turn_to(layer)
        block = only_block(base, layer)
        for start in range(0, ids.shape[1], chunk):
            part = slice(start, start + chunk)

            def keep(layer: int, hidden: torch.Tensor, part: slice = part) -> None:
                stream[:, part] = hidden
                take(layer, hidden, part.start)
                raise DeepEnough

            with blocks.tapped((layer,), keep), contextlib.suppress(DeepEnough):
                block(
                    inputs_embeds=stream[:, part],
                    position_ids=positions[:, part],
                    past_key_values=cache,
                    use_cache=True,
                )


def _by_chunks(
    blocks: Blocks, base: PreTrainedModel, ids: torch.Tensor, deepest: int, chunk: int, take: Take
) -> None:
    cache = DynamicCache(config=base.config)
    for start in range(0, ids.shape[1], chunk):

        def keep(layer: int, hidden: torch.Tensor, start: int = start) -> None:
            take(layer, hidden, start)
            if layer == deepest:
                raise DeepEnough

        with blocks.tapped(range(deepest + 1), keep), contextlib.suppress(DeepEnough):
            base(input_ids=ids[:, start : start + chunk], past_key_values=cache, use_cache=True)


class OneBlockCache(DynamicCache):  # type: ignore[misc]
    """Keys and values of one block at a time, written in place; every index means that block.

    A block with a sliding window is shown what its window reaches.
    """

    def __init__(self, base: PreTrainedModel, length: int) -> None:
        super().__init__(config=base.config)
        self._length = length
        self._keys = self._values = torch.empty(0)
        self._window: int | None = None
        self._seen = 0

    def turn_to(self, layer: int) -> None:
        """Forget, and expect block `layer` from its first token on."""
        kept = self.layers[layer] if layer < len(self.layers) else None
        self._window = getattr(kept, "sliding_window", None)
        self._seen = 0

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Take new keys and values, (1, group, token, d_head); return those that can be seen."""
        first, end = self._first(), self._seen + keys.shape[2]
        self._keys = self._room(self._keys, keys)
        self._values = self._room(self._values, values)
        self._keys[:, :, self._seen : end] = keys
        self._values[:, :, self._seen : end] = values
        self._seen = end
        return self._keys[:, :, first:end], self._values[:, :, first:end]

    def _room(self, held: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        shape = (*new.shape[:2], self._length, new.shape[3])
        fits = (held.shape, held.dtype, held.device) == (shape, new.dtype, new.device)
        return held if fits else new.new_empty(shape)

    def _first(self) -> int:
        return max(self._seen - self._window + 1, 0) if self._window else 0

    def get_seq_length(self, layer_idx: int = 0) -> int:  # noqa: ARG002 - one block only
        """Return how many tokens the block has seen."""
        return self._seen

    def get_query_offset(self, layer_idx: int = 0) -> int:  # noqa: ARG002
        """Return the position of the next token."""
        return self._seen

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:  # noqa: ARG002
        """Return how many keys the next tokens are shown, and the position of the first."""
        return self._seen + query_length - self._first(), self._first()


class Passed(torch.nn.Module):
    """Stands for a block and leaves the stream as it is."""

    def __init__(self, block: torch.nn.Module) -> None:
        super().__init__()
        self.__dict__["block"] = block  # not registered: it is not part of what this does

    def forward(self, hidden_states: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        """Return the stream."""
        return hidden_states

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - as its base class has it
        """Answer what a network asks of its blocks, such as their kind of attention."""
        return getattr(self.__dict__["block"], name)


def only_block(base: PreTrainedModel, layer: int | None) -> PreTrainedModel:
    """Return a network of the same modules in which only one block, or none, does anything."""
    found = find_blocks(base)
    assert found is not None
    name = next(name for name, module in base.named_children() if module is found)
    kept = [block if i == layer else Passed(block) for i, block in enumerate(found)]
    shell: PreTrainedModel = copy.copy(base)
    shell._modules = {**base._modules, name: torch.nn.ModuleList(kept)}
    return shell


def comes_apart(base: PreTrainedModel) -> bool:
    """Return whether a block can be run alone.

    It must get the stream as given, and return nothing else, in the same precision.
    """
    found = find_blocks(base)
    cache = DynamicCache(config=base.config)
    if found is None or not any(module is found for module in base.children()):
        return False
    spread = any(hasattr(module, "_hf_hook") for module in base.modules())  # by accelerate
    if any(cache.is_linear) or spread:
        return False
    ids = torch.arange(1, 5, device=base.get_input_embeddings().weight.device)[None]
    given = base.get_input_embeddings()(ids)
    same: list[bool] = []

    def enters(_module: object, args: tuple[object, ...]) -> None:
        same.append(bool(args) and isinstance(args[0], torch.Tensor) and args[0].equal(given))

    def leaves(_module: object, _args: object, output: object) -> None:
        same.append(isinstance(output, torch.Tensor) and output.dtype == given.dtype)

    with contextlib.ExitStack() as hooks:
        hooks.callback(found[0].register_forward_pre_hook(enters).remove)
        hooks.callback(found[0].register_forward_hook(leaves).remove)
        only_block(base, 0)(input_ids=ids, use_cache=False)
        only_block(base, 0)(inputs_embeds=given, use_cache=False)
    return same == [True] * 4
