"""Baselines that read the same text with another model: is it the state, or is it the words?"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from trace_probe.activations import Pooling, parse_poolings
from trace_probe.errors import ProbeError
from trace_probe.probing.dataset import Corpus, build_dataset
from trace_probe.probing.matrix import ActivationMatrix, load_matrix
from trace_probe.probing.probe import Recipe, fit_dataset, probe_scores
from trace_probe.probing.sweep import Grid, choose_cell
from trace_probe.statistics.metrics import Scores
from trace_probe.store import Store

Embed = Callable[[Sequence[str]], NDArray[np.float32]]
"""From texts to one vector each, (text, width)."""


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


def embedding_scores(
    embed: Embed, corpus: Corpus, tasks: Collection[str], recipe: Recipe
) -> Scores:
    """Return the scores of a probe of sentence embeddings, on all traces of a corpus.

    A moment is the prompt's vector beside the mean of those of the reasoning so far; strength
    and focus are chosen as for the probe itself.
    """
    texts = [
        text
        for trace in corpus.traces
        for text in (
            trace.channel_text("prompt"),
            *(trace.text_of(span) for span in trace.sentences),
        )
    ]
    sizes = [1 + len(trace.sentences) for trace in corpus.traces]
    start = np.cumsum([0, *sizes])[:-1].astype(np.intp)
    vectors = np.split(embed(texts), start[1:])
    matrix = ActivationMatrix(np.concatenate([_moments(one) for one in vectors])[None], (0,), start)
    return _probed(replace(corpus, matrix=matrix), tasks, recipe)


def _moments(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (1 + sentence, 2 x width) from the vectors of a prompt and of its sentences."""
    so_far = np.zeros_like(vectors)
    counts = np.arange(1, len(vectors), dtype=np.float32)[:, None]
    so_far[1:] = np.cumsum(vectors[1:], axis=0) / counts
    return np.hstack([np.broadcast_to(vectors[0], vectors.shape), so_far])


def _probed(corpus: Corpus, tasks: Collection[str], recipe: Recipe) -> Scores:
    learned = corpus.only(tasks)
    cell, _ = choose_cell(learned, Grid(rows=recipe.rows))
    chosen = replace(recipe, layers=cell.layers, features=cell.features, C=cell.C, focus=cell.focus)
    return probe_scores(fit_dataset(build_dataset(learned, chosen), chosen), corpus, chosen)


def _so_far(corpus: Corpus, matrix: ActivationMatrix, layer: int) -> np.ndarray:
    """Return (1, row, d_model): each sentence as the token-weighted mean of all up to it."""
    pooling: Pooling | None = "mean" if "mean" in parse_poolings(matrix.pooling) else None
    values = np.array(matrix.part(layer, pooling), dtype=np.float32)
    for trace, first in zip(corpus.traces, matrix.start + 1, strict=True):
        rows = slice(first, first + len(trace.sentences))
        sizes = np.array([len(span) for span in trace.sentences], dtype=np.float32)
        sums = np.cumsum(values[rows] * sizes[:, None], axis=0)
        values[rows] = sums / np.cumsum(sizes)[:, None]
    return values[None]
