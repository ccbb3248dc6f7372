"""Trace: one trace, opened at its first alarm."""

import json
from dataclasses import asdict

import streamlit as st

from trace_probe.errors import TraceProbeError
from trace_probe.explorer import sidebar
from trace_probe.explorer.current import (
    Current,
    current,
    end_page,
    no_traces,
    problem,
)
from trace_probe.explorer.links import VIEWS, open_trace
from trace_probe.explorer.payload import payload
from trace_probe.explorer.reader import reader
from trace_probe.explorer.rows import Row, ordered
from trace_probe.explorer.sentences import sentence_table
from trace_probe.explorer.state import ViewState
from trace_probe.trace import Trace
from trace_probe.visible import visible

FOCUS_KEY = "focus"
ORDER_KEY = "order"


def order_of(shown: Current) -> list[str]:
    """Return the ids in the order of the list the reader came from, else by risk."""
    known = {row.facts.id for row in shown.rows}
    kept = [name for name in st.session_state.get(ORDER_KEY, []) if name in known]
    return kept or [row.facts.id for row in ordered(shown.rows, "risk")]


def chosen_row(shown: Current, asked: ViewState) -> Row:
    """Return the row the address asks for; end the page where there is none."""
    if not shown.rows:
        no_traces()
    wanted = asked.trace or order_of(shown)[0]
    found = next((row for row in shown.rows if row.facts.id == wanted), None)
    if found is None:
        problem(
            "The link asks for a trace that is not in this run",
            f"trace {wanted}\nrun   {shown.run.path.resolve()}",
        )
        st.page_link(VIEWS / "traces.py", label="All traces of this run", icon=":material/list:")
        end_page()
    return found


def step_buttons(shown: Current, row: Row) -> str:
    """Draw the place in the list; return which of reader and raw text is wanted."""
    order = order_of(shown)
    place = order.index(row.facts.id) if row.facts.id in order else None
    with st.container(horizontal=True, vertical_alignment="center"):
        before, after = (None, None) if place is None else (place - 1, place + 1)
        if st.button("Previous", disabled=before is None or before < 0):
            open_trace(shown, order[before or 0])
        if st.button("Next", disabled=after is None or after >= len(order)):
            open_trace(shown, order[after or 0])
        if place is not None:
            st.text(f"{place + 1} of {len(order)}")
        st.space("stretch")
        view = st.segmented_control(
            "View",
            ["Read", "Raw"],
            default="Read",
            required=True,
            label_visibility="collapsed",
        )
    return str(view)


def opening_sentence(row: Row, asked: ViewState) -> int | None:
    """Return the sentence the address asked for when it last came from outside.

    The reader moves on by itself and writes the address; handing that back to it would send
    the whole trace again at every key.
    """
    held = st.session_state.get(FOCUS_KEY)
    if held is None or held["trace"] != row.facts.id or asked.sentence != held["address"]:
        held = {"trace": row.facts.id, "focus": asked.sentence, "address": asked.sentence}
        st.session_state[FOCUS_KEY] = held
    focus: int | None = held["focus"]
    return focus


def read(shown: Current, row: Row, trace: Trace, focus: int | None) -> None:
    """Draw the reader and keep the address at the sentence it stands on."""
    content = payload(trace, row, shown.detector, focus=focus)
    sentence = reader(content, key=f"reader_{shown.run.name}_{row.facts.id}")
    if sentence is not None:
        st.session_state[FOCUS_KEY]["address"] = sentence
        publish(shown, row, sentence)


def publish(shown: Current, row: Row, sentence: int | None) -> None:
    """Make the address a link to what is shown."""
    sidebar.publish(shown.view(row.facts.id, sentence))


def raw(shown: Current, row: Row, trace: Trace) -> None:
    """Show texts, numbers and label as they are stored, with hidden characters made visible."""
    for span in trace.spans:
        st.text(f"{span.channel} · tokens {span.start}–{span.stop}")
        st.code(visible(trace.text_of(span)) or " ", language=None, wrap_lines=True)
    st.text("Sentences")
    st.dataframe(sentence_table(trace, row), hide_index=True)
    st.text("Label")
    label = None if row.label is None else asdict(row.label)
    st.code(visible(json.dumps(label, indent=1, ensure_ascii=False)), language=None)
    st.text(f"Trace {trace.id} · run {shown.run.name} · source {visible(trace.source)}")


shown = current()
asked = ViewState.from_query(dict(st.query_params))
row = chosen_row(shown, asked)
try:
    trace = shown.run.trace(row.facts.id)
except TraceProbeError as error:
    problem("This trace cannot be read", str(error))
    end_page()
focus = opening_sentence(row, asked)
publish(shown, row, asked.sentence)
if step_buttons(shown, row) == "Read":
    # A fragment: a key press draws the reader again, not the page.
    st.fragment(read)(shown, row, trace, focus)
else:
    raw(shown, row, trace)
