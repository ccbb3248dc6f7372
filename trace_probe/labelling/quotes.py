"""Verbatim evidence: where a quote stands in a trace, if it stands there at all."""

import re
from bisect import bisect_right
from collections.abc import Iterable

from trace_probe.trace import Channel, Span, Trace

_MARKS = " \t\r\n\"'“”‘’«»`…"


def find_quote(trace: Trace, quote: str, channel: Channel) -> Span | None:
    """Return the sentence of a channel in which a quote starts, or None if it is not there.

    In the channel ``action`` it is the tool call. White space may differ, and quotation marks
    around the quote do not count; all else is verbatim. A quote may not run from one span of the
    channel into another.
    """
    words = quote.strip(_MARKS).removesuffix("...").split()
    if not any(character.isalnum() for word in words for character in word):
        return None
    pattern = re.compile(r"\s+".join(map(re.escape, words)))
    for span in trace.channel(channel):
        if not len(span):
            continue
        found = pattern.search(trace.text_of(span))
        if found:
            token = bisect_right(trace.offsets, trace.offsets[span.start] + found.start()) - 1
            return _holding(trace, token)
    return None


def _holding(trace: Trace, token: int) -> Span | None:
    """Return the sentence or the tool call that holds a token."""
    place = trace.sentence_at(token)
    if place is not None:
        return trace.sentences[place]
    calls = (call.span for call in trace.actions)
    return next((span for span in calls if span.start <= token < span.stop), None)


def first_quoted(trace: Trace, quotes: Iterable[str], channel: Channel) -> Span | None:
    """Return the earliest sentence of a channel in which one of the quotes starts."""
    found = (find_quote(trace, quote, channel) for quote in quotes)
    return min((span for span in found if span is not None), default=None)
