"""About: what was recorded, what the probe is, what the words mean, what this does not show."""

from collections.abc import Mapping
from dataclasses import asdict

import streamlit as st

from trace_probe.errors import ModelError
from trace_probe.explorer import sidebar
from trace_probe.explorer.current import Current, current, show_code
from trace_probe.explorer.links import ORGANISM_PREFIX, organism_notice
from trace_probe.explorer.reader.scripts import source
from trace_probe.explorer.runs import probe_card
from trace_probe.explorer.tables import table
from trace_probe.model.checkpoint import organism_path
from trace_probe.probing.kept import read_json
from trace_probe.probing.probe import EARLIER
from trace_probe.storage.typed import renamed
from trace_probe.visible import snippet, visible

COUNTED = ("training_tasks", "calibration_tasks")
APART = (*COUNTED, "limits", "figures")
"""Fields of a card that are too long for its table."""


def fields(content: Mapping[str, object], alt: str) -> None:
    """Show fields and their values."""
    names = [name.replace("_", " ") for name in content]
    table({"field": names, "value": [shown_as(one) for one in content.values()]}, alt)


def shown_as(value: object) -> str:
    """Return a value as a person writes it."""
    if value in (None, "", ()):
        return "—"
    if isinstance(value, float):
        return f"{value:.4g}"
    return ", ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def manifest(shown: Current) -> None:
    """Show what the run is."""
    run = shown.run
    raw = asdict(run.manifest)
    sampling = raw.pop("sampling")
    labelled = (f"{name}: {len(labels):,} traces" for name, labels in run.judged.items())
    about = {"traces": f"{len(shown.rows):,}", **raw, **sampling}
    about |= {"labels": ", ".join(labelled), "folder": run.path.resolve()}
    fields(about, "What was recorded")


def card(shown: Current) -> None:
    """Show the card of the probe, if it is kept beside the runs."""
    if shown.detector is None:
        st.text("No detector has scored this run.")
        return
    file = probe_card(shown.run.path, shown.detector.name)
    if file is None:
        st.text(visible(f"{shown.detector.name} has no card in the probes folder beside the runs."))
        return
    raw = renamed(read_json(file)[0], EARLIER)
    facts = {name: one for name, one in raw.items() if name not in APART}
    counts = {name: len(raw[name]) for name in COUNTED}
    fields(facts | counts, "The card of the probe")
    for limit in raw.get("limits", ()):
        st.text(visible(f"• {limit}"))
    with st.expander("The whole card"):
        st.text(str(file))
        show_code(file.read_text("utf-8"))


def organism(shown: Current) -> None:
    """Show the card of the organism that was recorded, if it was one and is here."""
    model = shown.run.manifest.model
    if not model.startswith(ORGANISM_PREFIX):
        return
    name = model.removeprefix(ORGANISM_PREFIX).partition("@")[0]
    try:
        file = organism_path(name) / "README.md"
    except ModelError as error:
        st.text(visible(snippet(str(error), 300)))
        return
    if file.is_file():
        with st.expander("The card of the model organism"):
            show_code(file.read_text("utf-8"))


shown = current()
sidebar.publish(shown.view())
st.title("About this run")
organism_notice(shown.run.manifest)
left, right = st.columns(2, gap="large")
with left:
    st.subheader("What was recorded")
    manifest(shown)
    organism(shown)
    st.subheader("The detector")
    card(shown)
with right:
    st.subheader("What the words mean")
    st.markdown(source("definitions.md"))
    st.subheader("What this does not show")
    st.markdown(source("limits.md"))
