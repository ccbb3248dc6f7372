"""Traces: every trace of the run, to be filtered, sorted and opened."""

from typing import Any

import streamlit as st

from trace_probe.explorer import sidebar
from trace_probe.explorer.choices import choose_one
from trace_probe.explorer.current import NO_THRESHOLD, Current, current, no_detector, no_traces
from trace_probe.explorer.filters import ORDERS, Filters
from trace_probe.explorer.links import open_trace
from trace_probe.explorer.rows import FACETS, QUICK_VIEWS
from trace_probe.explorer.rows import table as trace_columns
from trace_probe.explorer.search import excerpt, sentence_with
from trace_probe.explorer.seen import Rows
from trace_probe.explorer.shortcut import LABEL as SEARCH
from trace_probe.explorer.sparks import spark_image
from trace_probe.explorer.tables import pick_row, row_of
from trace_probe.visible import csv_text, snippet, visible

PAGE_ROWS = 200
FACET_PX, CHOSEN_PX = 125, 250
PLACEHOLDER = "words, a task or an id"
SNIPPET_LENGTH = 90
ORDER_KEY = "order"
TABLE_KEY, PAGE_KEY = "table_number", "table_page"
VIEW_KEY, SORT_KEY, WORDS_KEY = "filter_view", "filter_sort", "filter_words"
column = st.column_config
COLUMNS: dict[str, Any] = {
    "peak": column.NumberColumn(
        format="%.2f", width=55, help="Highest score of a reasoning sentence"
    ),
    "task": column.TextColumn(width=280),
    "sample": column.NumberColumn(
        width=60, help="Which of the samples of this task; samples differ in chance alone"
    ),
    "outcome": column.TextColumn(width=90, help="What the label says the trace did"),
    "result": column.TextColumn(width=85, help="How the detector did; see About"),
    "risk by position": column.ImageColumn(
        width=132,
        help="Highest score in each 32nd of what was generated; hatched where there is none",
    ),
    "alarm → said → act": column.TextColumn(width=115, help="Tokens of alarm, words and action"),
    "lead": column.NumberColumn(
        format="%+d", width=50, help="Tokens from the alarm to whatever showed first, word or deed"
    ),
    "calls": column.NumberColumn(width=50, help="Model calls: the turns of an agent"),
    "id": column.TextColumn(
        width=85, help="`trace-probe show RUN ID` prints the trace; the first six signs suffice"
    ),
    "words found": column.TextColumn(width=240),
    "sentence at the alarm": column.TextColumn(width=175),
}
"""How the columns are drawn that are shown at once, in this order; the file has every column."""
VIEW_HELP = (
    "Early: the alarm came before it was said or done. Silent, alarmed: an alarm, and it is never "
    "said. Missed: it was done without an alarm. False alarms: an alarm on a harmless trace. "
    "Disagree: one labeller calls it instrumental, another harmless."
)
WORDS_HELP = (
    "Finds traces whose reasoning or answer holds these words, or whose task or id does. The key / "
    "leads here from every page."
)


def facet_key(facet: str) -> str:
    """Return the key of a facet's widget."""
    return f"filter_{facet}"


def adopt(shown: Current) -> None:
    """Set the widgets to what a link asks for; a link that asks for nothing changes nothing."""
    asked = Filters.from_query(sidebar.arrival() or {})
    if asked == Filters():
        return
    st.session_state[VIEW_KEY] = asked.view
    st.session_state[SORT_KEY] = asked.by
    st.session_state[WORDS_KEY] = asked.words
    rows = shown.rows
    for facet in FACETS:
        there = rows.choices(facet)
        wanted = asked.chosen.get(facet, ())
        st.session_state[facet_key(facet)] = [value for value in wanted if value in there]


def choose(shown: Current) -> Filters:
    """Draw the filters and return what they say."""
    rows = shown.rows
    with st.container(horizontal=True, vertical_alignment="bottom"):
        view = st.pills(
            "Quick view",
            list(QUICK_VIEWS),
            key=VIEW_KEY,
            help=VIEW_HELP,
            disabled=not shown.run.labels,
            format_func=lambda name: f"{name} {rows.count(name):,}",
        )
        by = choose_one("Sort by", ORDERS, key=SORT_KEY)
    found = {facet: rows.choices(facet) for facet in FACETS}
    with st.container(horizontal=True, vertical_alignment="bottom"):
        text = st.text_input(
            SEARCH, key=WORDS_KEY, placeholder=PLACEHOLDER, help=WORDS_HELP, width=250
        )
        chosen = {
            facet: st.multiselect(
                facet.capitalize(),
                values,
                key=facet_key(facet),
                format_func=visible,
                placeholder="all",
                width=CHOSEN_PX if st.session_state.get(facet_key(facet)) else FACET_PX,
            )
            for facet, values in found.items()
            if len(values) > 1
        }
    return Filters(view, by, text or "", {facet: values for facet, values in chosen.items()})


