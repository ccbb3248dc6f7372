"""Study: rates and paired differences between runs of the same tasks."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import streamlit as st

from trace_probe.errors import NotEnoughData
from trace_probe.explorer import sidebar
from trace_probe.explorer.charts import forest
from trace_probe.explorer.current import current, error_shown, root, runs, show_code
from trace_probe.explorer.figures import Figure, figure
from trace_probe.explorer.links import show_broken
from trace_probe.explorer.results import kept, results_folder
from trace_probe.explorer.runs import Stamp, stamp
from trace_probe.explorer.tables import table
from trace_probe.store import Store
from trace_probe.study.study import study
from trace_probe.visible import visible

RUNS_KEY, SOURCE_KEY = "filter_study_runs", "filter_study_source"
HERE = "runs at hand"
CROSSED = ", "
"""Stands in the name of a group of more than one condition."""
FIGURES = {
    "instrumental": "Acted instrumentally",
    "silent": "Of those, never stated it",
    "unfaithful": "Of those, gave another reason",
    "explained": "Share of the rate that is gone without the nudge",
}


def compute(paths: Sequence[Path], states: Sequence[Stamp]) -> dict[str, Any]:
    """Return a study of runs as JSON; `states` tells one content of the files from another."""
    del states
    return asdict(study([Store(path) for path in paths]))


STUDIES: Any = st.cache_data(compute, max_entries=8, show_spinner="Comparing runs")


def at_hand() -> dict[str, Any] | None:
    """Let the reader choose runs, and compare them."""
    there = runs()
    asked = (sidebar.arrival() or {}).get("runs", "")
    if asked:
        st.session_state[RUNS_KEY] = [name for name in asked.split("|") if name in there]
    st.session_state.setdefault(RUNS_KEY, [shown.run.name])
    names = st.multiselect("Runs", list(there), key=RUNS_KEY, format_func=visible)
    sidebar.publish(shown.view(), {"runs": "|".join(names)})
    if not names:
        st.info("Choose a run, or several that hold the same tasks.")
        return None
    paths = [there[name] for name in names]
    with error_shown("These runs cannot be compared", end=False):
        try:
            found: dict[str, Any] = STUDIES(paths, [stamp(path) for path in paths])
            return found
        except NotEnoughData as error:
            st.info(visible(str(error)))
    return None


def shares(found: Mapping[str, Any]) -> None:
    """Show how often something is the case, by run and group."""
    rows = [*found.get("shares", []), *found.get("explained", [])]
    several = len({row.get("run") for row in rows}) > 1
    for key, title in FIGURES.items():
        here = [row for row in rows if row.get("figure") == key]
        single = [row for row in here if CROSSED not in str(row.get("group"))]
        if draw(title, single, several=several) and len(single) < len(here):
            with st.expander("By two conditions at once"):
                draw("", [row for row in here if row not in single], several=several)


def draw(title: str, rows: Sequence[Mapping[str, Any]], *, several: bool) -> bool:
    """Draw shares under a title; return whether there was anything to draw."""
    named = {visible(_name(row, several=several)): figure(row, "value") for row in rows}
    known = any(value.known for value in named.values())
    if known and title:
        st.subheader(title)
    if known:
        words = "share of traces, 95 % over tasks"
        st.vega_lite_chart(forest(named, words), alt=title or words)
    return known


def _name(row: Mapping[str, Any], *, several: bool) -> str:
    run, group = str(row.get("run")), str(row.get("group"))
    if group == "all":
        return run
    return f"{run} · {group}" if several else group


def differences(found: Mapping[str, Any]) -> None:
    """Show paired differences, task by task, with what the tasks alone say."""
    rows = found.get("differences", [])
    st.subheader("Differences on the same tasks")
    if not rows:
        st.text("None: choose two runs of the same tasks, or one whose tasks had several nudges.")
        return
    named = {
        visible(f"{row['first']} − {row['second']} · {row['group']}"): figure(row, "value")
        for row in rows
    }
    title = "difference of instrumental rates, 95 % over tasks"
    st.vega_lite_chart(forest(named, title, around_zero=True), alt=title)
    tests = [row.get("mcnemar") or {} for row in rows]
    columns = {
        "comparison": list(named),
        "difference [95 %]": [value.text() for value in named.values()],
        "tasks": [value.n for value in named.values()],
        "only the first": [one.get("first_only") for one in tests],
        "only the second": [one.get("second_only") for one in tests],
        "McNemar p": [one.get("p") for one in tests],
    }
    table(columns, "Paired differences with McNemar's test", formats={"McNemar p": "%.3g"})


def rates(found: Mapping[str, Any]) -> None:
    """Show the rate in each category and condition."""
    rows = found.get("rates", [])
    if not rows:
        return
    with st.expander(f"By category and condition ({len(rows)} rows)"):
        values: list[Figure] = [figure(row, "value") for row in rows]
        names = [key for key in ("run", "figure", "category", "condition") if key in rows[0]]
        columns: dict[str, Sequence[object]] = {
            **{key: [str(row.get(key)) for row in rows] for key in names},
            "rate [95 %]": [value.text() for value in values],
            "tasks": [value.n for value in values],
        }
        table(columns, "Rates by category and condition")


def controls(found: Mapping[str, Any]) -> None:
    """Say of each pair of runs whether one thing alone differs."""
    for one in found.get("comparisons", []):
        names = f"{one.get('first')} and {one.get('second')}"
        words = f"{names} differ in one thing: {one.get('differs')}"
        if not one.get("controlled"):
            words = f"{names} are NOT a controlled pair: {one.get('differs')}"
        st.text(visible(f"{'✓' if one.get('controlled') else '✕'} {words}"))
    for note in found.get("notes", []):
        st.text(visible(f"Note: {note}"))


shown = current()
st.title("Study")
st.caption(
    "What differs between runs of the same tasks: rewards, models, nudges. Every difference is "
    "paired task by task."
)
results = kept(root(), "study")
show_broken(results)
source = HERE
if results.found:
    source = str(st.selectbox("Result", [HERE, *results.found], key=SOURCE_KEY))
if source == HERE:
    found = at_hand()
else:
    sidebar.publish(shown.view(), {"study": source})
    found = results.found[source]
if found is not None:
    st.text(f"{found.get('tasks')} test tasks in all of them")
    controls(found)
    differences(found)
    shares(found)
    rates(found)
    with st.expander("Keep it, or read it as JSON"):
        st.text(f"Results in {results_folder(root())} are listed here. To keep one:")
        show_code("trace-probe study RUN RUN --json > studies/NAME.json")
        show_code(json.dumps(found, indent=1, ensure_ascii=False))
