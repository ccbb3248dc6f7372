"""A probe on guard: a score for each token while a model thinks, an alarm when it is earned."""

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trace_probe.model.local import Model
from trace_probe.probing.probe import SavedProbe, check_fits
from trace_probe.recording.plan import trace_seed
from trace_probe.recording.record import new_manifest
from trace_probe.text.channels import ChannelReader, Format, format_of, format_under
from trace_probe.text.sentences import SentenceReader
from trace_probe.trace import Channel, Sampling, Task


@dataclass(frozen=True)
class Reading:
    """What the monitor knows once the model has read a token."""

    token: int
    """Position in the trace."""
    text: str
    """The characters that the token completes; empty in the middle of one."""
    channel: Channel
    """As far as is known: half a close tag still counts as reasoning."""
    sentence: int | None
    """Index into the sentences of the trace; None in markup."""
    score: float | None
    """Mean score of this sentence so far; None outside the reasoning, which alone is scored."""
    alarm: bool
    """Whether a whole sentence has reached the threshold; once true it stays so.

    The threshold was calibrated on whole sentences, so a sentence raises the alarm when it
    ends: at the first token after it, or at the last token of all.
    """


class Monitor:
    """A model and a probe that reads it while it writes."""

    def __init__(self, model: Model, saved: SavedProbe) -> None:
        """Put a probe on a model.

        Raises:
            ProbeError: the probe was trained on another model, tokenizer or width.
        """
        check_fits(saved.card, new_manifest(model, Sampling(), layers=(saved.card.layer,)))
        self._model = model
        self._saved = saved

    def watch(
        self, task: Task, sampling: Sampling, *, sample: int = 0
    ) -> Generator[Reading, None, None]:
        """Yield a reading for each token the model writes; close it to stop the model.

        It writes what `record` would for the same task, sampling and sample.
        """
        prompt = self._model.render(task)
        text = self._model.text_stream()
        for token in prompt:
            text.feed(token)
        own = format_of(self._model.chat_template, self._model.name)
        format, prefilled = format_under(text.text, own)
        scorer = LiveScorer(self._saved, format, prefilled=prefilled)
        seed = trace_seed(sampling, task, sample)
        layers = (self._saved.card.layer,)
        with closing(self._model.stream(prompt, seed, sampling, layers)) as tokens:
            next(tokens)  # the last token of the prompt, which belongs to no sentence
            for at in tokens:
                piece = text.feed(at.id)
                if at.last:
                    piece = text.text[text.offsets[-1] :]  # nothing can complete it any more
                yield scorer.read(at.position, piece, at.activation[0], last=at.last)


class LiveScorer:
    """Scores sentences as they come, as `probe_scores` does those of a finished trace.

    A sentence's score is its mean activation on the direction, so the mean of its tokens'
    scores.
    """

    def __init__(self, saved: SavedProbe, format: Format, *, prefilled: bool) -> None:
        self._coef = saved.probe.coef_.astype(np.float32)
        self._intercept = float(saved.probe.intercept_)
        self._threshold = saved.card.threshold
        self._channels = ChannelReader(format, prefilled=prefilled)
        self._sentences = SentenceReader()
        self._channel: Channel = "prompt"
        self._length = 0
        self._count = 0
        self._sentence: list[tuple[int, float]] = []
        """For each token of the sentence the character at which it starts, and its score."""
        self._waiting: list[tuple[int, float]] = []
        """The same for tokens whose character is not complete, so its channel not known."""
        self._alarm = False

    def read(
        self, token: int, piece: str, activation: NDArray[np.float32], *, last: bool = False
    ) -> Reading:
        """Take the characters that a token completes and its activation, (d_model,)."""
        self._waiting.append((self._length, float(activation @ self._coef)))
        if piece:
            channel = self._channels.feed(piece)
            self._length += len(piece)
            *cut, whole = self._waiting
            for part in cut:
                self._place("", channel, part)
            self._place(piece, channel, whole)
            self._waiting = []
        sentence, score = self._current()
        if last:
            self._finish()
        return Reading(token, piece, self._channel, sentence, score, self._alarm)

    def _place(self, text: str, channel: Channel, part: tuple[int, float]) -> None:
        """Put a token into the sentence to which it belongs."""
        if channel != self._channel:
            self._finish()
            self._channel, self._sentences = channel, SentenceReader()
        if channel in {"reasoning", "answer"}:
            if self._sentences.starts(text):
                self._finish()
                self._count += 1
                self._sentence = []
            self._sentence.append(part)

    def _finish(self) -> None:
        """Judge the sentence that has ended, without the half tag it may have seemed to hold."""
        ends = [r.stop for r in self._channels.split().ranges if r.channel == self._channel]
        kept = [score for start, score in self._sentence if start < max(ends, default=0)]
        if self._sentence and not kept:
            self._count -= 1
        elif kept and self._channel == "reasoning":
            score = sum(kept) / len(kept) + self._intercept
            self._alarm = self._alarm or score >= self._threshold
        self._sentence = []

    def _current(self) -> tuple[int | None, float | None]:
        """Return index and score so far of the sentence that is being written."""
        if not self._sentence:
            return None, None
        mean = sum(score for _, score in self._sentence) / len(self._sentence)
        score = mean + self._intercept if self._channel == "reasoning" else None
        return self._count - 1, score
