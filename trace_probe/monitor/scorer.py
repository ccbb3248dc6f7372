"""The one scorer: sentence scores, statistics and alarms of a trace while its tokens come.

A sentence's score is its mean activation on the probe's direction, so the mean of its tokens'
scores; in bulk the activations are averaged first. Both give the same number up to rounding.
To a probe of last tokens a sentence's score is that of its last token, so far.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trace_probe.errors import ProbeError
from trace_probe.monitor.detector import Detector
from trace_probe.monitor.segments import Ended, Segmenter
from trace_probe.probing.probe import ProbeCard
from trace_probe.text.channels import Format
from trace_probe.trace import Channel

Take = Callable[[], NDArray[np.floating]]
"""Gives (token, probe), the scores of the tokens since it was last called."""


@dataclass(frozen=True)
class ScoredSentence:
    """A whole sentence of a trace as the monitor judged it."""

    sentence: int
    """Index into the sentences of the trace."""
    channel: Channel
    start: int
    """First token, counted from the start of the completion."""
    stop: int
    text: str
    scores: tuple[float, ...]
    """Of each probe; empty outside the reasoning, which alone is scored."""
    statistics: tuple[float, ...]
    """The smoothed score of each probe, which its alarm follows."""
    alarms: tuple[str, ...]
    """Names of the probes whose smoothed score reached the threshold at this sentence."""


class Reading(NamedTuple):
    """What the monitor knows once the model has read a token."""

    token: int
    """Position in the trace."""
    text: str
    """The characters that the token completes; empty in the middle of one."""
    channel: Channel
    """As far as is known: half a close tag still counts as reasoning."""
    sentence: int | None
    """Index into the sentences of the trace; None in markup."""
    scores: tuple[float, ...]
    """Of each probe, for this sentence as far as it was read off the device.

    Empty outside the reasoning, which alone is scored.
    """
    alarms: tuple[str, ...]
    """Names of the probes that have alarmed; once there they stay.

    The thresholds were calibrated on whole sentences, so a sentence raises the alarm when it
    ends: at the first token after it, or at the last token of all.
    """
    ended: tuple[ScoredSentence, ...] = ()
    """Sentences that ended before this token, or with it if it is the last."""

    @property
    def score(self) -> float | None:
        """Return the score of the first probe."""
        return self.scores[0] if self.scores else None

    @property
    def alarm(self) -> bool:
        """Return whether any probe has alarmed."""
        return bool(self.alarms)


def check_live(card: ProbeCard) -> None:
    """Refuse a probe whose scores cannot be had from those of single tokens.

    Raises:
        ProbeError: it reads several layers, or other features than means or last tokens.
    """
    if card.features not in (("mean",), ("last",)) or len(card.layers) > 1:
        raise ProbeError(
            f"probe {card.name} reads {', '.join(card.features)} of layers {list(card.layers)}, "
            f"which cannot be followed live: use `trace-probe flag` on a run, or train on means "
            f"or last tokens"
        )


class LiveScorer:
    """Scores one completion; its tokens' scores are read at sentence ends and every few tokens."""

    def __init__(
        self,
        detectors: Sequence[Detector],
        format: Format,
        *,
        prefilled: bool,
        take: Take,
        start: int = 0,
        every: int = 1,
    ) -> None:
        """Begin a completion whose first token has position `start` in the trace."""
        self.segments = Segmenter(format, prefilled=prefilled)
        self._detectors = tuple(detectors)
        self._statistics = [detector.smoothing.start() for detector in detectors]
        self._intercepts = [float(detector.saved.probe.intercept_[0]) for detector in detectors]
        self._from_last = [detector.saved.card.pooling == "last" for detector in detectors]
        self._take, self._every = take, every
        self._start, self._count = start, 0
        self._sums = [[0.0] * len(detectors)]
        """At n the sums over the first n tokens; lists, since NumPy is slow for so few numbers."""
        self._shown_reach, self._shown = (0, 0), tuple[float, ...]()
        self._alarms: tuple[str, ...] = ()

    def read(self, piece: str, *, last: bool = False) -> Reading:
        """Take the characters that the next token completes, once the model has read it."""
        segments, ended = self.segments, self.segments.feed(piece)
        if last:
            ended += segments.finish()
        self._count += 1
        due = self._count - self._known >= self._every
        if due or last or (ended and any(each.channel == "reasoning" for each in ended)):
            self._fetch()
        scored = tuple(map(self._judge, ended)) if ended else ()
        sentence, scores = self._current(scored if last else ())
        position = self._start + self._count - 1
        return Reading(position, piece, segments.channel, sentence, scores, self._alarms, scored)

    @property
    def _known(self) -> int:
        """Return how many tokens have scores."""
        return len(self._sums) - 1

    def _fetch(self) -> None:
        """Read the scores that wait on the device."""
        for scores in self._take().tolist():
            self._sums.append([a + b for a, b in zip(self._sums[-1], scores, strict=True)])

    def _pooled(self, start: int, stop: int) -> tuple[float, ...]:
        """Return the scores of tokens ``[start, stop)``, of those that have one."""
        stop = min(stop, self._known)
        if stop <= start:
            return ()
        # In double precision, so that what long sums lose in their difference is far below single.
        scores = []
        for probe, intercept in enumerate(self._intercepts):
            first = stop - 1 if self._from_last[probe] else start
            total = self._sums[stop][probe] - self._sums[first][probe]
            scores.append(total / (stop - first) + intercept)
        return tuple(scores)

    def _judge(self, ended: Ended) -> ScoredSentence:
        """Score a sentence that has ended and see whether it alarms."""
        scores = self._pooled(ended.start, ended.stop) if ended.channel == "reasoning" else ()
        values = tuple(
            update(score) for update, score in zip(self._statistics, scores, strict=False)
        )
        reached = tuple(
            detector.name
            for detector, value in zip(self._detectors, values, strict=False)
            if value >= detector.threshold
        )
        self._alarms += tuple(name for name in reached if name not in self._alarms)
        return ScoredSentence(*ended, scores, values, reached)

    def _current(
        self, finished: tuple[ScoredSentence, ...]
    ) -> tuple[int | None, tuple[float, ...]]:
        """Return index and scores of the sentence of the token that was just read."""
        current = self.segments.current
        if current is not None:
            number, first = current
            if self.segments.channel != "reasoning":
                return number, ()
            reach = first, self._known
            if reach != self._shown_reach:
                self._shown_reach, self._shown = reach, self._pooled(*reach)
            return number, self._shown
        if finished and finished[-1].stop == self._count:
            return finished[-1].sentence, finished[-1].scores
        return None, ()
