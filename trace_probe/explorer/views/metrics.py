"""Metrics: the evaluation report, every figure with its interval, beside its baselines."""

import json
from typing import Any

import streamlit as st

from trace_probe.explorer.charts import intervals
from trace_probe.explorer.current import current, end_page, own_threshold
from trace_probe.explorer.figures import MAIN, RANKS, compared, figure, main_figures, number
from trace_probe.explorer.words import alarm_share
from trace_probe.visible import visible

CHANCE = 0.5


def chart(report: dict[str, Any], key: str, title: str) -> None:
    """Draw one figure for the detector and its baselines, and list what could not be drawn."""
    figures = {visible(name): value for name, value in compared(report, key).items()}
    if any(value.known for value in figures.values()):
        st.vega_lite_chart(intervals(figures, title, CHANCE))
    else:
        st.info(f"{title}: this run cannot give it. The notes say why.")
    rows = {
        "detector": list(figures),
        f"{title} [95 %]": [value.text() for value in figures.values()],
        "n": ["" if value.n is None else str(value.n) for value in figures.values()],
    }
    st.dataframe(rows, hide_index=True)


def facts(report: dict[str, Any]) -> None:
    """Say on what the figures rest."""
    counts = report.get("n")
    if isinstance(counts, dict):
        parts = [
            f"{number(value) or 0:.0f} {name.replace('_', ' ')}" for name, value in counts.items()
        ]
        st.text("Measured on " + visible(", ".join(parts)))
    threshold = number(report.get("threshold"))
    parts = [
        f"labels by {report.get('labeller', 'unknown')}",
        "text only" if report.get("layer") is None else f"layer {report['layer']}",
        "no threshold" if threshold is None else f"threshold {threshold:.4g}",
    ]
    st.text(visible(" · ".join(parts)))


shown = current()
st.title("Metrics")
if shown.detector is None:
    st.info("No detector has scored this run: `trace-probe train`, then `trace-probe evaluate`.")
    end_page()
report = shown.detector.report
if report is None:
    st.info("This detector has not been evaluated on this run: `trace-probe evaluate` does it.")
    st.text(alarm_share(shown.rows))
    end_page()
facts(report)
left, right = st.columns(2, gap="large")
with left:
    st.subheader("Figures")
    st.dataframe(main_figures(report), hide_index=True)
    if own_threshold() is not None:
        st.warning(
            "The figures hold for the calibrated threshold, not for the one set at the left."
        )
    if figure(report, "false_alarm_rate").known:
        st.text(f"At the threshold shown, {alarm_share(shown.rows)}.")
    for note in report.get("notes") or []:
        st.text(visible(f"Note: {note}"))
with right:
    st.subheader("Beside its baselines")
    for key in RANKS:
        chart(report, key, MAIN[key])
    st.caption(
        "Within a prompt every trace read the same words, so a detector that only knows the task "
        "stays at 0.5. Dashes mark chance."
    )
with st.expander("Report as JSON"):
    st.code(visible(json.dumps(report, indent=1, ensure_ascii=False)), language=None)
