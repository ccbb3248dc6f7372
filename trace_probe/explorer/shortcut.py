"""The key ``/``, which leads to a field of the page from wherever the reader is."""

import streamlit as st

SCRIPT = """
export default function ({ data }) {
  const lead = (event) => {
    const typing = event.composedPath()[0].closest?.("input, textarea, [contenteditable=true]");
    if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || event.altKey) return;
    const field = document.querySelector(`input[aria-label="${data}"]`);
    if (!field) return;
    event.preventDefault();
    field.focus();
    field.select();
  };
  document.addEventListener("keydown", lead);
  return () => document.removeEventListener("keydown", lead);
}
"""
COMPONENT = st.components.v2.component("trace_probe.shortcut", js=SCRIPT)


def focus_on_slash(label: str) -> None:
    """Let ``/`` put the cursor into the text field with a label; while typing it stays a slash."""
    COMPONENT(key=f"slash_{label}", data=label, height=0)
