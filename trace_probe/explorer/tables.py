"""Tables: which row a click chose."""

from collections.abc import Mapping
from typing import Any

WHOLE_ROW: Any = ("single-row", "single-cell")
"""A click anywhere in a row chooses it, not only one on its box."""


def row_of(selection: Mapping[str, Any]) -> int | None:
    """Return the row that was chosen in a table, by its box or by one of its cells."""
    cells = selection.get("cells") or ()
    if cells:
        return int(cells[0][0])
    rows = selection.get("rows") or ()
    return int(rows[0]) if rows else None
