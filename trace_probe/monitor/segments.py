"""Sentences of a completion as they end, token by token, cut as those of a finished trace."""

from bisect import bisect_left
from typing import NamedTuple

from trace_probe.text.channels import ChannelReader, Format
from trace_probe.text.sentences import SentenceReader
from trace_probe.trace import Channel


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
        self._channels = ChannelReader(format, prefilled=prefilled)
        self._sentences = SentenceReader()
        self._offsets: list[int] = []
        """For each token the character at which it starts."""
        self._placed = 0
        """Tokens whose channel is known: those before the first without characters."""
        self._first: int | None = None
        """Where the sentence that is being written starts."""
        self._number = -1
        self._ended: list[Ended] = []
        self._held: list[str] = []
        """Pieces that only made the sentence longer and were not looked at closely yet."""
        self._room = 0
        """How many more of them there may be."""

    @property
    def text(self) -> str:
        """Return the characters so far."""
        return self._channels.text + "".join(self._held)

    @property
    def count(self) -> int:
        """Return how many sentences there are, the one being written included."""
        return self._number + 1

    @property
    def current(self) -> tuple[int, int] | None:
        """Return index and first token of the sentence being written, None in markup."""
        return None if self._first is None else (self._number, self._first)

    @property
    def settled(self) -> list[tuple[Channel, int, int]]:
        """Return the channels of the characters so far, ``[start, stop)`` each."""
        self._look()
        return [(c, a, b) for c, a, b in self._channels.split().ranges]

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

        A token that completes none waits for the one that does, and shares its channel.
        """
        self._look()
        self._feed(piece)
        self._room = self._sentences.room if self._first is not None and piece else 0
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

    def _feed(self, piece: str) -> None:
        self._offsets.append(len(self._channels.text))
        if piece:
            channel, newest = self._channels.feed(piece), len(self._offsets) - 1
            for token in range(self._placed, newest):
                self._place(token, "", channel)
            self._place(newest, piece, channel)
            self._placed = newest + 1

    def finish(self) -> list[Ended]:
        """Return the sentence that ends because the completion does."""
        self._look()
        self._finish(self._placed)
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

    def _finish(self, token: int, *, sure: bool = False) -> None:
        """End a sentence before a token, without the half tag that it may have seemed to hold.

        `sure` says that its channel goes on and that there is no half tag.
        """
        if self._first is None:
            return
        stop = token
        if not sure:
            ends = [r.stop for r in self._channels.split().ranges if r.channel == self.channel]
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
