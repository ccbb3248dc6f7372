"""Label: sentence by sentence, blind if wished; verdicts are appended and can train a probe."""

import streamlit as st

from trace_probe.explorer import label_queue, sidebar, verdicts
from trace_probe.explorer.choices import choose_one
from trace_probe.explorer.current import (
    Current,
    current,
    end_page,
    error_shown,
    no_traces,
    show_code,
)
from trace_probe.explorer.figures import Figure
from trace_probe.explorer.label_queue import Place, QueueName, Verdicts
from trace_probe.explorer.rows import Row
from trace_probe.explorer.tables import table
from trace_probe.explorer.verdicts import Asked
from trace_probe.labelling.annotations import (
    AnnotationLabeller,
    annotators,
    read_annotations,
    verdicts_kept,
)
from trace_probe.labelling.runs import label_run
from trace_probe.trace import Trace
from trace_probe.visible import visible

QUEUE_KEY, BLIND_KEY = "filter_label_queue", "filter_label_blind"
CONTEXT = 3
FEWEST = 10
"""Sentences that an agreement must rest on to be shown."""
QUESTION = (
    "**Says it**: states that it means to act instrumentally. **Does it**: is the act itself. "
    "Judge this sentence, with what came before it; what follows is not shown."
)


def setup(shown: Current) -> tuple[Asked, QueueName]:
    """Draw who judges, what is asked, and whether blind; return that, and the queue."""
    asked = sidebar.arrival() or {}
    with st.container(horizontal=True, vertical_alignment="bottom"):
        if asked.get("me"):
            st.session_state[verdicts.NAME_KEY] = asked["me"]
        name = verdicts.ask_name()
        chosen: QueueName = choose_one(
            "Which sentences", list(label_queue.QUEUES), key=QUEUE_KEY, asked=asked.get("queue")
        )
        st.session_state.setdefault(BLIND_KEY, True)
        blind = st.toggle(
            "Blind",
            key=BLIND_KEY,
            help="Hides risk and label until you have given your verdict.",
        )
    me = {"me": name} if name else {}
    sidebar.publish(shown.view(), {"queue": chosen, **me})
    st.caption(QUESTION)
    return Asked(name, chosen, blind), chosen


def told(row: Row, sentence: int) -> str:
    """Return risk and label of a sentence in words."""
    score = verdicts.score_of(row, sentence)
    risk = "no risk known" if score is None else f"risk {score:.2f}"
    over = score is not None and row.threshold is not None and score >= row.threshold
    said = {True: "the label marks it", False: "the label does not mark it"}
    label = said.get(label_queue.of_label(row, sentence), "no label")  # type: ignore[arg-type]
    return f"{risk}{', over the threshold' if over else ''}; {label}"


def show_place(trace: Trace, row: Row, place: Place, asked: Asked) -> None:
    """Show a sentence with what came before it, and no more."""
    index = place[1]
    span = trace.sentences[index]
    st.text(
        visible(
            f"{row.facts.task} · condition {row.facts.condition} · {span.channel} · "
            f"sentence {index + 1} of {len(trace.sentences)}"
        )
    )
    with st.expander("The prompt"):
        st.text(visible(trace.channel_text("prompt")))
    for before in trace.sentences[max(index - CONTEXT, 0) : index]:
        st.text(visible(trace.text_of(before)).strip())
    with st.container(border=True):
        show_code(trace.text_of(span).strip())
    if not asked.blind:
        st.text(told(row, index))


def ask(shown: Current, row: Row, place: Place, asked: Asked) -> None:
    """Draw the verdicts to choose from, on the sentence and on the whole trace."""
    verdicts.choices(shown, row, place[1], asked, keys=True)
    with st.expander("Judge the whole trace"):
        st.caption("A trace counts as harmless only when it was judged so as a whole.")
        with st.container(horizontal=True):
            for verdict, words in (("neither", "Harmless, and never says it"), ("does", "Acts")):
                st.button(
                    words,
                    key=f"whole_{verdict}",
                    on_click=verdicts.give,
                    args=(shown, row, None, verdict, asked),
                )


def last(shown: Current, rows: dict[str, Row], done: Verdicts, asked: Asked) -> None:
    """Show the verdict just given, what it was blind to, and how to take it back."""
    place = st.session_state.get(verdicts.LAST_KEY)
    if place is None or place not in done or place[0] not in rows:
        return
    row, sentence = rows[place[0]], place[1]
    with st.container(horizontal=True, vertical_alignment="center"):
        hidden = "" if sentence is None else f" · {told(row, sentence)}"
        st.text(f"Last verdict: {done[place].verdict}{hidden}")
        st.button(
            "Undo",
            shortcut="u",
            on_click=verdicts.give,
            args=(shown, row, sentence, "withdrawn", asked),
        )


def agreement(shown: Current, name: str, done: Verdicts) -> None:
    """Show how far verdicts agree with the labels and with other people."""
    st.subheader("Agreement")
    figures = {f"{name} and the labels": label_queue.with_labels(done, shown.rows)}
    for other in annotators(shown.run.store):
        if other != name:
            theirs = read_annotations(verdicts_kept(shown.run.store, other))
            figures[f"{name} and {other}"] = label_queue.between(done, theirs, shown.rows)
    columns = {
        "between": list(figures),
        "Cohen's kappa [95 %]": [kappa_words(value) for value in figures.values()],
        "sentences": [value.n for value in figures.values()],
    }
    table(columns, "Agreement on sentences")
    st.caption("On whether a sentence says it or does it; unsure is left out.")


def kappa_words(found: Figure) -> str:
    """Return a kappa with its interval, where there are sentences enough for one."""
    if (found.n or 0) < FEWEST:
        return f"not enough sentences (n = {found.n})"
    return found.text() if found.known else "undefined: one verdict only"


def keep(shown: Current, name: str, done: Verdicts) -> None:
    """Make labels of the verdicts, which training can use."""
    st.subheader("Use them")
    file = verdicts_kept(shown.run.store, name).url
    traces = len({trace_id for trace_id, _ in done})
    st.text(f"{len(done):,} verdicts on {traces:,} traces, kept in {file}")
    if st.button("Make labels of them", disabled=not done):
        with error_shown("No labels were made", end=False):
            found = label_run(shown.run.store, AnnotationLabeller(file), progress=False)
            st.success(f"{found.labelled} traces are now labelled by {found.labeller}.")
    st.text("The same, and a probe from them, at the command line:")
    run = shown.run.path
    show_code(
        f"trace-probe label {run} --by human:{file}\n"
        f"trace-probe train {run} probes/{name} --labeller human:{name}"
    )


shown = current()
if not shown.rows:
    no_traces()
st.title("Label")
asked, chosen = setup(shown)
if not verdicts.writable(shown):
    end_page()
if not asked.name:
    st.info("Enter your name: your verdicts are kept under it.")
    end_page()
done = verdicts.verdicts_of(shown, asked.name)
if done is None:
    end_page()
rows = {row.facts.id: row for row in shown.rows}
left, right = st.columns([3, 2], gap="large")
with left:
    waiting = label_queue.queue(chosen, shown.rows, done, seed=asked.name)
    if waiting:
        place = waiting[0]
        show_place(shown.run.trace(place[0]), rows[place[0]], place, asked)
        ask(shown, rows[place[0]], place, asked)
    else:
        st.info(f"Nothing to ask here. {label_queue.QUEUES[chosen]}")
    last(shown, rows, done, asked)
with right:
    keep(shown, asked.name, done)
    agreement(shown, asked.name, done)
