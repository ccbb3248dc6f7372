"""What the reader component is given: a trace, its scores and its marks as one plain value.

The same input always gives the same bytes, so that nothing is sent twice to the browser.
Texts have been made visible; a missing score is None, never 0.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from trace_probe.explorer.curves import Beside, over, rounded
from trace_probe.explorer.facts import facts
from trace_probe.explorer.rows import Row, Split
from trace_probe.explorer.turns import sentence_before, turns, violating_call
from trace_probe.explorer.words import ShownDetector, headline
from trace_probe.trace import Span, Trace
from trace_probe.visible import visible

CALM_SHARE = 0.75
"""A sentence is calm below this share of the way from the bottom of the axis to the threshold."""
SHORTEST_FOLD = 8
CONTEXT = 2
"""Sentences that stay open beside one that matters."""
NOTHING = Beside()


def payload(
    trace: Trace,
    row: Row,
    detector: ShownDetector | None,
    *,
    focus: int | None = None,
    beside: Beside = NOTHING,
) -> dict[str, Any]:
    """Return the JSON-able content of the reader; it opens at `focus`, else at the alarm.

    What each part is, is told in ``trace_probe.explorer.reader``.
    """
    marks = find_marks(trace, row)
    return {
        "trace": trace.id,
        "title": title(row),
        "headline": visible(headline(row, detector)),
        "facts": facts(trace, row, detector, marks, absent(row)),
        "begin": trace.prompt_stop,
        "end": len(trace),
        "axis": [trace.prompt_stop, len(trace)],
        "prompt": visible(trace.channel_text("prompt")),
        "sentences": [sentence(trace, span) for span in trace.sentences],
        "scores": [None] * len(trace.sentences) if row.scores is None else rounded(row.scores),
        "range": [0.0, 1.0] if detector is None else [detector.low, detector.high],
        "threshold": row.threshold,
        "over": [] if row.scores is None else over(row.scores, row.threshold),
        "marks": marks,
        "folds": folds(row, detector, marks),
        "focus": opening(row, marks, focus),
        "note": "" if trace.thought == "closed" else f"reasoning: {trace.thought}",
        **turns(trace, row.label),
        **beside.content(),
    }


def sentence(trace: Trace, span: Span) -> list[Any]:
    """Return a sentence and the lengths of its tokens, all as they are shown."""
    text = trace.text_of(span)
    if text and text == visible(text):
        cuts = [*trace.offsets[span.start : span.stop], trace.offsets[span.start] + len(text)]
        return [span.start, span.stop, span.channel, text, [b - a for a, b in pairwise(cuts)]]
    tokens = [
        visible(trace.text_of(Span(token, token + 1))) for token in range(span.start, span.stop)
    ]
    return [span.start, span.stop, span.channel, "".join(tokens), list(map(len, tokens))]


LEARNED: Mapping[Split, str] = {
    "trained on": "training task",
    "calibrated on": "calibration task",
}
"""Tasks on which an alarm proves little."""


def title(row: Row) -> str:
    """Return what the trace is, in one line."""
    facts = row.facts
    parts = [facts.task, facts.model, f"condition {facts.condition}", f"sample {facts.sample}"]
    parts += [facts.role] if facts.role != "test" else []
    learned = f"{LEARNED[row.split]}: no evidence" if row.split in LEARNED else f"task {row.split}"
    parts += [] if row.split == "unknown" else [learned]
    return visible(" · ".join([*parts, row.outcome]))


def find_marks(trace: Trace, row: Row) -> dict[str, dict[str, Any]]:
    """Return alarm, said and action: token, sentence (None if outside all), lead of the alarm.

    An action that is a tool call has its index and the sentence before it as well.
    """
    places = {
        "alarm": (row.alarm_token, None),
        "said": (row.said_token, row.lead_said),
        "action": (row.act_token, row.lead_action),
    }
    marks: dict[str, dict[str, Any]] = {
        name: {"token": token, "sentence": trace.sentence_at(max(token, 0)), "lead": lead}
        for name, (token, lead) in places.items()
        if token is not None
    }
    call = violating_call(trace, row.label)
    if call is not None and row.act_token is not None:
        marks["action"] |= {"call": call, "near": sentence_before(trace, row.act_token)}
    return marks


def place_of(mark: Mapping[str, Any] | None) -> int | None:
    """Return the sentence at which a mark is found, of a tool call the one before it."""
    if mark is None:
        return None
    found = mark["sentence"] if mark["sentence"] is not None else mark.get("near")
    return None if found is None else int(found)


def absent(row: Row) -> dict[str, str]:
    """Return what to say in the place of a mark that is not there."""
    label = row.label
    alarm = "no alarm" if row.threshold is not None else "no threshold"
    alarm = "not scored" if row.scores is None else alarm
    if label is None:
        return {"alarm": alarm, "said": "not labelled", "action": "not labelled"}
    located = label.said is not None or label.acted is not None
    harmless = "nothing instrumental done"
    action = harmless if label.outcome is False else "place of the action not labelled"
    unheard = label.facts.get("said") == "unknown" or not (located or label.outcome is False)
    said = "statement not labelled" if unheard else "never said"
    return {"alarm": alarm, "said": said, "action": action}


def opening(row: Row, marks: dict[str, dict[str, Any]], focus: int | None) -> int | None:
    """Return the sentence to open at: the one asked for, the first mark, the peak, or the first."""
    if focus is not None and focus < len(row.facts.stops):
        return focus
    for mark in ("alarm", "said", "action"):
        where = place_of(marks.get(mark))
        if where is not None:
            return where
    if row.scores is not None and row.peak is not None:
        return int(np.nanargmax(np.where(row.facts.reasoning, row.scores, np.nan)))
    return 0 if len(row.facts.stops) else None


def folds(
    row: Row, detector: ShownDetector | None, marks: dict[str, dict[str, Any]]
) -> list[list[float]]:
    """Return runs of calm sentences worth folding away: first, last + 1, highest score."""
    if detector is None or row.threshold is None or row.scores is None:
        return []
    limit = detector.low + CALM_SHARE * (row.threshold - detector.low)
    open_ = ~(row.scores < limit)
    for mark in marks.values():
        where = place_of(mark)
        if where is not None:
            open_[where] = True
    wide = np.convolve(open_, np.ones(2 * CONTEXT + 1), mode="full")[CONTEXT : len(open_) + CONTEXT]
    found = []
    for start, stop in _runs(wide == 0):
        if stop - start >= SHORTEST_FOLD:
            found.append([start, stop, round(float(row.scores[start:stop].max()), 4)])
    return found


def _runs(flags: np.ndarray[Any, np.dtype[np.bool_]]) -> list[tuple[int, int]]:
    """Return the half-open runs of true flags."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], flags.astype(np.int8), [0]))))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
