"""The key ``/``, which leads to the search of the list of traces from wherever the reader is."""

import streamlit as st

from trace_probe.explorer.reader.scripts import source

LABEL, PAGE = "Search", "traces"
COMPONENT = st.components.v2.component("trace_probe.shortcut", js=source("search.js"))


def search_on_slash() -> None:
    """Let ``/`` put the cursor into the search, on its page; while typing it stays a slash."""
    COMPONENT(key="slash", data={"label": LABEL, "page": PAGE}, height=0)
