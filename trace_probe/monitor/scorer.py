"""The one scorer: sentence scores, smoothed scores and alarms of a trace while its tokens come.

What probes read is made by `monitor.memory`, token by token, and for finished traces by
`probing.features`; both give the same scores up to rounding. Sentences are cut as in those.
"""

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trace_probe.monitor.detector import Detector
from trace_probe.monitor.memory import HELD, Kept, Memory
from trace_probe.text.channels import END_OF_TURN, ChannelReader, Format, channel_at
from trace_probe.text.sentences import SentenceReader
from trace_probe.trace import Channel, Span, to_last_word


class Ended(NamedTuple):
    """A sentence that nothing can be added to any more."""

    sentence: int
    """Index into the sentences of the trace."""
    channel: Channel
    start: int
    """First token, counted from the start of the completion."""
    stop: int
    text: str


class Segmenter:
    """Takes the characters that each token completes, and says which sentences have ended.

    Tokens are counted from the start of the completion.
    """

    def __init__(self, format: Format, *, prefilled: bool) -> None:
        self.channel: Channel = "prompt"
        """Of the last token whose characters are known, as far as is known."""
        self.unguarded = False
        """Whether a close tag came that made a thought of what had been told as an answer."""
        self._channels, self._close = ChannelReader(format, prefilled=prefilled), format.close
        self._answers: list[int] = []
        """First tokens of the sentences that were told as answers since the last close tag."""
        self._sentences = SentenceReader()
        self._offsets: list[int] = []
        """For each token the character at which it starts."""
        self._placed = 0
        """Tokens whose channel is known: those before the first that waits."""
        self._first: int | None = None
        """Where the sentence that is being written starts."""
        self._number = -1
        self._ended: list[Ended] = []
        self._held: list[str] = []
        """Pieces that only made the sentence longer and were not looked at closely yet."""
        self._room = 0
        """How many more of them there may be."""
        self._stopped = False
        """Whether the newest characters are stop tokens."""
        self._stops: list[str] = []
        """More stop tokens behind those, which change nothing yet."""

    @property
    def text(self) -> str:
        """Return the characters so far."""
        return self._channels.text + "".join((*self._held, *self._stops))

    @property
    def count(self) -> int:
        """Return how many sentences there are, the one being written included."""
        return self._number + 1

    @property
    def current(self) -> tuple[int, int] | None:
        """Return index and first token of the sentence being written, None in markup."""
        return None if self._first is None else (self._number, self._first)

    def words(self, start: int, stop: int) -> int:
        """Return where the words of these tokens end, before the white space that follows them."""
        there = Span(start, min(stop, len(self._offsets)))
        return to_last_word(self._channels.text, self._offsets, there).stop

    def goes_on(self, piece: str) -> bool:
        """Take the characters of the next token if they can only make the sentence longer.

        Returns whether they were taken. Most tokens are, for little time; `feed` takes the others.
        """
        if len(self._held) >= self._room or not self._channels.goes_on(piece):
            return False
        self._held.append(piece)
        if not piece[-1].isalnum():
            self._room = 0
        return True

    def feed(self, piece: str) -> list[Ended]:
        """Take the characters that the next token completes; return what ended before it.

        A token that completes none waits for the one that does, and shares its channel. A stop
        token waits for what follows it: it is part of the text if anything does, and else markup.
        """
        self._look()
        if self._stopped and piece in END_OF_TURN and len(self._stops) < HELD:
            self._stops.append(piece)  # however many follow, they take little time
            return []
        self._feed(piece)
        # A token may start in one channel and end in another, in which the next one starts.
        known = self._placed == len(self._offsets) and self._channels.last == self.channel
        self._room = self._sentences.room if self._first is not None and known else 0
        return self._taken()

    def _look(self) -> None:
        """Put the pieces that were held into their sentence."""
        held, self._held, self._room = self._held, [], 0
        if not held:
            return
        start = len(self._channels.text)
        for piece in held:
            self._offsets.append(start)
            start += len(piece)
        self._placed += len(held)
        text = "".join(held)
        self._channels.lengthen(text)
        self._sentences.lengthen(text, len(held))

    def _feed(self, *pieces: str) -> None:
        """Take tokens, behind the stop tokens that wait."""
        pieces, self._stops = (*self._stops, *pieces), []
        first = start = len(self._channels.text)
        for piece in pieces:
            self._offsets.append(start)
            start += len(piece)
        if start == first:
            return
        channel, newest = self._channels.feed("".join(pieces)), len(self._offsets) - 1
        stops = not self._channels.quiet and self._offsets[newest] >= self._channels.turn
        self._stopped = stops
        if stops and newest - self._placed < HELD:
            return
        self._look_back(first)
        alike = self._offsets[self._placed] == self._offsets[newest] == first
        ranges = [] if alike else self._channels.split().ranges
        for token in range(self._placed, newest + 1):
            begin, end = self._offsets[token], self._end(token + 1)
            own = channel if alike else channel_at(ranges, begin)
            self._place(token, self._channels.text[begin:end], own)
        self._placed = newest + 1

    def _look_back(self, start: int) -> None:
        """See whether a close tag that ends behind a character makes a thought of an answer."""
        begin = max(0, start - len(self._close) + 1)
        if not self._answers or not self._close or self._close not in self._channels.text[begin:]:
            return
        ranges = self._channels.split().ranges
        told, self._answers = self._answers, []
        channels = (channel_at(ranges, self._offsets[token]) for token in told)
        self.unguarded |= "reasoning" in channels

    def finish(self) -> list[Ended]:
        """Return the sentence that ends because the completion does."""
        self._look()
        self._feed()
        self._finish(self._placed)
        if self._channels.turn < len(self._channels.text):
            self.channel = "markup"
        return self._taken()

    def _taken(self) -> list[Ended]:
        ended, self._ended = self._ended, []
        return ended

    def _place(self, token: int, text: str, channel: Channel) -> None:
        """Put a token into the sentence to which it belongs."""
        if channel != self.channel:
            self._finish(token)
            self.channel, self._sentences = channel, SentenceReader()
        if channel in {"reasoning", "answer"} and self._sentences.starts(text):
            self._finish(token, sure=self._channels.quiet)
            self._number += 1
            self._first = token
            self._answers += [token] if channel == "answer" else []

    def _finish(self, token: int, *, sure: bool = False) -> None:
        """End a sentence before a token, without the half tag that it may have seemed to hold.

        `sure` says that its channel goes on and that there is no half tag.
        """
        if self._first is None:
            return
        stop = token
        if not sure:
            own = (r for r in self._channels.split().ranges if r.channel == self.channel)
            ends = [r.stop for r in own if r.start < self._end(token)]
            stop = bisect_left(self._offsets, max(ends, default=0), self._first, token)
        if stop > self._first:
            start, end = self._offsets[self._first], self._end(stop)
            text = self._channels.text[start:end]
            self._ended.append(Ended(self._number, self.channel, self._first, stop, text))
        else:
            self._number -= 1
        self._first = None

    def _end(self, stop: int) -> int:
        """Return the character after the last one of the tokens before `stop`."""
        return self._offsets[stop] if stop < len(self._offsets) else len(self._channels.text)


