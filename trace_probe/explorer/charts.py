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
DASHED = {"type": "rule", "strokeDash": DASHES, "color": GREY, "aria": False}
SPREAD = {"type": "rule", "strokeWidth": 3}
"""How an interval is drawn."""
SHARE, PERCENT, WHOLE = {"domain": [0, 1]}, {"format": "%"}, {"tickMinStep": 1, "format": "d"}
"""The scale of a share, and how the numbers of an axis are written."""
Spec = dict[str, Any]


def axis(title: str | None, **more: Any) -> Spec:  # noqa: ANN401 - as Vega-Lite has it
    """Return an axis of numbers, to be used with the fields that lie on it: see `on`."""
    return {"type": "quantitative", "title": title, **more}


def on(line: Mapping[str, Any], field: str) -> Spec:
    """Return a field on an axis."""
    return {"field": field, **line}


def layer(mark: str | Mapping[str, Any], values: Sequence[object] | None = None, **by: Any) -> Spec:  # noqa: ANN401
    """Return marks, one for each of some values, or of those of the whole chart."""
    own = {} if values is None else {"data": {"values": values}}
    return {**own, "mark": {"type": mark} if isinstance(mark, str) else mark, "encoding": by}


def either(test: str, value: object, otherwise: object) -> Spec:
    """Return one value where a test of a mark's data holds, else another."""
    return {"condition": {"test": f"datum.{test}", "value": value}, "value": otherwise}


def bounds(value: Figure) -> Spec:
    """Return the interval of a figure as fields."""
    return {"lower": value.lower, "upper": value.upper}


def intervals(
    figures: Mapping[str, Figure],
    title: str,
    chance: float | None = None,
    *,
    ends: Sequence[int] = (0, 1),
    alike: bool = False,
) -> Spec:
    """Return dots with their intervals, one line a detector; the first is set off.

    Unless all are `alike`.
    """
    first = next(iter(figures), "")
    values = [
        {"name": name, "x": value.estimate, "first": name == first, **bounds(value)}
        for name, value in figures.items()
        if value.known
    ]
    names = {"labelLimit": 320, "labelOverlap": False, "labelFlush": False}
    y = {"field": "name", "type": "nominal", "sort": None, "title": None, "axis": names}
    colour = {"value": ACCENT} if alike else either("first", ACCENT, GREY)
    shared: Spec = {"y": y, "color": colour}
    # From the right end on, a long title has the room of the labels as well.
    x = axis(title, scale={"domain": ends}, axis={"titleAnchor": "end"})
    dot = {"type": "point", "filled": True, "size": 110, "opacity": 1}
    diamond: Spec = {"shape": {"condition": {"test": "datum.first", "value": "diamond"}}}
    return {
        "height": 76 + ROW_PX * len(values),
        "data": {"values": values},
        "layer": [
            *([] if chance is None else [layer(DASHED, x={"datum": chance, **x})]),
            layer(SPREAD, x=on(x, "lower"), x2={"field": "upper"}, **shared),
            layer(dot, x=on(x, "x"), **({} if alike else diamond), **shared),
        ],
    }


def forest(figures: Mapping[str, Figure], title: str, *, around_zero: bool = False) -> Spec:
    """Return shares, or differences of shares, as dots with their intervals, all alike."""
    ends = [-1, 1] if around_zero else [0, 1]
    return intervals(figures, title, 0.0 if around_zero else None, ends=ends, alike=True)


