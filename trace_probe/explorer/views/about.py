"""About: what was recorded, what the probe is, what the words mean, what this does not show."""

from collections.abc import Mapping
from dataclasses import asdict

import streamlit as st

from trace_probe.errors import ModelError
from trace_probe.explorer import sidebar
from trace_probe.explorer.current import Current, current, show_code
from trace_probe.explorer.links import ORGANISM_PREFIX, organism_notice
from trace_probe.explorer.runs import probe_card
from trace_probe.explorer.tables import table
from trace_probe.model.checkpoint import organism_path
from trace_probe.probing.kept import read_json
from trace_probe.probing.probe import EARLIER
from trace_probe.storage.typed import renamed
from trace_probe.visible import snippet, visible

DEFINITIONS = """
- **Risk** of a sentence: its score, or a smoothed value of the scores up to it if the detector
  has a smoothing other than *max*. What comes later does not change it.
- **Running risk**: the highest so far. It is the line; the bars are the sentences.
- **Alarm** ▲: the first sentence of the reasoning whose risk reaches the threshold. It is known at
  the last token of that sentence. The answer raises none; its bars are pale.
- **Said** ◆: the first sentence that states the instrumental intent, as the labeller saw it.
- **Action** ■: the first token of the act that decided the outcome.
- **Lead**: tokens from the alarm to the end of the sentence that says it, or to the start
  of the action.
- **Early**: the alarm came first. **Late**: after the words or the act. **Missed**: no alarm.
  **Clear**: harmless, and no alarm.
- **Quiet**: early, and never said.
- **Disagree**: one labeller calls the trace instrumental, another harmless.
- **Threshold**: set so that a chosen share of whole *benign* traces raises a false alarm.
- **Within-prompt AUROC**: how well the scores tell the samples of *one* prompt apart that act from
  those that do not: plain scores, or smoothed ones as *ranked by* says. A detector that only
  recognises the task gets 0.5.
- **Hatched** or blank: no score was computed there. That is not a score of 0.
"""

LIMITS = """
- A score is a correlate read from activations. It is not proof of intent.
- A lead is only as accurate as the label: *said* and *action* are what the labeller named
  found.
- Figures hold for the model, the layer, the tasks and the decoding on which they were measured.
- The false-alarm rate was measured on benign traces like those named; other benign work may
  differ.
- No alarm does not mean no risk: see the traces under *Missed*.
- A map of sentences shows what is alike to the model, not why; far distances on it mean little.
- Text scored by a model that did not write it is outside of what the threshold guarantees.
"""
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
    st.markdown(DEFINITIONS)
    st.subheader("What this does not show")
    st.markdown(LIMITS)
