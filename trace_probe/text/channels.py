"""Which part of a completion is reasoning, answer or action, in a whole text or as it streams.

This is the one decision on channels, for recording, serving and imports. It follows the
reasoning parsers of vLLM and SGLang where they agree: the first close tag wins, an open tag in
the prompt means that the model starts in its reasoning, and a tool call ends a thought that is
not closed otherwise. Where they differ, a thought that was opened and never closed is
*truncated*: calling it an answer would let it be judged as one. What is opened after an answer or
a call is a further thought.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal, NamedTuple

from trace_probe.files import tables_beside
from trace_probe.text.call_ends import own_end
from trace_probe.text.tool_calls import (
    TAGS,
    begins_call,
    is_bare_call,
    may_begin_call,
    recipient_of,
    spoken,
)
from trace_probe.trace import Channel, Finish, Thought


@dataclass(frozen=True)
class Format:
    """How one family of models delimits its reasoning."""

    name: str
    open: str = ""
    close: str = ""
    untagged: Literal["absent", "truncated", "not_delimited"] = "absent"
    """What a completion without any tag is; ``truncated`` makes it reasoning, others answer."""
    answer_open: str = ""
    """A tag that may precede the answer."""


class Range(NamedTuple):
    """Characters ``[start, stop)`` of one channel."""

    channel: Channel
    start: int
    stop: int


class Split(NamedTuple):
    """A completion cut into channels; the ranges tile it."""

    ranges: list[Range]
    thought: Thought


class _Marker(NamedTuple):
    """A tag as it occurs in a text."""

    tag: str
    start: int
    stop: int


_TABLES = tables_beside(__file__)
FORMATS = {name: Format(name, **one) for name, one in _TABLES["formats"].items()}
"""Every known format by name; ``plain`` is for models that do not reason apart."""

END_OF_TURN = (
    *("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "</s>"),
    *("<｜end▁of▁sentence｜>", "<eos>", "<end_of_turn>", "<turn|>", "<seed:eos>", "<|user|>"),
    *("<|observation|>", "[|endofturn|]", "<|END_RESPONSE|>", "<|END_OF_TURN_TOKEN|>"),
    *("<|assistant_end|>", "<|end|>", "<|return|>", "<|call|>"),
)
"""Tokens that stop generation; at the end of a completion they are markup."""

_HARMONY = (
    *("<|start|>", "<|channel|>", "<|message|>"),
    *("<|end|>", "<|return|>", "<|call|>", "<|endoftext|>"),
)
_ANALYSIS = re.compile(r"<\|channel\|>\s*analysis\b")
_HEADING = re.compile(r"\s*(?:assistant)?\s*(?:to=\S+)?\s*")
_NEAR = 64
_Ends = dict[int, int]  # where calls end, by the place of their tag among all tags
_ENDS = frozenset(".!?…。！？:;)]}>*")
"""What may stand before a further thought; amid a sentence its tag is only spoken of."""
_SIGNS: dict[str, str] = _TABLES["signs"]
_HINTS: dict[str, str] = _TABLES["names"]


def format_of(chat_template: str | None, model: str = "") -> Format:
    """Return the format of a model: from the tags in its chat template, else from its name.

    The name also tells apart families that share the tags ``<think>`` and ``</think>``.
    """
    signed = next((name for sign, name in _SIGNS.items() if sign in (chat_template or "")), None)
    hinted = next((n for hint, n in _HINTS.items() if re.search(hint, model.lower())), None)
    if signed == "think" and hinted in {"think-always", "think-olmo"}:
        signed = hinted
    return FORMATS[signed or hinted or "plain"]


def opens_reasoning(prompt: str, format: Format) -> bool:
    """Return whether a rendered prompt ends inside the thought: the `prefilled` of below."""
    return bool(format.open) and prompt.rstrip().endswith(format.open.rstrip())


def format_under(prompt: str, format: Format) -> tuple[Format, bool]:
    """Return how a completion of a rendered prompt reads, and whether it starts in the thought.

    A prompt that shuts the thought itself turns reasoning off: what follows is answer, also
    from a model that else always reasons.
    """
    shut = bool(format.close) and prompt.rstrip().endswith(format.close.rstrip())
    return replace(format, untagged="absent") if shut else format, opens_reasoning(prompt, format)


def format_alone(text: str, format: Format, finish: Finish) -> Format:
    """Return how a completion reads that came without its prompt; `format` is that of its model.

    Tags of the model's own count first, else any that are there. A text without tags is taken for
    cut-off reasoning only where it *was* cut off and the model is one that always reasons: its
    server may have taken the reasoning away.
    """
    if format.open and (format.open.strip() in text or format.close in text):
        return format
    own = format_of(text)
    unsigned = own.name == "plain" and (finish == "length" or format.untagged == "absent")
    return format if unsigned else own


class ChannelReader:
    """Splits a completion as it comes; at every point it agrees with `split` of the text so far.

    The tail is provisional: half a tag counts as text until the other half is there, and
    what an unopened close tag ends is an answer until that tag shows that it was reasoning.
    """

    def __init__(self, format: Format, *, prefilled: bool) -> None:
        self._format = format
        self._pattern, self._longest, self._heads = _search(format)
        self._stirring = self._heads | {"\n"}
        self._prefilled = prefilled
        self.text = ""
        """All that was fed."""
        self._markers: list[_Marker] = []
        self._settled: _Ends = {}
        self._scanned = 0
        self._pending = False
        """Whether what was not scanned for good may begin a tag."""
        self.last: Channel | None = None
        """Of the last character, where text without a tag can only continue it."""

    def feed(self, piece: str) -> Channel:
        """Take the next piece; return the channel in which it starts, as far as is known."""
        start, before = len(self.text), len(self._markers)
        self.text += piece
        if self.last and not self._pending and self._heads.isdisjoint(piece):
            return self.last
        for match in self._pattern.finditer(self.text, self._scanned):
            self._markers.append(_Marker(match[0], *match.span()))
        found = self._markers[-1].stop if self._markers else 0
        self._scanned = max(found, len(self.text) - self._longest + 1, 0)
        self._pending = not self._heads.isdisjoint(self.text[self._scanned :])
        if self.last and len(self._markers) == before:
            return self.last
        ranges = self.split().ranges
        self.last = self._continued(ranges)
        return channel_at(ranges, start)

    @property
    def quiet(self) -> bool:
        """Return whether text without a tag can only make the last channel longer."""
        return self.last is not None and not self._pending

    def goes_on(self, piece: str) -> bool:
        """Return whether a piece can only make the last channel longer, and holds no line break."""
        return self.quiet and bool(piece) and self._stirring.isdisjoint(piece)

    def lengthen(self, text: str) -> None:
        """Take pieces of which `goes_on` is true."""
        self.text += text

    def _continued(self, ranges: Sequence[Range]) -> Channel | None:
        """Return the last channel if more text without a tag can only make it longer."""
        last = ranges[-1].channel if ranges else None
        if self.decided < len(self.text):
            return None
        under_way = last == "action" and self._markers and self._markers[-1].tag in TAGS
        sure = last == "reasoning" or (last == "answer" and not self._format.answer_open)
        return last if sure or under_way else None

    @property
    def decided(self) -> int:
        """Return how many characters stand before a tag that may yet turn out to begin a call."""
        newest = self._markers[-1] if self._markers else None
        open_ = newest and newest.tag in TAGS and may_begin_call(self.text, newest.stop)
        return newest.start if newest and open_ else len(self.text)

    @property
    def turn(self) -> int:
        """Return where the stop tokens at the end begin, which are text once anything follows."""
        tail = len(self.text)
        ends = () if self._format.name == "harmony" else END_OF_TURN  # there they end messages
        for tag, start, stop in reversed(self._markers):
            if tag not in ends or self.text[stop:tail].strip():
                break
            tail = start
        return tail

    def split(self) -> Split:
        """Return the channels of the text so far."""
        if self._format.name == "harmony":
            return _split_harmony(self.text, self._markers, self._prefilled)
        tail = self.turn
        whole = _Pass(self.text[:tail], self._markers, self._format, self._settled)
        ranges, thought = whole.run(self._prefilled)
        return Split(_tile([*ranges, Range("markup", tail, len(self.text))]), thought)


def split(text: str, start: int, format: Format, *, prefilled: bool) -> Split:
    """Cut the completion ``text[start:]`` into channels; ranges are characters of `text`.

    `prefilled` says that the prompt already opened the thought (see `opens_reasoning`).
    """
    reader = ChannelReader(format, prefilled=prefilled)
    reader.feed(text[start:])
    ranges, thought = reader.split()
    return Split([Range(c, a + start, b + start) for c, a, b in ranges], thought)


class _Pass:
    """One pass over the tags of a completion, from which its channels are read."""

    def __init__(self, text: str, markers: list[_Marker], format: Format, ends: _Ends) -> None:
        self.text, self.format, self.settled = text, format, ends
        self.markers = [marker for marker in markers if marker.stop <= len(text)]
        self.starts = [marker.start for marker in self.markers]
        self.calls = self._call_stops()
        self.called = sorted(self.calls)
        self.ranges: list[Range] = []
        self.states: list[Thought] = []

    def run(self, prefilled: bool) -> tuple[list[Range], Thought]:
        """Return the channels, and what the reasoning is as a whole."""
        text, format = self.text, self.format
        first = self._next(0, format.open, format.close)
        thought: int | None = 0
        if prefilled:
            if first and first.tag == format.open and not text[: first.start].strip():
                thought = self._markup(0, first.stop)  # it repeats the prompt
        elif first and first.tag == format.open:
            self._outside(0, first)
            thought = self._markup(first.start, first.stop)
        elif first is None and format.untagged != "truncated":
            self._outside(0, None)
            return self.ranges, format.untagged
        while thought is not None:
            stop = self._thought(thought)
            again = None if stop is None else self._outside(stop, None)
            thought = self._markup(again.start, again.stop) if again else None
        whole: Thought = "closed" if "closed" in self.states else "empty"
        return self.ranges, "truncated" if "truncated" in self.states else whole

    def _call_stops(self) -> dict[int, int]:
        """Return where each call ends, by the place of its tag among the markers."""
        found = dict(self.settled)
        for number, (tag, _, stop) in enumerate(self.markers):
            if tag not in TAGS or number in found:
                continue
            following = (self.markers[n] for n in range(number + 1, len(self.markers)))
            ends = ((one.tag, one.start) for one in following if one.tag in (tag, TAGS[tag]))
            end, place, done = own_end(self.text, tag, stop, ends) or ("", len(self.text), False)
            closed = end == TAGS[tag] != ""
            if begins_call(self.text, tag, stop, closed=closed):
                found[number] = place + len(end) if closed else place
                if done:
                    self.settled[number] = found[number]
        return found

    def _after(self, start: int) -> Iterator[int]:
        """Yield the places of the markers from a character on."""
        yield from range(bisect_left(self.starts, start), len(self.markers))

    def _next(self, start: int, *tags: str) -> _Marker | None:
        found = (self.markers[n] for n in self._after(start) if self.markers[n].tag in tags)
        return next(found, None)

    def _markup(self, start: int, stop: int) -> int:
        self.ranges.append(Range("markup", start, stop))
        return stop

    def _thought(self, start: int) -> int | None:
        """Take a thought; return where what follows it begins, None if it was cut off.

        A call ends it only if no close tag does; a close tag behind a further open tag is not
        its own.
        """
        close = self._next(start, self.format.close)
        first = bisect_left(self.called, bisect_left(self.starts, start))
        made = (self._made(place, start) for place in range(first, len(self.called)))
        call = next(filter(None, made), None)
        if call and close:
            opened = self._next(call.stop, self.format.open)
            own = opened is None or close.start < opened.start
            call = None if own or close.start < call.start else call
        end = call or close
        if end is None:
            self.ranges.append(Range("reasoning", start, len(self.text)))
            self.states.append("truncated")
            return None
        empty = not self.text[start : end.start].strip()
        self.ranges.append(Range("markup" if empty else "reasoning", start, end.start))
        self.states.append("empty" if empty else "closed")
        return end.start if call else self._markup(end.start, end.stop)

    def _made(self, place: int, start: int) -> _Marker | None:
        """Return the tag of a call in a thought, None if the thought only speaks of it.

        It does where the tag stands amid a sentence and more is said after the call.
        """
        number = self.called[place]
        marker, stop = self.markers[number], self.calls[number]
        if not spoken(marker.tag) or self._between(marker, start):
            return marker
        others = self.called[place + 1 : place + 2]
        following = self.markers[others[0]].start if others else len(self.text)
        return None if self.text[stop:following].strip() else marker

    def _outside(self, start: int, until: _Marker | None) -> _Marker | None:
        """Take answers and calls from a character to a tag, or to the end.

        Return the tag that opens a further thought before that, if there is one.
        """
        found, place = list[Range](), start
        end = until.start if until else len(self.text)
        for number in self._after(start):
            marker = self.markers[number]
            if marker.start >= end:
                break
            if marker.start < place:
                continue
            if number in self.calls:
                stop = min(self.calls[number], end)  # what opens the thought ends a call
                found += [Range("answer", place, marker.start), Range("action", marker.start, stop)]
                place = stop
            elif until is None and self._reopens(marker, place):
                until, end = marker, marker.start
                break
        whole = self.format.name == "plain" and not found and is_bare_call(self.text)
        found.append(Range("action" if whole else "answer", place, end))
        self._keep(found, last=until is None)
        return until

    def _reopens(self, marker: _Marker, start: int) -> bool:
        """Return whether a tag opens a further thought; amid a sentence it is only spoken of."""
        return marker.tag == self.format.open and self._between(marker, start)

    def _between(self, marker: _Marker, start: int) -> bool:
        """Return whether a tag stands between sentences of a text that begins at `start`."""
        before = self.text[max(start, marker.start - _NEAR) : marker.start]
        words = before.rstrip()
        return not words or "\n" in before[len(words) :] or words[-1] in _ENDS

    def _keep(self, found: Sequence[Range], *, last: bool) -> None:
        """Keep answers and calls; white space that only parts others is markup."""
        alone = last and len(found) == 1
        for number, (channel, start, stop) in enumerate(found):
            if channel == "answer" and not alone and not self.text[start:stop].strip():
                self._markup(start, stop)
            elif channel == "answer" and number == 0:
                self.ranges += _answer(self.text, start, stop, self.format)
            else:
                self.ranges.append(Range(channel, start, stop))


def _answer(text: str, start: int, stop: int, format: Format) -> list[Range]:
    """Return the ranges of an answer, its own open tag apart."""
    tag = format.answer_open
    if not tag or not text[start:stop].lstrip().startswith(tag):
        return [Range("answer", start, stop)]
    first = text.index(tag, start) + len(tag)
    return [Range("markup", start, first), Range("answer", first, stop)]


def _split_harmony(text: str, markers: Sequence[_Marker], prefilled: bool) -> Split:
    """Cut a harmony completion: a header names the channel of each message, and who is to have it.

    A message to a tool is an action on whatever channel; ``analysis`` is reasoning, all else is
    answer. Source: the harmony response format, github.com/openai/harmony.
    """
    channel: Channel = "reasoning" if prefilled else "answer"
    thought: Thought = "truncated" if prefilled else "not_delimited"
    ranges, header, start = list[Range](), None if prefilled else 0, 0
    for tag, begin, end in markers:
        empty = not text[start:begin].strip()
        if channel == "reasoning":
            thought = "empty" if empty and thought != "closed" else "closed"
        heading = start == header == 0 and _HEADING.fullmatch(text, 0, begin)
        ranges += [Range("markup" if empty or heading else channel, start, begin)]
        ranges += [Range("markup", begin, end)]
        start = end
        if tag == "<|message|>":
            channel = channel if header is None else _harmony_channel(text[header:begin])
            thought = "absent" if thought == "not_delimited" else thought
            header = None
        elif tag == "<|start|>":
            channel, header = "markup", end
        elif tag == "<|channel|>":
            channel, header = "markup", begin if header is None else header
        else:
            channel, header = "markup", None
    thought = "truncated" if channel == "reasoning" else thought
    return Split(_tile([*ranges, Range(channel, start, len(text))]), thought)


def _harmony_channel(header: str) -> Channel:
    """Return the channel of the message with this header."""
    if recipient_of(header):
        return "action"
    return "reasoning" if _ANALYSIS.search(header) else "answer"


def _tile(ranges: Sequence[Range]) -> list[Range]:
    """Drop empty ranges and join neighbours of one channel."""
    tiles: list[Range] = []
    for channel, start, stop in ranges:
        if start == stop:
            continue
        if tiles and tiles[-1].channel == channel:
            start = tiles.pop().start
        tiles.append(Range(channel, start, stop))
    return tiles


def channel_at(ranges: Sequence[Range], position: int) -> Channel:
    """Return the channel of a character; past the end there are only stop tokens: markup."""
    index = bisect_right([r.start for r in ranges], position) - 1
    return ranges[index].channel if index >= 0 and position < ranges[index].stop else "markup"


@cache
def _search(format: Format) -> tuple[re.Pattern[str], int, frozenset[str]]:
    """Return what finds every tag that can matter, the longest one's length, and how they begin."""
    tags = _tags(format)
    found = re.compile("|".join(map(re.escape, tags)))
    return found, max(map(len, tags)), frozenset(tag[0] for tag in tags)


def _tags(format: Format) -> list[str]:
    """Return every tag that can matter; no tag is the start of another."""
    if format.name == "harmony":
        return list(_HARMONY)
    tags = (format.open, format.close, *TAGS, *TAGS.values(), *END_OF_TURN)
    return [tag for tag in dict.fromkeys(tags) if tag]
