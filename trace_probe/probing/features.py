"""What a probe reads of each sentence, from the activations of many traces in one array.

Pools of its tokens, and a memory of the thought so far:

==============  =============================================================================
last            the residual stream at the last token of the sentence
mean, max       the mean, and the highest value of each coordinate, over its tokens
running-mean    the mean over all tokens of the reasoning up to the end of the sentence
running-max     the highest value of each coordinate over the same tokens
prompt          the residual stream at the last token of the prompt
==============  =============================================================================

All are causal, and all can be followed token by token with a state of the size of one row. The
running ones go over the reasoning only: a sentence of the answer has what the reasoning before it
left. Before the first sentence of reasoning, every feature is the prompt's last row.

A row of a probe holds the features of its first layer side by side in the order named, then those
of the next layer, each `d_model` wide.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trace_probe.activations import POOLINGS, ActivationMatrix
from trace_probe.errors import NotEnoughData
from trace_probe.probing.corpus import Corpus, Known
from trace_probe.probing.recipe import POOLED, Feature, Recipe
from trace_probe.statistics.bootstrap import Index, Mask
from trace_probe.trace import Trace

Values = NDArray[np.floating[Any]]
TRACES = 128
"""Of which all sentences are read at once."""


def feature_rows(
    matrix: ActivationMatrix,
    traces: Sequence[Trace],
    layers: Sequence[int],
    features: Sequence[Feature],
    index: Index,
    sentence: Index,
) -> NDArray[np.float32]:
    """Return (row, layers x features x d_model), the features of sentences of many traces.

    `index` says of each row which trace it is of, and `sentence` which of its sentences; -1 is
    the last prompt token. Rows of a trace stand together.

    Raises:
        ProbeError: a layer was not loaded, or a feature cannot be made from what was recorded.
    """
    d_model = matrix.d_model
    found = np.empty((len(index), len(layers) * len(features) * d_model), dtype=np.float32)
    first = matrix.start[index]
    columns = iter(range(0, found.shape[1], d_model))
    for layer in layers:
        for feature in features:
            part = matrix.part(layer, POOLED.get(feature))
            into = found[:, (at := next(columns)) : at + d_model]
            if feature == "prompt":
                into[:] = part[first]
            elif feature in POOLINGS:
                into[:] = part[first + 1 + sentence]
            else:
                into[:] = _running(part, traces, matrix, feature, (index, sentence))
    return found


def _running(
    part: Values,
    traces: Sequence[Trace],
    matrix: ActivationMatrix,
    feature: Feature,
    wanted: tuple[Index, Index],
) -> Values:
    """Return (row, d_model), one running feature of the traces and sentences that are wanted."""
    (index, sentence), start = wanted, matrix.start
    found = np.empty((len(index), part.shape[1]), dtype=np.float32)
    edges = [0, *(np.flatnonzero(np.diff(index)) + 1).tolist(), len(index)]
    for low, high in pairwise(edges):
        if low == high:
            continue
        number, chosen = index[low], sentence[low:high]
        rows = part[start[number] : start[number] + 2 + int(chosen.max())]
        found[low:high] = running_rows(rows, traces[number], feature, matrix)[1 + chosen]
    return found


def running_rows(rows: Values, trace: Trace, feature: Feature, matrix: ActivationMatrix) -> Values:
    """Return (1 + sentence, d_model), a running feature from the rows of its pooling.

    `rows` begin with that of the prompt; they may end before the last sentence of the trace.
    Those of a mean weigh as much as `matrix` says that tokens were pooled.
    """
    spans = trace.sentences[: len(rows) - 1]
    thinking = np.array([span.channel == "reasoning" for span in spans], dtype=bool)
    if feature == "running-mean":
        tokens = matrix.sizes(trace)[: len(spans)] * thinking.astype(np.float64)
        found = rows.astype(np.float64)
        found[1:] *= tokens[:, None]
        _accumulate(np.add, found[1:])
        found[1:] /= np.maximum(np.cumsum(tokens), 1)[:, None]
    else:
        found = rows.astype(np.float32)
        if not thinking.all():
            found[1:] = np.where(thinking[:, None], found[1:], -np.inf)
        _accumulate(np.maximum, found[1:])
    found[1:][~np.logical_or.accumulate(thinking)] = rows[0]
    return found


def _accumulate(combine: np.ufunc, rows: Values) -> None:
    """Combine each row with all before it, in place; far faster than `ufunc.accumulate`."""
    for before, row in pairwise(rows):
        combine(before, row, out=row)


@dataclass(frozen=True)
class Dataset:
    """Rows of the layers and features of a recipe with the outcome of their trace."""

    X: NDArray[np.float32]
    """(row, layers x features x d_model); see `probing.features`."""
    y: NDArray[np.bool_]
    task: NDArray[np.str_]
    trace: Index
    """Which trace a row belongs to, counted in the traces that were given."""
    sentence: Index
    """Which sentence of its trace; -1 is the last prompt token."""
    stop: Index
    """The token before which a row ends: it holds nothing from there on."""

    @property
    def weight(self) -> NDArray[np.float64]:
        """Return (row,) weights under which every trace counts the same."""
        weight: NDArray[np.float64] = 1.0 / np.bincount(self.trace)[self.trace]
        return weight


def build_dataset(corpus: Corpus, recipe: Recipe) -> Dataset:
    """Join activations and labels of the traces whose outcome is known.

    Raises:
        ProbeError: the traces have no activations of a layer, or not those for a feature.
        NotEnoughData: no trace has a row of that kind.
    """
    index, sentence = learned_rows(corpus, recipe)
    if not len(index):
        raise NotEnoughData(
            f"no labelled rows of kind {recipe.rows}: label the run, with a labeller that looks "
            f"for where it is said, or use rows of kind reasoning"
        )
    return _dataset(corpus, recipe, index, sentence)


def stream_rows(corpus: Corpus, recipe: Recipe, traces: int = 512) -> Iterator[Dataset]:
    """Yield the rows of so many traces at a time; what is not yielded is not held."""
    index, sentence = learned_rows(corpus, recipe)
    for first in range(0, len(corpus.traces), traces):
        low, high = np.searchsorted(index, (first, first + traces))
        if low < high:
            yield _dataset(corpus, recipe, index[low:high], sentence[low:high])


def learned_rows(corpus: Corpus, recipe: Recipe) -> tuple[Index, Index]:
    """Return (row,) the traces and the sentences that a recipe learns from."""
    rows = [(one.place, chosen) for one in corpus.known for chosen in _learned(one, recipe)]
    index, sentence = np.array(rows, dtype=np.intp).reshape(-1, 2).T
    return index, sentence


def _learned(known: Known, recipe: Recipe) -> list[int]:
    """Return the sentences of a trace that a recipe learns from."""
    chosen = chosen_sentences(known, recipe)
    return chosen[-1:] if recipe.focus == "last" and known.outcome else chosen


def chosen_sentences(known: Known, recipe: Recipe) -> list[int]:
    """Return the sentences that may be learned from: always strictly before the action.

    -1 stands for the last prompt token.
    """
    said = known.label.said
    if recipe.rows == "prompt":
        return [-1]
    if recipe.rows == "reasoning":
        return known.before_act
    if said is None:
        return known.before_said
    stop, spans = said.start - recipe.guard_tokens, known.trace.sentences
    unsaid = [one for one in known.before_said if spans[one].stop <= stop]
    return unsaid[: max(len(unsaid) - recipe.guard, 0)]


def _dataset(corpus: Corpus, recipe: Recipe, index: Index, sentence: Index) -> Dataset:
    """Return the features of sentences with what is known of their traces."""
    traces = [corpus.traces[i] for i in index]
    outcome = {one.place: one.outcome for one in corpus.known}
    stops = [
        trace.prompt_stop if number < 0 else trace.sentences[number].stop
        for trace, number in zip(traces, sentence, strict=True)
    ]
    return Dataset(
        y=np.array([outcome[i] for i in index], dtype=bool),
        task=np.array([trace.task.id for trace in traces]),
        trace=index,
        sentence=sentence,
        stop=np.array(stops, dtype=np.intp),
        X=feature_rows(
            corpus.activations, corpus.traces, recipe.layers, recipe.features, index, sentence
        ),
    )


def stream_thoughts(
    corpus: Corpus, recipe: Recipe
) -> Iterator[tuple[tuple[Trace, ...], Mask, NDArray[np.float32]]]:
    """Yield some traces at a time, which of their sentences are reasoning, and rows of those."""
    for first in range(0, len(corpus.traces), TRACES):
        some = corpus.traces[first : first + TRACES]
        spans = [span for trace in some for span in trace.sentences]
        thinking = np.array([span.channel == "reasoning" for span in spans], dtype=bool)
        sizes = [len(trace.sentences) for trace in some]
        index = np.repeat(np.arange(first, first + len(some)), sizes)
        sentence = np.arange(len(spans)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        where = index[thinking], sentence[thinking]
        matrix, of = corpus.activations, corpus.traces
        yield some, thinking, feature_rows(matrix, of, recipe.layers, recipe.features, *where)
