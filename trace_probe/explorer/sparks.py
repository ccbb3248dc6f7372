"""Risk by position as a picture small enough for a table cell.

Streamlit's chart columns cannot leave a gap, and a gap must not look like a low score.
"""

from collections.abc import Iterable, Sequence
from urllib.parse import quote

STEP, WIDTH, HEIGHT = 4, 3, 26
BELOW, OVER, MISSING, LINE = "#9aa0ac", "#d55e00", "#9aa0ac", "#777777"
SAFE = " ='/:,()"


def spark_image(
    bins: Sequence[float | None], low: float, high: float, threshold: float | None
) -> str:
    """Return bars as the address of an SVG image."""
    return f"data:image/svg+xml,{quote(spark_svg(bins, low, high, threshold), safe=SAFE)}"


def spark_svg(
    bins: Sequence[float | None], low: float, high: float, threshold: float | None
) -> str:
    """Return bars as an SVG image: over the threshold coloured, gaps hatched."""
    missing: list[str] = []
    below: list[str] = []
    over: list[str] = []
    for index, value in enumerate(bins):
        if value is None:
            missing.append(f"M{STEP * index} {HEIGHT}l{WIDTH}-{WIDTH}m-{WIDTH}-8l{WIDTH}-{WIDTH}")
            continue
        height = max(round(_share(value, low, high) * HEIGHT, 1), 1)
        bar = f"M{STEP * index} {HEIGHT}v-{height:g}h{WIDTH}v{height:g}z"
        (below if threshold is None or value < threshold else over).append(bar)
    parts = [_path(below, f"fill='{BELOW}'"), _path(over, f"fill='{OVER}'")]
    parts.append(_path(missing, f"stroke='{MISSING}'"))
    if threshold is not None:
        y = round(HEIGHT * (1 - _share(threshold, low, high)), 1)
        parts.append(_path([f"M0 {y:g}h{STEP * len(bins)}"], f"stroke='{LINE}' stroke-width='.6'"))
    size = f"width='{STEP * len(bins)}' height='{HEIGHT}'"
    return f"<svg xmlns='http://www.w3.org/2000/svg' {size}>{''.join(parts)}</svg>"


def _path(strokes: Iterable[str], style: str) -> str:
    drawn = "".join(strokes)
    return f"<path d='{drawn}' {style}/>" if drawn else ""


def _share(value: float, low: float, high: float) -> float:
    return min(max((value - low) / ((high - low) or 1.0), 0.0), 1.0)
