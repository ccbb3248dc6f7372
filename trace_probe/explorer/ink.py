"""Two things that Streamlit's own theme lacks: dark ink on light blue, and a word for its menu."""

import streamlit as st

STYLE = """
[data-testid="stExpandSidebarButton"] { width: auto; }
[data-testid="stExpandSidebarButton"]::after { content: "Menu"; margin-left: 0.25rem; }
@media (prefers-color-scheme: dark) {
  [data-tag] *, [data-testid^="stBaseButton-primary"] * { color: #0d0c0b !important; }
}
"""
COMPONENT = st.components.v2.component("trace_probe.ink", css=STYLE, isolate_styles=False)


def darken() -> None:
    """Make chosen values, main buttons and the way to the menu readable, with a style of ours."""
    COMPONENT(key="ink", height=0)
