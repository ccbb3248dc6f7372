"""Tokens drawn in an engine as `trace_probe.model.drawing` draws them, and how sure it was.

The uniform of a token depends on the seed of its request and on how many tokens were written
before it, so that neither the batch, nor chunks of the prompt, nor a preemption changes a draw.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trace_probe.model.drawing import drawn_tokens, uncertainty, uniforms, warpers
from trace_probe.trace import MEASURES


@dataclass
class Drawn:
    """One request under way."""

    key: str
    source: np.random.Generator
    temperature: float
    top_p: float
    uniform: list[float] = field(default_factory=list)
    noted: list[torch.Tensor] = field(default_factory=list)
    """(measure,) of each token."""

    @classmethod
    def of(cls, asked: dict[str, Any]) -> "Drawn":
        """Return what the extra arguments of a request ask for."""
        drawn = (float(asked["temperature"]), float(asked["top_p"]))
        return cls(str(asked["key"]), uniforms(int(asked["seed"])), *drawn)

    def at(self, number: int) -> float:
        """Return the uniform of token `number` of the completion."""
        while len(self.uniform) <= number:
            self.uniform.append(float(self.source.random()))
        return self.uniform[number]

    def note(self, number: int, measures: torch.Tensor) -> None:
        """Note how sure the model was of token `number`; what is drawn again replaces it."""
        self.noted[number:] = [measures]


class Draws:
    """Draws the next token of each request that asks for it."""

    def __init__(self) -> None:
        self._under_way: dict[str, Drawn] = {}

    @torch.inference_mode()
    def draw(
        self, asked: Sequence[tuple[int, int, dict[str, Any]]], logits: torch.Tensor
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return rows of (row, vocabulary) logits, and (row, 1) the tokens that are drawn there.

        Of each request come its row, how many tokens it has written, and what it asks for.
        """
        found = []
        requests = [(row, number, self._of(one)) for row, number, one in asked]
        groups: dict[tuple[float, float], list[tuple[int, int, Drawn]]] = {}
        for each in requests:
            groups.setdefault((each[2].temperature, each[2].top_p), []).append(each)
        for (temperature, top_p), group in groups.items():
            places = [row for row, _, _ in group]
            rows = torch.tensor(places, device=logits.device)
            every = places == list(range(len(logits)))  # then none need be copied
            given = (logits if every else logits[rows]).float()
            if temperature > 0:
                scores = warpers(temperature, top_p)(None, given)
                drawn = drawn_tokens(scores, [one.at(number) for _, number, one in group])
            else:
                drawn = given.argmax(-1, keepdim=True)
            for (_, number, one), measures in zip(group, uncertainty(given, drawn), strict=True):
                one.note(number, measures)
            found.append((rows, drawn))
        return found

    def _of(self, asked: dict[str, Any]) -> Drawn:
        key = str(asked["key"])
        if key not in self._under_way:
            self._under_way[key] = Drawn.of(asked)
        return self._under_way[key]

    def taken(self, key: str) -> NDArray[np.float32] | None:
        """Return (token, measure) of a request that has ended, and forget it."""
        drawn = self._under_way.pop(key, None)
        if drawn is None:
            return None
        empty = torch.empty(0, len(MEASURES))
        rows = torch.stack(drawn.noted) if drawn.noted else empty
        noted: NDArray[np.float32] = rows.float().cpu().numpy()
        return noted