Take = Callable[[], NDArray[np.float32]]
"""Gives (token, layer, d_model), the residual stream at the tokens since it was last called, of all
layers that the probes read; the first token of all is the last of the prompt."""


@dataclass(frozen=True)
class ScoredSentence:
    """A whole sentence of a trace as the monitor judged it."""

    sentence: int
    """Index into the sentences of the trace."""
    channel: Channel
    start: int
    """First token, counted from the start of the completion; in an episode of the first one, as
    in its trace."""
    stop: int
    text: str
    scores: tuple[float, ...]
    """Of each probe; empty outside the reasoning, which alone is scored."""
    statistics: tuple[float, ...]
    """The smoothed score of each probe, which its alarm follows."""
    alarms: tuple[str, ...]
    """Names of the probes whose smoothed score reached the threshold at this sentence."""
    distances: tuple[float, ...] = ()
    """From what each probe learned from, as `scores`; nan if it does not know that."""


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
    """Of each probe, for this sentence and the thought as far as they were read off the device.

    Empty outside the reasoning, which alone is scored, and at the first tokens of a sentence,
    before anything of it was read.
    """
    alarms: tuple[str, ...]
    """Names of the probes that have alarmed; once there they stay.

    The thresholds were calibrated on whole sentences, so a sentence raises the alarm when it
    ends: at the first token after it, or at the last token of all.
    """
    ended: tuple[ScoredSentence, ...] = ()
    """Sentences that ended before this token, or with it if it is the last."""
    unreadable: bool = False
    """Whether nothing can be scored from here on: the model held what is no number, or it closed a
    thought that it had not opened, of which the words were taken for an answer.

    Then every probe alarms: a monitor that cannot see must not look like one that sees nothing.
    """

    @property
    def score(self) -> float | None:
        """Return the score of the first probe."""
        return self.scores[0] if self.scores else None

    @property
    def alarm(self) -> bool:
        """Return whether any probe has alarmed."""
        return bool(self.alarms)


