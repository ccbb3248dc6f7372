"""A completion that came in parts, reasoning and answer apart, or without its tokens.

Reasoning is put between think tags where a server or a file has taken them away, so that
such a trace reads like one that was recorded. Without tokens, words stand for them.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

from trace_probe.text.channels import FORMATS, Format, Range, Split, split
from trace_probe.text.layout import Layout, lay_out
from trace_probe.text.tool_calls import TAGS, meaning, parse_calls, without, write_call
from trace_probe.trace import Channel

OPEN, CLOSE = "<think>\n", "\n</think>\n\n"
GAP = "\n\n"
_HARMONY = re.compile(r"\s*(?:assistant)?\s*(?:to=[^\s<]+)?\s*<\|(?:start|channel|message)\|>")
"""How messages of gpt-oss begin."""
_WORD = re.compile(r"\S+")


def answers_in(text: str, format: Format) -> list[Range]:
    """Return answers and calls in a text from which reasoning was taken away.

    A server that takes reasoning apart leaves calls in the text unless it was told of tools. Tags
    of a thought stay text; `format` is that of the model.
    """
    if _HARMONY.match(text) and "<|message|>" in text:
        return split(text, 0, FORMATS["harmony"], prefilled=False).ranges
    format = FORMATS["plain"] if format.name == "harmony" else format  # its tags are only spoken of
    found = split(text, 0, replace(format, untagged="absent"), prefilled=False).ranges
    if any(part.channel == "reasoning" for part in found):
        found = split(text, 0, FORMATS["plain"], prefilled=False).ranges
    return found


def join_parts(
    reasoning: str, answer: str, format: Format, *, closed: bool, opened: bool = False
) -> tuple[str, Split]:
    """Return a completion put together from its parts; calls in the answer are actions.

    `format` is that of the model. `closed` says whether the reasoning came to its end, `opened`
    whether the prompt opened it. Where a server left the line breaks beside the tags in the parts,
    as vLLM does, none are added.
    """
    close = "\n\n" if answer else ""
    if closed:
        close = CLOSE[reasoning.endswith("\n") :]
        close = close.rstrip("\n") if answer.startswith("\n") else close
    thought = thought_in(reasoning, format) if not answer.strip() and not closed else []
    inner = thought or [Range("reasoning", 0, len(reasoning))]
    closed = closed or bool(thought)
    parts: list[tuple[Channel, str]] = [
        (channel, answer[start:stop]) for channel, start, stop in answers_in(answer, format)
    ]
    if reasoning.strip():
        start = "" if opened else OPEN.rstrip("\n") if reasoning[0] == "\n" else OPEN
        said = [(channel, reasoning[a:b]) for channel, a, b in inner]
        parts[:0] = [("markup", start), *said, ("markup", "" if thought else close)]
    text, ranges = put_together(parts)
    if not closed:
        return text, Split(ranges, "truncated")
    return text, Split(ranges, "closed" if reasoning.strip() else "empty")


def put_together(parts: Sequence[tuple[Channel, str]]) -> tuple[str, list[Range]]:
    """Return the text of parts one behind the other, and where each of them is."""
    ranges: list[Range] = []
    stop = 0
    for channel, part in parts:
        begin, stop = stop, stop + len(part)
        if part:
            ranges.append(Range(channel, begin, stop))
    return "".join(part for _, part in parts), ranges


def with_calls(
    text: str, cut: Split, calls: Sequence[tuple[str, str, str]], gap: str = ""
) -> tuple[str, Split]:
    """Return a completion with tool calls that came apart from it, each as a model writes it.

    A call is a name, arguments and an id. One that the completion holds already is no further one.
    """
    ranges = list(cut.ranges)
    held = [
        meaning(one.name, one.arguments)
        for channel, start, stop in ranges
        if channel == "action"
        for one in parse_calls(text, start, stop)
    ]
    for call in without(calls, held, lambda call: meaning(call[0], call[1])):
        if text and gap and not text.endswith(gap):
            ranges.append(Range("markup", len(text), len(text) + len(gap)))
            text += gap
        written = write_call(*call)
        ranges.append(Range("action", len(text), len(text) + len(written)))
        text += written
    ended = bool(calls) and cut.thought == "truncated"
    return text, Split(ranges, "closed" if ended else cut.thought)


def thought_in(text: str, format: Format) -> list[Range]:
    """Return thought and calls in a text that a server took for reasoning to its end."""
    own = format if format.open and format.name != "harmony" else FORMATS["think"]
    found = split(text, 0, own, prefilled=True).ranges
    kinds = {part.channel for part in found}
    return found if "action" in kinds and kinds <= {"reasoning", "action", "markup"} else []


def as_recorded(text: str, cut: Split) -> Split:
    """Return channels as `split` has them where the model wrote the whole itself.

    White space beside a tag belongs to the thought or the answer there. A probe reads the last
    token of a sentence, which is often a line break.
    """
    said = ("reasoning", "answer")
    ranges: list[Range] = []
    for place, (channel, start, stop) in enumerate(cut.ranges):
        if channel == "markup":
            part = text[start:stop]
            if ranges and ranges[-1].channel in said:
                start += len(part) - len(part.lstrip())
                ranges[-1] = ranges[-1]._replace(stop=start)
            following = cut.ranges[place + 1].channel if place + 1 < len(cut.ranges) else ""
            if following in said:
                stop = start + len(text[start:stop].rstrip())
        elif channel in said and ranges:
            start = ranges[-1].stop
        if start < stop:
            ranges.append(Range(channel, start, stop))
    return Split(ranges, cut.thought)


def after_prompt(prompt: str, cut: Split) -> Split:
    """Return the channels of prompt and completion from those of the completion."""
    start = len(prompt)
    ranges = [Range(channel, a + start, b + start) for channel, a, b in cut.ranges]
    return Split([Range("prompt", 0, start), *ranges], cut.thought)


def cut_words(text: str, cut: Split) -> tuple[tuple[int, ...], Layout]:
    """Cut a text into words that tile it, none across channels; return offsets and layout."""
    offsets: list[int] = []
    prompt_stop = 0
    for channel, start, stop in cut.ranges:
        words = [word.start() for word in _WORD.finditer(text, start, stop)]
        offsets += [start, *words[1:]]
        if channel == "prompt":
            prompt_stop = len(offsets)
    return tuple(offsets), lay_out(text, offsets, prompt_stop, cut)


def tags_left(text: str) -> tuple[str, ...]:
    """Return the tags of any family that an answer still holds: it may be no answer at all."""
    return tuple(dict.fromkeys(match[0] for match in _left().finditer(text)))


@cache
def _left() -> re.Pattern[str]:
    """Return what finds tags that no family leaves in an answer, half harmony headers too."""
    tags = [tag for f in FORMATS.values() for tag in (f.open.strip(), f.close, f.answer_open)]
    known = {*filter(None, (*tags, *TAGS, *TAGS.values())), "<|channel|>", "<|message|>"}
    words = "|".join(re.escape(tag) for tag in sorted(known, key=len, reverse=True))
    return re.compile(rf"{words}|assistantfinal|\Aanalysis(?=[A-Z])")
