"""What detectors of whole thoughts tell within a task, and under one and the same message.

``python -m benchmarks.observed --run traces/real``

After ``trace-probe evaluate RUN --observer OBS``, whose scores the run keeps. Pooled figures
compare all traces; here only those of the same task are compared, or those of the same value of
a condition.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.command import Say, run
from trace_probe.probing.corpus import Corpus, build_cohort
from trace_probe.statistics.bootstrap import Metric, Values, resample, shown
from trace_probe.statistics.metrics import pairs_across
from trace_probe.store import Store


@dataclass(frozen=True)
class ObservedPlan:
    """Which run."""

    run: str = "traces/real"
    condition: str = "mode"


@dataclass(frozen=True)
class Observed:
    """AUROC by detector and by what is compared."""

    traces: int
    tasks: int
    figures: Mapping[str, Mapping[str, Metric | None]]
    pairs: Mapping[str, int]


def measure(plan: ObservedPlan, say: Say) -> Observed:
    """What do detectors of whole thoughts tell within a task?"""
    store = Store(plan.run)
    every = Corpus(tuple(store.traces()), store.labels())
    corpus = every.where(lambda trace: every.outcome(trace) is not None)
    cohort = build_cohort(corpus)
    weights = resample(cohort.n_tasks)
    pairs = pairs_across(cohort, np.ones(len(cohort.ids), dtype=np.intp))
    value = np.array([str(trace.task.condition.get(plan.condition)) for trace in corpus.traces])
    kinds = {"all": np.ones(pairs.n, dtype=bool)}
    kinds["same task"] = cohort.task[pairs.positive] == cohort.task[pairs.negative]
    for name in sorted(set(value)):
        same = (value[pairs.positive] == name) & (value[pairs.negative] == name)
        kinds[f"{plan.condition} {name}"] = same
    figures: dict[str, dict[str, Metric | None]] = {}
    for detector in store.detectors():
        say(detector)
        held = np.column_stack([np.zeros(len(value)), _last(store, detector, cohort.ids)])
        figures[detector] = {}
        for kind, which in kinds.items():
            its = pairs.where(which)
            # the tasks of such a pair are one, so that it is drawn as often as that
            its = replace(its, same_prompt=kind == "same task")
            figures[detector][kind] = its.auroc(held, weights).interval()
    counts = {kind: int(which.sum()) for kind, which in kinds.items()}
    return Observed(len(cohort.ids), cohort.n_tasks, figures, counts)


def _last(store: Store, detector: str, ids: Sequence[str]) -> Values:
    """Return (trace,) the score of the last sentence: that of the whole thought."""
    scores = store.scores(detector)
    given = [scores[name][np.isfinite(scores[name])] for name in ids]
    return np.array([row[-1] if len(row) else -np.inf for row in given], dtype=float)


def text(found: Observed) -> str:
    """Return a line for each detector."""
    names = list(found.pairs)
    head = "".join(f"{f'{name}, {found.pairs[name]} pairs':<32}" for name in names)
    lines = [f"{found.traces} traces of {found.tasks} tasks", f"{'':20}{head}".rstrip()]
    for detector, figures in found.figures.items():
        row = "".join(f"{shown(figures[name]):<32}" for name in names)
        lines.append(f"{detector:20}{row}".rstrip())
    return "\n".join(lines)


if __name__ == "__main__":
    run(ObservedPlan, measure, text)
