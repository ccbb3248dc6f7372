"""What another model tells that reads the traces of a run: is it the state, or is it the words?

An observer (see `trace-probe observe`) is probed sentence by sentence as the model itself is, and
for runs without activations by whole thoughts. Embeddings of sentences tell what the words mean.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from trace_probe.activations import ActivationMatrix
from trace_probe.errors import ProbeError
from trace_probe.probing.corpus import Corpus, spread, task_folds
from trace_probe.probing.features import feature_rows
from trace_probe.probing.fitting import fit_corpus, probe_scores
from trace_probe.probing.linear import LinearProbe
from trace_probe.probing.recipe import Recipe
from trace_probe.probing.sweep import Grid, choose_cell
from trace_probe.statistics.metrics import Scores, auroc
from trace_probe.store import Store

Rows = NDArray[np.float32]
STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2)
FOLDS = 4
Embed = Callable[[Sequence[str]], NDArray[np.float32]]
"""From texts to one vector each, (text, width)."""


def read_by(observer: Store, corpus: Corpus) -> ActivationMatrix:
    """Return what an observer holds of the traces of a corpus.

    Raises:
        ProbeError: it has not read every trace.
    """
    unread = {trace.id for trace in corpus.traces} - observer.ids()
    if unread:
        raise ProbeError(
            f"{observer.path} lacks {len(unread)} traces of the run, such as {min(unread)}: "
            f"run `trace-probe observe` again"
        )
    return observer.matrix(corpus.traces)


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
    matrix = read_by(observer, corpus)
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
    ends = np.cumsum([1 + len(trace.sentences) for trace in corpus.traces])
    vectors = np.split(embed(texts), ends[:-1])
    matrix = ActivationMatrix.of([_moments(one)[None] for one in vectors], (0,), "mean")
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
    C = cell.C if recipe.head == "linear" else recipe.C  # the sweep is of linear probes
    chosen = replace(recipe, layers=cell.layers, features=cell.features, C=C, focus=cell.focus)
    return probe_scores(fit_corpus(learned, chosen), corpus, chosen)


def _so_far(corpus: Corpus, matrix: ActivationMatrix, layer: int) -> np.ndarray:
    """Return (1, row, d_model): each sentence as the token-weighted mean of all up to it."""
    mean = matrix.part(layer, "mean" if "mean" in matrix.poolings else None)
    values = np.array(mean, dtype=np.float32)
    for trace, first in zip(corpus.traces, matrix.start + 1, strict=True):
        rows = slice(first, first + len(trace.sentences))
        sizes = matrix.sizes(trace).astype(np.float32)
        sums = np.cumsum(values[rows] * sizes[:, None], axis=0)
        values[rows] = sums / np.cumsum(sizes)[:, None]
    return values[None]


@dataclass(frozen=True)
class _Means:
    """The mean over the thought so far, of each reasoning sentence of some traces.

    Where there is no thought, it is what the observer holds at the end of the prompt.
    """

    rows: dict[int, Rows]
    """By layer, (sentence, d_model); the sentences of a trace stand together."""
    last: NDArray[np.intp]
    """(trace,) the row of its last reasoning sentence."""

    def whole(self, layer: int, chosen: NDArray[np.bool_] | slice = slice(None)) -> Rows:
        """Return (trace, d_model), the mean over the whole thought."""
        return self.rows[layer][self.last[chosen]]


def _means(corpus: Corpus) -> _Means:
    matrix = corpus.matrix
    if matrix is None:
        raise ProbeError("the observer recorded no layer: run `trace-probe observe` with --layers")
    pairs = [(n, s) for n, trace in enumerate(corpus.traces) for s in trace.thoughts or [-1]]
    index, sentence = np.array(pairs, dtype=np.intp).T
    rows = {
        layer: feature_rows(matrix, corpus.traces, (layer,), ("running-mean",), index, sentence)
        for layer in matrix.layers
    }
    return _Means(rows, np.searchsorted(index, np.arange(len(corpus.traces)), side="right") - 1)


def observer_fold(
    learned: Corpus, read: Corpus
) -> tuple[dict[str, NDArray[np.floating]], dict[str, float]]:
    """Return what a probe of whole thoughts tells of traces whose tasks it has not seen.

    Of each sentence it is what it tells of the thought up to there. Layer and strength are chosen
    by the AUROC on folds of the tasks that it learns from.

    Raises:
        ProbeError: the rows hold no means.
    """
    known, others = _means(learned), _means(read)
    y = np.array([bool(learned.outcome(trace)) for trace in learned.traces])
    layer, strength = _chosen(learned, known, y)
    probe = LinearProbe(C=strength).fit(known.whole(layer), y)
    told = probe.raw_scores(others.rows[layer])
    scores, whole, first = dict[str, NDArray[np.floating]](), dict[str, float](), 0
    for trace, last in zip(read.traces, others.last, strict=True):
        its, first = told[first : last + 1], last + 1
        scores[trace.id] = spread(trace, its if trace.thoughts else its[:0])
        whole[trace.id] = float(told[last])
    return scores, whole


def _chosen(learned: Corpus, known: _Means, y: NDArray[np.bool_]) -> tuple[int, float]:
    """Return the layer and the strength that rank held-out tasks best."""
    task = np.array([trace.task.id for trace in learned.traces])
    folds = [np.isin(task, list(held)) for _, held in task_folds(learned.traces, FOLDS, 0)]
    best, chosen = -np.inf, (max(known.rows), STRENGTHS[0])
    for layer in known.rows:
        for strength in STRENGTHS:
            told = np.zeros(len(y))
            for held in folds:
                probe = LinearProbe(C=strength).fit(known.whole(layer, ~held), y[~held])
                told[held] = probe.raw_scores(known.whole(layer, held))
            if (value := auroc(told, y)) > best:
                best, chosen = value, (layer, strength)
    return chosen
