"""A text under watch as a chart: bars are sentences, the line is the running risk."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from trace_probe.explorer.charts import ACCENT, DASHED, GREY, WARM, Spec, axis, either, layer, on
from trace_probe.explorer.rows import Row, running

HEIGHT = 190
BAR = {"type": "rect", "clip": True, "opacity": 0.75}
SHORTEST = 0.03
"""Height of the bar of a score at the lower end of the axis or below it, as a share of the axis."""
AXIS_PX = 46
"""Room for the numbers at the left, the same in every panel, so that panels line up."""


@dataclass(frozen=True)
class Frame:
    """What panels share: the tokens shown, the range of scores."""

    tokens: tuple[int, int]
    scores: tuple[float, float]


def panel(row: Row, frame: Frame) -> Spec:
    """Return the chart of a trace; a sentence without a score is drawn as a dashed box."""
    numbers = {"minExtent": AXIS_PX, **_ticks(row, frame)}
    x = axis("token", scale={"domain": list(frame.tokens), "nice": False}, axis={"format": "d"})
    y = axis(None, scale={"domain": list(frame.scores), "nice": False}, axis=numbers)
    sentences = _sentences(row)
    layers = [draw(sentences, frame, x, y) for draw in (_bars, _gaps, _line)]
    if row.threshold is not None:
        layers.append(layer(DASHED, [{"y": row.threshold}], y=on(y, "y")))
    if row.alarm_stop is not None:
        layers += _alarm(row.alarm_stop, x)
    return {"height": HEIGHT, "layer": layers}


def _ticks(row: Row, frame: Frame) -> Spec:
    """Return the numbers beside the axis: its ends and the threshold; ≤ where scores lie deeper."""
    low, high = frame.scores
    inner = [] if row.threshold is None else [row.threshold]
    deeper = row.scores is not None and bool((row.scores < low).any())
    first = "'≤ ' + " if deeper else ""
    label = f"datum.value === {low!r} ? {first}datum.label : datum.label"
    return {"values": [low, *inner, high], "labelExpr": label, "format": ".3~g"}


def _sentences(row: Row) -> list[dict[str, Any]]:
    scores = np.full(len(row.facts.stops), np.nan) if row.scores is None else row.scores
    best = running(scores, row.facts.reasoning)
    return [
        {
            "from": int(start),
            "to": int(stop),
            "risk": None if np.isnan(score) else float(score),
            "running": None if np.isnan(top) else float(top),
            "over": row.threshold is not None and bool(score >= row.threshold),
        }
        for start, stop, score, top in zip(
            row.facts.starts, row.facts.stops, scores, best, strict=True
        )
    ]


def _bars(sentences: list[Spec], frame: Frame, x: Spec, y: Spec) -> Spec:
    low, high = frame.scores
    least = low + SHORTEST * (high - low)
    scored = [one for one in sentences if one["risk"] is not None]
    return layer(
        {**BAR, "stroke": "white", "strokeWidth": 0.6},
        [{**one, "risk": max(one["risk"], least)} for one in scored],
        x=on(x, "from"),
        x2={"field": "to"},
        y=on(y, "risk"),
        y2={"datum": frame.scores[0]},
        color=either("over", WARM, GREY),
    )


def _gaps(sentences: list[Spec], frame: Frame, x: Spec, y: Spec) -> Spec:
    ends = dict(zip(("low", "high"), frame.scores, strict=True))
    box = {"type": "rect", "fillOpacity": 0, "stroke": GREY, "strokeDash": [2, 3]}
    missing = [{**one, **ends} for one in sentences if one["risk"] is None]
    places = {"x": on(x, "from"), "x2": {"field": "to"}, "y": on(y, "low"), "y2": {"field": "high"}}
    return layer({**box, "strokeOpacity": 0.6}, missing, **places)


def _line(sentences: list[Spec], frame: Frame, x: Spec, y: Spec) -> Spec:
    known = [one for one in sentences if one["running"] is not None]
    low = frame.scores[0]
    points = [
        {"x": one[end], "y": max(one["running"], low)} for one in known for end in ("from", "to")
    ]
    line = {"type": "line", "clip": True, "strokeWidth": 2, "color": ACCENT}
    order = {"field": "x", "type": "quantitative"}
    return layer(line, points, x=on(x, "x"), y=on(y, "y"), order=order)


def _alarm(token: int, x: Spec) -> list[Spec]:
    words = {"type": "text", "text": "▲ alarm", "align": "left", "dx": 4, "fontWeight": "bold"}
    rule = {"type": "rule", "strokeWidth": 1.5}
    at, top = [{"x": token}], {"value": 8}
    return [
        layer({**rule, "color": WARM}, at, x=on(x, "x")),
        layer({**words, "color": WARM}, at, x=on(x, "x"), y=top),
    ]
