"""Score: text of your own, read by a probe or by its words alone; nothing is kept."""

import math
from dataclasses import dataclass

import streamlit as st

from trace_probe.evaluation.layers import score_range
from trace_probe.explorer import sidebar
from trace_probe.explorer.current import Current, current, error_shown, root, show_code
from trace_probe.explorer.heldout import unseen
from trace_probe.explorer.links import ORGANISM_PREFIX
from trace_probe.explorer.models import probes, resident, shown_probe
from trace_probe.explorer.payload import payload
from trace_probe.explorer.reader.component import reader
from trace_probe.explorer.rows import Row, build_row, facts_of, ordered
from trace_probe.explorer.tables import keep_row
from trace_probe.explorer.words import ShownDetector
from trace_probe.explorer.written import (
    PASTED,
    TEXT_DETECTOR,
    Pasted,
    Scored,
    score_with_probe,
    score_words,
)
from trace_probe.interop.left_out import LeftOut
from trace_probe.monitor.detector import Detector, Source
from trace_probe.statistics.smoothing import MAX
from trace_probe.visible import visible

ENGLISH = ":english-"
"""In the name of an organism that reads any English."""
BY_KEY, SCORED_KEY, NOTES_KEY = "filter_score_by", "scored", "scored_from"
FIELDS = (
    "One JSON object a line, with `reasoning` and `answer` or one `completion` with think tags, "
    "and `prompt` if it is known. A line that cannot be read is set aside. Other field names: "
    "`trace-probe import --fields`."
)
ABOUT_PROBE = (
    "The model reads the text as if it had just written it. The threshold holds for what this "
    "model writes; for text of another model the false-alarm rate is not known."
)
SMALL = (
    "This small organism knows a few hundred words. Other text is refused; *Fill in an example* "
    "puts in one that it can read. The project comes with a probe that reads English, "
    "`probes/english`; `trace-probe fetch smollm2` gets its model."
)
OUTSIDE = (
    "This text lies outside the range that the threshold was calibrated on, so neither an alarm "
    "nor its absence can be relied on here."
)
RANGE = {True: "outside", False: "within", None: "not known"}
ABOUT_WORDS = (
    "Scores need activations, and activations need the model. Without it, only the words can be "
    "read: this baseline learns them from the labelled traces of the run at the left. It has no "
    "calibrated threshold, so it raises no alarm."
)


def fill(shown: Current) -> None:
    """Put a trace of this run into the fields, the one with the earliest warning."""
    rows = [row for row in unseen(shown.rows) if row.facts.reasoning.any()]
    if not rows:
        return
    trace = shown.run.trace(ordered(rows, "lead")[0].facts.id)
    st.session_state["score_prompt"] = trace.task.prompt
    st.session_state["score_reasoning"] = trace.channel_text("reasoning").strip()
    st.session_state["score_answer"] = trace.channel_text("answer").strip()


@dataclass(frozen=True)
class Brought:
    """What is to be scored, as lines of JSON, and where it came from."""

    content: bytes
    file: str = PASTED
    aside: LeftOut | None = None
    """Collects the lines of a file that cannot be scored; None for pasted text."""


def brought(shown: Current) -> Brought | None:
    """Draw the places for text; return what is to be scored."""
    st.button("Fill in an example", on_click=fill, args=(shown,), icon=":material/edit_note:")
    with st.form("score_form", border=True):
        left, right = st.columns(2, gap="large")
        with left:
            prompt = st.text_area(
                "Prompt",
                key="score_prompt",
                height=80,
                placeholder="optional, but the model reads it too",
            )
            reasoning = st.text_area(
                "Reasoning", key="score_reasoning", height=170, placeholder="what the model thought"
            )
            answer = st.text_area("Answer", key="score_answer", height=80, placeholder="optional")
        with right:
            file = st.file_uploader("or a file of transcripts", type=["jsonl", "json"])
            st.caption(FIELDS)
        asked = st.form_submit_button("Score", type="primary", icon=":material/bolt:")
    if not asked:
        return None
    if file is not None:
        return Brought(file.getvalue(), file.name, LeftOut())
    if not reasoning.strip():
        st.warning("There is nothing to score: paste reasoning, or choose a file.")
        return None
    return Brought(Pasted(prompt, reasoning, answer).jsonl())


