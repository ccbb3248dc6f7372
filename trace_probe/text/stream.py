"""Text of tokens that come one at a time, and where each token starts in it."""

from collections.abc import Callable

UNFINISHED = "\ufffd"
"""What tokenizers decode bytes to that are not, or not yet, a character."""
LONGEST = 4
"""A character has at most so many bytes, and so many tokens."""


class TextStream:
    """Decodes tokens as they come; a character appears with the last of its tokens.

    Each step decodes the new token behind the tokens of the last complete characters, since
    tokenizers write a token differently at the start of a text.
    """

    def __init__(self, decode: Callable[[tuple[int, ...]], str]) -> None:
        self._decode = decode
        self._context: tuple[int, ...] = ()
        self._pending: tuple[int, ...] = ()
        self._settled, self._tail = "", ""
        self.offsets: list[int] = []

    @property
    def text(self) -> str:
        """Return the text of all tokens."""
        return self._settled + self._tail

    @property
    def complete(self) -> int:
        """Return how many characters no later token can change; the next token starts there."""
        return len(self._settled) + len(self._tail.rstrip(UNFINISHED))

    def feed(self, token: int) -> str:
        """Take one token; return the characters that it completes, which may be none."""
        self.offsets.append(self.complete)
        self._pending += (token,)
        known = len(self._decode(self._context))
        self._tail = self._decode(self._context + self._pending)[known:]
        if self._tail and not self._tail.endswith(UNFINISHED):
            self._settled += self._tail
            self._tail, self._context, self._pending = "", self._pending, ()
        elif len(self._pending) > 2 * LONGEST:
            self._settle(known)
        return self.text[self.offsets[-1] : self.complete]

    def _settle(self, known: int) -> None:
        """Settle what is no character and cannot become one; else each token decodes it again."""
        done, rest = self._pending[:-LONGEST], self._pending[-LONGEST:]
        text = self._decode(self._context + done)[known:]
        if self._tail.startswith(text):
            self._settled += text
            self._tail, self._context, self._pending = self._tail[len(text) :], done, rest
