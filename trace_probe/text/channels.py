"""Where reasoning ends and the answer begins, in a whole text or as it streams.

Behaviour follows the reasoning parsers of vLLM and SGLang where they agree: the first close
tag wins, an open tag in the prompt means that the model starts in its reasoning, and a tool
call ends a thought that was left open. Where they differ, a thought that was opened and
never closed is *truncated*: calling it an answer would let it be judged as one.
"""

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import groupby
from typing import Literal, NamedTuple

from trace_probe.text.sentences import sentence_spans
from trace_probe.trace import Channel, Span, Thought


@dataclass(frozen=True)
class Format:
    """How one family of models delimits its reasoning."""

    name: str
    open: str = ""
    close: str = ""
    untagged: Literal["absent", "truncated", "not_delimited"] = "absent"
    """What a completion without any tag is; ``truncated`` makes it reasoning, others answer."""
    implicit: tuple[str, ...] = ("<tool_call>", "<|tool_calls_section_begin|>")
    """What also ends a thought; unlike a close tag it belongs to the answer: it is an action."""
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


class Layout(NamedTuple):
    """The fields of a `Trace` that say what is where, in tokens."""

    spans: tuple[Span, ...]
    sentences: tuple[Span, ...]
    thought: Thought


class _Marker(NamedTuple):
    """A tag as it occurs in a text."""

    tag: str
    start: int
    stop: int


FORMATS: dict[str, Format] = {
    f.name: f
    for f in (
        Format("harmony", "<|channel|>analysis<|message|>", "<|end|>", "not_delimited", ()),
        Format("gemma4", "<|channel>thought\n", "<channel|>", implicit=("<|tool_call>",)),
        Format("magistral", "[THINK]", "[/THINK]", implicit=("[TOOL_CALLS]",)),
        Format("kimi", "◁think▷", "◁/think▷"),
        Format("seed-oss", "<seed:think>", "</seed:think>", implicit=("<seed:tool_call>",)),
        Format("apertus", "<|inner_prefix|>", "<|inner_suffix|>", implicit=("<|tools_prefix|>",)),
        Format(
            "cohere",
            "<|START_THINKING|>",
            "<|END_THINKING|>",
            implicit=("<|START_ACTION|>",),
            answer_open="<|START_RESPONSE|>",
        ),
        Format("exaone-deep", "<thought>", "</thought>"),
        Format("think", "<think>", "</think>"),
        Format("think-always", "<think>", "</think>", "truncated"),
        Format("think-olmo", "<think>", "</think>", "not_delimited"),
        Format("plain", untagged="not_delimited", implicit=()),
    )
}
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
_SIGNS = {
    "<|channel|>": "harmony",
    "<|channel>": "gemma4",
    "[THINK]": "magistral",
    "◁think▷": "kimi",
    "<seed:think>": "seed-oss",
    "<|inner_prefix|>": "apertus",
    "<|START_THINKING|>": "cohere",
    "</thought>": "exaone-deep",
    "<thought>": "exaone-deep",
    "</think>": "think",
    "<think>": "think",
}
_HINTS = {
    r"gpt-?oss": "harmony",
    r"instruct-2507|qwen3-coder": "plain",
    r"magistral-small-2506": "think",
    r"magistral|ministral.*reasoning": "magistral",
    r"kimi-(k1|vl)": "kimi",
    r"seed-?oss": "seed-oss",
    r"apertus": "apertus",
    r"gemma-?4": "gemma4",
    r"command-a-reasoning|command-r7b": "cohere",
    r"exaone-deep": "exaone-deep",
    r"olmo-?3.*(think|rl-zero)": "think-olmo",
    r"deepseek-r1|\br1-distill|qwq|thinking-2507|deepscaler|research-reasoning": "think-always",
    r"qwen3|glm-4\.[5-9]|glm-[5-9]|phi-4-.*reasoning|deepseek-v3|kimi-k2-thinking": "think",
    r"smollm3|exaone-4|nemotron|granite-3\.[2-9]|minimax-m": "think",
}


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