@dataclass(frozen=True)
class Carried:
    """What is known of an episode after some of its model calls, for the scorer of the next.

    It does not grow with the tokens, only by a few numbers with each sentence.
    """

    calls: int = 0
    start: int = 0
    """Tokens of the first prompt: the position of the first token that is written."""
    tokens: int = 0
    """That the model wrote in these calls."""
    sentences: int = 0
    scores: tuple[tuple[float, ...], ...] = ()
    """Of each sentence that was scored."""
    kept: Kept | None = None
    alarms: tuple[str, ...] = ()
    unreadable: bool = False


FRESH = Carried()
"""Before the first call."""


class LiveScorer:
    """Scores one completion, at the ends of its sentences and every few tokens in between.

    What is `carried` over from earlier calls of an episode makes it one trace: running features
    and smoothing go on, alarms stand, and sentences and tokens are counted on.
    """

    def __init__(
        self,
        detectors: Sequence[Detector],
        format: Format,
        *,
        prefilled: bool,
        take: Take,
        every: int = 1,
        carried: Carried = FRESH,
    ) -> None:
        """Begin a completion."""
        self.segments = Segmenter(format, prefilled=prefilled)
        self._detectors = tuple(detectors)
        self._statistics = [detector.smoothing.start() for detector in detectors]
        for scores in carried.scores:
            self._smoothed(scores)
        self._memory = Memory([detector.saved for detector in detectors], carried.kept)
        self._row_end = detectors[0].saved.card.row_end
        self._take, self._every = take, every
        self._before, self._count = carried, 0
        self._start = carried.start + carried.tokens
        self._scored: list[tuple[float, ...]] = []
        self._shown = -1, tuple[float, ...]()
        """Index and scores of the last sentence that was scored before its end."""
        self._alarms, self._unreadable = carried.alarms, carried.unreadable
        self._latest = Reading(
            self._start, "", "prompt", None, (), self._alarms, (), self._unreadable
        )

    def read(self, piece: str, *, last: bool = False) -> Reading:
        """Take the characters that the next token completes, once the model has read it."""
        segments = self.segments
        self._count += 1
        due = self._count - self._memory.known >= self._every
        if not due and not last and segments.goes_on(piece):
            return Reading(self._start + self._count - 1, piece, *self._latest[2:])
        ended = segments.feed(piece)
        if last:
            ended += segments.finish()
        if segments.unguarded and not self._unreadable:
            self._go_blind()
        if due or last or (ended and any(each.channel == "reasoning" for each in ended)):
            self._see(self._take())
        scored = tuple(map(self._judge, ended)) if ended else ()
        sentence, scores = self._current(scored if last else (), due=due)
        if due and not self._unreadable:
            open_ = segments.current if segments.channel == "reasoning" else None
            self._memory.fold(open_ and open_[1], self._words)
        position = self._start + self._count - 1
        self._latest = Reading(
            *(position, piece, segments.channel, sentence, scores),
            *(self._alarms, (), self._unreadable),
        )
        return self._latest._replace(ended=scored) if scored else self._latest

    @property
    def carried(self) -> Carried:
        """Return what the scorer of the next call is to know, once this one has ended."""
        before = self._before
        return Carried(
            before.calls + 1,
            before.start,
            before.tokens + self._count,
            before.sentences + self.segments.count,
            (*before.scores, *self._scored),
            self._memory.kept,
            self._alarms,
            self._unreadable,
        )

    def _words(self, start: int, stop: int) -> int:
        """Return where the tokens that are pooled of a sentence end."""
        return stop if self._row_end == "token" else self.segments.words(start, stop)

    def _see(self, rows: NDArray[np.float32]) -> None:
        """Take what the model held at the tokens since the last time."""
        # A sum is a number if all of its parts are, unless they are huge; then each is looked at.
        if not np.isfinite(rows.sum()) and not np.isfinite(rows).all():
            self._go_blind()
        if not self._unreadable:
            self._memory.add(rows)

    def _go_blind(self) -> None:
        """Alarm with every probe, since none can score any more."""
        self._unreadable = True
        names = (detector.name for detector in self._detectors)
        self._alarms += tuple(name for name in names if name not in self._alarms)

    def _judge(self, ended: Ended) -> ScoredSentence:
        """Score a sentence that has ended and see whether it alarms."""
        scores, before = self._scores(ended), self._before
        ended = ended._replace(
            sentence=before.sentences + ended.sentence,
            start=before.tokens + ended.start,
            stop=before.tokens + ended.stop,
        )
        if self._unreadable:
            blind = tuple(detector.name for detector in self._detectors)
            return ScoredSentence(*ended, (), (), blind if ended.channel == "reasoning" else ())
        values = self._smoothed(scores)
        self._scored += [scores] if scores else []
        reached = tuple(
            detector.name
            for detector, value in zip(self._detectors, values, strict=False)
            if value >= detector.threshold
        )
        self._alarms += tuple(name for name in reached if name not in self._alarms)
        distances = self._memory.distances if scores else ()
        return ScoredSentence(*ended, scores, values, reached, distances)

    def _smoothed(self, scores: Sequence[float]) -> tuple[float, ...]:
        """Return what alarms follow after one more sentence."""
        return tuple(update(score) for update, score in zip(self._statistics, scores, strict=False))

    def _scores(self, ended: Ended) -> tuple[float, ...]:
        """Return the scores of a sentence, none outside the reasoning or if there can be none."""
        if self._unreadable:
            return ()
        if ended.channel != "reasoning":
            self._memory.drop(ended.stop)
            return ()
        scores = self._memory.end(ended.start, self._words(ended.start, ended.stop), ended.stop)
        if not all(map(isfinite, scores)):
            self._go_blind()
        return scores

    def _current(
        self, finished: tuple[ScoredSentence, ...], *, due: bool
    ) -> tuple[int | None, tuple[float, ...]]:
        """Return index and scores of the sentence of the token that was just read."""
        current = self.segments.current
        if current is not None:
            number, first = current[0] + self._before.sentences, current[1]
            if self.segments.channel != "reasoning" or self._unreadable:
                return number, ()
            if due:
                known = self._words(first, self._memory.known)
                self._shown = number, self._memory.scores(first, known)
            return number, self._shown[1] if self._shown[0] == number else ()
        if finished and finished[-1].stop == self._before.tokens + self._count:
            return finished[-1].sentence, finished[-1].scores
        return None, ()


