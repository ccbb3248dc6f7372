"""Evidence: what was measured beyond the scores, or the command that measures it."""

from collections.abc import Callable, Mapping
from typing import Any

import streamlit as st

from trace_probe.emergence.curve import drawn_of
from trace_probe.emergence.onset import summarise
from trace_probe.errors import NotEnoughData
from trace_probe.explorer import sidebar
from trace_probe.explorer.charts import forest
from trace_probe.explorer.current import Current, current, error_shown, no_traces, root, show_code
from trace_probe.explorer.figures import figure
from trace_probe.explorer.links import VIEWS, show_broken
from trace_probe.explorer.results import Kind, kept, results_folder
from trace_probe.explorer.runs import stamp
from trace_probe.explorer.tables import table
from trace_probe.visible import visible

Report = Mapping[str, Any]
RATES = {"instrumental": "acts", "success": "reaches its goal", "well_formed": "is well formed"}


def command(words: str, *, keep: str = "") -> None:
    """Show the command that measures something, and how its result is kept for this page."""
    folder = results_folder(root())
    first = f"mkdir -p {folder} && " if keep and not folder.is_dir() else ""
    tail = f" --json > {folder}/{keep}.json" if keep else ""
    show_code(f"{first}trace-probe {words}{tail}")


def names(shown: Current) -> str:
    """Return the run and the probe as a command takes them."""
    probe = "PROBE" if shown.scorer is None else f"probes/{shown.scorer}"
    return f"{shown.run.path} {probe}"


def section(
    shown: Current, title: str, about: str, kind: Kind, draw: Callable[[Report], None]
) -> None:
    """Show every kept result of a kind, or say how one is made."""
    st.subheader(title)
    st.caption(about)
    results = kept(root(), kind)
    for name, raw in results.found.items():
        st.text(visible(f"{name} · {raw.get('model', '')}".rstrip(" ·")))
        draw(raw)
    if not results.found:
        verb = {"steering": "steer", "intervention": "intervene"}.get(kind, kind)
        st.text("Not measured yet. This command does it and keeps the result for this page:")
        command(f"{verb} {names(shown)}", keep=kind)


def oracle(shown: Current) -> None:
    """Show from where on the act was likely, as the model's own continuations tell."""
    st.subheader("When was the outcome decided?")
    st.caption(
        "The oracle lets the model continue many times from each point of a trace, and counts "
        "how often the continuation ends in the act. No detector can know more. The Trace page "
        "draws it below the scores of those traces on which it was run."
    )
    with error_shown("The oracle of this run cannot be read", end=False):
        try:
            found = SUMMARIES(shown, shown.labeller, stamp(shown.run.path))
            st.code(visible(found), language=None)
        except NotEnoughData:
            st.text("The oracle has not been run on these traces yet. This command does it:")
            command(f"oracle {shown.run.path} --traces 100")


def summary(_shown: Current, labeller: str | None, state: object) -> str:
    """Return what the oracle says of a run; `state` tells one content of the files from another."""
    del state
    run = _shown.run
    drawn = drawn_of(run.store)
    traces = [run.trace(name) for name in drawn if name in run.facts]
    return str(summarise(traces, run.judged.get(labeller or "", {}), drawn))


SUMMARIES: Any = st.cache_data(summary, max_entries=8, show_spinner="Reading the oracle")


def efficiency(raw: Report) -> None:
    """Show how much of the oracle's ranking each detector gets, by how much was read."""
    moments = raw.get("auroc")
    if not isinstance(moments, dict) or not moments:
        return
    detectors = list(next(iter(moments.values())))
    columns = {"within-prompt AUROC": detectors}
    for moment, shares in moments.items():
        title = f"after {100 * float(moment):.0f} %" if _number(moment) else moment
        columns[title] = [figure(shares.get(name), "value").text() for name in detectors]
    table(columns, "Within-prompt AUROC of the oracle and each detector, by how much was read")


def _number(text: str) -> bool:
    return text.replace(".", "", 1).isdigit()


def steering(raw: Report) -> None:
    """Show what a push along the probe's direction does, beside pushes along others."""
    outcomes(raw, "rows", lambda row: pushed(row.get("cell") or {}))


def pushed(cell: Report) -> str:
    """Return in words what was done along which direction."""
    how = cell.get("how")
    if how == "none":
        return "left alone"
    dose = "projected out" if how == "project-out" else f"dose {cell.get('dose')}"
    return f"{cell.get('direction')}, {dose}"


def intervention(raw: Report) -> None:
    """Show what each answer to an alarm comes to."""
    outcomes(raw, "policies", lambda one: str(one.get("policy")))


def outcomes(raw: Report, part: str, name: Callable[[Report], str]) -> None:
    """Draw how often a trace then acts, list what else becomes of it, and say the verdict."""
    rows = [row for row in raw.get(part, []) if isinstance(row, dict)]
    named = {visible(name(row)): row.get("figures") for row in rows}
    acts = {name: figure(figures, "instrumental") for name, figures in named.items()}
    title = "share of continuations that act, 95 % over tasks"
    st.vega_lite_chart(forest(acts, title), alt=title)
    columns = {"what was done": list(named)}
    for key, words in RATES.items():
        columns[words] = [figure(one, key).text(percent=True) for one in named.values()]
    table(columns, "What becomes of the continuations")
    st.text(visible(str(raw.get("verdict", ""))))


shown = current(every_row=False)
sidebar.publish(shown.view())
st.title("Evidence")
if not shown.run.facts:
    no_traces()
show_broken(kept(root(), "efficiency"))
oracle(shown)
section(
    shown,
    "How much of the warning is used?",
    "The detector and the text beside the oracle, after each part of the reasoning.",
    "efficiency",
    efficiency,
)
section(
    shown,
    "Is the direction a cause?",
    "The model is pushed along the probe's direction while it writes, and as far along random and "
    "unrelated directions. Only a larger effect than theirs is evidence for this direction.",
    "steering",
    steering,
)
section(
    shown,
    "What can an alarm do?",
    "At the alarm the model stops, has the direction taken out, or is made to reflect.",
    "intervention",
    intervention,
)
st.page_link(VIEWS / "recheck.py", label="Does the threshold still hold?", icon=":material/sync:")
