"""A completion that another program writes, token by token, while probes read along."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trace_probe.model.tokenizer import ChatTokenizer
from trace_probe.monitor.detector import Detector
from trace_probe.monitor.scorer import Carried, LiveScorer, Reading, ScoredSentence
from trace_probe.text.channels import Format, format_under

PROMPT_TAIL = 64
"""Tokens of the prompt that are read to see whether it opens the thought."""


class WatchedText:
    """Takes tokens with what the model held at them, and gives readings."""

    def __init__(
        self,
        detectors: Sequence[Detector],
        chat: ChatTokenizer,
        format: Format,
        prompt: Sequence[int],
        *,
        every: int,
    ) -> None:
        """Begin after a prompt, padded or not, in the format of a model."""
        self.text = chat.text_stream()
        for token in prompt[-PROMPT_TAIL:]:
            self.text.feed(token)
        format, prefilled = format_under(self.text.text, format)
        self.scorer = LiveScorer(
            detectors,
            format,
            prefilled=prefilled,
            take=self._take,
            every=every,
            carried=Carried(start=len(prompt)),
        )
        self.prompt = len(prompt)
        """Tokens of the prompt."""
        self.read = -1
        """Tokens of the completion that were read; -1 until the prompt was."""
        self.sentences: list[ScoredSentence] = []
        self.waiting: list[NDArray[np.float32]] = []
        """(token, layer, d_model) of tokens that the scorer has not taken."""

    def _take(self) -> NDArray[np.float32]:
        """Return (token, layer, d_model) of the tokens since the last call."""
        taken = self.waiting[0] if len(self.waiting) == 1 else np.concatenate(self.waiting)
        self.waiting = [taken[:0].copy()]  # a view would keep all of them
        return taken

    def follow(self, row: NDArray[np.float32], token: int, *, last: bool = False) -> Reading | None:
        """Take (layer, d_model), what the model held at a token, and the token itself.

        Return the reading; None for the first of all, which is the last token of the prompt.
        """
        self.waiting.append(row[None])
        self.read += 1
        return self.note(self.text.feed(token), last=last) if self.read else None

    def note(self, piece: str, *, last: bool) -> Reading:
        """Read the characters that a token completes, and keep the sentences that end."""
        reading = self.scorer.read(piece, last=last)
        self.sentences += reading.ended
        return reading

    def close(self) -> None:
        """Keep what was found only."""
        released: Any = None
        self.scorer, self.text, self.waiting = released, released, []
