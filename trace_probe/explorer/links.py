"""Ways between pages, and the notice that belongs on more than one of them."""

from pathlib import Path
from typing import NoReturn

import streamlit as st

from trace_probe.explorer.current import Current, end_page, own_threshold
from trace_probe.explorer.state import ViewState
from trace_probe.store import Manifest

VIEWS = Path(__file__).parent / "views"
ORGANISM_PREFIX = "organism:"


def open_trace(shown: Current, trace_id: str) -> NoReturn:
    """Go to a trace; it opens at its first alarm."""
    detector = None if shown.detector is None else shown.detector.name
    view = ViewState(shown.run.name, trace_id, None, detector, own_threshold())
    st.switch_page(VIEWS / "trace.py", query_params=view.to_query())
    end_page()


def organism_notice(manifest: Manifest) -> None:
    """Say of a model organism that it is an instrument."""
    if manifest.model.startswith(ORGANISM_PREFIX):
        st.info(
            "These traces come from a model organism: a small model trained so that its goals "
            "are known. It is an instrument for testing detectors, not evidence about frontier "
            "models.",
            icon=":material/science:",
        )
