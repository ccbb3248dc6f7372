"""Tables: which row a click chose, and rows as a file that a spreadsheet shows and does not run."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from trace_probe.visible import visible

FORMULA_STARTS = ("=", "+", "-", "@")
WHOLE_ROW: Any = ("single-row", "single-cell")
"""A click anywhere in a row chooses it, not only one on its box."""


def row_of(selection: Mapping[str, Any]) -> int | None:
    """Return the row that was chosen in a table, by its box or by one of its cells."""
    cells = selection.get("cells") or ()
    if cells:
        return int(cells[0][0])
    rows = selection.get("rows") or ()
    return int(rows[0]) if rows else None


def to_csv(columns: Mapping[str, Sequence[object]]) -> bytes:
    """Return columns as CSV in UTF-8; what is None is an empty cell.

    Text that a spreadsheet would take for a formula gets an apostrophe before it: it may be a
    model's.
    """
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(columns)
    writer.writerows([_cell(value) for value in row] for row in zip(*columns.values(), strict=True))
    return file.getvalue().encode()


def _cell(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = visible(value)
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text
