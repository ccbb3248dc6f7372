"""How the next token is drawn from logits."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

from trace_probe.errors import ModelError
from trace_probe.trace import Sampling


def overflowed(what: str) -> ModelError:
    """Return the error for values of a model that are inf or nan.

    Scores of nan would never alarm, and logits of nan draw tokens of no meaning, so neither may
    pass unseen.
    """
    return ModelError(
        f"{what} are inf or nan, which float16 gives where values exceed 65,504: load the model "
        f"in bfloat16 or float32; if it is already, its weights are damaged: fetch them again"
    )


SORTED = (64, 1024)
"""Tokens of a row that are sorted to find its nucleus: if it has more, so many; at last all."""
CACHED = 1 << 17
"""Logits that are worked on at once on a CPU."""


class SeededDraw:
    """Logits processor that leaves one token a row, drawn with the row's own seed.

    One uniform a step goes through the inverse of the row's cumulative distribution, so what
    is drawn depends on prompt and seed, and not on which other rows share the batch.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self._sources = [uniforms(seed) for seed in seeds]

    def __call__(self, _ids: torch.Tensor | None, scores: torch.Tensor) -> torch.Tensor:
        """Return scores of 0 for the drawn tokens and -inf for all others."""
        drawn = drawn_tokens(scores, [source.random() for source in self._sources])
        return torch.full_like(scores, -torch.inf).scatter(1, drawn, 0.0)

    def keep(self, rows: Sequence[int]) -> None:
        """Let go of all rows but these, which go on as they would have."""
        self._sources = [self._sources[row] for row in rows]


def uniforms(seed: int) -> np.random.Generator:
    """Return what gives the uniform of each step of a row, in order."""
    return np.random.Generator(np.random.Philox(seed))


def drawn_tokens(scores: torch.Tensor, uniform: Sequence[float]) -> torch.Tensor:
    """Return (row, 1), the token of each row that its uniform draws."""
    at = torch.tensor(uniform, dtype=torch.double, device=scores.device)[:, None]
    return torch.cat([_drawn(*part) for part in _parts(scores, at)])


def _drawn(scores: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    cumulative = scores.float().softmax(-1).cumsum(-1, dtype=torch.double)
    return torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)


def _parts(
    logits: torch.Tensor, beside: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield a few rows at a time, which is several times as fast on a CPU: they fit its cache."""
    rows = max(CACHED // logits.shape[-1], 1) if logits.device.type == "cpu" else len(logits)
    return zip(torch.split(logits, rows), torch.split(beside, rows), strict=True)


class QuickTopP(TopPLogitsWarper):  # type: ignore[misc]
    """The warper of transformers, which sorts only the likeliest tokens of a large vocabulary.

    Sorting all 49,152 of SmolLM2 takes a third of the time of writing on a CPU.
    """

    def __call__(self, ids: torch.Tensor | None, scores: torch.Tensor) -> torch.Tensor:
        """Return the scores of each row's nucleus, and -inf for all other tokens."""
        if scores.shape[-1] <= SORTED[-1]:
            return super().__call__(ids, scores)  # type: ignore[no-any-return]
        chances, nuclei = scores.softmax(-1), torch.full_like(scores, -torch.inf)
        rows = torch.arange(len(scores), device=scores.device)
        for count in SORTED:
            likely, where = chances[rows].topk(count)
            above = likely.cumsum(-1) - likely
            kept = scores[rows[:, None], where].masked_fill(above >= self.top_p, -torch.inf)
            nuclei[rows[:, None], where] = kept
            rows = rows[above[:, -1] < self.top_p]
            if not len(rows):
                return nuclei
        nuclei[rows] = super().__call__(ids, scores[rows])
        return nuclei


class NotedDraws:
    """Logits processor that draws as another does, and notes how sure the model was of each draw.

    Of the distribution that the model itself gave, whatever the sampling.
    """

    def __init__(self, draw: LogitsProcessorList) -> None:
        self._draw = draw
        self._noted: list[torch.Tensor] = []

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return the scores of the draw; the likeliest of them is what is drawn.

        Raises:
            ModelError: the model gives logits that are inf or nan.
        """
        check_logits(scores)
        found: torch.Tensor = self._draw(ids, scores)
        drawn = found.argmax(-1, keepdim=True)
        self._noted.append(uncertainty(scores, drawn).cpu())
        return found

    def noted(self) -> NDArray[np.float32]:
        """Return (row, token, measure), padding included; see `trace_probe.trace.MEASURES`."""
        values: NDArray[np.float32] = torch.stack(self._noted, dim=1).numpy()
        return values


def uncertainty(logits: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    """Return (row, measure), how unsure a model was where it drew (row, 1) tokens.

    The measures are those of `trace_probe.trace.MEASURES`, in their order.
    """
    return torch.cat([_uncertainty(*part) for part in _parts(logits, drawn)])


def _uncertainty(logits: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    given = logits.log_softmax(-1)
    likely = given.exp()
    surprisal = -given.gather(1, drawn)[:, 0]
    # A token that is ruled out has the log-probability -inf, and adds nothing.
    entropy = -torch.linalg.vecdot(likely, given.clamp_min(torch.finfo(given.dtype).min))
    return torch.stack([surprisal, entropy, 1 - likely.amax(-1)], dim=1)


def check_logits(logits: torch.Tensor) -> None:
    """Raise ModelError if logits, (row, vocabulary), are inf or nan; tokens may be ruled out."""
    if not bool(logits.amax(-1).isfinite().all()):
        raise overflowed("the logits of the model")


def draws(sampling: Sampling, seeds: Sequence[int]) -> LogitsProcessorList:
    """Return what turns logits into a draw for each row; nothing for greedy decoding."""
    if sampling.temperature == 0:
        return LogitsProcessorList()
    return LogitsProcessorList([*warpers(sampling.temperature, sampling.top_p), SeededDraw(seeds)])


def warpers(temperature: float, top_p: float) -> LogitsProcessorList:
    """Return what makes the distribution to draw from of that which a model gives."""
    chain = LogitsProcessorList()
    if temperature != 1:
        chain.append(TemperatureLogitsWarper(temperature))
    if top_p < 1:
        chain.append(QuickTopP(top_p))
    return chain