def cells(shown: Current, rows: Rows, words: str) -> dict[str, list[object]]:
    """Return the columns of the table, with the risk of each trace as a picture."""
    columns = trace_columns(rows) | {"id": [row.facts.id for row in rows]}
    eye = shown.detector
    if eye is not None:
        columns["risk by position"] = [
            spark_image(row.spark, eye.low, eye.high, row.threshold) for row in rows
        ]
    if shown.alarms:
        columns["sentence at the alarm"] = [
            snippet(shown.run.alarm_text(row), SNIPPET_LENGTH) for row in rows
        ]
    if words.strip():
        columns["words found"] = [
            excerpt(shown.run.texts[row.facts.id], words) or None for row in rows
        ]
    return columns


def unknown(shown: Current) -> set[str]:
    """Return the columns that would be empty, for want of scores, of alarms or of places."""
    placed = shown.rows.seen.placed
    empty = {"peak": shown.detector is None, "alarm → said → act": not (shown.alarms or placed)}
    empty |= dict.fromkeys(("result", "lead"), not shown.alarms)
    empty["calls"] = bool((shown.run.facts.numbers["calls"] == 1).all())
    return {name for name, nothing in empty.items() if nothing}


def clear_filters() -> None:
    """Take every filter away."""
    st.session_state[VIEW_KEY] = None
    st.session_state[WORDS_KEY] = ""
    for facet in FACETS:
        st.session_state[facet_key(facet)] = []


def open_chosen(shown: Current) -> None:
    """Open the trace whose row was chosen, if one was, before the list is made again."""
    number = st.session_state.setdefault(TABLE_KEY, 0)
    chosen = st.session_state.get(f"table_{number}")
    row = row_of(chosen["selection"]) if chosen else None
    if row is None:
        return
    # A fresh table next time: coming back must not open the same trace again.
    st.session_state[TABLE_KEY] = number + 1
    trace_id = st.session_state[PAGE_KEY][row]
    words = st.session_state.get(WORDS_KEY, "")
    sentence = sentence_with(shown.run.trace(trace_id), words) if words else None
    open_trace(shown, trace_id, sentence)


def show_table(shown: Current, page: Rows, words: str) -> None:
    """Draw one page of the table; choosing a row opens its trace."""
    st.session_state[PAGE_KEY] = page.ids
    pick_row(
        cells(shown, page, words),
        "Traces with their risk, alarm and lead; choosing a row opens the trace",
        f"table_{st.session_state[TABLE_KEY]}",
        formats=COLUMNS,
        column_order=[name for name in COLUMNS if name not in unknown(shown)],
        most_px=640,
    )


def show_list(shown: Current, rows: Rows, words: str) -> None:
    """Draw the count, the way to a file, and the table in pages."""
    st.session_state[ORDER_KEY] = rows.ids
    pages = -(-len(rows) // PAGE_ROWS)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.text(f"{len(rows):,} of {len(shown.rows):,} traces · click a row to read it")
        st.space("stretch")
        page = st.pagination(pages, key="traces_page") if pages > 1 else 1
        st.download_button(
            "CSV",
            lambda: csv_text({"id": rows.ids, **trace_columns(rows)}),
            f"{shown.run.name}-traces.csv",
            "text/csv",
            icon=":material/download:",
            on_click="ignore",
            help="The rows that pass the filters, in this order",
        )
    first = (int(page or 1) - 1) * PAGE_ROWS
    show_table(shown, rows[first : first + PAGE_ROWS], words)


def notices(shown: Current) -> None:
    """Say what this run cannot show."""
    if shown.detector is None:
        st.info(f"There is no risk to sort by. {no_detector(shown)}")
    elif shown.detector.threshold is None:
        st.info(NO_THRESHOLD)
    if not shown.run.labels:
        st.info("This run is not labelled, so nothing is known of outcomes: `trace-probe label`.")


def nothing_passes(shown: Current, filters: Filters) -> None:
    """Say that no trace passes, and which filter is to blame."""
    st.warning("No trace passes these filters.")
    most = filters.strictest(shown.rows, shown.run.texts)
    if most is not None:
        st.text(f"By itself, {most[0]} removes {most[1]:,} of {len(shown.rows):,}.")
    st.button("Clear filters", on_click=clear_filters)


shown = current()
st.title("Traces")
if not shown.rows:
    no_traces()
open_chosen(shown)
adopt(shown)
filters = choose(shown)
sidebar.publish(shown.view(), filters.to_query())
notices(shown)
rows = filters.apply(shown.rows, shown.run.texts)
if rows:
    show_list(shown, rows, filters.words)
else:
    nothing_passes(shown, filters)
