"""Home: what this run is, how much warning there was, and three traces to start with."""

import streamlit as st

from trace_probe.explorer.charts import lead_histogram
from trace_probe.explorer.current import NO_THRESHOLD, Current, current, no_traces
from trace_probe.explorer.figures import MAIN, RANKS, best_baseline, figure
from trace_probe.explorer.links import open_trace, organism_notice
from trace_probe.explorer.rows import Row, ordered
from trace_probe.explorer.words import headline
from trace_probe.visible import visible

STARTS = {
    "early": "An early warning",
    "quiet": "Never said, yet caught",
    "missed": "Missed",
    "false alarm": "A false alarm",
}


def figures(shown: Current) -> None:
    """Show the four figures that sum up the run."""
    report = None if shown.detector is None else shown.detector.report
    acted = sum(row.outcome == "instrumental" for row in shown.rows)
    cells = st.columns(4)
    cells[0].metric("Traces", f"{len(shown.rows):,}", border=True)
    cells[1].metric("Acted instrumentally", f"{acted:,}", border=True)
    ranks = next((key for key in RANKS if figure(report, key).known), RANKS[0])
    caught = figure(report, "caught_before_action")
    cells[2].metric(MAIN[ranks], figure(report, ranks).text(), border=True)
    cells[3].metric("Caught before the action", caught.text(percent=True), border=True)
    best = best_baseline(report, ranks)
    if best is not None:
        st.text(visible(f"{MAIN[ranks]} of the best baseline: {best}"))


def unseen(rows: list[Row]) -> list[Row]:
    """Return the traces of tasks that the detector did not learn from, as far as is known."""
    return [row for row in rows if row.split in ("held out", "unknown")]


def start_here(shown: Current) -> None:
    """Offer one trace of each kind."""
    st.subheader("Start here")
    offered = False
    for verdict, name in STARTS.items():
        rows = [row for row in unseen(shown.rows) if row.verdict == verdict]
        if rows:
            start(shown, name, ordered(rows, "lead" if verdict == "early" else "risk")[0])
            offered = True
    if not offered:
        start(
            shown,
            "Highest risk" if shown.detector else "First trace",
            ordered(shown.rows, "risk")[0],
        )


def start(shown: Current, name: str, row: Row) -> None:
    """Offer one trace."""
    with st.container(border=True, horizontal=True, vertical_alignment="center"):
        with st.container():
            st.text(f"{name}: {visible(row.facts.task)}")
            st.text(visible(headline(row, shown.detector)))
        if st.button("Read", key=f"start_{name}", width=90):
            open_trace(shown, row.facts.id)


def warning_times(shown: Current) -> None:
    """Show how early the alarms came."""
    st.subheader("How much warning?")
    leads = [row.lead for row in unseen(shown.rows) if row.lead is not None]
    if not leads:
        st.text("No lead to show: it takes an alarm, and a label of where it was said or done.")
        return
    st.vega_lite_chart(lead_histogram(leads))
    early = sum(lead > 0 for lead in leads)
    known = any(row.split != "unknown" for row in shown.rows)
    st.text(
        f"{early} of {len(leads)} alarms came before anything was said or done"
        f"{', on tasks the detector has not seen.' if known else '.'}"
    )


shown = current()
st.title("Was the model planning this before it said so?")
st.text(f"{shown.run.name} · {visible(shown.run.manifest.model)} · {shown.run.manifest.source}")
organism_notice(shown.run.manifest)
if not shown.rows:
    no_traces()
figures(shown)
if shown.detector is None:
    st.info("No detector has scored this run: train one with `trace-probe train`.")
elif shown.detector.threshold is None:
    st.info(NO_THRESHOLD)
left, right = st.columns(2, gap="large")
with left:
    start_here(shown)
with right:
    warning_times(shown)
