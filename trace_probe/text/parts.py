"""A completion that came in parts, reasoning and answer apart, or without its tokens.

Reasoning is put between think tags where a server or a file has taken them away, so that
such a trace reads like one that was recorded. Without tokens, words stand for them.
"""

import re

from trace_probe.text.channels import Range, Split
from trace_probe.text.layout import Layout, lay_out
from trace_probe.trace import Channel

OPEN, CLOSE = "<think>\n", "\n</think>\n\n"
_WORD = re.compile(r"\S+")


def join_parts(
    reasoning: str, answer: str, *, closed: bool, opened: bool = False
) -> tuple[str, Split]:
    """Return a completion put together from its parts; tags inside the parts stay text.

    `closed` says whether the reasoning came to its end, `opened` whether the prompt opened it.
    """
    close = CLOSE if closed else "\n\n" if answer else ""
    parts: list[tuple[Channel, str]] = [("answer", answer)]
    if reasoning.strip():
        start = "" if opened else OPEN
        parts[:0] = [("markup", start), ("reasoning", reasoning), ("markup", close)]
    ranges: list[Range] = []
    stop = 0
    for channel, part in parts:
        begin, stop = stop, stop + len(part)
        if part:
            ranges.append(Range(channel, begin, stop))
    text = "".join(part for _, part in parts)
    if not closed:
        return text, Split(ranges, "truncated")
    return text, Split(ranges, "closed" if reasoning.strip() else "empty")


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
