"""Map: the sentences of a run as points of a plane; a region shows its texts."""

import streamlit as st

from trace_probe.errors import TraceProbeError
from trace_probe.explorer import sidebar
from trace_probe.explorer.atlas import COLOURINGS, HEIGHT, Point, chart, chosen, grouped, points
from trace_probe.explorer.choices import choose_one
from trace_probe.explorer.current import Current, current, end_page, no_traces, problem
from trace_probe.explorer.links import open_trace
from trace_probe.probing.sentence_map import SentenceMap, mapped_layers, read_map
from trace_probe.visible import snippet, visible

COLOUR_KEY, LAYER_KEY = "filter_map_colour", "filter_map_layer"
TABLE_KEY = "map_table_number"
MOST_ROWS = 500
TEXT_LENGTH = 300
CAUTION = (
    "Neighbours had like activations. Distances between far groups, and the size of a group, mean "
    "little; nothing here says why."
)


def no_map(shown: Current) -> None:
    """Say that there is no map, and how to make one."""
    if not shown.run.manifest.layers:
        st.info("This run has no activations, so there is nothing to map: it takes a recorded run.")
        return
    st.info("No map of this run yet. It takes a minute or so, once, and no page does it for you:")
    st.code(f"trace-probe map {shown.run.path}", language=None)


def pick(shown: Current, layers: list[int]) -> tuple[SentenceMap, str]:
    """Draw the choices and return the map and its colouring."""
    asked = sidebar.arrival() or {}
    wanted = int(asked["map"]) if asked.get("map", "").isdigit() else None
    with st.container(horizontal=True, vertical_alignment="bottom"):
        colouring = choose_one(
            "Coloured by", list(COLOURINGS), key=COLOUR_KEY, asked=asked.get("colour")
        )
        layer = choose_one("Layer", layers[::-1], key=LAYER_KEY, asked=wanted)
    sidebar.publish(shown.view(), {"colour": colouring, "map": str(layer)})
    try:
        return read_map(shown.run.store, layer), colouring
    except TraceProbeError as error:
        problem("This map cannot be read", str(error))
        end_page()


def show_texts(shown: Current, found: list[Point]) -> None:
    """List the sentences of a region; choosing one opens its trace there."""
    first = found[:MOST_ROWS]
    st.text(f"{len(found):,} sentences · choose a row to read it in its trace")
    number = st.session_state.setdefault(TABLE_KEY, 0)
    event = st.dataframe(
        {
            "risk": [point.score for point in first],
            "sentence": [
                snippet(shown.run.sentence(p.row.facts.id, p.sentence), TEXT_LENGTH) for p in first
            ],
            "channel": [
                "reasoning" if p.row.facts.reasoning[p.sentence] else "answer" for p in first
            ],
            "outcome": [p.row.outcome for p in first],
            "task": [visible(p.row.facts.task) for p in first],
        },
        column_config={
            "risk": st.column_config.NumberColumn(format="%.2f", width=60),
            "sentence": st.column_config.TextColumn(width="large"),
        },
        hide_index=True,
        key=f"map_table_{number}",
        on_select="rerun",
        selection_mode="single-row",
        placeholder="—",
        height=min(36 * len(first) + 40, 420),
        alt="Sentences of the chosen region",
    )
    if event.selection.rows:
        st.session_state[TABLE_KEY] = number + 1
        point = first[event.selection.rows[0]]
        open_trace(shown, point.row.facts.id, point.sentence)


shown = current()
if not shown.rows:
    no_traces()
layers = mapped_layers(shown.run.store)
if not layers:
    sidebar.publish(shown.view())
    st.title("Map")
    no_map(shown)
    end_page()
whole, colouring = pick(shown, layers)
there = points(whole, shown.rows)
if len(there) < len(whole):
    st.warning(
        f"{len(whole) - len(there):,} points are of sentences that this run no longer has: "
        "make the map again with `trace-probe map`."
    )
groups = grouped(there, colouring)
named = {visible(name): members for name, members in groups.items()}
event = st.echarts_chart(
    chart(groups, whole, colouring),
    height=HEIGHT,
    key=f"map_{shown.run.name}_{colouring}",
    on_select="rerun",
    alt="; ".join(f"{name}: {len(members)} sentences" for name, members in named.items()),
)
st.caption(CAUTION)
region = chosen(groups, event["selection"]["selected"])
if region:
    show_texts(shown, region)
else:
    st.text("Draw a box or a lasso, with the tools at the top right, to read what a region says.")
