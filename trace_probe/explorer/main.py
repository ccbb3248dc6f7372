"""The explorer's entry: ``streamlit run trace_probe/explorer/main.py``."""

import streamlit as st

from trace_probe.explorer import sidebar
from trace_probe.explorer.ink import darken
from trace_probe.explorer.links import VIEWS
from trace_probe.explorer.shortcut import search_on_slash

# A picture of its own: Streamlit would fetch an icon font from elsewhere.
ICON = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">
<path d="M2 26h9v-4h8V10h11" fill="none" stroke="#0072b2" stroke-width="4"/>
<path d="M19 1l5 8H14z" fill="#d55e00"/></svg>"""

SIDEBAR_PX = 240


def main() -> None:
    """Draw the page that the address names."""
    st.set_page_config(
        "trace_probe", page_icon=ICON, layout="wide", initial_sidebar_state=SIDEBAR_PX
    )
    page = st.navigation(
        [
            st.Page(VIEWS / "home.py", title="Home", default=True),
            st.Page(VIEWS / "traces.py", title="Traces"),
            st.Page(VIEWS / "trace.py", title="Trace"),
            st.Page(VIEWS / "compare.py", title="Compare"),
            st.Page(VIEWS / "map.py", title="Map"),
            st.Page(VIEWS / "metrics.py", title="Metrics"),
            st.Page(VIEWS / "evidence.py", title="Evidence"),
            st.Page(VIEWS / "study.py", title="Study"),
            st.Page(VIEWS / "recheck.py", title="Recheck"),
            st.Page(VIEWS / "label.py", title="Label"),
            st.Page(VIEWS / "score.py", title="Score"),
            st.Page(VIEWS / "live.py", title="Live"),
            st.Page(VIEWS / "about.py", title="About"),
        ],
        position="top",
    )
    sidebar.draw()
    with st.sidebar:
        darken()
        search_on_slash()
    page.run()


if __name__ == "__main__":
    main()
