"""Map: the sentences of a run as points of a plane; a region shows its texts."""

from collections.abc import Callable

import streamlit as st

from trace_probe.explorer import atlas, sidebar
from trace_probe.explorer.atlas import Group, Point
from trace_probe.explorer.choices import choose_one
from trace_probe.explorer.current import (
    Current,
    current,
    end_page,
    error_shown,
    no_traces,
    show_code,
)
from trace_probe.explorer.links import open_trace
from trace_probe.explorer.tables import pick_row
from trace_probe.probing.sentence_map import SentenceMap, mapped_layers, read_map
from trace_probe.visible import snippet, visible

COLOUR_KEY, LAYER_KEY = "filter_map_colour", "filter_map_layer"
TABLE_KEY = "map_table_number"
ACTS = ("of a trace that acts", "says it", "does it")
MOST_ROWS = 500
TEXT_LENGTH = 300
CAUTION = (
    "Each point is a sentence. Sentences that lie close together had similar activations: look at "
    "which sentences form a group. Every panel is the same map and draws one kind of sentence over "
    "all others. Distances between groups, and their sizes, mean little."
)


def no_map(shown: Current) -> None:
    """Say that there is no map, and how to make one."""
    if not shown.run.manifest.layers:
        st.info("This run has no activations, so there is nothing to map: it takes a recorded run.")
        return
    st.info("No map of this run yet. It takes a minute or so, once, and no page does it for you:")
    show_code(f"trace-probe map {shown.run.path}")


def pick(shown: Current, layers: list[int]) -> tuple[SentenceMap, str]:
    """Draw the choices and return the map and its colouring."""
    asked = sidebar.arrival() or {}
    wanted = int(asked["map"]) if asked.get("map", "").isdigit() else None
    with st.container(horizontal=True, vertical_alignment="bottom"):
        colouring = choose_one(
            "Coloured by", list(atlas.COLOURINGS), key=COLOUR_KEY, asked=asked.get("colour")
        )
        layer = choose_one("Layer", layers[::-1], key=LAYER_KEY, asked=wanted)
    sidebar.publish(shown.view(), {"colour": colouring, "map": str(layer)})
    with error_shown("This map cannot be read"):
        found = read_map(shown.run.store, layer)
    return found, colouring


def show_texts(shown: Current, found: list[Point]) -> None:
    """List the sentences of a region; choosing one opens its trace there."""
    first = found[:MOST_ROWS]
    st.text(f"{len(found):,} sentences · click a row to read it in its trace")
    number = st.session_state.setdefault(TABLE_KEY, 0)
    columns = {
        "risk": [point.score for point in first],
        "sentence": list(map(text_of(shown), first)),
        "channel": list(map(atlas.by_channel, first)),
        "outcome": [point.row.outcome for point in first],
        "task": [point.row.facts.task for point in first],
    }
    formats = {"risk": "%.2f", "sentence": st.column_config.TextColumn(width="large")}
    alt, key = "Sentences of the chosen region", f"map_table_{number}"
    row = pick_row(columns, alt, key, formats=formats, most_px=420)
    if row is not None:
        st.session_state[TABLE_KEY] = number + 1
        point = first[row]
        open_trace(shown, point.row.facts.id, point.sentence)


def text_of(shown: Current) -> Callable[[Point], str]:
    """Return how the sentence of a point is read."""
    return lambda p: snippet(shown.run.sentence(p.row.facts.id, p.sentence), TEXT_LENGTH)


def pick_group(named: list[Group]) -> list[Point]:
    """List the named groups with what they hold; return the sentences of the one chosen."""
    st.subheader("The largest groups")
    alarms = [100 * one.share(lambda p: atlas.by_risk(p) == "over the threshold") for one in named]
    acts = [100 * one.share(lambda p: atlas.by_label(p) in ACTS) for one in named]
    columns = {
        "group": [one.number for one in named],
        "most frequent sentence": [one.text for one in named],
        "sentences": [len(one.members) for one in named],
        "over the threshold": alarms,
        "in traces that act": acts,
    }
    formats = {
        "most frequent sentence": st.column_config.TextColumn(width="large"),
        "over the threshold": "%.0f %%",
        "in traces that act": "%.0f %%",
    }
    alt = "The largest groups of the map; choosing one lists its sentences"
    row = pick_row(columns, alt, "map_groups", formats=formats)
    return [] if row is None else list(named[row].members)


shown = current()
st.title("Map")
if not shown.rows:
    no_traces()
layers = mapped_layers(shown.run.store)
if not layers:
    sidebar.publish(shown.view())
    no_map(shown)
    end_page()
whole, colouring = pick(shown, layers)
there = atlas.points(whole, shown.rows)
if len(there) < len(whole):
    st.warning(
        f"{len(whole) - len(there):,} points are of sentences that this run no longer has: "
        "make the map again with `trace-probe map`."
    )
groups = atlas.grouped(there, colouring)
named = atlas.groups_of(whole, there, text_of(shown))
event = st.echarts_chart(
    atlas.chart(groups, whole, colouring, named),
    height=atlas.height(groups),
    key=f"map_{shown.run.name}_{colouring}",
    on_select="rerun",
    alt="; ".join(f"{visible(name)}: {len(found)} sentences" for name, found in groups.items()),
)
st.caption(CAUTION)
region = atlas.chosen(groups, event["selection"]["selected"])
if not region and named:
    region = pick_group(named)
if region:
    show_texts(shown, region)
else:
    st.text(
        "To read the sentences of a region, draw a box or a lasso with the tools at the top right."
    )