class ChannelReader:
    """Splits a completion as it comes; at every point it agrees with `split` of the text so far.

    The tail is provisional: half a tag counts as text until the other half is there, and
    what an unopened close tag ends is an answer until that tag shows that it was reasoning.
    """

    def __init__(self, format: Format, *, prefilled: bool) -> None:
        self._format = format
        self._pattern, self._longest = _pattern(format), _longest(format)
        self._heads = _heads(format)
        self._stirring = self._heads | {"\n"}
        self._prefilled = prefilled
        self.text = ""
        """All that was fed."""
        self._markers: list[_Marker] = []
        self._scanned = 0
        self._pending = False
        """Whether what was not scanned for good may begin a tag."""
        self._last: Channel | None = None
        """Of the last character, where text without a tag can only continue it."""

    def feed(self, piece: str) -> Channel:
        """Take the next piece; return the channel in which it starts, as far as is known."""
        start, before = len(self.text), len(self._markers)
        self.text += piece
        if self._last and not self._pending and self._heads.isdisjoint(piece):
            return self._last
        for match in self._pattern.finditer(self.text, self._scanned):
            self._markers.append(_Marker(match[0], *match.span()))
        found = self._markers[-1].stop if self._markers else 0
        self._scanned = max(found, len(self.text) - self._longest + 1, 0)
        self._pending = not self._heads.isdisjoint(self.text[self._scanned :])
        if self._last and len(self._markers) == before:
            return self._last
        ranges = self.split().ranges
        self._last = self._continued(ranges)
        return _channel_at(ranges, start)

    @property
    def quiet(self) -> bool:
        """Return whether text without a tag can only make the last channel longer."""
        return self._last is not None and not self._pending

    def goes_on(self, piece: str) -> bool:
        """Return whether a piece can only make the last channel longer, and holds no line break."""
        return self.quiet and bool(piece) and self._stirring.isdisjoint(piece)

    def lengthen(self, text: str) -> None:
        """Take pieces of which `goes_on` is true."""
        self.text += text

    def _continued(self, ranges: Sequence[Range]) -> Channel | None:
        """Return the last channel if more text without a tag can only make it longer."""
        last = ranges[-1].channel if ranges else None
        sure = last == "reasoning" or (last == "answer" and not self._format.answer_open)
        return last if sure else None

    def split(self) -> Split:
        """Return the channels of the text so far."""
        if self._format.name == "harmony":
            return _split_harmony(self.text, self._markers, self._prefilled)
        tail = _end_of_turn(self.text, self._markers)
        ranges, thought = _split_tags(
            self.text[:tail], self._markers, self._format, self._prefilled
        )
        return Split(_tile([*ranges, Range("markup", tail, len(self.text))]), thought)


def split(text: str, start: int, format: Format, *, prefilled: bool) -> Split:
    """Cut the completion ``text[start:]`` into channels; ranges are characters of `text`.

    `prefilled` says that the prompt already opened the thought (see `opens_reasoning`).
    """
    reader = ChannelReader(format, prefilled=prefilled)
    reader.feed(text[start:])
    ranges, thought = reader.split()
    return Split([Range(c, a + start, b + start) for c, a, b in ranges], thought)


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
    """Turn the channels of a completion into spans of tokens, and these into sentences."""
    channels = [_channel_at(cut.ranges, offset) for offset in offsets[prompt_stop:]]
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
    return Layout(tuple(spans), tuple(s for group in sentences for s in group), cut.thought)


def _split_tags(
    text: str, markers: Sequence[_Marker], format: Format, prefilled: bool
) -> tuple[list[Range], Thought]:
    """Cut a completion at its first open and first close tag."""
    opened, closed = _find_tags(text, markers, format, prefilled)
    if closed is None and opened is None and not prefilled:
        if format.untagged == "truncated":
            return [Range("reasoning", 0, len(text))], "truncated"
        return _answer(text, 0, format), format.untagged
    ranges, start = [], 0
    if opened is not None:
        before: Channel = "answer" if text[: opened.start].strip() else "markup"
        ranges = [Range(before, 0, opened.start), Range("markup", opened.start, opened.stop)]
        start = opened.stop
    if closed is None:
        return [*ranges, Range("reasoning", start, len(text))], "truncated"
    empty = not text[start : closed.start].strip()
    ranges += [
        Range("markup" if empty else "reasoning", start, closed.start),
        Range("markup", closed.start, closed.stop),
    ]
    return ranges + _answer(text, closed.stop, format), "empty" if empty else "closed"


