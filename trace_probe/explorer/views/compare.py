"""Compare: two traces that belong together, or one as two detectors see it, on one axis."""

from dataclasses import dataclass

import streamlit as st

from trace_probe.episode import alike
from trace_probe.explorer import pairing, sidebar
from trace_probe.explorer.choices import choose_one, prefer
from trace_probe.explorer.current import Current, current, end_page, error_shown, no_traces, runs
from trace_probe.explorer.links import open_trace
from trace_probe.explorer.loading import Loaded, load_run
from trace_probe.explorer.pairing import Align, Pair
from trace_probe.explorer.payload import payload
from trace_probe.explorer.reader.component import pair as pair_reader
from trace_probe.explorer.rows import Row
from trace_probe.explorer.tables import keep_row
from trace_probe.explorer.words import ShownDetector
from trace_probe.visible import visible

KIND_KEY, ALIGN_KEY = "filter_compare_kind", "filter_compare_align"
OTHER_RUN_KEY, OTHER_DETECTOR_KEY = "filter_compare_run", "filter_compare_detector"
FIRST_KEY, SECOND_KEY = "filter_compare_a", "filter_compare_b"
OUTCOME, NUDGE, MODEL, DETECTOR, OWN = "Outcome", "Nudge", "Run", "Detector", "Any two"
KINDS = {
    OUTCOME: "Two samples of one prompt: one acted instrumentally, one did not. Of all such "
    "pairs of a prompt this is the one whose texts share the longest beginning.",
    NUDGE: "One task and sample, without a nudge and with one (or under another condition).",
    MODEL: "One task and sample in two runs, such as two models.",
    DETECTOR: "One trace as two detectors see it.",
    OWN: "Any two traces of this run, by id.",
}


@dataclass(frozen=True)
class Side:
    """Where one half of the pairs comes from."""

    run: Loaded
    detector: ShownDetector | None

    def name(self, row: Row) -> str:
        """Return what tells a trace of this side from its partner."""
        facts = row.facts
        seen_by = "" if self.detector is None else f" · by {self.detector.name}"
        parts = f"{self.run.name} · condition {facts.condition} · sample {facts.sample}"
        return visible(f"{parts} · {row.outcome}{seen_by}")

    def scored_as(self, other: "Side") -> bool:
        """Return whether peaks of both are on one scale: one detector, at one threshold."""
        if self.detector is None or other.detector is None:
            return self.detector is other.detector
        mine, its = self.detector, other.detector
        return (mine.name, mine.threshold) == (its.name, its.threshold)


def adopt() -> None:
    """Set the widgets to what a link asks for."""
    asked = sidebar.arrival() or {}
    for key, name in ((FIRST_KEY, "a"), (SECOND_KEY, "b")):
        if asked.get(name):
            st.session_state[key] = asked[name]
    if asked.get("with") in runs():
        st.session_state[OTHER_RUN_KEY] = asked["with"]


def first_kind(shown: Current) -> None:
    """Start with a kind of which the run holds pairs."""
    if (
        KIND_KEY not in st.session_state
        and not pairing.by_outcome(shown.rows, shown.run.texts)
        and pairing.by_nudge(shown.rows)
    ):
        st.session_state[KIND_KEY] = NUDGE


def pairs_of(shown: Current, kind: str) -> tuple[list[Pair], Side, Side]:
    """Return the pairs of a kind, and where both halves come from."""
    here = Side(shown.run, shown.detector)
    if kind == OUTCOME:
        return pairing.by_outcome(shown.rows, shown.run.texts), here, here
    if kind == NUDGE:
        return pairing.by_nudge(shown.rows), here, here
    if kind == MODEL:
        return other_run(shown, here)
    if kind == DETECTOR:
        return other_detector(shown, here)
    return any_two(shown), here, here


