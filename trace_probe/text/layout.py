"""The channels of a completion in tokens: spans, sentences and tool calls, as a trace has them."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from trace_probe.text.channels import Format, Range, Split, split
from trace_probe.text.sentences import sentence_spans
from trace_probe.text.tool_calls import parse_calls
from trace_probe.trace import Channel, Span, Thought, ToolCall


class Layout(NamedTuple):
    """The fields of a `Trace` that say what is where, in tokens."""

    spans: tuple[Span, ...]
    sentences: tuple[Span, ...]
    thought: Thought
    actions: tuple[ToolCall, ...] = ()


def build_spans(
    text: str, offsets: Sequence[int], prompt_stop: int, format: Format, *, prefilled: bool
) -> Layout:
    """Return channels and sentences in tokens, ready for a `Trace`.

    `offsets` holds the first character of each token, `prompt_stop` the number of prompt
    tokens. A token that straddles a boundary belongs to the channel in which it starts.
    """
    start = offsets[prompt_stop] if prompt_stop < len(offsets) else len(text)
    return lay_out(text, offsets, prompt_stop, split(text, start, format, prefilled=prefilled))


def lay_out(text: str, offsets: Sequence[int], prompt_stop: int, cut: Split) -> Layout:
    """Turn the channels of a completion into spans of tokens, sentences and tool calls."""
    channels = list(_channels(cut.ranges, offsets[prompt_stop:]))
    spans = [Span(0, prompt_stop, "prompt")] if prompt_stop else []
    token = prompt_stop
    for channel, group in groupby(channels):
        stop = token + len(list(group))
        spans.append(Span(token, stop, channel))
        token = stop
    sentences = (
        sentence_spans(text, offsets, span.start, span.stop, span.channel)
        for span in spans
        if span.channel in {"reasoning", "answer"}
    )
    return Layout(
        tuple(spans),
        tuple(s for group in sentences for s in group),
        cut.thought,
        tuple(_actions(text, offsets, spans, cut)),
    )


def _channels(ranges: Sequence[Range], offsets: Sequence[int]) -> Iterator[Channel]:
    """Yield the channel of each token; past the end there are only stop tokens: markup."""
    starts = [one.start for one in ranges]
    for offset in offsets:
        index = bisect_right(starts, offset) - 1
        inside = index >= 0 and offset < ranges[index].stop
        yield ranges[index].channel if inside else "markup"


def _actions(
    text: str, offsets: Sequence[int], spans: Sequence[Span], cut: Split
) -> Iterator[ToolCall]:
    """Yield the tool calls of a completion; each has at least one token of its channel."""
    ranges = [one for one in cut.ranges if one.channel == "action"]
    stops = [one.stop for one in ranges]
    for span in spans:
        if span.channel != "action":
            continue
        end = offsets[span.stop] if span.stop < len(offsets) else len(text)
        for at in range(bisect_right(stops, offsets[span.start]), len(ranges)):
            _, start, stop = ranges[at]
            if start >= end:
                break
            for call in parse_calls(text, start, stop):
                first = min(max(bisect_left(offsets, call.start), span.start), span.stop - 1)
                last = min(max(bisect_left(offsets, call.stop), first + 1), span.stop)
                place = Span(first, last, "action")
                yield ToolCall(call.name, call.arguments, place, call.id)
