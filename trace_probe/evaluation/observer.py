"""Baselines that read the same text with another model: is it the state, or is it the words?"""

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from trace_probe.errors import ProbeError
from trace_probe.probing.baselines import rows_of
from trace_probe.probing.dataset import ActivationMatrix, Corpus, load_matrix
from trace_probe.probing.probe import Recipe, fit_dataset, probe_scores
from trace_probe.probing.sweep import choose_cell
from trace_probe.statistics.metrics import Scores
from trace_probe.store import Store


def observer_scores(
    observer: Store, corpus: Corpus, tasks: Collection[str], recipe: Recipe
) -> dict[str, Scores]:
    """Return the scores of an observer and of its sentence embeddings on all traces of a corpus.

    The observer is probed as the model itself is: from the same rows of the training tasks,
    with layer and strength chosen among its own. Embeddings are the mean of its last layer
    over all sentences so far.

    Raises:
        ProbeError: the observer has not read every trace.
    """
    unread = {trace.id for trace in corpus.traces} - observer.ids()
    if unread:
        raise ProbeError(
            f"{observer.path} lacks {len(unread)} traces of the run, such as {min(unread)}: "
            f"run `trace-probe observe` again"
        )
    matrix = load_matrix(observer, corpus.traces)
    top = max(matrix.layers)
    embedded = ActivationMatrix(_so_far(corpus, matrix, top), (top,), matrix.start)
    return {
        "observer": _probed(replace(corpus, matrix=matrix), tasks, recipe),
        "sentence embeddings": _probed(replace(corpus, matrix=embedded), tasks, recipe),
    }


def _probed(corpus: Corpus, tasks: Collection[str], recipe: Recipe) -> Scores:
    learned = corpus.only(tasks)
    cell, _ = choose_cell(learned, rows=recipe.rows)
    chosen = replace(recipe, layer=cell.layer, C=cell.C)
    return probe_scores(fit_dataset(rows_of(learned, chosen), chosen), corpus, chosen.layer)


def _so_far(corpus: Corpus, matrix: ActivationMatrix, layer: int) -> np.ndarray:
    """Return (1, row, d_model): each sentence as the token-weighted mean of all up to it."""
    values = np.array(matrix.at(layer), dtype=np.float32)
    for trace, first in zip(corpus.traces, matrix.start + 1, strict=True):
        rows = slice(first, first + len(trace.sentences))
        sizes = np.array([len(span) for span in trace.sentences], dtype=np.float32)
        sums = np.cumsum(values[rows] * sizes[:, None], axis=0)
        values[rows] = sums / np.cumsum(sizes)[:, None]
    return values[None]
