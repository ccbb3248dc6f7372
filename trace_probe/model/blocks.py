"""Where the residual stream passes by: after each block of a model, to be read or changed."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Literal, Protocol

import torch
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
        self._blocks = blocks

    @contextlib.contextmanager
    def tapped(self, layers: Sequence[int], tap: Tap) -> Iterator[None]:
        """Hand the stream after each of `layers` to `tap`, as `Blocks` says."""

        def hook(layer: int) -> Callable[..., object]:
            def see(_module: object, _inputs: object, output: object) -> object:
                rest = output[1:] if isinstance(output, tuple) else None
                hidden = output[0] if isinstance(output, tuple) else output
                assert isinstance(hidden, torch.Tensor)
                changed = tap(layer, hidden)
                return changed if changed is None or rest is None else (changed, *rest)

            return see

        with contextlib.ExitStack() as hooks:
            for layer in layers:
                hooks.callback(self._blocks[layer].register_forward_hook(hook(layer)).remove)
            yield


def find_blocks(base: PreTrainedModel) -> torch.nn.ModuleList | None:
    """Return the decoder blocks: the outermost list of modules as long as the model is deep."""
    depth = base.config.get_text_config().num_hidden_layers
    for module in base.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == depth:
            return module
    return None
