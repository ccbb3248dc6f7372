"""Trace: one trace, opened at its first alarm."""

import json
from dataclasses import asdict, replace
from typing import NoReturn

import streamlit as st

from trace_probe.explorer import sidebar
from trace_probe.explorer.chosen import Chosen, look
from trace_probe.explorer.current import (
    LAYER_KEY,
    OWN_KEY,
    THRESHOLD_KEY,
    Current,
    chosen_detector,
    current,
    end_page,
    error_shown,
    no_traces,
    own_layer,
    own_threshold,
    problem,
    show_code,
)
from trace_probe.explorer.heldout import to_begin_with, unseen
from trace_probe.explorer.links import VIEWS, open_trace
from trace_probe.explorer.loading import Loaded
from trace_probe.explorer.payload import payload
from trace_probe.explorer.reader.component import reader
from trace_probe.explorer.reader.page import page
from trace_probe.explorer.rows import WARNED
from trace_probe.explorer.search import near
from trace_probe.explorer.sentences import sentence_table
from trace_probe.explorer.state import ViewState
from trace_probe.explorer.tables import table
from trace_probe.explorer.verdicts import judge_here
from trace_probe.visible import visible

MOST_LOOKED_AT = 200
"""Traces among which one that is evidence is sought, where no link names one."""
FOCUS_KEY = "focus"
ORDER_KEY = "order"
BESIDE_KEY = "filter_beside"
BOX_KEY = "layer_box"
UNREADABLE = "This trace cannot be read"


def order_of(shown: Current) -> list[str]:
    """Return the ids in the order of the list the reader came from, else by risk."""
    known = shown.run.facts
    kept = [name for name in st.session_state.get(ORDER_KEY, []) if name in known]
    return kept or list(shown.run.by_risk(shown.detector))


def chosen_trace(shown: Current, asked: ViewState, order: list[str]) -> str:
    """Return the trace the address asks for; end the page where there is none."""
    wanted = asked.trace or first_unseen(shown, order)
    if wanted not in shown.run.facts:
        not_here(shown, wanted)
    return wanted


def first_unseen(shown: Current, order: list[str]) -> str:
    """Return a trace of a task that the detector did not learn from, else the first of all.

    The one to begin with of those that it caught and the oracle knows, else the first.
    """
    rows = unseen([shown.row(name) for name in order[:MOST_LOOKED_AT]])
    known = [row for row in rows if row.verdict in WARNED and shown.run.oracle(row.facts.id)]
    first = to_begin_with(known, shown.run.oracle) if known else next(iter(rows), None)
    return first.facts.id if first else order[0]


def not_here(shown: Current, wanted: str) -> NoReturn:
    """Say that there is no such trace, and offer those whose ids are nearly the same."""
    problem(
        "The link asks for a trace that is not in this run",
        f"trace {wanted}\nrun   {shown.run.path.resolve()}",
    )
    found = near(wanted, shown.run.facts)
    st.text("Similar ids:" if found else "No id is similar.")
    for name in found:
        with st.container(horizontal=True, vertical_alignment="center"):
            if st.button("Read", key=f"near_{name}"):
                open_trace(shown, name)
            st.text(visible(f"{name} \u00b7 {shown.run.facts[name].task}"))
    st.page_link(VIEWS / "traces.py", label="All traces of this run", icon=":material/list:")
    end_page()


def neighbour(trace_id: str, order: list[str], by: int) -> str | None:
    """Return the trace so many places further in an order; None where there is none."""
    place = order.index(trace_id) + by if trace_id in order else -1
    return order[place] if 0 <= place < len(order) else None


def toolbar(shown: Current, trace_id: str, order: list[str]) -> str:
    """Draw place, layer, what is beside, and the view; return which view is wanted."""
    with st.container(horizontal=True, vertical_alignment="center"):
        for words, by in (("Previous", -1), ("Next", 1)):
            there = neighbour(trace_id, order, by)
            if st.button(words, disabled=there is None) and there is not None:
                open_trace(shown, there)
        if trace_id in order:
            st.text(f"{order.index(trace_id) + 1:,} of {len(order):,}")
        st.text(visible(f"trace {trace_id}"))
        st.space("stretch")
        layer_box(shown)
        beside_box(shown)
        view = st.segmented_control(
            "View", ["Read", "Raw"], default="Read", required=True, label_visibility="collapsed"
        )
    return str(view)


def say_older(run: Loaded, detector: str) -> None:
    """Say which of what is kept is of an older probe than the one that now has its name."""
    if run.older_report(detector):
        st.caption("Scores and report are of an older probe: run `trace-probe evaluate` again.")
    if run.older_layers(detector):
        st.caption("The layers kept here are of an older probe: run `trace-probe layers` again.")


