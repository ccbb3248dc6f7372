"""The sentences of a trace as a table: the same numbers as the curve, to read and to export."""

import numpy as np

from trace_probe.explorer.payload import find_marks
from trace_probe.explorer.rows import Row, running
from trace_probe.trace import Trace
from trace_probe.visible import visible


def sentence_table(trace: Trace, row: Row) -> dict[str, list[object]]:
    """Return the columns of the table; a sentence without a score has None."""
    missing = np.full(len(trace.sentences), np.nan)
    scores = missing if row.scores is None else row.scores
    marks = find_marks(trace, row)
    names = [
        ", ".join(name for name, mark in marks.items() if mark["sentence"] == index)
        for index in range(len(trace.sentences))
    ]
    return {
        "sentence": list(range(1, len(trace.sentences) + 1)),
        "first token": [span.start for span in trace.sentences],
        "last token": [span.stop - 1 for span in trace.sentences],
        "channel": [span.channel for span in trace.sentences],
        "risk": [_number(score) for score in scores],
        "running": [_number(score) for score in running(scores, row.facts.reasoning)],
        "mark": list(names),
        "text": [visible(trace.text_of(span)) for span in trace.sentences],
    }


def _number(score: float) -> float | None:
    return None if np.isnan(score) else float(score)
