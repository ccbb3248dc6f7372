"""Ways between pages, and what belongs on more than one of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import streamlit as st

from trace_probe.explorer.charts import lead_histogram
from trace_probe.explorer.current import Current, end_page, problem
from trace_probe.explorer.heldout import unseen
from trace_probe.explorer.results import Kept
from trace_probe.store import Manifest
from trace_probe.visible import visible

VIEWS = Path(__file__).parent / "views"
ORGANISM_PREFIX = "organism:"
DEMO_TASKS = "world:demo"


def open_trace(shown: Current, trace_id: str, sentence: int | None = None) -> NoReturn:
    """Go to a trace; it opens at a sentence, by default at its first alarm."""
    view = shown.view(trace_id, sentence)
    st.switch_page(VIEWS / "trace.py", query_params=view.to_query())
    end_page()


def show_notes(notes: Sequence[str]) -> None:
    """Show the first note of a report on how far to trust it; the others fold away."""
    if notes:
        st.text(visible(notes[0]))
    if len(notes) > 1:
        with st.expander(f"{len(notes) - 1} more on how far to trust this"):
            for note in notes[1:]:
                st.text(visible(note))


def show_broken(results: Kept) -> None:
    """Name the files of results that cannot be read."""
    for text in results.broken:
        problem("A result cannot be read", text)


def show_warning_times(shown: Current) -> None:
    """Show how early the alarms came."""
    leads = [row.lead for row in unseen(shown.rows) if row.lead is not None]
    if not leads:
        st.text(
            "No lead to show: it needs an alarm, and a label that tells where it was said or done."
        )
        return
    known = any(row.split != "unknown" for row in shown.rows)
    words = (
        f"{sum(lead > 0 for lead in leads)} of {len(leads)} alarms came before anything was said "
        f"or done{', on tasks the detector has not seen.' if known else '.'}"
    )
    st.vega_lite_chart(lead_histogram(leads), alt=words)
    st.text(words)


def organism_notice(manifest: Manifest) -> None:
    """Say of a model organism that it is an instrument, and of the demo that it is one."""
    if not manifest.model.startswith(ORGANISM_PREFIX):
        return
    demo = "Made by `trace-probe demo`. "
    st.info(
        f"{demo if manifest.tasks == DEMO_TASKS else ''}These traces come from a model organism: "
        "a small model trained so that its goals are known. It is an instrument for testing "
        "detectors, not evidence about frontier models.",
        icon=":material/science:",
    )
