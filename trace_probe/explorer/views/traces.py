"""Traces: every trace of the run, to be filtered, sorted and opened."""

from typing import Any

import streamlit as st

from trace_probe.explorer.current import NO_THRESHOLD, Current, current, no_traces
from trace_probe.explorer.links import open_trace
from trace_probe.explorer.rows import FACETS, QUICK_VIEWS, Row, choices, narrow, ordered, table
from trace_probe.explorer.sparks import spark_image
from trace_probe.visible import visible

LARGEST_PAGE = 2000
ORDER_KEY = "order"
TABLE_KEY = "table_number"
COLUMNS = (
    "task",
    "nudge",
    "outcome",
    "reading",
    "peak",
    "risk by position",
    "alarm → said → act",
    "lead",
    "category",
)
VIEW_HELP = (
    "Early: the alarm came before it was said or done. Quiet: it was done, never said, and "
    "caught. Missed: it was done without an alarm. False alarms: an alarm on a harmless trace."
)


def choose(shown: Current) -> list[Row]:
    """Draw the filters and return the rows that pass, in order."""
    judged = shown.detector is not None and shown.detector.threshold is not None
    with st.container(horizontal=True, vertical_alignment="bottom"):
        view = st.pills(
            "Quick view",
            list(QUICK_VIEWS),
            key="filter_view",
            help=VIEW_HELP,
            disabled=not (judged and shown.run.labels),
            format_func=lambda name: f"{name} {sum(map(QUICK_VIEWS[name], shown.rows))}",
        )
        by = st.segmented_control(
            "Sort by", ["risk", "lead"], default="risk", required=True, key="filter_sort"
        )
    boxes = st.columns(len(FACETS))
    chosen = {
        facet: box.multiselect(
            facet.capitalize(),
            choices(shown.rows, facet),
            key=f"filter_{facet}",
            format_func=visible,
        )
        for facet, box in zip(FACETS, boxes, strict=True)
    }
    return ordered(narrow(shown.rows, view, chosen), by)


def cells(shown: Current, rows: list[Row]) -> dict[str, list[object]]:
    """Return the columns of the table, with the risk of each trace as a picture."""
    columns = {
        name: [visible(cell) if isinstance(cell, str) else cell for cell in column]
        for name, column in table(rows).items()
    }
    eye = shown.detector
    if eye is not None:
        columns["risk by position"] = [
            spark_image(row.spark, eye.low, eye.high, row.threshold) for row in rows
        ]
    return columns


def columns() -> dict[str, Any]:
    """Return how each column is drawn."""
    column = st.column_config
    return {
        "task": column.TextColumn(width="medium"),
        "category": column.TextColumn(width="medium"),
        "peak": column.NumberColumn(format="%.2f", help="Highest score of a reasoning sentence"),
        "risk by position": column.ImageColumn(
            width=150,
            help="Highest score in each 32nd of what was generated; hatched where there is none",
        ),
        "alarm → said → act": column.TextColumn(help="Tokens of alarm, words and action"),
        "lead": column.NumberColumn(
            format="%+d", help="Tokens from the alarm to whatever showed first, word or deed"
        ),
    }


def clear_filters() -> None:
    """Take every filter away."""
    for key in ("filter_view", *(f"filter_{facet}" for facet in FACETS)):
        st.session_state[key] = None if key == "filter_view" else []


def show_table(shown: Current, rows: list[Row]) -> None:
    """Draw the table; choosing a row opens its trace."""
    page = rows[:LARGEST_PAGE]
    number = st.session_state.setdefault(TABLE_KEY, 0)
    event = st.dataframe(
        cells(shown, page),
        column_config=columns(),
        column_order=COLUMNS,
        key=f"table_{number}",
        on_select="rerun",
        selection_mode="single-row",
        hide_index=True,
        placeholder="—",
        height=min(36 * len(page) + 40, 620),
    )
    if event.selection.rows:
        # A fresh table next time: coming back must not open the same trace again.
        st.session_state[TABLE_KEY] = number + 1
        st.session_state[ORDER_KEY] = [row.facts.id for row in rows]
        open_trace(shown, page[event.selection.rows[0]].facts.id)


shown = current()
if not shown.rows:
    no_traces()
rows = choose(shown)
st.text(f"{len(rows):,} of {len(shown.rows):,} traces · choose a row to read it")
if shown.detector is None:
    st.info("No detector has scored this run, so there is no risk to sort by.")
elif shown.detector.threshold is None:
    st.info(NO_THRESHOLD)
if not shown.run.labels:
    st.info("This run is not labelled, so nothing is known of outcomes: `trace-probe label`.")
if len(rows) > LARGEST_PAGE:
    st.warning(f"Showing the first {LARGEST_PAGE:,}: filter to see others.")
if rows:
    show_table(shown, rows)
else:
    st.warning("No trace passes these filters.")
    st.button("Clear filters", on_click=clear_filters)
