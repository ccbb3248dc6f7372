"""The map of sentences as a chart: which point is of what kind, and what a region holds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trace_probe.explorer.charts import GREY
from trace_probe.explorer.rows import Row
from trace_probe.probing.sentence_map import SentenceMap

NEAR = 0.75
"""A score is near the threshold above this share of the way up to it."""
POINT_PX = {"circle": 5, "triangle": 9, "diamond": 11, "rect": 9, "emptyCircle": 5}
HEIGHT = 560


@dataclass(frozen=True)
class Look:
    """How a kind of point is drawn; shape and size tell kinds apart as well as colour."""

    colour: str
    shape: str = "circle"


@dataclass(frozen=True)
class Point:
    """One sentence on the map."""

    row: Row
    sentence: int
    at: int
    """Its place in the map."""

    @property
    def score(self) -> float | None:
        """Return its risk; None where there is none."""
        scores = self.row.scores
        return (
            None
            if scores is None or np.isnan(scores[self.sentence])
            else float(scores[self.sentence])
        )

    @property
    def span(self) -> tuple[int, int]:
        """Return its tokens."""
        facts = self.row.facts
        return int(facts.starts[self.sentence]), int(facts.stops[self.sentence])


def points(found: SentenceMap, rows: Sequence[Row]) -> list[Point]:
    """Return the points whose sentence is in the run; a map may be older than it."""
    known = {row.facts.id: row for row in rows}
    return [
        Point(known[trace_id], int(sentence), at)
        for at, (trace_id, sentence) in enumerate(zip(found.traces, found.sentences, strict=True))
        if trace_id in known and sentence < len(known[trace_id].facts.stops)
    ]


RISK = {
    "no score": Look(GREY, "emptyCircle"),
    "calm": Look("#C2C7CF"),
    "near the threshold": Look("#E69F00"),
    "over the threshold": Look("#D55E00", "triangle"),
}
LABEL = {
    "not labelled": Look(GREY, "emptyCircle"),
    "of a harmless trace": Look("#B7BCC5"),
    "of a trace that acts": Look("#56B4E9"),
    "says it": Look("#0072B2", "diamond"),
    "does it": Look("#8A5A83", "rect"),
}
CHANNEL = {"reasoning": Look("#56B4E9"), "answer": Look("#D55E00", "rect")}
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8A8F98")
SHAPES = ("circle", "triangle", "rect", "diamond")


def by_risk(point: Point) -> str:
    """Return the kind of a point by its risk."""
    score, limit = point.score, point.row.threshold
    if score is None:
        return "no score"
    if limit is None:
        return "calm"
    if score >= limit:
        return "over the threshold"
    known = point.row.scores
    low = 0.0 if known is None else min(float(np.nanmin(known)), 0.0)
    return "near the threshold" if score >= low + NEAR * (limit - low) else "calm"


def by_label(point: Point) -> str:
    """Return the kind of a point by what the label says of its sentence or its trace."""
    label = point.row.label
    if label is None or label.outcome is None:
        return "not labelled"
    start, stop = point.span
    if label.said is not None and start <= label.said.start < stop:
        return "says it"
    if label.outcome and label.acted is not None and start <= label.acted.start < stop:
        return "does it"
    return "of a trace that acts" if label.outcome else "of a harmless trace"


def by_channel(point: Point) -> str:
    """Return whether a point is reasoning or answer."""
    return "reasoning" if point.row.facts.reasoning[point.sentence] else "answer"


def by_category(point: Point) -> str:
    """Return the category of the task."""
    return point.row.facts.category or "none"


COLOURINGS: Mapping[str, tuple[Callable[[Point], str], Mapping[str, Look] | None]] = {
    "risk": (by_risk, RISK),
    "label": (by_label, LABEL),
    "channel": (by_channel, CHANNEL),
    "category": (by_category, None),
}


def grouped(found: Sequence[Point], colouring: str) -> dict[str, list[Point]]:
    """Return the points by kind, what matters most last, so that it is drawn on top."""
    kind_of, looks = COLOURINGS[colouring]
    kinds: dict[str, list[Point]] = {name: [] for name in looks or ()}
    for point in found:
        kinds.setdefault(kind_of(point), []).append(point)
    ordered = kinds.items() if looks else sorted(kinds.items())
    return {name: members for name, members in ordered if members}


def chart(
    groups: Mapping[str, Sequence[Point]], found: SentenceMap, colouring: str
) -> dict[str, Any]:
    """Return the ECharts option: a series a kind, a box and a lasso to choose a region."""
    looks = COLOURINGS[colouring][1] or {
        name: Look(PALETTE[i % len(PALETTE)], SHAPES[i % len(SHAPES)])
        for i, name in enumerate(groups)
    }
    bare = {"show": False}
    axis = {"type": "value", "scale": True, "axisLabel": bare, "axisTick": bare}
    axis |= {"axisLine": bare, "splitLine": {"lineStyle": {"opacity": 0.25}}}
    return {
        "animation": False,
        "legend": {"top": 0, "left": 0, "itemGap": 18},
        "grid": {"left": 4, "right": 4, "top": 40, "bottom": 4},
        "toolbox": {"right": 8, "feature": {"brush": {"type": ["rect", "polygon", "clear"]}}},
        "brush": {
            "xAxisIndex": "all",
            "yAxisIndex": "all",
            "throttleType": "debounce",
            "throttleDelay": 250,
            "outOfBrush": {"colorAlpha": 0.12},
        },
        "xAxis": axis,
        "yAxis": axis,
        "series": [
            {
                "type": "scatter",
                "id": name,
                "name": f"{name} ({len(members):,})",
                "symbol": looks[name].shape,
                "symbolSize": POINT_PX[looks[name].shape],
                "itemStyle": {"color": looks[name].colour, "opacity": 0.8},
                "data": [[round(float(v), 3) for v in found.xy[point.at]] for point in members],
            }
            for name, members in groups.items()
        ],
    }


def chosen(
    groups: Mapping[str, Sequence[Point]], selected: Sequence[Mapping[str, Any]]
) -> list[Point]:
    """Return the points of a selection, the riskiest first, those without a score last."""
    members = list(groups.values())
    found = [
        members[group["series_index"]][index]
        for group in selected
        for index in group["data_indices"]
        if group["series_index"] < len(members) and index < len(members[group["series_index"]])
    ]
    return sorted(found, key=lambda point: float("inf") if point.score is None else -point.score)
