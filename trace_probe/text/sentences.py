"""Where sentences start, decided token by token, so that a live reader cuts as a whole text does.

A boundary depends on the sentence so far and on the first token of the next one, never on
what follows. Newlines end sentences, and so do ``. ! ? …`` before white space and the full
stops of Chinese and Japanese; abbreviations, decimals and list numbers do not.
"""

import re
from collections.abc import Sequence
from itertools import pairwise

from trace_probe.files import tables_beside
from trace_probe.trace import Channel, Span

MAX_TOKENS = 128
"""A run-on of this many tokens is cut, so that no row of activations averages over pages."""

_CLOSERS = "\"')]}»”’*_`」』）"
_ENDS = frozenset(".!?…。！？" + _CLOSERS)
_CLOSED = re.compile(rf"(?P<stop>[.!?…]+|[。！？]+)(?P<closers>[{re.escape(_CLOSERS)}]*)$")
_LIST_MARK = re.compile(r"\W*(?:\d{1,3}|[A-Za-z])\.")
_BEFORE_WORD = re.compile(r"[\s(\[{\"'“‘*_]")
_DOTTED = re.compile(r"(?:[A-Z]\.)+[A-Z]")
_WORDS = tables_beside(__file__)
_TAIL = 64


class SentenceReader:
    """Reads the tokens of one channel in order and says which of them start a sentence."""

    def __init__(self) -> None:
        self._sentence = ""
        self._tokens = 0

    def starts(self, token: str) -> bool:
        """Take the text of the next token; return whether a sentence starts with it."""
        # After a letter or a digit only a line break ends a sentence, so most tokens stop here.
        inside = self._sentence[-1:].isalnum() and "\n" not in token
        start = self._tokens % MAX_TOKENS == 0 or (
            not inside and _is_boundary(self._sentence, token)
        )
        if start:
            self._sentence, self._tokens = "", 0
        self._sentence += token
        self._tokens += 1
        return start

    @property
    def room(self) -> int:
        """Return how many tokens without a line break can only make the sentence longer.

        That holds as long as each of them ends with a letter or a digit.
        """
        inside = self._sentence[-1:].isalnum()
        return MAX_TOKENS - self._tokens if inside else 0

    def lengthen(self, text: str, tokens: int) -> None:
        """Take tokens of which `room` says that they can only make the sentence longer."""
        self._sentence += text
        self._tokens += tokens


def sentence_spans(
    text: str, offsets: Sequence[int], start: int, stop: int, channel: Channel
) -> tuple[Span, ...]:
    """Cut tokens ``[start, stop)`` into the sentences of one channel, which tile them.

    A token belongs to the sentence in which it starts. `offsets` says for each token of
    the whole text at which character it starts.
    """
    if start == stop:
        return ()
    reader, starts = SentenceReader(), []
    for token in range(start, stop):
        end = offsets[token + 1] if token + 1 < len(offsets) else len(text)
        if reader.starts(text[offsets[token] : end]):
            starts.append(token)
    return tuple(Span(a, b, channel) for a, b in pairwise([*starts, stop]))


def _is_boundary(sentence: str, token: str) -> bool:
    """Return whether a sentence ends before `token`, its successor's first if it does."""
    body, opening = sentence.rstrip(), token.lstrip()
    if not body or not opening:
        return False
    gap = sentence[len(body) :] + token[: len(token) - len(opening)]
    if "\n" in gap:
        return True
    if body[-1] not in _ENDS:
        return False
    closed = _CLOSED.search(body, max(0, len(body) - _TAIL))
    if closed is None:
        return False
    if closed["stop"][0] in "。！？":
        return opening[0] not in _CLOSERS
    return bool(gap) and not _goes_on(body[: closed.end("stop")], closed["closers"], opening)


def _goes_on(body: str, closers: str, opening: str) -> bool:
    """Return whether a sentence goes on after the mark that ends `body`."""
    mark = body[-1]
    if opening[0].islower() and (closers or mark == "…" or body.endswith("..")):
        return True
    if mark != "." or body.endswith(".."):
        return False
    if _LIST_MARK.fullmatch(body):
        return True
    word = _BEFORE_WORD.split(body[-_TAIL:-1])[-1]
    if word.lower() in _WORDS["before_numbers"]:
        return opening[0].isdigit()
    if word.lower() in _WORDS["unless_capital"]:
        return not opening[0].isupper()
    return word.lower() in _WORDS["always"] or _DOTTED.fullmatch(word) is not None