@dataclass(frozen=True)
class Alarm:
    """The first alarm of a probe in a trace."""

    probe: str
    smoothing: str
    threshold: float
    source: str
    """Where the threshold comes from, in words."""
    statistic: float
    """The smoothed score, which the alarm follows."""
    score: float
    sentence: int
    """Index into the sentences of the trace."""
    token: int
    """The last one of the sentence, counted from the start of the completion."""
    text: str


def new_alarms(
    detectors: Sequence[Detector], reading: Reading, told: Collection[str]
) -> Iterator[Alarm]:
    """Yield the alarms that a reading brings, less those of probes that were `told` before.

    A reading that is unreadable alarms for every probe without a score, so none is yielded: look
    at `Reading.unreadable`.
    """
    known = set(told)
    for ended in reading.ended:
        values = zip(detectors, ended.scores, ended.statistics, strict=False)
        for detector, score, statistic in values:
            if detector.name in ended.alarms and detector.name not in known:
                known.add(detector.name)
                yield Alarm(
                    probe=detector.name,
                    smoothing=detector.smoothing.name,
                    threshold=detector.threshold,
                    source=str(detector.source),
                    statistic=statistic,
                    score=score,
                    sentence=ended.sentence,
                    token=ended.stop - 1,
                    text=ended.text,
                )
