"""A generation under watch, token by token: what was written, how risky each sentence was."""

import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from threading import Lock

import numpy as np

from trace_probe.explorer.rows import Facts, Row, Scores, build_row
from trace_probe.monitor.detector import Detector
from trace_probe.monitor.scorer import Reading, ScoredSentence


@dataclass
class Sentence:
    """One sentence as far as it was written."""

    start: int
    stop: int
    channel: str
    text: str = ""
    score: float | None = None


@dataclass
class Watched:
    """A generation that is running, or that ran."""

    readings: Generator[Reading, None, None]
    detector: Detector
    turn: Lock = field(default_factory=Lock)
    """Held while the model writes a token."""
    sentences: list[Sentence] = field(default_factory=list)
    distances: list[tuple[float, ...]] = field(default_factory=list)
    """Of the sentences that have ended, from what the probe learned from."""
    whole: int = 0
    """Sentences that have ended."""
    alarm: int | None = None
    """The token at which the alarm was raised."""
    begin: int | None = None
    last: int = 0
    running: bool = True
    stopped: bool = False
    """Whether it was ended by hand."""

    def advance(self, *, tokens: int, seconds: float) -> None:
        """Take so many tokens, or what comes within so long."""
        until = time.monotonic() + seconds
        for _ in range(tokens):
            with self.turn:
                reading = next(self.readings, None)
            if reading is None:
                self.running = False
                return
            self._take(reading)
            if time.monotonic() > until:
                return

    def stop(self) -> None:
        """End the generation: the model writes no further token."""
        self.readings.close()
        self.running, self.stopped = False, True

    def _take(self, reading: Reading) -> None:
        self.begin = reading.token if self.begin is None else self.begin
        self.last = reading.token + 1
        if reading.alarm and self.alarm is None:
            self.alarm = reading.token
        self.distances += [ended.distances for ended in reading.ended]
        for ended in reading.ended:
            self._end(ended)
        if reading.sentence is None:
            del self.sentences[self.whole :]  # it was the beginning of a tag
            return
        if reading.sentence < self.whole:
            return
        while len(self.sentences) <= reading.sentence:
            self.sentences.append(Sentence(reading.token, reading.token, reading.channel))
        one = self.sentences[reading.sentence]
        one.stop, one.text = reading.token + 1, one.text + reading.text
        one.score = one.score if reading.score is None else reading.score

    def _end(self, ended: ScoredSentence) -> None:
        """Take a sentence as it is at its end, without the half tag that it may have held."""
        begin, score = self.begin or 0, ended.scores[0] if ended.scores else None
        span = begin + ended.start, begin + ended.stop
        self.sentences[ended.sentence :] = [Sentence(*span, ended.channel, ended.text, score)]
        self.whole = ended.sentence + 1

    @property
    def row(self) -> Row:
        """Return it as a row, so that it is drawn like any other trace."""
        facts = Facts(
            id="live",
            tokens=self.last,
            begin=self.begin or 0,
            starts=np.array([one.start for one in self.sentences], dtype=np.int32),
            stops=np.array([one.stop for one in self.sentences], dtype=np.int32),
            reasoning=np.array([one.channel == "reasoning" for one in self.sentences], dtype=bool),
        )
        return build_row(facts, None, self.statistics, self.detector.threshold)

    @property
    def statistics(self) -> Scores:
        """Return what the alarm follows, as if the last sentence ended here."""
        scores = [np.nan if one.score is None else one.score for one in self.sentences]
        return self.detector.follow(np.array(scores, dtype=np.float32))

    def lines(self) -> Iterator[str]:
        """Yield the sentences with what the alarm follows, those over the threshold marked."""
        for one, value in zip(self.sentences, self.statistics, strict=True):
            over = value >= self.detector.threshold
            score = "" if np.isnan(value) else f"{value:.2f}"
            yield f"{'▲' if over else ' '} {score:>6}  {one.text.strip()}"
