"""Evidence: what was measured beyond the scores, or the command that measures it."""

from collections.abc import Callable, Mapping
from typing import Any

import streamlit as st

from trace_probe.emergence.curve import drawn_of
from trace_probe.emergence.onset import format_summary, summarise
from trace_probe.errors import NotEnoughData, TraceProbeError
from trace_probe.explorer import sidebar
from trace_probe.explorer.charts import forest
from trace_probe.explorer.current import Current, current, no_traces, problem, root
from trace_probe.explorer.figures import figure
from trace_probe.explorer.links import VIEWS
from trace_probe.explorer.results import Kind, kept, results_folder
from trace_probe.explorer.runs import stamp
from trace_probe.visible import visible

Report = Mapping[str, Any]
RATES = {"instrumental": "acts", "success": "reaches its goal", "well_formed": "is well formed"}


def command(words: str, *, keep: str = "") -> None:
    """Show the command that measures something, and how its result is kept for this page."""
    folder = results_folder(root())
    first = f"mkdir -p {folder} && " if keep and not folder.is_dir() else ""
    tail = f" --json > {folder}/{keep}.json" if keep else ""
    st.code(f"{first}trace-probe {words}{tail}", language=None, wrap_lines=True)


def names(shown: Current) -> str:
    """Return the run and the probe as a command takes them."""
    probe = "PROBE" if shown.detector is None else f"probes/{shown.detector.name}"
    return visible(f"{shown.run.path} {probe}")


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
    try:
        found: str | None = SUMMARIES(shown, shown.labeller, stamp(shown.run.path))
    except NotEnoughData:
        found = None
    except TraceProbeError as error:
        problem("The oracle of this run cannot be read", str(error))
        return
    if found is None:
        st.text("The oracle has not been run on these traces yet. This command does it:")
        command(f"oracle {shown.run.path} --traces 100")
    else:
        st.code(visible(found), language=None)


def summary(_shown: Current, labeller: str | None, state: object) -> str:
    """Return what the oracle says of a run; `state` tells one content of the files from another."""
    del state
    run = _shown.run
    drawn = drawn_of(run.store)
    traces = [run.trace(name) for name in drawn if name in run.facts]
    return format_summary(summarise(traces, run.judged.get(labeller or "", {}), drawn))


SUMMARIES: Any = st.cache_data(summary, max_entries=8, show_spinner="Reading the oracle")


def efficiency(raw: Report) -> None:
    """Show how much of the oracle's ranking each detector gets, by how much was read."""
    table = raw.get("auroc")
    if not isinstance(table, dict) or not table:
        return
    detectors = list(next(iter(table.values())))
    columns = {
        moment if not _number(moment) else f"after {100 * float(moment):.0f} %": [
            figure(shares.get(name), "value").text() for name in detectors
        ]
        for moment, shares in table.items()
    }
    st.dataframe(
        {"within-prompt AUROC": [visible(name) for name in detectors], **columns},
        hide_index=True,
        alt="Within-prompt AUROC of the oracle and of each detector, by how much was read",
    )


def _number(text: str) -> bool:
    return text.replace(".", "", 1).isdigit()


def steering(raw: Report) -> None:
    """Show what a push along the probe's direction does, beside pushes along others."""
    rows = [row for row in raw.get("rows", []) if isinstance(row, dict)]
    named = {visible(pushed(row.get("cell") or {})): row.get("figures") for row in rows}
    outcomes(named)
    st.text(visible(str(raw.get("verdict", ""))))


def pushed(cell: Report) -> str:
    """Return in words what was done along which direction."""
    how = cell.get("how")
    if how == "none":
        return "left alone"
    dose = "projected out" if how == "project-out" else f"dose {cell.get('dose')}"
    return f"{cell.get('direction')}, {dose}"


def intervention(raw: Report) -> None:
    """Show what each answer to an alarm comes to."""
    outcomes(
        {
            visible(str(one.get("policy"))): one.get("figures")
            for one in raw.get("policies", [])
            if isinstance(one, dict)
        }
    )
    st.text(visible(str(raw.get("verdict", ""))))


def outcomes(named: Mapping[str, Any]) -> None:
    """Draw how often a trace then acts, and list what else becomes of it."""
    acts = {name: figure(figures, "instrumental") for name, figures in named.items()}
    title = "share of continuations that act, 95 % over tasks"
    st.vega_lite_chart(forest(acts, title), alt=title)
    st.dataframe(
        {
            "what was done": list(named),
            **{
                words: [figure(figures, key).text(percent=True) for figures in named.values()]
                for key, words in RATES.items()
            },
        },
        hide_index=True,
        alt="What becomes of the continuations",
    )


shown = current(every_row=False)
sidebar.publish(shown.view())
st.title("Evidence")
if not shown.run.facts:
    no_traces()
for text in kept(root(), "efficiency").broken:
    problem("A result cannot be read", text)
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