def other_run(shown: Current, here: Side) -> tuple[list[Pair], Side, Side]:
    """Let the reader choose another run; the same detector and labeller if it has them too.

    Without the labeller its traces count as unlabelled: outcomes of two labellers do not compare.
    """
    names = [name for name in runs() if name != shown.run.name]
    if not names:
        return [], here, here
    prefer(names, key=OTHER_RUN_KEY)
    chosen = st.selectbox("B is of the run", names, key=OTHER_RUN_KEY, format_func=visible)
    with error_shown("The other run cannot be read"):
        run = load_run(runs()[chosen])
        first = next(iter(run.detectors), None)
        name = shown.scorer if shown.scorer in run.detectors else first
        detector = None if name is None else run.detector(name)
        rows = run.rows(detector, shown.labeller)
    if shown.labeller is not None and shown.labeller not in run.labellers:
        st.text(visible(f"{shown.labeller} has not labelled {run.name}, so B has no outcomes."))
    return pairing.across(shown.rows, rows), here, Side(run, detector)


def other_detector(shown: Current, here: Side) -> tuple[list[Pair], Side, Side]:
    """Let the reader choose another detector of this run."""
    names = [name for name in shown.run.detectors if name != shown.scorer]
    if not names:
        return [], here, here
    prefer(names, key=OTHER_DETECTOR_KEY)
    name = st.selectbox("B is seen by", names, key=OTHER_DETECTOR_KEY, format_func=visible)
    other = shown.run.detector(name)
    found = pairing.same_trace(shown.rows, shown.run.rows(other, shown.labeller))
    return found, here, Side(shown.run, other)


def any_two(shown: Current) -> list[Pair]:
    """Let the reader name two traces."""
    cells = st.columns(2)
    rows = {row.facts.id: row for row in shown.rows}
    found = []
    for cell, key, name in ((cells[0], FIRST_KEY, "A"), (cells[1], SECOND_KEY, "B")):
        text = cell.text_input(f"Id of {name}, or its beginning", key=key)
        matching = [row for trace_id, row in rows.items() if text and trace_id.startswith(text)]
        if text and len(matching) != 1:
            cell.warning(f"{len(matching)} traces of this run have an id that begins like this.")
        found += matching if len(matching) == 1 else []
    return [Pair(*found)] if len(found) == 2 else []


def choose_pair(pairs: list[Pair], kind: str, *, comparable: bool) -> Pair:
    """Draw the table of pairs and return the chosen one, at first that of the address."""
    asked = sidebar.arrival() or {}
    wanted = asked.get("a"), asked.get("b")
    ids = [(pair.first.facts.id, pair.second.facts.id) for pair in pairs]
    start = ids.index(wanted) if wanted in ids else 0
    columns = pair_table(pairs, comparable=comparable)
    alt, key = "Pairs; choosing a row compares the two", f"compare_{kind}_{len(pairs)}"
    formats = dict.fromkeys(("peak A", "peak B", "B − A"), "%.2f")
    return pairs[keep_row(columns, alt, key, start, formats=formats, most_px=220)]


def rank(pair: Pair, kind: str, shown: Current) -> tuple[bool, float, bool]:
    """Return the place of a pair in the list: alarms first, then what tells most.

    Of two samples of one prompt that is how long they go together, else how far apart the peaks
    lie.
    """
    rows = pair.first, pair.second
    same = alike(*(shown.run.texts[row.facts.id] for row in rows)) if kind == OUTCOME else None
    telling = pair.gap if same is None else float(same)
    return pair.alarms == "neither", -telling, rows[0].outcome == rows[1].outcome


def pair_table(pairs: list[Pair], *, comparable: bool) -> dict[str, list[object]]:
    """Return the columns of the table of pairs; a difference only where scales are the same."""
    columns: dict[str, list[object]] = {
        "task": [pair.first.facts.task for pair in pairs],
        "A": [_told(pair.first, pair.second) for pair in pairs],
        "B": [_told(pair.second, pair.first) for pair in pairs],
        "peak A": [pair.first.peak for pair in pairs],
        "peak B": [pair.second.peak for pair in pairs],
    }
    if comparable:
        columns["B − A"] = [pair.difference for pair in pairs]
    return {**columns, "alarm": [pair.alarms for pair in pairs]}


def _told(row: Row, other: Row) -> str:
    """Return what became of a trace, and in what it differs from its partner."""
    facts = row.facts
    same = facts.condition == other.facts.condition
    return f"{row.outcome}, {f'sample {facts.sample}' if same else facts.condition}"


