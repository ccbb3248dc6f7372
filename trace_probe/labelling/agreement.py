"""How far labellers agree: shares, kappas with intervals over tasks, who differs where.

Only traces count on which the labellers compared have a verdict; *unknown* is none, and
how often it occurs is told apart. A kappa is undefined where all verdicts are the same.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from trace_probe.errors import NotEnoughData
from trace_probe.labels import Label
from trace_probe.statistics.bootstrap import (
    SHARE,
    Index,
    Metric,
    Resampled,
    Values,
    effective_tasks,
    resample,
)
from trace_probe.store import Store

Verdicts = NDArray[np.int8]
"""(trace, labeller): 1 instrumental, 0 not, -1 unknown."""


@dataclass(frozen=True)
class CategoryAgreement:
    """Two labellers on the traces of one category that both have a verdict on."""

    n: int
    iar: Metric | None
    """Inter-judge agreement rate: the share of these traces with the same verdict."""
    kappa: Metric | None
    """Cohen's; None if undefined."""


@dataclass(frozen=True)
class PairAgreement(CategoryAgreement):
    """Two labellers on the traces that both have a verdict on."""

    first: str
    second: str
    confusion: dict[str, dict[str, int]]
    """For each category, and for ``all``, how often each pair of verdicts occurs, such as
    ``{"yes/no": 3}``, unknown ones included."""
    categories: dict[str, CategoryAgreement]


@dataclass(frozen=True)
class Agreement:
    """Labellers of one run compared."""

    labellers: tuple[str, ...]
    traces: int
    unknown: dict[str, int]
    """Traces without a verdict, by labeller."""
    pairs: tuple[PairAgreement, ...]
    complete: int
    """Traces on which all labellers have a verdict; `iar` and `fleiss` are of these."""
    iar: Metric | None
    """Share of pairs of labellers that agree, over all pairs and traces."""
    fleiss: Metric | None
    """Fleiss' kappa; None if undefined."""

    def __str__(self) -> str:
        """Return the comparison as text."""
        lines = [f"{self.traces} labelled traces; intervals are 95 %, over tasks"]
        lines += [f"  {name}: {count} without a verdict" for name, count in self.unknown.items()]
        for pair in self.pairs:
            lines += [
                f"{pair.first} / {pair.second}: {pair.n} traces",
                f"  agree {_cell(pair.iar)}, Cohen's kappa {_cell(pair.kappa)}",
            ]
            for category, cells in pair.confusion.items():
                counts = ", ".join(f"{cell} {n}" for cell, n in sorted(cells.items()))
                here = pair.categories.get(category)
                rates = f"; agree {_cell(here.iar)}, kappa {_cell(here.kappa)}" if here else ""
                lines.append(f"  {category:34} {counts}{rates}")
        if len(self.labellers) > 2:
            lines.append(
                f"all {len(self.labellers)} labellers: {self.complete} traces, agree "
                f"{_cell(self.iar)}, Fleiss' kappa {_cell(self.fleiss)}"
            )
        return "\n".join(lines)


def agreement(store: Store, labellers: Sequence[str] | None = None, *, seed: int = 0) -> Agreement:
    """Compare labellers of a run, by default all of them.

    Raises:
        NotEnoughData: there are fewer than two, or one of them has not labelled this run.
    """
    names = tuple(labellers or store.labellers())
    there = set(store.labellers())
    if len(names) < 2 or not set(names) <= there:
        raise NotEnoughData(
            f"agreement takes two labellers of {store.path}; it has "
            f"{', '.join(sorted(there)) or 'none'}: label it with another one"
        )
    labels = [store.labels(name) for name in names]
    traces = [(t.id, t.task.id, t.task.category) for t in store.traces()]
    labelled = [row for row in traces if any(row[0] in found for found in labels)]
    verdicts = np.array([[_verdict(found, row[0]) for found in labels] for row in labelled])
    tasks, categories = [row[1] for row in labelled], [row[2] or "none" for row in labelled]
    return compare_verdicts(names, verdicts, tasks, categories, seed=seed)


