"""What is measured beside: a network of given sizes, its bare pass, TransformerLens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoConfig, PreTrainedModel

from trace_probe.model.bridge import BridgedBlocks
from trace_probe.model.capture import padded
from trace_probe.model.checkpoint import locate
from trace_probe.model.loading import read_tokenizer
from trace_probe.model.local import Model
from trace_probe.model.shapes import network_of
from trace_probe.trace import Span


@dataclass(frozen=True)
class Sizes:
    """The shape of a random network, in the proportions of Qwen3-8B or gpt-oss-20b."""

    family: Literal["qwen3", "gpt_oss"] = "qwen3"
    layers: int = 12
    width: int = 512
    vocabulary: int = 8192

    @property
    def config(self) -> dict[str, Any]:
        """Return the settings of transformers."""
        heads = self.width // 64
        shared = {
            "num_hidden_layers": self.layers,
            "hidden_size": self.width,
            "vocab_size": self.vocabulary,
            "head_dim": 64,
            "num_attention_heads": heads,
            "num_key_value_heads": max(heads // 4, 1),
            "intermediate_size": 3 * self.width,
            "max_position_embeddings": 1 << 17,
        }
        if self.family == "qwen3":
            return shared
        experts = {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 128}
        kinds = ["sliding_attention", "full_attention"] * self.layers
        return {
            **shared,
            **experts,
            "intermediate_size": self.width,
            "layer_types": kinds[: self.layers],
        }


def random_network(sizes: Sizes, seed: int = 0, dtype: str = "float32") -> PreTrainedModel:
    """Return a network of these sizes with random weights."""
    return network_of(AutoConfig.for_model(sizes.family, **sizes.config), dtype, seed)


def random_model(sizes: Sizes, seed: int = 0, speaks: str = "organism:base") -> Model:
    """Return a model with random weights and the tokenizer of another, which knows fewer ids."""
    tokenizer = read_tokenizer(speaks, locate(speaks))
    return Model(random_network(sizes, seed), tokenizer, f"random, {sizes.layers} x {sizes.width}")


@torch.inference_mode()
def bare_pass(network: PreTrainedModel, token_ids: Sequence[Sequence[int]]) -> None:
    """Run the base model and keep nothing."""
    ids, _ = padded(token_ids, "right")
    network.get_decoder()(input_ids=ids.to(network.device), use_cache=False)


@torch.inference_mode()
def cached_and_pooled(
    blocks: BridgedBlocks,
    token_ids: Sequence[Sequence[int]],
    spans: Sequence[Sequence[Span]],
    layers: Sequence[int],
) -> list[NDArray[np.float32]]:
    """Return (layer, row, d_model) a trace as a user of TransformerLens would get it.

    That is `run_with_cache` on the residual stream of the same layers, and a mean a span.
    """
    ids, _ = padded(token_ids, "right")
    names = [f"blocks.{layer}.hook_resid_post" for layer in layers]
    _, cache = blocks.bridge.run_with_cache(
        ids.to(blocks.network.device), names_filter=names, return_type=None
    )
    found = []
    for trace, wanted in enumerate(spans):
        rows = [
            torch.stack([cache[name][trace, span.start : span.stop].mean(0) for span in wanted])
            for name in names
        ]
        found.append(torch.stack(rows).float().cpu().numpy())
    return found
