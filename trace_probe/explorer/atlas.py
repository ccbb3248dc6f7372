"""The map of sentences as charts, one for each kind of point, and what a region holds."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trace_probe.explorer.charts import GREY
from trace_probe.explorer.rows import Row
from trace_probe.probing.sentence_map import SentenceMap
from trace_probe.visible import visible

NEAR = 0.75
"""A score is near the threshold above this share of the way up to it."""
CELLS, FEWEST, SMALLEST, NAMED, READ = 48, 10, 0.01, 12, 40
"""Groups: cells of the map a side, points and share of all that a group has at least, how many are
named, and how many sentences of each are read for its name."""
NUMBER = re.compile(r"\d+")
POINT_PX = {"circle": 5, "triangle": 9, "diamond": 11, "rect": 9, "emptyCircle": 5}
PANEL_PX, GAP_PX, TITLE_PX, TOP_PX = 300, 34, 22, 24
MOST_BEHIND = 3000
"""Points of all kinds that are drawn behind those of one."""
BEHIND = "#8A8F98"


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


@dataclass(frozen=True)
class Group:
    """Sentences that lie together on the map, named after what most of them say."""

    number: int
    text: str
    """The most usual sentence, in whatever numbers."""
    members: Sequence[Point]
    top: tuple[float, float]
    """Where its number stands."""

    def share(self, holds: Callable[[Point], bool]) -> float:
        """Return of which share of its sentences something holds."""
        return sum(map(holds, self.members)) / len(self.members)


def groups_of(
    found: SentenceMap, there: Sequence[Point], text_of: Callable[[Point], str]
) -> list[Group]:
    """Return the largest groups of the map, the largest first: points without a gap between them.

    A map that is all of one piece has one group, and so none worth naming.
    """
    if not there:
        return []
    from scipy.ndimage import label

    xy = found.xy[[point.at for point in there]]
    low, span = xy.min(axis=0), np.ptp(xy, axis=0)
    cells = np.minimum((CELLS * (xy - low) / np.where(span, span, 1)).astype(int), CELLS - 1)
    filled = np.zeros((CELLS, CELLS), dtype=bool)
    filled[tuple(cells.T)] = True
    connected, count = label(filled, np.ones((3, 3)))  # cells that touch, corners too
    of = connected[tuple(cells.T)]
    members = (np.flatnonzero(of == number).tolist() for number in range(1, count + 1))
    parts = sorted(members, key=len, reverse=True)
    large = [part for part in parts if len(part) >= max(FEWEST, SMALLEST * len(there))]
    if len(large) < 2:
        return []
    return [
        Group(
            number,
            _usual([text_of(there[i]) for i in part[:: -(-len(part) // READ)]]),
            [there[i] for i in part],
            (round(float(xy[part, 0].mean()), 3), round(float(xy[part, 1].max()), 3)),
        )
        for number, part in enumerate(large[:NAMED], 1)
    ]


def _usual(texts: Sequence[str]) -> str:
    """Return the sentence that is there most often, whatever numbers stand in it."""
    forms = Counter(NUMBER.sub("#", text) for text in texts)
    form = forms.most_common(1)[0][0]
    return next(text for text in texts if NUMBER.sub("#", text) == form)


RISK = {
    "no score": Look(GREY, "emptyCircle"),
    "calm": Look("#C2C7CF"),
    "near the threshold": Look("#757D89"),
    "over the threshold": Look("#D55E00", "triangle"),
}
LABEL = {
    "not labelled": Look(GREY, "emptyCircle"),
    "of a harmless trace": Look("#B7BCC5"),
    "of a trace that acts": Look("#56B4E9"),
    "says it": Look("#0072B2", "diamond"),
    "does it": Look("#8A5A83", "rect"),
}
CHANNEL = {"reasoning": Look("#56B4E9"), "answer": Look("#CC79A7", "rect")}
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#8A8F98")
"""Without the colour of what is over a threshold, which means that alone on every page."""
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


def height(groups: Mapping[str, object]) -> int:
    """Return how many pixels the charts of all kinds take."""
    return TOP_PX + (PANEL_PX + GAP_PX) * -(-len(groups) // columns(groups))


def columns(groups: Mapping[str, object]) -> int:
    """Return how many charts stand beside each other."""
    return min(len(groups), 2 if len(groups) <= 4 else 3)


def chart(
    groups: Mapping[str, Sequence[Point]],
    found: SentenceMap,
    colouring: str,
    named: Sequence[Group] = (),
) -> dict[str, Any]:
    """Return the ECharts option: a chart a kind, all other points pale behind it.

    A box and a lasso choose a region. The series of the kinds come first, in their order.
    """
    looks = COLOURINGS[colouring][1] or {
        name: Look(PALETTE[i % len(PALETTE)], SHAPES[i % len(SHAPES)])
        for i, name in enumerate(groups)
    }
    kinds = [_kind(i, name, looks[name], groups[name], found) for i, name in enumerate(groups)]
    behind = found.xy[:: -(-len(found) // MOST_BEHIND) or 1]
    pale = [_behind(i, behind) for i in range(len(groups))] if len(groups) > 1 else []
    numbers = [_numbers(i, named) for i in range(len(groups))] if named else []
    return {
        "animation": False,
        "title": [_title(i, name, groups) for i, name in enumerate(groups)],
        "grid": [_place(i, groups) for i in range(len(groups))],
        "toolbox": {"right": 8, "feature": {"brush": {"type": ["rect", "polygon", "clear"]}}},
        "brush": {
            "xAxisIndex": "all",
            "yAxisIndex": "all",
            "throttleType": "debounce",
            "throttleDelay": 250,
            "outOfBrush": {"colorAlpha": 0.12},
        },
        "xAxis": [_axis(i, found.xy[:, 0]) for i in range(len(groups))],
        "yAxis": [_axis(i, found.xy[:, 1]) for i in range(len(groups))],
        "series": [*kinds, *pale, *numbers],
    }


def _place(index: int, groups: Mapping[str, object]) -> dict[str, Any]:
    row, column = divmod(index, columns(groups))
    width = 100 / columns(groups)
    top = row * (PANEL_PX + GAP_PX) + TOP_PX + TITLE_PX
    left = f"{column * width + 0.5:.2f}%"
    return {"left": left, "width": f"{width - 1.5:.2f}%", "top": top, "height": PANEL_PX}


def _title(index: int, name: str, groups: Mapping[str, Sequence[Point]]) -> dict[str, Any]:
    place = _place(index, groups)
    share = len(groups[name]) / max(sum(map(len, groups.values())), 1)
    text = f"{visible(name)}, {100 * share:.1f} %"
    ink = {"fontSize": 13, "fontWeight": 600}
    return {"text": text, "left": place["left"], "top": place["top"] - TITLE_PX, "textStyle": ink}


def _axis(index: int, values: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Return an axis without numbers, which would mean nothing; all charts have the same ends."""
    bare = {"show": False}
    low, high = float(values.min()), float(values.max())
    margin = 0.05 * ((high - low) or 1.0)
    return {
        "gridIndex": index,
        "type": "value",
        "min": round(low - margin, 3),
        "max": round(high + margin, 3),
        **dict.fromkeys(("axisLabel", "axisTick", "axisLine"), bare),
        "splitLine": {"lineStyle": {"opacity": 0.2}},
    }