def _find_tags(
    text: str, markers: Sequence[_Marker], format: Format, prefilled: bool
) -> tuple[_Marker | None, _Marker | None]:
    """Return the open tag and what closes the thought, as far as they are there.

    Where the prompt opened the thought, only an open tag that repeats it at once counts.
    """
    opened: _Marker | None = None
    for marker in markers:
        if marker.tag == format.close:
            return opened, marker
        if marker.tag in format.implicit and (prefilled or opened):
            return opened, marker._replace(stop=marker.start)
        if marker.tag == format.open and opened is None:
            repeats = not text[: marker.start].strip()
            opened = marker if repeats or not prefilled else None
    return opened, None


def _answer(text: str, start: int, format: Format) -> list[Range]:
    """Return the ranges of an answer, its own open tag apart."""
    blank = len(text) - start - len(text[start:].lstrip())
    tag = format.answer_open
    stop = start + blank + len(tag) if tag and text.startswith(tag, start + blank) else start
    return [Range("markup", start, stop), Range("answer", stop, len(text))]


def _split_harmony(text: str, markers: Sequence[_Marker], prefilled: bool) -> Split:
    """Cut a harmony completion: a header names the channel of each message.

    ``analysis`` is reasoning; ``final`` and ``commentary`` (tool calls) are answer.
    Source: the harmony response format, github.com/openai/harmony.
    """
    channel: Channel = "reasoning" if prefilled else "answer"
    thought: Thought = "truncated" if prefilled else "not_delimited"
    ranges, header, start = [], 0, 0
    for tag, begin, end in markers:
        empty = not text[start:begin].strip()
        if channel == "reasoning":
            thought = "empty" if empty and thought != "closed" else "closed"
        ranges += [Range("markup" if empty else channel, start, begin)]
        ranges += [Range("markup", begin, end)]
        channel, start = "markup", end
        if tag == "<|channel|>":
            header = end
        if tag == "<|message|>":
            channel = "reasoning" if text.startswith("analysis", header) else "answer"
            thought = "absent" if thought == "not_delimited" else thought
    thought = "truncated" if channel == "reasoning" else thought
    return Split(_tile([*ranges, Range(channel, start, len(text))]), thought)


def _end_of_turn(text: str, markers: Sequence[_Marker]) -> int:
    """Return where the stop tokens at the end of a completion begin."""
    tail = len(text)
    for tag, start, stop in reversed(markers):
        if tag not in END_OF_TURN or text[stop:tail].strip():
            break
        tail = start
    return tail


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


def _channel_at(ranges: Sequence[Range], position: int) -> Channel:
    """Return the channel of a character; past the end there are only stop tokens: markup."""
    index = bisect_right([r.start for r in ranges], position) - 1
    return ranges[index].channel if index >= 0 and position < ranges[index].stop else "markup"


@cache
def _pattern(format: Format) -> re.Pattern[str]:
    """Return a pattern that finds every tag that can matter."""
    return re.compile("|".join(map(re.escape, _tags(format))))


@cache
def _longest(format: Format) -> int:
    """Return the length of the longest tag that can matter."""
    return max(map(len, _tags(format)))


@cache
def _heads(format: Format) -> frozenset[str]:
    """Return the characters with which a tag that can matter begins."""
    return frozenset(tag[0] for tag in _tags(format))


def _tags(format: Format) -> list[str]:
    """Return every tag that can matter; no tag is the start of another."""
    if format.name == "harmony":
        return list(_HARMONY)
    tags = (format.open, format.close, *format.implicit, *END_OF_TURN)
    return [tag for tag in tags if tag]
