"""Charts as Vega-Lite specifications: plain values, drawn by Streamlit."""

from collections.abc import Mapping, Sequence
from typing import Any

from trace_probe.explorer.figures import Figure

ACCENT, GREY = "#0072B2", "#8A8F98"
WIDEST_BIN_COUNT = 20


def intervals(figures: Mapping[str, Figure], title: str, chance: float) -> dict[str, Any]:
    """Return dots with their intervals, one line a detector; the first is set off."""
    first = next(iter(figures), "")
    values = [
        {"name": name, "x": f.estimate, "lower": f.lower, "upper": f.upper, "first": name == first}
        for name, f in figures.items()
        if f.known
    ]
    names = {"labelLimit": 180, "labelOverlap": False}
    y = {"field": "name", "type": "nominal", "sort": None, "title": None, "axis": names}
    colour = {
        "condition": {"test": "datum.first", "value": ACCENT},
        "value": GREY,
    }
    shared = {"y": y, "color": colour}
    axis = {"type": "quantitative", "scale": {"domain": [0, 1]}, "title": title}
    return {
        "height": 80 + 40 * len(values),
        "data": {"values": values},
        "layer": [
            {
                "mark": {"type": "rule", "strokeDash": [4, 4], "color": GREY},
                "encoding": {"x": {"datum": chance, **axis}},
            },
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


def lead_histogram(leads: Sequence[int]) -> dict[str, Any]:
    """Return how many alarms came how many tokens early; those left of 0 came too late."""
    bins = {"maxbins": WIDEST_BIN_COUNT}
    x = {"field": "lead", "type": "quantitative", "bin": bins, "title": "tokens of warning"}
    whole = {"tickMinStep": 1, "format": "d"}
    early = {"condition": {"test": "datum.bin_maxbins_20_lead > 0", "value": ACCENT}, "value": GREY}
    return {
        "height": 220,
        "data": {"values": [{"lead": lead} for lead in leads]},
        "mark": {"type": "bar"},
        "encoding": {
            "x": x,
            "y": {"aggregate": "count", "type": "quantitative", "title": "traces", "axis": whole},
            "color": early,
        },
    }
