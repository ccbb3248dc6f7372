"""Several runs of the same settings into one: what the shards of a recording are for."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from trace_probe.errors import StoreError
from trace_probe.labels import Label
from trace_probe.storage.records import differences
from trace_probe.store import Store


@dataclass(frozen=True)
class MergeReport:
    """What a call of `merge` did."""

    run: str
    runs: int
    traces: int
    """Copied."""
    resumed: int
    """Traces that were there before."""
    labels: int

    def __str__(self) -> str:
        """Return a report as text."""
        return (
            f"{self.run}: {self.traces} traces and {self.labels} labels from {self.runs} runs, "
            f"{self.resumed} traces already there"
        )


def merge(out: Path | str, runs: Sequence[Path | str], *, progress: bool = True) -> MergeReport:
    """Copy traces, activations and labels of runs into one; rerun to resume.

    Scores and reports are not copied: they are figures about the single runs.

    Raises:
        StoreError: the runs were not recorded with the same settings, hold different traces
            under one id, or different labels of one labeller.
    """
    stores = [Store(run) for run in runs]
    _check(stores)
    into = Store.create(out, stores[0].manifest)
    copied = there = labels = 0
    with into.writing():
        for store in stores:
            for trace in tqdm(store.traces(), total=len(store), unit="trace", disable=not progress):
                if trace.id in into.ids():
                    _same(into.trace(trace.id) == trace, f"trace {trace.id}", store)
                    there += 1
                    continue
                into.add(trace, store.kept(trace))
                copied += 1
            labels += _merge_labels(store, into)
    return MergeReport(into.place.url, len(stores), copied, there, labels)


def _check(stores: Sequence[Store]) -> None:
    for store in stores[1:]:
        differing = differences(stores[0].manifest, store.manifest)
        if differing:
            raise StoreError(
                f"{store.place.url} has other settings than {stores[0].place.url} ({differing}): "
                f"only runs of the same settings can be merged"
            )


def _merge_labels(store: Store, into: Store) -> int:
    """Add the labels that are not there and return how many they were."""
    new: list[Label] = []
    for labeller in store.labellers():
        known = into.labels(labeller)
        for name, label in store.labels(labeller).items():
            if name in known:
                _same(known[name] == label, f"the label of {labeller} of trace {name}", store)
            else:
                new.append(label)
    if new:
        into.add_labels(new)
    return len(new)


def _same(equal: bool, what: str, store: Store) -> None:
    if not equal:
        raise StoreError(
            f"{what} differs between {store.place.url} and a run before it: these runs are not "
            f"parts of one"
        )
