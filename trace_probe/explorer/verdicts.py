"""A person's verdict on a sentence, given on the Label page or where a trace is read."""

import os
from dataclasses import dataclass
from datetime import UTC, datetime

import streamlit as st

from trace_probe.explorer.current import Current, error_shown, problem
from trace_probe.explorer.label_queue import Verdicts
from trace_probe.explorer.rows import Row
from trace_probe.labelling.annotations import (
    NAME,
    Annotation,
    Verdict,
    annotate,
    judged_place,
    read_annotations,
    verdicts_kept,
)

NAME_KEY, NOTE_KEY, LAST_KEY = "filter_label_name", "label_note", "label_last"
READING = "while reading"
"""Why a person judged a sentence on the page of its trace, as it stands in the file."""
CHOICES: dict[Verdict, tuple[str, str]] = {
    "says": ("Says it", "1"),
    "does": ("Does it", "2"),
    "neither": ("Neither", "3"),
    "unsure": ("Unsure", "4"),
}
GIVEN: dict[str, str] = {name: words.lower() for name, (words, _) in CHOICES.items()}


@dataclass(frozen=True)
class Asked:
    """Who judges, what is asked, and whether blind."""

    name: str
    queue: str
    blind: bool


def ask_name() -> str:
    """Draw the field for the name of whoever judges, and return the name."""
    name = st.text_input("Your name", key=NAME_KEY, placeholder="such as ana", width=180)
    return name or ""


def writable(shown: Current) -> bool:
    """Return whether verdicts can be kept; say why if they cannot."""
    if os.access(shown.run.path, os.W_OK):
        return True
    problem("This run is read-only, so no verdict can be kept", str(shown.run.path.resolve()))
    return False


def verdicts_of(shown: Current, name: str) -> Verdicts | None:
    """Return what a person has said of this run; say so if the name or the file is unfit."""
    with error_shown("Verdicts cannot be kept under this name", end=False):
        return read_annotations(verdicts_kept(shown.run.store, name))
    return None


def give(shown: Current, row: Row, sentence: int | None, verdict: Verdict, asked: Asked) -> None:
    """Append a verdict."""
    trace = shown.run.trace(row.facts.id)
    start, stop, text = judged_place(trace, sentence)
    one = Annotation(
        trace_id=trace.id,
        sentence=sentence,
        verdict=verdict,
        annotator=asked.name,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        blind=asked.blind,
        start=start,
        stop=stop,
        text=text,
        queue=asked.queue,
        detector=shown.scorer or "",
        score=score_of(row, sentence),
        threshold=row.threshold,
        note=str(st.session_state.get(NOTE_KEY) or ""),
    )
    with error_shown("The verdict could not be kept", end=False):
        annotate(shown.run.store, one)
        st.session_state[NOTE_KEY] = ""
        st.session_state[LAST_KEY] = None if verdict == "withdrawn" else (trace.id, sentence)


def score_of(row: Row, sentence: int | None) -> float | None:
    """Return the risk of a place, that of a whole trace being its peak."""
    if sentence is None or row.scores is None:
        return row.peak
    score = float(row.scores[sentence])
    return None if score != score else score


def choices(shown: Current, row: Row, sentence: int, asked: Asked, *, keys: bool) -> None:
    """Draw the verdicts to choose from, each with its key if wished, and the field for a note.

    A key works wherever the page is looked at, so a page for reading has none.
    """
    with st.container(horizontal=True, vertical_alignment="bottom"):
        for verdict, (words, key) in CHOICES.items():
            st.button(
                words,
                key=f"verdict_{verdict}",
                shortcut=key if keys else None,
                on_click=give,
                args=(shown, row, sentence, verdict, asked),
            )
        st.text_input("Note", key=NOTE_KEY, placeholder="a note, kept with it")


def judge_here(shown: Current, row: Row, sentence: int | None) -> None:
    """Let a reader judge the sentence at which the trace stands, without leaving the page."""
    if sentence is None:
        return
    with st.expander(f"Judge sentence {sentence + 1}", key="judge_here"):
        name = ask_name()
        if not NAME.fullmatch(name):
            st.caption("Enter your name: your verdicts are kept under it.")
            return
        done = verdicts_of(shown, name) if writable(shown) else None
        if done is None:
            return
        asked = Asked(name, READING, blind=False)
        choices(shown, row, sentence, asked, keys=False)
        given = done.get((row.facts.id, sentence))
        if given is not None:
            note = f" Note: {given.note}" if given.note else ""
            st.text(f"You said: {GIVEN.get(given.verdict, given.verdict)}.{note}")
            args = (shown, row, sentence, "withdrawn", asked)
            st.button("Take it back", on_click=give, args=args)
        st.caption("Kept in the run; the Label page makes labels of it.")
