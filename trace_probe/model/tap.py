"""Reads what leaves the blocks of a network, and scores it by probe directions where it lies."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from trace_probe.errors import ModelError

Consume = Callable[[int, torch.Tensor], None]
"""Takes a layer and the residual stream after it, (batch, token, d_model)."""


def find_blocks(network: PreTrainedModel, name: str) -> torch.nn.ModuleList:
    """Return the decoder blocks: the outermost list of modules as long as the model is deep.

    Raises:
        ModelError: there is no such list.
    """
    n_layers = network.config.get_text_config().num_hidden_layers
    for module in network.get_decoder().modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == n_layers:
            return module
    raise ModelError(f"{name} has no list of {n_layers} blocks to read activations from")


class tapped:
    """Hands the residual stream after each of `layers` to `consume` until the context ends.

    A class, since as a generator it would cost each token twice as much.
    """

    def __init__(
        self, blocks: torch.nn.ModuleList, layers: Sequence[int], consume: Consume
    ) -> None:
        self._blocks, self._layers, self._consume = blocks, layers, consume
        self._hooks: list[RemovableHandle] = []

    def __enter__(self) -> None:
        """Put the hooks on."""
        for layer in self._layers:
            self._hooks.append(self._blocks[layer].register_forward_hook(self._hook(layer)))

    def __exit__(self, *_: object) -> None:
        """Take the hooks off."""
        for hook in self._hooks:
            hook.remove()

    def _hook(self, layer: int) -> Callable[..., None]:
        def hook(_module: object, _inputs: object, output: object) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            assert isinstance(hidden, torch.Tensor)
            self._consume(layer, hidden)

        return hook


class ProbeTap:
    """Scores the last token of each forward pass, many at once; nothing is read before `take`.

    A score is the dot product with a direction, without the probe's intercept.
    """

    def __init__(self, directions: Sequence[tuple[int, NDArray[np.floating]]]) -> None:
        """Take for each probe its layer and its direction, (d_model,)."""
        self.layers = tuple(sorted({layer for layer, _ in directions}))
        by_layer = [[i for i, (at, _) in enumerate(directions) if at == n] for n in self.layers]
        self._weights = {
            layer: torch.tensor(
                np.stack([directions[i][1] for i in those], axis=1), dtype=torch.float32
            )
            for layer, those in zip(self.layers, by_layer, strict=True)
        }
        order = np.argsort([i for those in by_layer for i in those])
        self._order = None if (order == np.arange(len(order))).all() else order
        self._held: dict[int, list[torch.Tensor]] = {layer: [] for layer in self.layers}

    def consume(self, layer: int, hidden: torch.Tensor) -> None:
        """Keep the last token of each row of (batch, token, d_model); `take` scores it."""
        self._held[layer].append(hidden[:, -1].clone())

    @torch.inference_mode()
    def take(self) -> NDArray[np.float32]:
        """Return (pass, batch, probe), the scores since they were last taken: one transfer."""
        parts: list[torch.Tensor] = []
        for layer, held in self._held.items():
            rows, weights = torch.stack(held).float(), self._weights[layer]
            if weights.device != rows.device:
                weights = self._weights[layer] = weights.to(rows.device)
            scores = rows @ weights
            parts.append(scores.to(parts[0].device) if parts else scores)
        self.forget()
        whole = torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0]
        found: NDArray[np.float32] = whole.cpu().numpy()
        return found if self._order is None else found[:, :, self._order]

    def forget(self) -> None:
        """Drop what was not taken."""
        for held in self._held.values():
            held.clear()
