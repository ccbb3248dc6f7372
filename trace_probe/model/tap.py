"""The residual stream of tokens as they are written, kept where it lies until it is wanted."""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray


class RowTap:
    """Keeps the last token of each forward pass; nothing is copied or moved before `take`."""

    def __init__(self, layers: Iterable[int]) -> None:
        """Say which layers are kept; each pass has to come by all of them, the lowest first."""
        self.layers = tuple(sorted(set(layers)))
        self._held: list[torch.Tensor] = []
        """(batch, 1, d_model) each, pass by pass and in each the layers in their order."""

    def consume(self, layer: int, hidden: torch.Tensor) -> None:  # noqa: ARG002
        """Keep the last token of each row of (batch, token, d_model).

        A model is trusted not to change in place what a block gave, as transformers itself is
        where it returns hidden states; so of a pass of one token nothing is copied.
        """
        self._held.append(hidden if hidden.shape[1] == 1 else hidden[:, -1:].clone())

    def take(self) -> NDArray[np.float32]:
        """Return (batch, pass, layer, d_model) of the passes since the last call: one transfer.

        It may be inf or nan, of which whoever scores it makes an alarm.
        """
        held, self._held = self._held, []
        device = held[0].device
        if any(row.device != device for row in held[1 : len(self.layers)]):
            held = [row.to(device) for row in held]
        rows: NDArray[np.float32] = torch.cat(held, dim=1).to("cpu", torch.float32).numpy()
        return rows.reshape(len(rows), -1, len(self.layers), rows.shape[2])
