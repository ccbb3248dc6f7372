"""Words in what models wrote: which traces hold them, in what company, and what is nearly an id."""

from bisect import bisect_right
from collections.abc import Collection
from difflib import get_close_matches

from trace_probe.trace import Trace
from trace_probe.visible import visible

BEFORE, AFTER = 36, 84
"""Characters of an excerpt on either side of where the words begin."""
CUT = "\u2026"
NEAR = 3
"""Ids that are proposed in the place of an unknown one."""


def written(trace: Trace) -> str:
    """Return what the model wrote, without what it was asked."""
    return trace.text[begin_of(trace) :]


def begin_of(trace: Trace) -> int:
    """Return the character at which the model's own text begins."""
    return trace.offsets[trace.prompt_stop] if trace.prompt_stop < len(trace) else len(trace.text)


def normal(words: str) -> str:
    """Return words as they are looked for: case and outer blanks do not count."""
    return words.strip().lower()


def excerpt(text: str, words: str) -> str:
    """Return the first place of some words on one line, with what stands around it, or nothing."""
    at = text.lower().find(normal(words))
    if at < 0:
        return ""
    first, last = max(at - BEFORE, 0), at + AFTER
    line = " ".join(visible(text[first:last]).split())
    return f"{CUT if first else ''}{line}{CUT if last < len(text) else ''}"


def sentence_with(trace: Trace, words: str) -> int | None:
    """Return the sentence in which some words first begin; None where the model wrote none."""
    at = written(trace).lower().find(normal(words))
    if at < 0 or not normal(words):
        return None
    return trace.sentence_at(bisect_right(trace.offsets, begin_of(trace) + at) - 1)


def near(wanted: str, ids: Collection[str]) -> list[str]:
    """Return the ids that begin like an unknown one, else those spelled most like it."""
    begun = [name for name in ids if wanted and name.startswith(wanted)]
    return begun[:NEAR] or get_close_matches(wanted, ids, n=NEAR)
