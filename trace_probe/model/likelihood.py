"""How likely a model finds what was written, by itself or by another."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from trace_probe.model.capture import padded
from trace_probe.model.local import Model

BATCH_TOKENS = 16384
LOGITS = 1 << 28
"""Most logits at a time, tokens times vocabulary: in float32 these are 1 GiB."""


@torch.inference_mode()
def surprise(
    model: Model,
    texts: Sequence[Sequence[int]],
    starts: Sequence[int],
    *,
    batch_tokens: int = BATCH_TOKENS,
) -> NDArray[np.float64]:
    """Return (text,) the mean of -log p over the tokens of each from `starts` on, in nats.

    p is the model's own, at temperature 1. nan where there is no such token.
    """
    found = np.full(len(texts), np.nan)
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    vocabulary = model.blocks.network.config.get_text_config().vocab_size
    batch_tokens = min(batch_tokens, LOGITS // vocabulary)
    while order:
        width = len(texts[order[-1]])
        batch = [order.pop() for _ in range(min(len(order), max(1, batch_tokens // width)))]
        read = padded([texts[i] for i in batch], "right")[0].to(model.blocks.network.device)
        logits = model.blocks.network(read, use_cache=False).logits[:, :-1].float()
        nats = torch.nn.functional.cross_entropy(logits.mT, read[:, 1:], reduction="none")
        for row, i in enumerate(batch):
            mine = nats[row, starts[i] - 1 : len(texts[i]) - 1]
            found[i] = float(mine.mean()) if len(mine) else np.nan
    return found