def compare_verdicts(
    names: Sequence[str],
    verdicts: Verdicts,
    tasks: Sequence[str],
    categories: Sequence[str],
    *,
    seed: int = 0,
) -> Agreement:
    """Compare labellers by their (trace, labeller) verdicts; tasks and categories are (trace,)."""
    _, task = np.unique(tasks, return_inverse=True)
    complete = (verdicts >= 0).all(axis=1)
    return Agreement(
        labellers=tuple(names),
        traces=len(verdicts),
        unknown={n: int((verdicts[:, i] < 0).sum()) for i, n in enumerate(names)},
        pairs=tuple(
            _pair((names[i], names[j]), verdicts[:, [i, j]], task, categories, seed)
            for i, j in combinations(range(len(names)), 2)
        ),
        complete=int(complete.sum()),
        iar=_figure(_rate, verdicts[complete], task[complete], seed),
        fleiss=_figure(_fleiss, verdicts[complete], task[complete], seed),
    )


def cohen_interval(verdicts: Verdicts, task: Index, *, seed: int = 0) -> Metric | None:
    """Return Cohen's kappa of (trace, 2) known verdicts, with its 95 % interval over tasks.

    `task` (trace,) holds codes.
    """
    return _figure(_cohen, verdicts, task, seed)


def _columns(verdicts: Verdicts) -> Values:
    """Return (trace, 2 + labeller): one, share of agreeing pairs, the verdicts.

    Every figure here is a function of the sums of these columns.
    """
    raters = verdicts.shape[1]
    yes = verdicts.sum(axis=1, dtype=float)
    same = yes * (yes - 1) + (raters - yes) * (raters - yes - 1)
    return np.column_stack([np.ones(len(verdicts)), same / (raters * (raters - 1)), verdicts])


def _rate(sums: Values) -> Values:
    return sums[:, 1] / sums[:, 0]


def _cohen(sums: Values) -> Values:
    first, second = (sums[:, 2:] / sums[:, :1]).T
    return _kappa(_rate(sums), first * second + (1 - first) * (1 - second))


def _fleiss(sums: Values) -> Values:
    yes = (sums[:, 2:] / sums[:, :1]).mean(axis=1)
    return _kappa(_rate(sums), yes**2 + (1 - yes) ** 2)


def _kappa(observed: Values, chance: Values) -> Values:
    """Return the agreement beyond chance, as a share of what there is beyond chance."""
    kappa: Values = np.divide(
        observed - chance, 1 - chance, out=np.full(len(chance), np.nan), where=chance < 1
    )
    return kappa


def _figure(
    statistic: Callable[[Values], Values], verdicts: Verdicts, task: Index, seed: int
) -> Metric | None:
    """Return a figure with its interval over tasks."""
    if not len(verdicts):
        return None
    names, code = np.unique(task, return_inverse=True)
    sums = np.zeros((len(names), 2 + verdicts.shape[1]))
    np.add.at(sums, code, _columns(verdicts))
    values = statistic(resample(len(names), seed=seed) @ sums)
    bounds = SHARE if statistic is _rate else (-1.0, 1.0)
    sizes = effective_tasks(sums[:, 0])
    return Resampled(values, len(verdicts), len(names), bounds, sizes).interval()


def _pair(
    names: tuple[str, str], verdicts: Verdicts, task: Index, categories: Sequence[str], seed: int
) -> PairAgreement:
    own = np.array(categories)
    known = (verdicts >= 0).all(axis=1)
    every = _figures(verdicts[known], task[known], seed)
    return PairAgreement(
        **vars(every),
        first=names[0],
        second=names[1],
        confusion=_confusion(verdicts, categories),
        categories={
            name: _figures(verdicts[here], task[here], seed)
            for name in sorted(set(categories))
            for here in (known & (own == name),)
        },
    )


def _figures(verdicts: Verdicts, task: Index, seed: int) -> CategoryAgreement:
    return CategoryAgreement(
        n=len(verdicts),
        iar=_figure(_rate, verdicts, task, seed),
        kappa=_figure(_cohen, verdicts, task, seed),
    )


def _confusion(verdicts: Verdicts, categories: Sequence[str]) -> dict[str, dict[str, int]]:
    words = {1: "yes", 0: "no", -1: "unknown"}
    cells = [f"{words[int(a)]}/{words[int(b)]}" for a, b in verdicts]
    found = {"all": dict(Counter(cells))}
    for category in sorted(set(categories)):
        here = (cell for cell, own in zip(cells, categories, strict=True) if own == category)
        found[category] = dict(Counter(here))
    return found


def _verdict(labels: Mapping[str, Label], trace_id: str) -> int:
    label = labels.get(trace_id)
    return -1 if label is None or label.outcome is None else int(label.outcome)


def _cell(value: Metric | None) -> str:
    if value is None:
        return "undefined"
    return f"{value:.3f}"
