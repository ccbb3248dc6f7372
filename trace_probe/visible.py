"""Text made fit to look at: tables are aligned, and what no reader could see is a glyph.

Text that went through `visible` is still data. It may go to ``st.text``, ``st.code``,
``st.dataframe`` and ``textContent``, never to anything that reads markdown or HTML.
"""

import csv
import io
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

KEPT = frozenset("\n\t")
HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
BLANK_LETTERS = frozenset("\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
PLAIN = re.compile("[\\x20-\\x7e\\n\\t]*")
FORMULA_STARTS = ("=", "+", "-", "@", "\t")
FIRST_SELECTOR, LAST_SELECTOR = "\U000e0100", "\U000e01ef"


def visible(text: str) -> str:
    """Return text in which control, zero-width, bidi and blank characters can be seen."""
    # Most text is plain, and a trace of ten thousand tokens is waited for.
    return text if PLAIN.fullmatch(text) else "".join(map(_glyph, text))


@lru_cache(maxsize=4096)
def _glyph(char: str) -> str:
    """Return the character itself, or what to show in its place."""
    if char in KEPT or not _hidden(char):
        return char
    return f"\u27e6U+{ord(char):04X}\u27e7"


def _hidden(char: str) -> bool:
    """Return whether a character has no ink of its own or moves the ink of others."""
    return (
        unicodedata.category(char) in HIDDEN_CATEGORIES
        or char in BLANK_LETTERS
        or FIRST_SELECTOR <= char <= LAST_SELECTOR
    )


def whole(text: str) -> str:
    """Return a text in which U+FFFD stands for half a surrogate pair.

    No encoding and no tokenizer takes such a half: a text that comes back changed is none.
    """
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def snippet(text: str, width: int = 120) -> str:
    """Return text on one line, cut to `width` characters."""
    line = " ".join(visible(text).split())
    return line if len(line) <= width else line[: width - 1] + "\u2026"


def aligned(rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the rows of a table as lines in which its columns stand below each other."""
    cells = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in cells]


def csv_text(columns: Mapping[str, Sequence[object]]) -> str:
    """Return columns as CSV; what is None is an empty cell.

    Text that a spreadsheet would take for a formula gets an apostrophe before it: it may be a
    model's.
    """
    file = io.StringIO()
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow(columns)
    rows.writerows([*map(_cell, row)] for row in zip(*columns.values(), strict=True))
    return file.getvalue()


def _cell(value: object) -> object:
    if not isinstance(value, str):
        return value
    return visible(f"'{value}" if value.startswith(FORMULA_STARTS) else value)