def say_left_out(given: Brought | None) -> None:
    """Say which lines of a file were set aside, and why, and what was not read of the others."""
    told = given.aside.told() if given and given.aside else ()
    if given and told:
        st.warning("Not all of this file was scored as it is", icon=":material/warning:")
        show_code("\n".join([given.file, *told]))


def by_probe(
    shown: Current, given: Brought, detector: Detector
) -> tuple[list[Scored], ShownDetector]:
    """Score by a probe, with its model; of its evaluation, what the run at the left holds."""
    held = resident(detector.saved.card.model)
    with st.spinner("Reading"), held.turn:
        found = score_with_probe(given.content, held.model, detector, given.file, given.aside)
    low, high = score_range([one.scores for one in found], detector.threshold)
    return found, ShownDetector(detector, shown.run.report(detector.name), low, high)


def by_words(shown: Current, given: Brought) -> tuple[list[Scored], ShownDetector]:
    """Score by words alone."""
    with st.spinner("Learning the words of this run"):
        run, labeller = shown.run.store, shown.labeller
        found = score_words(given.content, run, labeller, given.file, given.aside)
    low, high = score_range([one.scores for one in found], None)
    words = Detector(TEXT_DETECTOR, MAX, math.inf, Source("none"))
    return found, ShownDetector(words, None, low, high)


def show(found: list[Scored], detector: ShownDetector) -> None:
    """Show the texts scored: a table of them if there are several, and one in the reader."""
    rows = [
        build_row(facts_of(one.trace), one.label, one.scores, detector.threshold) for one in found
    ]
    place = choose(rows, found) if len(rows) > 1 else 0
    if found[place].outside:
        st.warning(OUTSIDE)
    if found[place].unknown:
        from trace_probe.monitor.live import unknown_words_note

        st.warning("Not every word of this text is known to the model.")
        show_code(unknown_words_note(found[place].unknown))
    content = payload(found[place].trace, rows[place], detector)
    reader(content, key=f"scored_{found[place].trace.id}")
    st.caption("This text is not saved.")


def choose(rows: list[Row], found: list[Scored]) -> int:
    """List the texts, the riskiest first; return which is chosen.

    Those outside the range that the threshold was calibrated on are marked, if it is known, and
    those with words that the model does not know.
    """
    order = sorted(range(len(rows)), key=lambda i: -(rows[i].peak or float("-inf")))
    columns = {
        "text": [rows[i].facts.task for i in order],
        "peak": [rows[i].peak for i in order],
        "alarm at token": [rows[i].alarm_token for i in order],
        "tokens": [rows[i].facts.tokens for i in order],
    }
    if any(one.outside is not None for one in found):
        columns["calibrated range"] = [RANGE[found[i].outside] for i in order]
    if any(one.unknown for one in found):
        columns["unknown words"] = [len(found[i].unknown) for i in order]
    alt, key = "Scored texts; choosing one shows it", f"scored_table_{len(rows)}"
    return order[keep_row(columns, alt, key, formats={"peak": "%.2f"}, most_px=240)]


shown = current()
sidebar.publish(shown.view())
st.title("Score")
there = probes(root(), shown.detector)
by = st.selectbox("Scored by", [*there, TEXT_DETECTOR], key=BY_KEY, format_func=visible, width=320)
detector = shown_probe(there[by]) if by in there else None
if detector is None:
    st.caption(ABOUT_WORDS)
else:
    st.caption(ABOUT_PROBE)
    model = detector.saved.card.model
    if model.startswith(ORGANISM_PREFIX) and ENGLISH not in model:
        st.caption(SMALL)
given = brought(shown)
if given is not None:
    st.session_state.pop(SCORED_KEY, None)
    st.session_state[NOTES_KEY] = None
    with error_shown("This cannot be scored", end=False):
        if detector is None:
            st.session_state[SCORED_KEY] = by, *by_words(shown, given)
        else:
            st.session_state[SCORED_KEY] = by, *by_probe(shown, given, detector)
        st.session_state[NOTES_KEY] = given
kept = st.session_state.get(SCORED_KEY)
if kept is not None and kept[0] == by and kept[1]:
    say_left_out(st.session_state.get(NOTES_KEY))
    show(kept[1], kept[2])