def summary(pairs: list[Pair], *, comparable: bool) -> str:
    """Return in one line what all pairs say."""
    counts = {
        words: sum(pair.alarms == words for pair in pairs)
        for words in ("both", "only A", "only B", "neither")
    }
    told = " · alarms: " + ", ".join(f"{name} {count}" for name, count in counts.items())
    thresholds = {row.threshold for pair in pairs for row in (pair.first, pair.second)}
    told = "" if thresholds == {None} else told
    mean = pairing.mean_difference(pairs)
    shown = comparable and mean.known and len(pairs) > 1
    tail = f" · mean difference of peaks, B − A: {mean.text()} over tasks" if shown else ""
    return f"{len(pairs):,} pairs{told}{tail}"


def origins(pair: Pair, align: Align) -> tuple[int, int]:
    """Return the tokens that lie over each other; the starts where one lacks the event."""
    rows = pair.first, pair.second
    zeros = [pairing.origin(row, align) for row in rows]
    if None in zeros:
        lacking = " and ".join(n for n, zero in zip("AB", zeros, strict=True) if zero is None)
        verb = "has" if len(lacking) == 1 else "have"
        st.info(f"{lacking} {verb} no {align}, so both are aligned at the start.")
        return rows[0].facts.begin, rows[1].facts.begin
    return zeros[0] or 0, zeros[1] or 0


def side_by_side(pair: Pair, sides: tuple[Side, Side], align: Align) -> None:
    """Draw both in the reader, in step; say where their texts differ."""
    rows = pair.first, pair.second
    with error_shown("These traces cannot be read"):
        traces = [side.run.trace(row.facts.id) for side, row in zip(sides, rows, strict=True)]
    split = pairing.parting(*traces)
    equal = "sentence is" if split == 1 else f"{split} sentences are"
    same = (
        "The texts differ" if split == 0 else f"The first {equal} the same; then the texts differ"
    )
    told = f"{same}. Both are shown from there."
    with st.container(horizontal=True, vertical_alignment="center"):
        if traces[0].id != traces[1].id:
            st.text("The texts are the same." if split is None else told)
        st.space("stretch")
        for letter, side, row in zip("AB", sides, rows, strict=True):
            if st.button(f"Read {letter}", key=f"compare_read_{letter}"):
                open_trace(Current(side.run, side.detector), row.facts.id)
    contents = [
        {**payload(trace, row, side.detector, focus=split), "title": f"{letter} · {side.name(row)}"}
        for letter, trace, row, side in zip("AB", traces, rows, sides, strict=True)
    ]
    names = "_".join(
        f"{side.run.name}_{row.facts.id}" for side, row in zip(sides, rows, strict=True)
    )
    contents = [{**content, "by_turn": align == "call"} for content in contents]
    pair_reader(*contents, origins=origins(pair, align), key=f"pair_{names}")


shown = current()
st.title("Compare")
if not shown.rows:
    no_traces()
adopt()
first_kind(shown)
with st.container(horizontal=True, vertical_alignment="bottom"):
    link = sidebar.arrival() or {}
    kind = choose_one("What differs", list(KINDS), key=KIND_KEY, asked=link.get("pair"))
    agents = any(row.facts.calls > 1 for row in shown.rows)
    offered = tuple(name for name in pairing.ALIGNMENTS if agents or name != "call")
    align = choose_one("Aligned at", offered, key=ALIGN_KEY, asked=link.get("align"))
st.caption(KINDS[kind])
pairs, *sides = pairs_of(shown, kind)
link = {"pair": kind, "align": align}
if not pairs:
    sidebar.publish(shown.view(), link)
    st.info("This run holds no such pair." if kind != OWN else "Name two traces.")
    end_page()
pairs.sort(key=lambda pair: rank(pair, kind, shown))
comparable = sides[0].scored_as(sides[1])
st.text(visible(summary(pairs, comparable=comparable)))
pair = choose_pair(pairs, kind, comparable=comparable)
link |= {"a": pair.first.facts.id, "b": pair.second.facts.id}
sidebar.publish(shown.view(), link | ({"with": sides[1].run.name} if kind == MODEL else {}))
side_by_side(pair, (sides[0], sides[1]), align)
