"""The explorer's entry: ``streamlit run trace_probe/explorer/main.py``."""

import streamlit as st

from trace_probe.explorer import sidebar
from trace_probe.explorer.links import VIEWS


def main() -> None:
    """Draw the page that the address names."""
    st.set_page_config("trace_probe", page_icon=":material/timeline:", layout="wide")
    page = st.navigation(
        [
            st.Page(VIEWS / "home.py", title="Home", default=True),
            st.Page(VIEWS / "traces.py", title="Traces"),
            st.Page(VIEWS / "trace.py", title="Trace"),
            st.Page(VIEWS / "metrics.py", title="Metrics"),
            st.Page(VIEWS / "about.py", title="About"),
        ],
        position="top",
    )
    sidebar.draw()
    page.run()


if __name__ == "__main__":
    main()
