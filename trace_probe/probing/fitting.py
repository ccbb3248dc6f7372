"""Probes fitted to the rows of a corpus, and the scores that they give.

`cross_fit` gives several probes of one recipe, none of which has seen the tasks that it is judged
on. What ships is their mean, not a probe fitted once more on everything. So the scores from which
smoothing and thresholds are chosen are those of the very probes that ship, each on tasks that it
has not seen, and their scale is the same.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from trace_probe.errors import ProbeError
from trace_probe.probing.binary import BinaryProbe
from trace_probe.probing.corpus import Corpus
from trace_probe.probing.features import Dataset, build_dataset, stream_thoughts
from trace_probe.probing.linear import LinearProbe
from trace_probe.probing.mlp import MLPProbe
from trace_probe.probing.recipe import Head, Recipe
from trace_probe.statistics.metrics import Scores

HEADS: dict[Head, type[BinaryProbe]] = {"linear": LinearProbe, "mlp": MLPProbe}


class Reader(Protocol):
    """What makes one number of a row: a probe, or a distance."""

    def raw_scores(self, X: NDArray[Any]) -> NDArray[Any]:
        """Return (row,) numbers of (row, width) rows."""


def parameters(recipe: Recipe) -> dict[str, Any]:
    """Return the parameters of the head of a recipe.

    Raises:
        ProbeError: there is no such head.
    """
    if recipe.head not in HEADS:
        raise ProbeError(f"no head {recipe.head!r}: use one of {', '.join(HEADS)}")
    return {"C": recipe.C, **({"method": recipe.method} if recipe.head == "linear" else {})}


def fit_dataset(dataset: Dataset, recipe: Recipe) -> BinaryProbe:
    """Fit the head of a recipe; every trace counts the same."""
    probe = HEADS[recipe.head](**parameters(recipe))
    return probe.fit(dataset.X, dataset.y, sample_weight=dataset.weight)


def fit_corpus(corpus: Corpus, recipe: Recipe) -> BinaryProbe:
    """Fit the head of a recipe to the rows of a corpus that it may learn from.

    Raises:
        ProbeError: the corpus has no activations of a layer, or not those for a feature.
        NotEnoughData: no trace has a row of that kind.
    """
    return fit_dataset(build_dataset(corpus, recipe), recipe)


def probe_scores(probe: Reader, corpus: Corpus, recipe: Recipe) -> dict[str, NDArray[np.float32]]:
    """Return the score of each reasoning sentence of each trace; nan for other sentences.

    The recipe says which layers and features the probe reads.

    Raises:
        ProbeError: the corpus has no activations of a layer, or not those for a feature.
    """
    return several_scores([probe], corpus, recipe)[0]


def several_scores(
    probes: Sequence[Reader], corpus: Corpus, recipe: Recipe
) -> list[dict[str, NDArray[np.float32]]]:
    """Return the scores of several probes of the same rows in one pass; see `probe_scores`."""
    found: list[dict[str, NDArray[np.float32]]] = [{} for _ in probes]
    for traces, thinking, X in stream_thoughts(corpus, recipe):
        sizes = [len(trace.sentences) for trace in traces]
        ids = [trace.id for trace in traces]
        for probe, scores in zip(probes, found, strict=True):
            row = np.full(len(thinking), np.nan, dtype=np.float32)
            with np.errstate(invalid="ignore"):  # what is no number is named below
                row[thinking] = probe.raw_scores(X)
            _refuse_unreadable(row, thinking, np.repeat(ids, sizes))
            scores |= dict(zip(ids, np.split(row, np.cumsum(sizes)[:-1]), strict=True))
    return found


def _refuse_unreadable(
    scores: NDArray[np.float32], thinking: NDArray[np.bool_], traces: NDArray[np.str_]
) -> None:
    """Raise ProbeError if a thought has no score: that is no thought without an alarm."""
    wrong = np.flatnonzero(thinking & ~np.isfinite(scores))
    if len(wrong):
        raise ProbeError(
            f"trace {traces[wrong[0]]} is unreadable: its activations give no score (nan or "
            f"infinity), so nobody can say whether it alarms: record it again, or leave it out"
        )


@dataclass(frozen=True)
class CrossFitted:
    """Probes that each learned from all training tasks but those of one fold."""

    recipe: Recipe
    probes: tuple[BinaryProbe, ...]
    scores: Scores
    """Of every training trace, by the probe that has not seen its task."""

    def mean(self) -> BinaryProbe:
        """Return the probe that ships: its score is the mean score of all."""
        return type(self.probes[0]).mean_of(self.probes)


def cross_fit(folds: Iterable[tuple[Corpus, Corpus]], recipe: Recipe) -> CrossFitted:
    """Fit a recipe to the training tasks, once for each fold that it leaves out.

    `folds` as of `Corpus.folds`.

    Raises:
        NotEnoughData: there are too few tasks, or a fold leaves one outcome only.
    """
    probes: list[BinaryProbe] = []
    scores: dict[str, NDArray[np.floating]] = {}
    for known, held in folds:
        probe = fit_corpus(known, recipe)
        scores.update(probe_scores(probe, held, recipe))
        probes.append(probe)
    return CrossFitted(recipe, tuple(probes), scores)
