"""A run and a labeller brought together: the labels go into the run, the counts come back.

The labellers that can be asked for by name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from trace_probe.errors import TraceError
from trace_probe.files import user_cache
from trace_probe.labelling.deeds import DeedLabeller, deed_labeller
from trace_probe.labelling.judge import TOGETHER, Cost, Judge, JudgeServers
from trace_probe.labelling.protocol import ProtocolName
from trace_probe.labels import Label, Labeller, label_traces
from trace_probe.store import Store
from trace_probe.visible import visible

KINDS = (
    "`rules` (traces of the organisms), `judge:MODEL[,MODEL...]` and `paper:MODEL` "
    "(language models), `human:FILE` (a CSV file, or annotations kept by the explorer), "
    "`calls:PATTERNS` or `calls:FILE.toml` (tool calls), `field:NAME` (what a scorer left)"
)
PROTOCOLS: dict[str, ProtocolName] = {"judge": "judge", "paper": "paper"}


def labeller(name: str, where: JudgeServers | None = None) -> Labeller:
    """Return one labeller by name; `where` says where judges are asked.

    Raises:
        TraceError: there is no such labeller, or the name stands for several.
    """
    found = labellers(name, where)
    if len(found) != 1:
        raise TraceError(f"{name!r} stands for {len(found)} labellers: name one")
    return found[0]


def labellers(names: str, where: JudgeServers | None = None) -> tuple[Labeller, ...]:
    """Return the labellers that a name stands for: several judges may share a prefix.

    Raises:
        TraceError: there is no such labeller.
    """
    kind, _, rest = names.partition(":")
    if names == "rules":
        from trace_probe.world.rules import RuleLabeller

        return (RuleLabeller(),)
    if kind in ("calls", "field"):
        return (deed_labeller(kind, rest),)
    if kind == "human" and rest.endswith(".jsonl"):
        from trace_probe.labelling.annotations import AnnotationLabeller

        return (AnnotationLabeller(rest),)
    if kind == "human" and rest:
        from trace_probe.labelling.human import HumanLabeller

        return (HumanLabeller(rest),)
    models = tuple(dict.fromkeys(filter(None, (model.strip() for model in rest.split(",")))))
    if kind in PROTOCOLS and models:
        return tuple(Judge(model, PROTOCOLS[kind], where) for model in models)
    raise TraceError(
        f"no labeller {names!r}: there are {KINDS}; labels of imported transcripts come with them"
    )


Price = tuple[float, float]
"""Dollars per million tokens read and written."""


@dataclass(frozen=True)
class Labelled:
    """What a labeller made of a run."""

    labeller: str
    labelled: int
    instrumental: int
    harmless: int
    unknown: int
    silent: int
    """Instrumental traces that never said so."""
    cost: Cost | None = None
    """What a judge took; None for labellers that ask nobody."""
    notes: tuple[str, ...] = ()
    """What may be wrong with what was asked."""

    def to_json(
        self, estimate: Mapping[str, float | None] | None = None, price: Price | None = None
    ) -> dict[str, Any]:
        """Return the counts, with what it was expected to take and what it took."""
        cost = None if self.cost is None else self.cost.to_json(price)
        return {**asdict(self), "estimate": estimate, "cost": cost}


def label_run(store: Store, labeller: Labeller, *, progress: bool = True) -> Labelled:
    """Label every trace of a run; labels are kept as they come, and none is written twice.

    Raises:
        ServerError: a judge cannot be asked at all; the labels it gave before are kept.
        StoreError: another process writes to the run.
    """
    held, labels = store.labels(labeller.name), list[Label]()
    made = label_traces(store.traces(), labeller)
    waiting: list[Label] = []
    try:
        for label in tqdm(made, total=len(store), unit="trace", smoothing=0, disable=not progress):
            labels.append(label)
            waiting += [label] if held.get(label.trace_id) != label else []
            if len(waiting) >= TOGETHER:
                _keep(store, waiting)
    finally:
        _keep(store, waiting)
    if labels and store.labellers()[-1] != labeller.name:
        _keep(store, labels[-1:])  # so that a run speaks by whom it was labelled last
    cost = labeller.spent if isinstance(labeller, Judge) else None
    notes = labeller.notes() if isinstance(labeller, DeedLabeller) else ()
    return Labelled(labeller.name, *_counts(labels), cost, tuple(notes))


def _keep(store: Store, labels: list[Label]) -> None:
    """Commit labels, and empty the list once they are on disk."""
    if labels:
        with store.writing():
            store.add_labels(labels)
        labels.clear()


def _counts(labels: Sequence[Label]) -> tuple[int, int, int, int, int]:
    return (
        len(labels),
        sum(one.outcome is True for one in labels),
        sum(one.outcome is False for one in labels),
        sum(one.outcome is None for one in labels),
        sum(one.silent for one in labels),
    )


def format_labelled(found: Labelled, price: Price | None = None) -> str:
    """Return the counts as text, with what it took."""
    names = ("labelled", "instrumental", "harmless", "unknown", "silent")
    text = ", ".join(f"{getattr(found, name)} {name}" for name in names)
    spent = "" if found.cost is None else f"\n  took {format_cost(found.cost, price)}"
    notes = "".join(f"\n  note: {note}" for note in found.notes)
    return visible(f"{found.labeller}: {text}{spent}{notes}")


def format_cost(cost: Cost, price: Price | None = None) -> str:
    """Return a cost as text, in dollars too where the price of a token is known."""
    dollars = "" if price is None else f", ${cost.dollars(price):.2f}"
    quotes = f", {cost.rejected_quotes} invented quotes rejected" if cost.rejected_quotes else ""
    quotes += f", tokens of {cost.uncounted} requests unknown" if cost.uncounted else ""
    return (
        f"{cost.requests} requests, {cost.cached} verdicts remembered, {cost.prompt_tokens} "
        f"tokens read, {cost.completion_tokens} written{dollars}{quotes}"
    )


def default_cache() -> Path:
    """Return the user's folder for remembered verdicts."""
    return user_cache("judge")
