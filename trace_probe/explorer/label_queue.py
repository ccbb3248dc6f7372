"""Which sentences a person is asked about, and how far people and detectors agree."""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal

import numpy as np

from trace_probe.explorer.figures import Figure
from trace_probe.explorer.rows import Row
from trace_probe.labelling.agreement import cohen_interval
from trace_probe.labelling.annotations import Annotation

QueueName = Literal["near threshold", "disagreement", "random"]
QUEUES: dict[QueueName, str] = {
    "random": "A random sample of all sentences, the same for the same name: an unbiased check.",
    "near threshold": "Reasoning sentences whose risk lies nearest to the threshold.",
    "disagreement": "Sentences where the detector and the label contradict each other.",
}
LENGTH = 200

Place = tuple[str, int]
Verdicts = Mapping[tuple[str, int | None], Annotation]


def queue(name: QueueName, rows: Sequence[Row], done: Verdicts, seed: str = "") -> list[Place]:
    """Return trace and sentence of what to ask next, without what was judged."""
    found = PLACES[name](rows, seed)
    return [place for place in found if place not in done][:LENGTH]


def near_threshold(rows: Sequence[Row], _: str) -> list[Place]:
    """Return reasoning sentences, those nearest to the threshold first."""
    found: list[tuple[float, Place]] = []
    for row in rows:
        if row.scores is None or row.threshold is None:
            continue
        gaps = np.where(row.facts.reasoning, np.abs(row.scores - row.threshold), np.nan)
        found += [(float(gaps[i]), (row.facts.id, int(i))) for i in np.flatnonzero(~np.isnan(gaps))]
    return [place for _, place in sorted(found)]


def disagreement(rows: Sequence[Row], _: str) -> list[Place]:
    """Return first alarms of harmless traces, and marks of traces whose detector kept silent."""
    return [place for row in rows for place in _contradicted(row)]


def _contradicted(row: Row) -> Iterator[Place]:
    label = row.label
    if row.verdict == "false alarm" and row.alarm is not None:
        yield row.facts.id, row.alarm
    if row.verdict in ("missed", "late") and label is not None:
        for mark in (label.said, label.acted):
            if mark is not None:
                inside = int(np.searchsorted(row.facts.stops, mark.start, side="right"))
                if inside < len(row.facts.stops):
                    yield row.facts.id, inside


def drawn(rows: Sequence[Row], seed: str) -> list[Place]:
    """Return all sentences in an order that a seed decides."""
    places = [(row.facts.id, index) for row in rows for index in range(len(row.facts.stops))]
    random.Random(seed).shuffle(places)
    return places


PLACES: dict[QueueName, Callable[[Sequence[Row], str], list[Place]]] = {
    "near threshold": near_threshold,
    "disagreement": disagreement,
    "random": drawn,
}


def of_label(row: Row, sentence: int) -> bool | None:
    """Return whether a label says that a sentence says it or does it; None if it cannot tell."""
    label = row.label
    if label is None or label.outcome is None:
        return None
    start, stop = int(row.facts.starts[sentence]), int(row.facts.stops[sentence])
    marks = [label.said, label.acted if label.outcome else None]
    return any(mark is not None and start <= mark.start < stop for mark in marks)


def between(first: Verdicts, second: Verdicts, rows: Iterable[Row]) -> Figure:
    """Return Cohen's kappa of two people on the sentences both gave a verdict on."""
    tasks = {row.facts.id: row.facts.task for row in rows}
    both = [place for place in first if place in second and place[1] is not None]
    held = [
        (_instrumental(first[place]), _instrumental(second[place]), tasks[place[0]])
        for place in both
        if place[0] in tasks
    ]
    return _kappa(held)


def with_labels(verdicts: Verdicts, rows: Iterable[Row]) -> Figure:
    """Return Cohen's kappa of a person and the labels, on sentences."""
    known = {row.facts.id: row for row in rows}
    held = []
    for (trace_id, sentence), one in verdicts.items():
        row = known.get(trace_id)
        if row is not None and sentence is not None and sentence < len(row.facts.stops):
            held.append((_instrumental(one), of_label(row, sentence), row.facts.task))
    return _kappa(held)


def _instrumental(one: Annotation) -> bool | None:
    """Return whether a person sees it said or done; None if unsure."""
    return None if one.verdict == "unsure" else one.verdict in ("says", "does")


def _kappa(held: Iterable[tuple[bool | None, bool | None, str]]) -> Figure:
    known = [(a, b, task) for a, b, task in held if a is not None and b is not None]
    if not known:
        return Figure(None, None, None, 0)
    verdicts = np.array([[a, b] for a, b, _ in known], dtype=np.int8)
    task = np.unique([task for *_, task in known], return_inverse=True)[1]
    return Figure.of(cohen_interval(verdicts, task), len(known))
