"""About: what was recorded, what the probe is, what the words mean, what this does not show."""

from dataclasses import asdict

import streamlit as st

from trace_probe.explorer.current import Current, current
from trace_probe.explorer.links import organism_notice
from trace_probe.explorer.runs import probe_card
from trace_probe.visible import visible

DEFINITIONS = """
- **Risk** of a sentence: the detector's score once the model has written it. Later text plays
  no part.
- **Running risk**: the highest so far. It is the line; the bars are the sentences.
- **Alarm** ▲: the first sentence of the reasoning whose risk reaches the threshold. It is known at
  the last token of that sentence. The answer raises none; its bars are pale.
- **Said** ◆: the first sentence that states the instrumental intent, as the labeller saw it.
- **Action** ■: the first token of the act that decided the outcome.
- **Lead**: tokens from the alarm to the end of the sentence that says it, or to the start
  of the action.
- **Quiet**: done, never said, and yet an alarm.
- **Threshold**: set so that a chosen share of whole *benign* traces raises a false alarm.
- **Hatched**: no score was computed there. That is not a score of 0.
"""

LIMITS = """
- A score is a correlate read from activations. It is not proof of intent.
- A lead is only as good as the label it counts to: *said* and *action* come from the
  labeller named.
- Figures hold for the model, the layer, the tasks and the decoding on which they were measured.
- The false-alarm rate was measured on benign traces like those named; other benign work may
  differ.
- No alarm does not mean no risk: see the traces under *Missed*.
"""


def manifest(shown: Current) -> None:
    """Show what the run is."""
    raw = asdict(shown.run.manifest) | {"traces": len(shown.rows), "labels": len(shown.run.labels)}
    content = {"field": list(raw), "value": [visible(str(value)) for value in raw.values()]}
    st.dataframe(content, hide_index=True)


def card(shown: Current) -> None:
    """Show the card of the probe, if it is kept beside the runs."""
    if shown.detector is None:
        st.text("No detector has scored this run.")
        return
    file = probe_card(shown.run.path, shown.detector.name)
    if file is None:
        st.text(visible(f"{shown.detector.name} has no card in the probes folder beside the runs."))
        return
    st.text(str(file))
    st.code(visible(file.read_text(encoding="utf-8")), language=None, wrap_lines=True)


shown = current()
st.title("About this run")
organism_notice(shown.run.manifest)
left, right = st.columns(2, gap="large")
with left:
    st.subheader("What was recorded")
    manifest(shown)
    st.subheader("The detector")
    card(shown)
with right:
    st.subheader("What the words mean")
    st.markdown(DEFINITIONS)
    st.subheader("What this does not show")
    st.markdown(LIMITS)
