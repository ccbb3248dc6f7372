"""What an evaluation leaves out, said in words: labels of others, unknowns, traces of no use."""

from collections.abc import Iterator

from trace_probe.probing.dataset import Corpus, sentences_before_act
from trace_probe.store import Store


def labels_left_out(store: Store, corpus: Corpus) -> Iterator[str]:
    """Yield which labels are used of a run's, and how many traces have others only, or none."""
    used = {trace.id for trace in corpus.traces if trace.id in corpus.labels}
    here = {trace.id for trace in corpus.traces}
    chosen = next((label.labeller for label in corpus.labels.values()), "nobody")
    others = {
        name: here & set(store.labels(name)) - used for name in store.labellers() if name != chosen
    }
    missing = set().union(*others.values()) if others else set()
    if missing:
        names = ", ".join(f"{name} ({len(ids)})" for name, ids in others.items() if ids)
        yield (
            f"Labels of {chosen}: {len(used)} of {len(used | missing)} labelled traces. The others "
            f"have labels of {names} only, which are not used: choose with --labeller."
        )
    unknown = sum(corpus.outcome(trace) is None for trace in corpus.traces if trace.id in used)
    if unknown:
        yield (
            f"{unknown} of {len(used)} traces labelled by {chosen} have an unknown outcome and "
            f"count nowhere."
        )


def traces_left_out(corpus: Corpus) -> Iterator[str]:
    """Yield how many traces of known outcome hold nothing that a detector could read in time."""
    known = corpus.known()
    silent = [one for one in known if not any(s.channel == "reasoning" for s in one.sentences)]
    late = [one for one in known if not sentences_before_act(one, corpus.labels[one.id])]
    if silent:
        yield (
            f"{len(silent)} of {len(known)} traces have no reasoning: what is known of the task "
            f"counts for them as for the others, their thoughts cannot."
        )
    if len(late) > len(silent):
        yield f"{len(late) - len(silent)} of {len(known)} traces act before their first thought."
