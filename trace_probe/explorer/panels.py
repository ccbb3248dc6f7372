"""One scored trace as a chart: bars are sentences, the line is the running risk, marks on top."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from trace_probe.explorer.charts import DASHES, GREY, WARM
from trace_probe.explorer.rows import Row, running

GLYPHS = {"alarm": "▲", "said": "◆", "action": "■"}
INK = {"alarm": "#D55E00", "said": "#0072B2", "action": "#8A5A83"}
"""Colours that hold on a light and on a dark ground; the glyphs tell the marks apart as well."""
HEIGHT = 190
BAR = {"type": "rect", "clip": True, "opacity": 0.75}
AXIS_PX = 46
"""Room for the numbers at the left, the same in every panel, so that panels line up."""


@dataclass(frozen=True)
class Frame:
    """What panels share: the tokens shown, the range of scores."""

    tokens: tuple[int, int]
    scores: tuple[float, float]
    title: str
    """What the x axis counts."""


def events(row: Row) -> dict[str, int]:
    """Return the tokens at which alarm, words and action are known."""
    found = {} if row.alarm_stop is None else {"alarm": row.alarm_stop}
    label = row.label
    if label is not None and label.said is not None:
        found["said"] = label.said.stop
    if label is not None and label.acted is not None and label.outcome is not False:
        found["action"] = label.acted.start
    return found


def panel(row: Row, frame: Frame) -> dict[str, Any]:
    """Return the chart of a trace; a sentence without a score is drawn as a dashed box."""
    low, high = frame.scores
    x = {
        "type": "quantitative",
        "title": frame.title,
        "scale": {"domain": list(frame.tokens), "nice": False},
        "axis": {"format": "d"},
    }
    y = {
        "type": "quantitative",
        "title": None,
        "scale": {"domain": [low, high], "nice": False},
        "axis": {"minExtent": AXIS_PX, "tickCount": 3},
    }
    layers = [_bars(row, frame, x, y), _gaps(row, frame, x, y), _line(row, x, y)]
    if row.threshold is not None:
        layers.append(
            {
                "data": {"values": [{"y": row.threshold}]},
                "mark": {"type": "rule", "strokeDash": DASHES, "color": GREY, "aria": False},
                "encoding": {"y": {"field": "y", **y}},
            }
        )
    return {"height": HEIGHT, "layer": [*layers, *_marks(row, x)]}


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


def _bars(row: Row, frame: Frame, x: dict[str, Any], y: dict[str, Any]) -> dict[str, Any]:
    known = [one for one in _sentences(row) if one["risk"] is not None]
    over = {"condition": {"test": "datum.over", "value": WARM}, "value": GREY}
    return {
        "data": {"values": known},
        "mark": {**BAR, "stroke": "white", "strokeWidth": 0.6},
        "encoding": {
            "x": {"field": "from", **x},
            "x2": {"field": "to"},
            "y": {"field": "risk", **y},
            "y2": {"datum": frame.scores[0]},
            "color": over,
        },
    }


def _gaps(row: Row, frame: Frame, x: dict[str, Any], y: dict[str, Any]) -> dict[str, Any]:
    low, high = frame.scores
    missing = [one for one in _sentences(row) if one["risk"] is None]
    return {
        "data": {"values": [{**one, "low": low, "high": high} for one in missing]},
        "mark": {
            "type": "rect",
            "fillOpacity": 0,
            "stroke": GREY,
            "strokeDash": [2, 3],
            "strokeOpacity": 0.6,
        },
        "encoding": {
            "x": {"field": "from", **x},
            "x2": {"field": "to"},
            "y": {"field": "low", **y},
            "y2": {"field": "high"},
        },
    }


def _line(row: Row, x: dict[str, Any], y: dict[str, Any]) -> dict[str, Any]:
    known = [one for one in _sentences(row) if one["running"] is not None]
    points = [{"x": one[end], "y": one["running"]} for one in known for end in ("from", "to")]
    return {
        "data": {"values": points},
        "mark": {"type": "line", "clip": True, "strokeWidth": 2, "color": "#0072B2"},
        "encoding": {
            "x": {"field": "x", **x},
            "y": {"field": "y", **y},
            "order": {"field": "x", "type": "quantitative"},
        },
    }


def _marks(row: Row, x: dict[str, Any]) -> list[dict[str, Any]]:
    layers: list[dict[str, Any]] = []
    for lane, (name, token) in enumerate(events(row).items()):
        at = {"x": {"field": "x", **x}}
        data = {"values": [{"x": token}]}
        layers += [
            {
                "data": data,
                "mark": {"type": "rule", "color": INK[name], "strokeWidth": 1.5},
                "encoding": at,
            },
            {
                "data": data,
                "mark": {
                    "type": "text",
                    "text": f"{GLYPHS[name]} {name}",
                    "color": INK[name],
                    "align": "left",
                    "dx": 4,
                    "fontWeight": "bold",
                },
                "encoding": {**at, "y": {"value": 8 + 13 * lane}},
            },
        ]
    return layers
