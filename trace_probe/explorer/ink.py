"""Dark ink on the light blue of the dark theme, where Streamlit writes in white."""

import streamlit as st

STYLE = """
@media (prefers-color-scheme: dark) {
  [data-tag] *, [data-testid^="stBaseButton-primary"] * { color: #0d0c0b !important; }
}
"""
COMPONENT = st.components.v2.component("trace_probe.ink", css=STYLE, isolate_styles=False)


def darken() -> None:
    """Make chosen values and main buttons readable; the style is ours and holds no text."""
    COMPONENT(key="ink", height=0)
