"""The reader component: emergence curve and sentences of a trace on one axis.

Its scripts are plain files, joined in order, without a build step. They put text into the page
with ``textContent`` alone.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import streamlit as st

HERE = Path(__file__).parent
SCRIPTS = ("dom.js", "curve.js", "sentences.js", "reader.js")


def source(*names: str) -> str:
    """Return the joined text of files of this package."""
    return "\n".join((HERE / name).read_text(encoding="utf-8") for name in names)


COMPONENT = st.components.v2.component(
    "trace_probe.reader",
    html=source("reader.html"),
    css=source("reader.css"),
    js=source(*SCRIPTS),
)


def reader(content: Mapping[str, Any], *, key: str) -> int | None:
    """Draw a trace; return the sentence the reader moved to, or None before the first move."""
    result = COMPONENT(key=key, data=dict(content), on_sentence_change=_nothing)
    sentence = result.sentence
    return None if sentence is None else int(sentence)


def _nothing() -> None:
    """Streamlit keeps the state of a component only where a callback is named."""