def _series(index: int, **more: object) -> dict[str, Any]:
    return {"type": "scatter", "xAxisIndex": index, "yAxisIndex": index, **more}


def _kind(
    index: int, name: str, look: Look, members: Sequence[Point], found: SentenceMap
) -> dict[str, Any]:
    return _series(
        index,
        id=name,
        name=name,
        z=3,
        symbol=look.shape,
        symbolSize=POINT_PX[look.shape],
        itemStyle={"color": look.colour, "opacity": 0.8},
        data=[[round(float(v), 3) for v in found.xy[point.at]] for point in members],
    )


def _behind(index: int, places: np.ndarray[Any, Any]) -> dict[str, Any]:
    return _series(
        index,
        z=1,
        silent=True,
        symbolSize=3,
        itemStyle={"color": BEHIND, "opacity": 0.18},
        data=[[round(float(v), 3) for v in place] for place in places],
    )


def _numbers(index: int, named: Sequence[Group]) -> dict[str, Any]:
    label = {"show": True, "formatter": "{b}", "position": "top", "fontSize": 11}
    plate = {"color": "#fff", "backgroundColor": "#44484f", "padding": [2, 5], "borderRadius": 3}
    return _series(
        index,
        z=4,
        silent=True,
        symbolSize=1,
        itemStyle={"color": BEHIND},
        label=label | plate,
        data=[{"name": str(one.number), "value": list(one.top)} for one in named],
    )


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
