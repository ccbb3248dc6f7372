"""Many continuations of one prefix: the prefix is read once, and its cache serves them all.

Rows that have ended leave the batch, a prefix that begins another is read with it, and a
token that is drawn is written into a buffer instead of behind a copy of all that came before.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from os.path import commonprefix

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import Cache, DynamicCache, LogitsProcessorList, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from trace_probe.errors import ModelError
from trace_probe.model.blocks import input_device
from trace_probe.model.capture import padded
from trace_probe.model.drawing import SeededDraw, check_logits, draws, uncertainty
from trace_probe.model.local import Completion, Model
from trace_probe.trace import MEASURES, Sampling

BATCH_TOKENS = 1 << 16
"""Rows times columns of a batch: what its cache holds."""
ROOM = 256
"""Columns by which a full cache grows at least."""
WORTH = 0.2
"""A common start is read apart if that saves so much of all reading."""
SHRINK = 0.8
"""A batch is cut down to the rows under way once they are no more than this part of it."""


@dataclass(frozen=True)
class Branch:
    """A prefix and the continuations that are wanted of it."""

    prefix: tuple[int, ...]
    seeds: tuple[int, ...]
    """One for each continuation."""
    room: int
    """Most tokens that a continuation may have."""


def continue_from(
    model: Model,
    branches: Sequence[Branch],
    sampling: Sampling,
    *,
    during: Callable[[], AbstractContextManager[object]] = nullcontext,
    batch_tokens: int = BATCH_TOKENS,
) -> list[list[Completion]]:
    """Return for each branch its continuations, each a function of prefix and seed alone.

    They are those of `Model.generate` for the same prefix and seed, up to rounding.
    `sampling.max_new_tokens` is not used, since each branch has its room. What `during`
    makes, such as an edit of the residual stream, holds while tokens are drawn, from the last
    token of the prefix on, and not while the prefix before it is read.

    Raises:
        ModelError: a prefix is empty, or does not fit the model's context with its room.
    """
    for branch in branches:
        if not branch.prefix:
            raise ModelError("a continuation needs a prefix of one token or more")
        model.check_room(len(branch.prefix), replace(sampling, max_new_tokens=branch.room))
    found: dict[int, list[Completion]] = {}
    mixed = _mixes_lengths(model.blocks.network)
    for batch in _batches(branches, batch_tokens, mixed=mixed):
        drawn = _draw(model, [branches[i] for i in batch], sampling, during)
        found.update(zip(batch, drawn, strict=True))
    return [found[i] for i in range(len(branches))]


def complete(
    model: Model, prompts: Sequence[Sequence[int]], seeds: Sequence[int], sampling: Sampling
) -> list[Completion]:
    """Complete prompts in one batch, as `Model.generate` does but in less time.

    The completions are the same up to rounding. A model with sliding windows or a recurrent
    state is left to `Model.generate`.

    Raises:
        ModelError: a prompt and `max_new_tokens` do not fit the model's context.
    """
    if not _mixes_lengths(model.blocks.network):
        return model.generate(prompts, seeds, sampling)
    room = sampling.max_new_tokens
    branches = [
        Branch(tuple(prompt), (seed,), room) for prompt, seed in zip(prompts, seeds, strict=True)
    ]
    columns = len(branches) * (max(map(len, prompts)) + room)
    return [one for (one,) in continue_from(model, branches, sampling, batch_tokens=columns)]


def _mixes_lengths(network: PreTrainedModel) -> bool:
    """Return whether prefixes of several lengths can share a batch.

    A sliding window or a recurrent state counts columns, so that no padding may stand between
    a prefix and what follows it.
    """
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=network.config).layers)


def _batches(branches: Sequence[Branch], budget: int, *, mixed: bool) -> Iterator[list[int]]:
    """Yield indices of branches in batches within a budget, those of a length together.

    So no row has much padding to attend to; within a batch they are in the order of `_nested`.
    """
    batch: list[int] = []
    rows = width = 0
    order = sorted(range(len(branches)), key=lambda i: branches[i].prefix)
    for i in sorted(order, key=lambda i: len(branches[i].prefix)):
        own = len(branches[i].prefix) + branches[i].room
        more, wider = rows + len(branches[i].seeds), max(width, own)
        same = mixed or not batch or branches[batch[0]].prefix == branches[i].prefix
        if batch and (more * wider > budget or not same):
            yield sorted(batch, key=order.index)
            batch, more, wider = [], len(branches[i].seeds), own
        batch, rows, width = [*batch, i], more, wider
    if batch:
        yield sorted(batch, key=order.index)


@torch.inference_mode()
def _draw(
    model: Model,
    batch: Sequence[Branch],
    sampling: Sampling,
    during: Callable[[], AbstractContextManager[object]],
) -> list[list[Completion]]:
    """Read the prefixes of a batch and draw all its continuations together."""
    texts, row_of = _nested([branch.prefix[:-1] for branch in batch])
    counts = [len(branch.seeds) for branch in batch]
    device = input_device(model.blocks.network)
    rows = torch.tensor(row_of).repeat_interleave(torch.tensor(counts)).to(device)
    cache, heads = _read(model, texts, rows)
    each = [branch for branch in batch for _ in branch.seeds]
    position = torch.tensor([len(branch.prefix) - 1 for branch in each], device=device)
    state = _State(
        cache,
        torch.tensor([branch.prefix[-1] for branch in each], device=device),
        position,
        torch.tensor([branch.room for branch in each], device=device),
        _columns(heads[rows], int(heads.max()), position, cache.get_seq_length()),
    )
    seeds = [seed for branch in batch for seed in branch.seeds]
    with during():
        written = state.run(model, draws(sampling, seeds))
    ended = iter(written)
    return [[next(ended) for _ in branch.seeds] for branch in batch]


def _nested(prefixes: Sequence[tuple[int, ...]]) -> tuple[list[tuple[int, ...]], list[int]]:
    """Return the texts to read, and for each prefix (in sorted order) which of them it begins."""
    texts: list[tuple[int, ...]] = []
    row_of: list[int] = []
    for prefix in reversed(prefixes):
        if not texts or texts[-1][: len(prefix)] != prefix:
            texts.append(prefix)
        row_of.append(len(texts) - 1)
    return texts, row_of[::-1]


def _read(
    model: Model, texts: Sequence[tuple[int, ...]], rows: torch.Tensor
) -> tuple[Cache, torch.Tensor]:
    """Return the cache of texts, a row for each continuation, and where each text was cut.

    What neighbours have in common, as prompts of one task do, is read once for all of them, and
    the rest of each text behind it.
    """
    network = model.blocks.network
    cache, mixed = DynamicCache(config=network.config), _mixes_lengths(network)
    heads, head_of = _heads(texts) if mixed else ([], [])
    cuts = [len(heads[at]) for at in head_of] or [0] * len(texts)
    cut = torch.tensor(cuts, device=rows.device)
    if heads:
        first = padded(heads, "right")[0].to(rows.device)
        network(first, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache.reorder_cache(torch.tensor(head_of, device=rows.device))
    rests = [text[start:] for text, start in zip(texts, cuts, strict=True)]
    if max(map(len, rests)):
        ids, behind = padded(rests, "right")[0].to(rows.device), dict[str, torch.Tensor]()
        if heads:
            columns = torch.arange(int(cut.max()) + ids.shape[1], device=rows.device)
            seen = (columns < cut[:, None]) | (columns >= cut.max())
            places = cut[:, None] + torch.arange(ids.shape[1], device=rows.device)
            behind = {"attention_mask": seen.long(), "position_ids": places}
        network(ids, past_key_values=cache, use_cache=True, logits_to_keep=1, **behind)
        cache.reorder_cache(rows)
    if mixed:
        cache.layers = [_Buffer(layer) for layer in cache.layers]
    return cache, cut


def _heads(texts: Sequence[tuple[int, ...]]) -> tuple[list[tuple[int, ...]], list[int]]:
    """Return what neighbours among sorted texts begin with, and for each text which of it is its.

    Neighbours belong together if they share more than half of the first of them. Nothing is
    returned where so little is shared that a second reading would cost more.
    """
    runs: list[list[int]] = []
    shared = [0, *(len(commonprefix(pair)) for pair in pairwise(texts))]
    for at, text in enumerate(texts):
        if at and 2 * shared[at] > len(text):
            runs[-1].append(at)
        else:
            runs.append([at])
    cuts = [min((shared[at] for at in run[1:]), default=0) for run in runs]
    saved = sum(cut * (len(run) - 1) for cut, run in zip(cuts, runs, strict=True))
    if saved <= WORTH * sum(map(len, texts)):
        return [], []
    heads = [texts[run[0]][:cut] for cut, run in zip(cuts, runs, strict=True)]
    return heads, [number for number, run in enumerate(runs) for _ in run]


def _columns(head: torch.Tensor, past: int, read: torch.Tensor, width: int) -> torch.Tensor:
    """Return (row, column), which columns of the cache a row sees that has read so many tokens.

    Its first `head` ones stand at the left, the others from column `past` on.
    """
    columns = torch.arange(width, device=read.device)
    before = columns < torch.minimum(read, head)[:, None]
    behind = (columns >= past) & (columns < past + (read - head)[:, None])
    return (before | behind).long()


class _Buffer(DynamicLayer):  # type: ignore[misc]
    """A cache layer with room for tokens to come, so that not all is copied at each of them."""

    def __init__(self, read: DynamicLayer) -> None:
        super().__init__()
        self._used = 0
        if read.get_seq_length():
            self.lazy_initialization(read.keys, read.values)
            self._store(read.keys, read.values)

    def _store(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Put keys and values, (row, head, column, width), into a larger buffer."""
        self._used = keys.shape[-2]
        room = max(self._used // 2, ROOM)
        shape = (*keys.shape[:2], self._used + room, keys.shape[-1])
        self._keys = keys.new_empty(shape)
        self._values = values.new_empty((*shape[:3], values.shape[-1]))
        self._keys[:, :, : self._used], self._values[:, :, : self._used] = keys, values
        self._show()

    def _show(self) -> None:
        self.keys = self._keys[:, :, : self._used]
        self.values = self._values[:, :, : self._used]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append keys and values and return all there are."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._store(key_states, value_states)
            return self.keys, self.values
        if self._used + key_states.shape[-2] > self._keys.shape[-2]:
            self._store(self.keys, self.values)
        start, self._used = self._used, self._used + key_states.shape[-2]
        self._keys[:, :, start : self._used] = key_states
        self._values[:, :, start : self._used] = value_states
        self._show()
        return self.keys, self.values

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Keep only some rows."""
        rows = beam_idx.to(self._keys.device)
        self._keys, self._values = self._keys[rows], self._values[rows]
        self._show()


@dataclass
class _State:
    """Rows under way: what each has read, and what it reads next."""

    cache: Cache
    token: torch.Tensor
    """For each row the token that is read next."""
    position: torch.Tensor
    """And its position."""
    room: torch.Tensor
    seen: torch.Tensor
    """(row, column), which columns of the cache hold the prefix of a row."""

    def run(self, model: Model, draw: LogitsProcessorList) -> list[Completion]:
        """Draw until every row has ended and return what each has written."""
        count, room = len(self.token), int(self.room.max())
        written = torch.full((count, room), -1, device=self.token.device)
        noted = torch.zeros((count, room, len(MEASURES)), device=self.token.device)
        alive = torch.arange(count, device=self.token.device)
        mask = self.seen
        ended = torch.zeros_like(alive, dtype=torch.bool)
        stops = torch.tensor(sorted(model.stops), device=self.token.device)
        for step in range(room):
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            logits = self._logits(model, mask)
            self.token = draw(None, logits).argmax(-1)
            written[alive, step] = torch.where(ended, -1, self.token)
            noted[alive, step] = uncertainty(logits, self.token[:, None])
            ended |= torch.isin(self.token, stops) | (self.room <= step + 1)
            if bool(ended.all()):
                break
            keep = (~ended).nonzero().flatten()
            if len(keep) <= SHRINK * len(ended):
                self._keep(keep, draw)
                alive, mask, ended = alive[keep], mask[keep], ended[keep]
        return list(map(partial(_completion, model.stops), written.tolist(), noted.cpu().numpy()))

    def _logits(self, model: Model, mask: torch.Tensor) -> torch.Tensor:
        """Read the next token of each row and return (row, vocabulary)."""
        output = model.blocks.network(
            self.token[:, None],
            attention_mask=mask,
            position_ids=self.position[:, None],
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.position = self.position + 1
        logits: torch.Tensor = output.logits[:, -1].float()
        check_logits(logits)
        return logits

    def _keep(self, rows: torch.Tensor, draw: LogitsProcessorList) -> None:
        """Let go of all rows but these."""
        self.cache.reorder_cache(rows)
        self.token, self.position, self.room = (
            each[rows] for each in (self.token, self.position, self.room)
        )
        for processor in draw:
            if isinstance(processor, SeededDraw):
                processor.keep(rows.tolist())


def _completion(stops: frozenset[int], row: list[int], noted: NDArray[np.float32]) -> Completion:
    """Return what a row has written; -1 stands where it had ended."""
    ids = tuple(token for token in row if token >= 0)
    return Completion(ids, "stop" if ids[-1] in stops else "length", noted[: len(ids)])
