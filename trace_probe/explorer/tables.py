"""Tables: how they are drawn, and which row a click chose."""

from collections.abc import Mapping
from typing import Any

import streamlit as st

from trace_probe.visible import visible

WHOLE_ROW: Any = ("single-row", "single-cell")
"""A click anywhere in a row chooses it, not only one on its box."""
ROW_PX, HEAD_PX = 36, 40
Columns = Mapping[str, Any]
"""The cells of each column, by its title."""


def table(
    columns: Columns,
    alt: str,
    *,
    formats: Mapping[str, object] | None = None,
    most_px: int | None = None,
    **more: Any,  # noqa: ANN401 - Streamlit's own
) -> Any:  # noqa: ANN401 - Streamlit's own
    """Draw a table in which no text can hide; return what was chosen in it, if anything can be.

    `formats` says for some columns how numbers are written, such as ``%.2f``, or else how they are
    drawn. A table higher than `most_px` scrolls.
    """
    shown = {
        visible(name): [visible(cell) if isinstance(cell, str) else cell for cell in cells]
        for name, cells in columns.items()
    }
    if most_px is not None:
        more["height"] = min(ROW_PX * _length(columns) + HEAD_PX, most_px)
    number = st.column_config.NumberColumn
    config = {
        name: number(format=how) if isinstance(how, str) else how
        for name, how in (formats or {}).items()
    }
    return st.dataframe(
        shown, hide_index=True, column_config=config, placeholder="—", alt=alt, **more
    )


def pick_row(columns: Columns, alt: str, key: str, **more: Any) -> int | None:  # noqa: ANN401
    """Draw a table in which a click chooses a row; return its place, None if there is none."""
    chosen = table(columns, alt, key=key, on_select="rerun", selection_mode=WHOLE_ROW, **more)
    row = row_of(chosen.selection)
    return row if row is not None and row < _length(columns) else None


def keep_row(columns: Columns, alt: str, key: str, start: int = 0, **more: Any) -> int:  # noqa: ANN401
    """Draw a table in which one row is always chosen, `start` at first; return its place."""
    first = {"selection": {"rows": [start]}}
    mode: dict[str, Any] = {"selection_mode": "single-row-required", "selection_default": first}
    chosen = table(columns, alt, key=key, on_select="rerun", **mode, **more)
    row = row_of(chosen.selection)
    return row if row is not None and row < _length(columns) else start


def _length(columns: Columns) -> int:
    return len(next(iter(columns.values()), ()))


def row_of(selection: Mapping[str, Any]) -> int | None:
    """Return the row that was chosen in a table, by its box or by one of its cells."""
    cells = selection.get("cells") or ()
    if cells:
        return int(cells[0][0])
    rows = selection.get("rows") or ()
    return int(rows[0]) if rows else None