def lead_histogram(leads: Sequence[int]) -> Spec:
    """Return how many alarms came how many tokens early; those up to 0 came too late."""
    width = max(-(-(max(leads) - min(leads)) // MOST_BINS), 1)
    # A bin ends with the number on its right, so that 0, no warning, is not among the early ones.
    counts = Counter((lead - 1) // width for lead in leads)
    values = [
        {"from": bin * width, "to": (bin + 1) * width, "traces": count, "early": bin >= 0}
        for bin, count in sorted(counts.items())
    ]
    ends = {"domain": [min(values[0]["from"], 0), max(values[-1]["to"], 1)]}
    x = axis("tokens of warning", axis=WHOLE, scale=ends)
    bars = layer(
        "rect",
        x=on(x, "from"),
        x2={"field": "to"},
        y=on(axis("traces", axis=WHOLE, scale={"zero": True}), "traces"),
        y2={"datum": 0},
        color=either("early", ACCENT, GREY),
    )
    zero = layer(DASHED, x={"datum": 0, **x})
    return {"height": 200, "data": {"values": values}, "layer": [bars, zero]}


def shares(points: Mapping[str, Figure], x_title: str, y_title: str) -> Spec:
    """Return shares with their intervals at steps of one thing, in the order given."""
    values = [
        {"x": name, "y": value.estimate, **bounds(value)}
        for name, value in points.items()
        if value.known
    ]
    x = {"field": "x", "type": "ordinal", "sort": None, "title": x_title}
    y = axis(y_title, scale=SHARE, axis=PERCENT)
    line = {"type": "line", "color": ACCENT, "point": {"filled": True, "size": 70}}
    return {
        "height": 240,
        "data": {"values": values},
        "encoding": {"x": {**x, "axis": {"labelAngle": 0}}},
        "layer": [_interval(y), layer(line, y=on(y, "y"))],
    }


def _interval(y: Mapping[str, Any], values: Sequence[object] | None = None, **by: Any) -> Spec:  # noqa: ANN401
    """Return pale lines from the lower to the upper end of each figure."""
    mark = {**SPREAD, "color": ACCENT, "opacity": 0.5}
    return layer(mark, values, **by, y=on(y, "lower"), y2={"field": "upper"})


def _diagonal(x: Mapping[str, Any], y: Mapping[str, Any]) -> Spec:
    mark = {"type": "line", "strokeDash": DASHES, "color": GREY}
    return layer(mark, [{"x": 0, "y": 0}, {"x": 1, "y": 1}], x=on(x, "x"), y=on(y, "y"))


def trade_off(
    false_alarms: Sequence[float], caught: Sequence[float], here: tuple[float, float] | None
) -> Spec:
    """Return what is caught against false alarms; a diamond marks the threshold shown."""
    x = axis("benign traces with a false alarm", axis=PERCENT, scale=SHARE)
    y = axis("caught before the action", axis=PERCENT, scale=SHARE)
    at: Spec = {"x": on(x, "x"), "y": on(y, "y")}
    line = [{"x": a, "y": b} for a, b in zip(false_alarms, caught, strict=True)]
    stairs = {"type": "line", "interpolate": "step-after", "color": ACCENT}
    layers = [_diagonal(x, y), layer(stairs, [{"x": 0.0, "y": 0.0}, *line], **at)]
    if here is not None:
        mark = {"type": "point", "shape": "diamond", "filled": True, "size": 220}
        shown = {**mark, "color": WARM, "opacity": 1}
        layers.append(layer(shown, [{"x": here[1], "y": here[0]}], **at))
    return {"height": 320, "layer": layers}


def reliability(bins: Sequence[tuple[float, Figure]]) -> Spec:
    """Return what was foretold against what was done; the dashes are perfect calibration."""
    x = axis("risk, as a probability", scale=SHARE, axis=PERCENT)
    y = axis("traces that acted instrumentally", scale=SHARE, axis=PERCENT)
    values = [{"x": risk, "y": value.estimate, **bounds(value)} for risk, value in bins]
    dot = {"type": "point", "filled": True, "size": 80, "color": ACCENT}
    dots = layer(dot, values, x=on(x, "x"), y=on(y, "y"))
    return {"height": 320, "layer": [_diagonal(x, y), _interval(y, values, x=on(x, "x")), dots]}


def approach(curves: Mapping[str, Sequence[tuple[int, Figure]]]) -> Spec:
    """Return mean scores by sentences from the one that says it, a line and a band a group."""
    values = [
        {"group": name, "offset": offset, "y": value.estimate, **bounds(value)}
        for name, points in curves.items()
        for offset, value in points
        if value.known
    ]
    names = list(curves)
    ranges: Sequence[Sequence[object]] = ([WARM, GREY], [[1, 0], DASHES])
    colour, dash = (
        {
            "field": "group",
            "type": "nominal",
            "scale": {"domain": names, "range": looks[: len(names)]},
            "legend": legend,
        }
        for looks, legend in zip(ranges, ({"orient": "top", "title": None}, None), strict=True)
    )
    x = axis("sentences from the one that says it", axis={"format": "+d", "tickMinStep": 1})
    y = axis("mean score")
    band = {"type": "area", "opacity": 0.18}
    line = {"type": "line", "point": {"filled": True, "size": 50}}
    zero = {"datum": 0, "type": "quantitative"}
    return {
        "height": 260,
        "data": {"values": values},
        "encoding": {"x": on(x, "offset"), "color": colour},
        "layer": [
            layer(band, y=on(y, "lower"), y2={"field": "upper"}),
            layer(line, y=on(y, "y"), strokeDash=dash),
            layer(DASHED, x=zero, color={"value": GREY}),
        ],
    }
