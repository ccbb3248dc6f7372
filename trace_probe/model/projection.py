"""Scores of probe directions, taken where the residual stream lies."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from trace_probe.model.precision import overflowed


class ProbeTap:
    """Scores the last token of each forward pass, many at once; nothing is read before `take`.

    A score is the dot product with a direction, without the probe's intercept.
    """

    def __init__(self, directions: Sequence[tuple[int, NDArray[np.floating]]]) -> None:
        """Take for each probe its layer and its direction, (d_model,)."""
        self.layers = tuple(sorted({layer for layer, _ in directions}))
        at = np.array([self.layers.index(layer) for layer, _ in directions])
        self._own = at * len(at) + np.arange(len(at))
        """Where the score of each probe is among those of all layers on all directions."""
        stacked = np.stack([direction for _, direction in directions], axis=1)
        self._weights = torch.tensor(stacked, dtype=torch.float32)
        self._held: list[torch.Tensor] = []
        """(batch, 1, d_model) each, pass by pass and in each the layers in their order."""

    def consume(self, layer: int, hidden: torch.Tensor) -> None:  # noqa: ARG002
        """Keep the last token of each row of (batch, token, d_model); `take` scores it.

        A model is trusted not to change in place what a block gave, as transformers itself is
        where it returns hidden states; so of a pass of one token nothing is copied.
        """
        single = hidden.shape[1] == 1
        self._held.append(hidden if single else hidden[:, -1:].clone())

    def take(self) -> NDArray[np.float32]:
        """Return (pass, batch, probe), the scores since they were last taken: one transfer.

        All layers are projected on all directions at once, which is cheaper than to pick. That
        is done in float32, whatever the model runs in and under autocast too.

        Raises:
            ModelError: what the model holds is inf or nan, which would never alarm.
        """
        held, self._held = self._held, []
        device = held[0].device
        if any(row.device != device for row in held[1 : len(self.layers)]):
            held = [row.to(device) for row in held]
        rows = torch.cat(held, dim=1).float()
        if self._weights.device != rows.device:
            self._weights = self._weights.to(rows.device)
        with torch.autocast(rows.device.type, enabled=False):
            scores: NDArray[np.float32] = (rows @ self._weights).cpu().numpy()
        if not np.isfinite(scores).all():
            raise overflowed("the activations that a probe reads")
        whole = scores.reshape(len(scores), -1, len(self.layers) * len(self._own))
        return whole.take(self._own, axis=2).swapaxes(0, 1)

    def forget(self) -> None:
        """Drop what was not taken."""
        self._held.clear()
