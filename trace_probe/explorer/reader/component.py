"""The reader as a component of a Streamlit page."""

from collections.abc import Callable, Mapping
from typing import Any

import streamlit as st

from trace_probe.explorer.reader.scripts import SCRIPTS, source

COMPONENT = st.components.v2.component(
    "trace_probe.reader",
    html=source("reader.html"),
    css=source("reader.css"),
    js=source(*SCRIPTS, "component.js"),
)

Content = Mapping[str, Any]
MARKS = ("alarm", "said", "action")


def reader(
    content: Content,
    *,
    key: str,
    on_step: Callable[[int], None] | None = None,
    on_threshold: Callable[[float], None] | None = None,
) -> int | None:
    """Draw a trace; return the sentence the reader moved to, or None before the first move.

    The keys ``[`` and ``]`` call `on_step` with -1 and +1: the reader wants another trace. With
    `on_threshold` the threshold can be dragged, and is told there before the page runs again.
    """

    def moved() -> None:
        value = st.session_state[key].get("threshold")
        if on_threshold is not None and value is not None:
            on_threshold(float(value))

    result = _draw([dict(content)], key, moved if on_threshold else None)
    if result.threshold is not None:
        st.rerun(scope="app")
    if result.step and on_step is not None:
        on_step(int(result.step))
    return None if result.sentence is None else int(result.sentence)


def pair(left: Content, right: Content, *, origins: tuple[int, int], key: str) -> int | None:
    """Draw two traces so that the token `origins[0]` of one lies over `origins[1]` of the other.

    A move in one moves the other to the sentence at the same distance from its origin. Returns
    the sentence of the left one, or None before the first move.
    """
    result = _draw(aligned(left, right, origins), key)
    return None if result.sentence is None else int(result.sentence)


def aligned(left: Content, right: Content, origins: tuple[int, int]) -> list[dict[str, Any]]:
    """Return two contents on axes of one length, with their origins at the same place.

    Both have a lane for every mark that one of them has, so that their curves are level.
    """
    sides = list(zip((left, right), origins, strict=True))
    before = max(origin - side["begin"] for side, origin in sides)
    after = max(side["end"] - origin for side, origin in sides)
    lanes = [name for name in MARKS if any(name in side["marks"] for side, _ in sides)]
    return [
        {**side, "axis": [origin - before, origin + after], "origin": origin, "lanes": lanes}
        for side, origin in sides
    ]


def _draw(sides: list[dict[str, Any]], key: str, moved: Callable[[], None] | None = None) -> Any:  # noqa: ANN401 - Streamlit's own
    return COMPONENT(
        key=key,
        data={"sides": sides, "movable": moved is not None},
        on_sentence_change=_nothing,
        on_step_change=_nothing,
        on_threshold_change=moved or _nothing,
    )


def _nothing() -> None:
    """Streamlit keeps the state of a component only where a callback is named."""
