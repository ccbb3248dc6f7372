"""Recheck: whether the thresholds of a probe hold for the models that it was rechecked on."""

import streamlit as st

from trace_probe.explorer import sidebar
from trace_probe.explorer.current import current, error_shown, no_probes, root, show_code
from trace_probe.explorer.models import probes
from trace_probe.explorer.tables import table
from trace_probe.monitor.recheck import FIGURES, Recheck, Verdict, load_rechecks
from trace_probe.statistics.bootstrap import shown as written
from trace_probe.visible import visible

BY_KEY = "filter_recheck_probe"
ABOUT = (
    "A threshold is calibrated for one model, run in one way. After a change of engine, precision, "
    "template, adapter or weights, a recheck compares a run from before the change with one from "
    "after it, and says whether the threshold still holds."
)
COLOURS: dict[Verdict, str] = {
    "holds": "green",
    "stale": "orange",
    "degraded": "red",
    "cannot tell": "gray",
}


def draw(found: Recheck) -> None:
    """Show one recheck: its verdict, what to do, and the figures behind it."""
    st.subheader(visible(str(found.after)))
    st.badge(found.verdict, color=COLOURS[found.verdict])
    st.text(visible(found.advice))
    figures = [getattr(found, name) for name in FIGURES]
    limits = [one.guaranteed for one in figures]
    columns = {
        "figure": FIGURES,
        "before": [written(one.before) for one in figures],
        "after": [written(one.after) for one in figures],
        "shift": [written(one.shift, sign="+") for one in figures],
        "guaranteed": [None if limit is None else f"{limit:.1%}" for limit in limits],
    }
    table(columns, "Figures before and after the change, with 95 % intervals")
    st.caption(visible(f"Compared with {found.before}: {found.compared}."))


page = current()
sidebar.publish(page.view())
st.title("Recheck")
st.caption(ABOUT)
there = probes(root(), page.detector)
if not there:
    no_probes()
name = st.selectbox("Probe", list(there), key=BY_KEY, format_func=visible, width=320)
with error_shown("The rechecks of this probe cannot be read"):
    rechecks = load_rechecks(there[name])
if not rechecks:
    st.info("This probe has not been rechecked yet. Record the changed model, then compare:")
    show_code(f"trace-probe recheck {there[name]} {page.run.path} traces/AFTER")
for recheck in reversed(rechecks):  # the latest first
    draw(recheck)
