"""Scripts, styles, frames and texts of pages: plain files, joined in order, without a build step.

The scripts put text into a page with ``textContent`` alone.
"""

from pathlib import Path

HERE = Path(__file__).parent
SCRIPTS = ("dom.js", "plot.js", "lanes.js", "curve.js", "sentences.js", "reader.js")


def source(*names: str) -> str:
    """Return the joined text of files of this package."""
    return "\n".join((HERE / name).read_text(encoding="utf-8") for name in names)
