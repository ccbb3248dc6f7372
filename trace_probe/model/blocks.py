"""Where the residual stream passes by: after each block of a model, to be read or changed."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Literal, Protocol

import torch
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from trace_probe.errors import ModelError

Backend = Literal["hooks", "transformer-lens"]

Tap = Callable[[int, torch.Tensor], torch.Tensor | None]
"""Takes a layer and the residual stream after it, (batch, token, d_model); may replace it."""


class Blocks(Protocol):
    """The blocks of a network, by 0-based index.

    What passes by is the residual stream *after* a block and before the model's final norm,
    for the last block too.
    """

    backend: Backend
    network: PreTrainedModel
    """Whose forward pass runs by the taps."""

    def tapped(self, layers: Sequence[int], tap: Tap) -> AbstractContextManager[None]:
        """Hand the stream after each of `layers` to `tap` in every pass; leave nothing behind.

        Of two taps at one layer the one that was set first comes first.
        """


class HookedBlocks:
    """Blocks read by forward hooks on the modules of transformers, which cost nothing."""

    backend: Backend = "hooks"

    def __init__(self, network: PreTrainedModel, name: str) -> None:
        """Find the blocks of a network.

        Raises:
            ModelError: they cannot be found.
        """
        self.network = network
        blocks = find_blocks(network.get_decoder())
        if blocks is None:
            raise ModelError(f"{name} has no list of its blocks to read activations from")
        self._blocks = tuple(blocks)  # a list of modules is slow to index, token by token

    def tapped(self, layers: Sequence[int], tap: Tap) -> AbstractContextManager[None]:
        """Hand the stream after each of `layers` to `tap`, as `Blocks` says."""
        return _Hooks([(self._blocks[layer], layer) for layer in layers], tap)


class _Hooks(AbstractContextManager[None]):
    """Forward hooks until the context ends; a class, since it is entered for every token."""

    def __init__(self, blocks: Sequence[tuple[torch.nn.Module, int]], tap: Tap) -> None:
        self._blocks, self._tap = blocks, tap
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> None:
        for block, layer in self._blocks:
            self._handles.append(block.register_forward_hook(partial(self._see, layer)))

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _see(self, layer: int, _module: object, _inputs: object, output: object) -> object:
        if not isinstance(output, tuple):
            assert isinstance(output, torch.Tensor)
            return self._tap(layer, output)
        changed = self._tap(layer, output[0])
        return None if changed is None else (changed, *output[1:])


def find_blocks(base: PreTrainedModel) -> torch.nn.ModuleList | None:
    """Return the decoder blocks: the outermost list of modules as long as the model is deep."""
    depth = base.config.get_text_config().num_hidden_layers
    for module in base.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == depth:
            return module
    return None


def input_device(network: PreTrainedModel) -> torch.device:
    """Return where token ids go: to where the embedding is, or is read to from disk."""
    embedding = network.get_input_embeddings()
    hook = getattr(embedding, "_hf_hook", None)
    return torch.device(getattr(hook, "execution_device", None) or embedding.weight.device)
