"""Verbatim evidence: where a quote stands in a trace, if it stands there at all."""

import re
from bisect import bisect_right
from collections.abc import Iterable

from trace_probe.trace import Channel, Span, Trace

_MARKS = " \t\r\n\"'“”‘’«»`…"


def find_quote(trace: Trace, quote: str, channel: Channel) -> Span | None:
    """Return the sentence of a channel in which a quote starts, or None if it is not there.

    White space may differ, and quotation marks around the quote do not count; all else is
    verbatim. A quote may not run from one span of the channel into another.
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
            place = trace.sentence_at(token)
            return None if place is None else trace.sentences[place]
    return None


def first_quoted(trace: Trace, quotes: Iterable[str], channel: Channel) -> Span | None:
    """Return the earliest sentence of a channel in which one of the quotes starts."""
    found = (find_quote(trace, quote, channel) for quote in quotes)
    return min((span for span in found if span is not None), default=None)
