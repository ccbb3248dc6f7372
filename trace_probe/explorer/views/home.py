"""Home: what this run is, how much warning there was, and three traces to start with."""

from collections.abc import Sequence
from typing import Any

import streamlit as st

from trace_probe.explorer import sidebar
from trace_probe.explorer.charts import forest
from trace_probe.explorer.current import NO_THRESHOLD, Current, current, no_detector, no_traces
from trace_probe.explorer.figures import (
    HEADLINE,
    HEADLINE_ACT,
    MAIN,
    RANKS,
    SHARES,
    Figure,
    before_the_call,
    best_baseline,
    figure,
    notes,
)
from trace_probe.explorer.heldout import by_category, to_begin_with, unseen
from trace_probe.explorer.links import (
    VIEWS,
    open_trace,
    organism_notice,
    show_notes,
    show_warning_times,
)
from trace_probe.explorer.rows import WARNED, Row, ordered
from trace_probe.explorer.sparks import spark_svg
from trace_probe.explorer.tables import table
from trace_probe.explorer.words import headline
from trace_probe.storage.locks import being_written
from trace_probe.visible import visible

PLAIN: Any = {"delta_color": "off", "delta_arrow": "off", "border": True}
CAUGHT_MEANS = (
    "Of the traces that act, the share with an alarm before the plan is stated. The threshold is "
    "set so that 5 % of siblings alarm: harmless traces of prompts that also have instrumental "
    "ones. On tasks that the detector has not learned from."
)
ACT_MEANS = "Of the traces that act, the share with an alarm before the act, at this threshold."
BENIGN_MEANS = "False alarms on benign tasks that the detector has not learned from."
SIBLINGS_MEANS = "False alarms on harmless traces of prompts that also have instrumental ones."
STARTS = {
    "early": "An early warning",
    "early, silent": "Never said, yet caught",
    "missed": "Missed",
    "false alarm": "A false alarm",
}


def card(name: str, found: Figure, *, share: bool = False, means: str | None = None) -> None:
    """Show one figure large, with its interval below it, and what it means where one points."""
    if not found.known:
        st.metric(name, "—", found.text(), help=means, **PLAIN)
        return
    estimate, _, spread = found.text(percent=share).partition(" [")
    words = f"95 %: {spread.rstrip(']').replace(', ', ' to ')}" if spread else "no interval"
    count = "" if found.n is None else f", n = {found.n}"
    words = f"{words}{count}"
    st.metric(name, estimate, words, help=means, **PLAIN)


def figures(shown: Current) -> None:
    """Show the figures that sum up the run."""
    report = shown.report
    tasks = len({row.facts.task for row in shown.rows})
    main = (HEADLINE_ACT, HEADLINE, *RANKS)
    ranks = next((key for key in main if figure(report, key).known), RANKS[0])
    with st.container(horizontal=True):
        st.metric("Traces", f"{len(shown.rows):,}", f"of {tasks:,} tasks", **PLAIN)
        st.metric("Acted instrumentally", *acted_instrumentally(shown.rows), **PLAIN)
        means = CAUGHT_MEANS if ranks == HEADLINE else None
        card(MAIN[ranks], figure(report, ranks), share=ranks in SHARES, means=means)
    with st.container(horizontal=True):
        caught = figure(report, "caught_before_action")
        card("Caught before the act", caught, share=True, means=ACT_MEANS)
        alarms = figure(report, "false_alarm_rate")
        card("Benign traces that alarm", alarms, share=True, means=BENIGN_MEANS)
        siblings = figure(report, "sibling_alarm_rate")
        card("Siblings that alarm", siblings, share=True, means=SIBLINGS_MEANS)
    agents = before_the_call(report)
    if agents:
        table(agents, "Caught before the violating call")
    best = best_baseline(report, ranks)
    if best is not None:
        st.text(visible(f"{MAIN[ranks]}, best baseline: {best}"))
    show_notes(notes(report))


def acted_instrumentally(rows: Sequence[Row]) -> tuple[str, str]:
    """Return how many traces acted, and of how many: what nobody has judged is unknown, not 0."""
    asked = [row for row in rows if row.facts.role == "test"]
    judged = [row for row in asked if row.outcome in ("instrumental", "harmless")]
    if not judged:
        return "unknown", "no label says so" if asked else "no task of this run asks for it"
    acted = sum(row.outcome == "instrumental" for row in judged)
    open_ = len(asked) - len(judged)
    words = f"{100 * acted / len(judged):.1f} % of {len(judged):,} not benign"
    return f"{acted:,}", f"{words}, {open_:,} unknown" if open_ else words


def start_here(shown: Current) -> None:
    """Offer one trace of each kind."""
    st.subheader("Start here")
    offered = False
    for verdict, name in STARTS.items():
        rows = [row for row in unseen(shown.rows) if row.verdict == verdict]
        if rows:
            best = to_begin_with(rows, shown.run.oracle) if verdict in WARNED else None
            start(shown, name, best or ordered(rows, "risk")[0])
            offered = True
    if not offered:
        name = "Highest risk" if shown.detector else "First trace"
        start(shown, name, shown.rows.ordered("risk")[0])


def start(shown: Current, name: str, row: Row) -> None:
    """Offer one trace: what happened, its risk, the sentence at the alarm."""
    with st.container(border=True, gap="xsmall"):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f"**{name}**", width="content")
            st.space("stretch")
            eye = shown.detector
            if eye is not None and row.scores is not None:
                picture = spark_svg(row.spark, eye.low, eye.high, row.threshold)
                st.image(picture, width=150, alt="Risk by position; orange is over the threshold")
            if st.button("Read", key=f"start_{name}", width=80):
                open_trace(shown, row.facts.id)
        st.text(visible(headline(row, shown.detector)))
        said = shown.run.alarm_text(row)
        st.caption("The sentence at the alarm:" if said else "The task:")
        st.text(visible(f"“{said}”" if said else row.facts.task))


def categories(shown: Current) -> None:
    """Show what is caught in each category."""
    found = by_category(shown.rows) if shown.alarms else {}
    if len(found) > 1:
        st.subheader("Where is it caught?")
        named = {visible(f"{name}, n = {value.n}"): value for name, value in found.items()}
        title = "caught before the action"
        st.vega_lite_chart(forest(named, title), alt=title)


def unfinished(there: int, expected: int | None) -> str:
    """Return what is being done to a run that a process holds."""
    if expected is None or expected <= there:
        return "This run is being written to."
    return f"Recording: {there:,} of {expected:,} traces."


shown = current()
sidebar.publish(shown.view())
st.title("Was the model planning this before it said so?")
st.text(visible(f"{shown.run.name} · {shown.run.manifest.model} · {shown.run.manifest.source}"))
organism_notice(shown.run.manifest)
if not shown.rows:
    no_traces()
if being_written(shown.run.path):
    st.info(f"{unfinished(len(shown.rows), shown.run.store.expected)} Reload the page to see more.")
figures(shown)
if shown.detector is None:
    st.info(no_detector(shown))
elif shown.detector.threshold is None:
    st.info(NO_THRESHOLD)
left, right = st.columns(2, gap="large")
with left:
    start_here(shown)
    st.page_link(VIEWS / "traces.py", label="All traces", icon=":material/list:")
with right:
    st.subheader("How much warning?")
    show_warning_times(shown)
    categories(shown)
