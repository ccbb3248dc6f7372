"""What another model that reads the traces of a run holds of whole thoughts: see `observe`."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trace_probe.activations import ActivationMatrix
from trace_probe.errors import ProbeError
from trace_probe.probing.dataset import Corpus, spread, task_folds
from trace_probe.probing.features import feature_rows
from trace_probe.probing.linear import LinearProbe
from trace_probe.statistics.metrics import auroc
from trace_probe.store import Store

Rows = NDArray[np.float32]
STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2)
FOLDS = 4


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