def layer_box(shown: Current) -> None:
    """Offer the layers that were scored; no choice is the layer that the detector reads."""
    scored = () if shown.detector is None else shown.run.layers(shown.detector.name)
    layers = [scale.layer for scale in scored]
    if own_layer() not in layers:
        st.session_state[LAYER_KEY] = None
    if shown.detector is not None:
        say_older(shown.run, shown.detector.name)
    if len(layers) < 2 or shown.detector is None:
        return
    own = shown.run.own_layer(shown.detector.name)

    def take() -> None:
        picked = st.session_state[BOX_KEY]
        st.session_state[LAYER_KEY] = None if picked == own else picked

    st.session_state[BOX_KEY] = own if own_layer() is None else own_layer()
    st.selectbox(
        "Layer",
        layers,
        key=BOX_KEY,
        on_change=take,
        width=190,
        label_visibility="collapsed",
        format_func=lambda layer: f"layer {layer}{' (its own)' if layer == own else ''}",
    )


def beside_box(shown: Current) -> None:
    """Offer the other detectors of the run, to be drawn with the one shown."""
    others = [other for other in shown.run.detectors if other != shown.scorer]
    if others:
        st.selectbox(
            "Beside it",
            ["", *others],
            key=BESIDE_KEY,
            width=230,
            label_visibility="collapsed",
            format_func=lambda other: f"beside it: {visible(other) or 'nothing'}",
        )


def opening_sentence(trace_id: str, asked: ViewState) -> int | None:
    """Return the sentence the address asked for when it last came from outside.

    The reader moves on by itself and writes the address; handing that back to it would send
    the whole trace again at every key.
    """
    held = st.session_state.get(FOCUS_KEY)
    if held is None or held["trace"] != trace_id or asked.sentence != held["address"]:
        held = {"trace": trace_id, "focus": asked.sentence, "address": asked.sentence}
        st.session_state[FOCUS_KEY] = held
    focus: int | None = held["focus"]
    return focus


def read(shown: Current, trace_id: str, focus: int | None, order: list[str]) -> None:
    """Draw the reader and keep the address at the sentence it stands on."""
    chosen = seen_now(shown, trace_id)
    content = payload(chosen.trace, chosen.row, chosen.detector, focus=focus, beside=chosen.beside)

    def step(by: int) -> None:
        there = neighbour(trace_id, order, by)
        if there is not None:
            open_trace(shown, there)

    key = f"reader_{shown.run.name}_{chosen.id}"
    sentence = reader(content, key=key, on_step=step, on_threshold=try_threshold)
    if sentence is not None:
        st.session_state[FOCUS_KEY]["address"] = sentence
        sidebar.publish(shown.view(chosen.id, sentence))
    judge_here(shown, chosen.row, content["focus"] if sentence is None else sentence)
    st.download_button(
        "Download as one HTML file",
        lambda: page([content]),
        file_name=f"trace-{chosen.id}.html",
        mime="text/html",
        on_click="ignore",
        icon=":material/download:",
    )


def try_threshold(value: float) -> None:
    """Take a threshold that was dragged in the curve, as if the sidebar had set it."""
    st.session_state[OWN_KEY], st.session_state[THRESHOLD_KEY] = True, value


def raw(shown: Current, chosen: Chosen) -> None:
    """Show texts, numbers and label as they are stored, with hidden characters made visible."""
    trace, row = chosen.trace, chosen.row
    for span in trace.spans:
        st.text(f"{span.channel} · tokens {span.start}–{span.stop}")
        show_code(trace.text_of(span))
    st.text("Sentences")
    table(sentence_table(trace, row), "Sentences with their scores and marks")
    st.text("Label")
    label = None if row.label is None else asdict(row.label)
    show_code(json.dumps(label, indent=1, ensure_ascii=False))
    st.text(f"Trace {trace.id} · run {shown.run.name} · source {visible(trace.source)}")


def seen_now(shown: Current, trace_id: str) -> Chosen:
    """Return a trace at the threshold of this moment; end the page where it cannot be read."""
    with error_shown(UNREADABLE):
        now = replace(shown, detector=chosen_detector(shown.run))
        return look(
            now.run,
            now.row(trace_id),
            now.detector,
            layer=own_layer(),
            own_threshold=own_threshold(),
            other=st.session_state.get(BESIDE_KEY) or None,
        )


shown = current(every_row=False)
st.title("Trace")
if not shown.run.facts:
    no_traces()
asked = ViewState.from_query(dict(st.query_params))
with error_shown(UNREADABLE):
    order = order_of(shown)
    trace_id = chosen_trace(shown, asked, order)
    view = toolbar(shown, trace_id, order)
focus = opening_sentence(trace_id, asked)
sidebar.publish(shown.view(trace_id, asked.sentence))
if view == "Read":
    # A fragment: a key or a threshold draws the reader again, not the page.
    st.fragment(read)(shown, trace_id, focus, order)
else:
    raw(shown, seen_now(shown, trace_id))
