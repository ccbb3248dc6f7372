"""Charts as Vega-Lite specifications: plain values, drawn by Streamlit."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from trace_probe.explorer.figures import Figure

ACCENT, GREY, WARM = "#0072B2", "#8A8F98", "#D55E00"
MOST_BINS = 20
CHANCE = 0.5
ROW_PX = 28
DASHES = [4, 4]


def intervals(
    figures: Mapping[str, Figure], title: str, chance: float | None = None
) -> dict[str, Any]:
    """Return dots with their intervals, one line a detector; the first is set off."""
    first = next(iter(figures), "")
    values = [
        {"name": name, "x": f.estimate, "lower": f.lower, "upper": f.upper, "first": name == first}
        for name, f in figures.items()
        if f.known
    ]
    names = {"labelLimit": 320, "labelOverlap": False, "labelFlush": False}
    y = {"field": "name", "type": "nominal", "sort": None, "title": None, "axis": names}
    emphasised = {"condition": {"test": "datum.first", "value": ACCENT}, "value": GREY}
    shared = {"y": y, "color": emphasised}
    # From the right end on, a long title has the room of the labels as well.
    right = {"titleAnchor": "end"}
    axis = {"type": "quantitative", "scale": {"domain": [0, 1]}, "title": title, "axis": right}
    dashes = [] if chance is None else [_rule("x", chance, axis)]
    return {
        "height": 76 + ROW_PX * len(values),
        "data": {"values": values},
        "layer": [
            *dashes,
            {
                "mark": {"type": "rule", "strokeWidth": 3},
                "encoding": {"x": {"field": "lower", **axis}, "x2": {"field": "upper"}, **shared},
            },
            {
                "mark": {"type": "point", "filled": True, "size": 110, "opacity": 1},
                "encoding": {
                    "x": {"field": "x", **axis},
                    "shape": {"condition": {"test": "datum.first", "value": "diamond"}},
                    **shared,
                },
            },
        ],
    }


def forest(
    figures: Mapping[str, Figure], title: str, *, around_zero: bool = False
) -> dict[str, Any]:
    """Return shares, or differences of shares, as dots with their intervals, all alike."""
    spec = intervals(figures, title, 0.0 if around_zero else None)
    for layer in spec["layer"]:
        layer["encoding"]["x"]["scale"] = {"domain": [-1, 1] if around_zero else [0, 1]}
        if "color" in layer["encoding"]:
            layer["encoding"]["color"] = {"value": ACCENT}
            layer["encoding"].pop("shape", None)
    return spec


def _rule(channel: str, at: float, axis: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "mark": {"type": "rule", "strokeDash": DASHES, "color": GREY, "aria": False},
        "encoding": {channel: {"datum": at, **axis}},
    }


def lead_histogram(leads: Sequence[int]) -> dict[str, Any]:
    """Return how many alarms came how many tokens early; those up to 0 came too late."""
    width = max(-(-(max(leads) - min(leads)) // MOST_BINS), 1)
    # A bin ends with the number on its right, so that 0, no warning, is not among the early ones.
    counts = Counter((lead - 1) // width for lead in leads)
    values = [
        {"from": bin * width, "to": (bin + 1) * width, "traces": count, "early": bin >= 0}
        for bin, count in sorted(counts.items())
    ]
    x = {
        "type": "quantitative",
        "title": "tokens of warning",
        "axis": {"format": "d", "tickMinStep": 1},
        "scale": {"domain": [min(values[0]["from"], 0), max(values[-1]["to"], 1)]},
    }
    whole = {"tickMinStep": 1, "format": "d"}
    early = {"condition": {"test": "datum.early", "value": ACCENT}, "value": GREY}
    return {
        "height": 200,
        "data": {"values": values},
        "layer": [
            {
                "mark": {"type": "rect"},
                "encoding": {
                    "x": {"field": "from", **x},
                    "x2": {"field": "to"},
                    "y": {
                        "field": "traces",
                        "type": "quantitative",
                        "title": "traces",
                        "axis": whole,
                        "scale": {"zero": True},
                    },
                    "y2": {"datum": 0},
                    "color": early,
                },
            },
            _rule("x", 0, x),
        ],
    }


def shares(points: Mapping[str, Figure], x_title: str, y_title: str) -> dict[str, Any]:
    """Return shares with their intervals at steps of one thing, in the order given."""
    values = [
        {"x": name, "y": f.estimate, "lower": f.lower, "upper": f.upper}
        for name, f in points.items()
        if f.known
    ]
    x = {
        "field": "x",
        "type": "ordinal",
        "sort": None,
        "title": x_title,
        "axis": {"labelAngle": 0},
    }
    y = {"type": "quantitative", "scale": {"domain": [0, 1]}, "title": y_title}
    y["axis"] = {"format": "%"}
    return {
        "height": 240,
        "data": {"values": values},
        "encoding": {"x": x},
        "layer": [
            {
                "mark": {"type": "rule", "strokeWidth": 3, "color": ACCENT, "opacity": 0.5},
                "encoding": {"y": {"field": "lower", **y}, "y2": {"field": "upper"}},
            },
            {
                "mark": {"type": "line", "color": ACCENT, "point": {"filled": True, "size": 70}},
                "encoding": {"y": {"field": "y", **y}},
            },
        ],
    }


def trade_off(
    false_alarms: Sequence[float], caught: Sequence[float], here: tuple[float, float] | None
) -> dict[str, Any]:
    """Return what is caught against false alarms; a diamond marks the threshold shown."""
    x = {
        "type": "quantitative",
        "title": "benign traces with a false alarm",
        "axis": {"format": "%"},
        "scale": {"domain": [0, 1]},
    }
    y = {**x, "title": "caught before the action"}
    line = [{"x": a, "y": b} for a, b in zip(false_alarms, caught, strict=True)]
    layers: list[dict[str, Any]] = [
        {
            "data": {"values": [{"x": 0, "y": 0}, {"x": 1, "y": 1}]},
            "mark": {"type": "line", "strokeDash": DASHES, "color": GREY},
            "encoding": {"x": {"field": "x", **x}, "y": {"field": "y", **y}},
        },
        {
            "data": {"values": [{"x": 0.0, "y": 0.0}, *line]},
            "mark": {"type": "line", "interpolate": "step-after", "color": ACCENT},
            "encoding": {"x": {"field": "x", **x}, "y": {"field": "y", **y}},
        },
    ]
    if here is not None:
        layers.append(
            {
                "data": {"values": [{"x": here[1], "y": here[0]}]},
                "mark": {
                    "type": "point",
                    "shape": "diamond",
                    "filled": True,
                    "size": 220,
                    "color": WARM,
                    "opacity": 1,
                },
                "encoding": {"x": {"field": "x", **x}, "y": {"field": "y", **y}},
            }
        )
    return {"height": 320, "layer": layers}


def reliability(bins: Sequence[tuple[float, Figure]]) -> dict[str, Any]:
    """Return what was foretold against what was done; the dashes are perfect calibration."""
    scale = {"domain": [0, 1]}
    x = {
        "type": "quantitative",
        "title": "risk, as a probability",
        "scale": scale,
        "axis": {"format": "%"},
    }
    y = {**x, "title": "traces that acted instrumentally"}
    values = [{"x": risk, "y": f.estimate, "lower": f.lower, "upper": f.upper} for risk, f in bins]
    return {
        "height": 320,
        "layer": [
            {
                "data": {"values": [{"x": 0, "y": 0}, {"x": 1, "y": 1}]},
                "mark": {"type": "line", "strokeDash": DASHES, "color": GREY},
                "encoding": {"x": {"field": "x", **x}, "y": {"field": "y", **y}},
            },
            {
                "data": {"values": values},
                "mark": {"type": "rule", "strokeWidth": 3, "color": ACCENT, "opacity": 0.5},
                "encoding": {
                    "x": {"field": "x", **x},
                    "y": {"field": "lower", **y},
                    "y2": {"field": "upper"},
                },
            },
            {
                "data": {"values": values},
                "mark": {"type": "point", "filled": True, "size": 80, "color": ACCENT},
                "encoding": {"x": {"field": "x", **x}, "y": {"field": "y", **y}},
            },
        ],
    }


def approach(curves: Mapping[str, Sequence[tuple[int, Figure]]]) -> dict[str, Any]:
    """Return mean scores by sentences from the one that says it, a line and a band a group."""
    values = _points(curves)
    names = list(curves)
    colour = {
        "field": "group",
        "type": "nominal",
        "scale": {"domain": names, "range": [WARM, GREY][: len(names)]},
        "legend": {"orient": "top", "title": None},
    }
    dash = {
        "field": "group",
        "type": "nominal",
        "scale": {"domain": names, "range": [[1, 0], DASHES][: len(names)]},
        "legend": None,
    }
    x = {
        "field": "offset",
        "type": "quantitative",
        "title": "sentences from the one that says it",
        "axis": {"format": "+d", "tickMinStep": 1},
    }
    y = {"type": "quantitative", "title": "mean score"}
    return {
        "height": 260,
        "data": {"values": values},
        "encoding": {"x": x, "color": colour},
        "layer": [
            {
                "mark": {"type": "area", "opacity": 0.18},
                "encoding": {"y": {"field": "lower", **y}, "y2": {"field": "upper"}},
            },
            {
                "mark": {"type": "line", "point": {"filled": True, "size": 50}},
                "encoding": {"y": {"field": "y", **y}, "strokeDash": dash},
            },
            {
                "mark": {"type": "rule", "strokeDash": DASHES, "color": GREY, "aria": False},
                "encoding": {"x": {"datum": 0, "type": "quantitative"}, "color": {"value": GREY}},
            },
        ],
    }


def _points(curves: Mapping[str, Sequence[tuple[int, Figure]]]) -> list[dict[str, Any]]:
    return [
        {"group": name, "offset": offset, "y": f.estimate, "lower": f.lower, "upper": f.upper}
        for name, points in curves.items()
        for offset, f in points
        if f.known
    ]
