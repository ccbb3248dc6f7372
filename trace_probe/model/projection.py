"""Scores of probe directions, taken where the residual stream lies."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray


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
