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

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from trace_probe.activations import POOLINGS, ActivationMatrix, Pooling, parse_poolings
from trace_probe.errors import ProbeError
from trace_probe.statistics.bootstrap import Index
from trace_probe.trace import Trace

Feature = Literal["last", "mean", "max", "running-mean", "running-max", "prompt"]
FEATURES: tuple[Feature, ...] = get_args(Feature)
POOLED: dict[Feature, Pooling] = {
    "last": "last",
    "mean": "mean",
    "max": "max",
    "running-mean": "mean",
    "running-max": "max",
}
"""Which recorded pooling each feature is made from; any will do for the prompt, one token long."""
Values = NDArray[np.floating[Any]]


def features_from(pooling: str) -> tuple[Feature, ...]:
    """Return the features that can be made from rows of a pooling such as ``last+mean``."""
    held = parse_poolings(pooling)
    return tuple(feature for feature in FEATURES if POOLED.get(feature, held[0]) in held)


def candidate_features(pooling: str) -> tuple[tuple[Feature, ...], ...]:
    """Return the choices of features that training compares, the simplest first.

    One pool of the sentence alone, that pool with a memory of the thought, and all that can be
    made of the rows but the prompt, which says nothing of one trace rather than another.
    """
    made = tuple(feature for feature in features_from(pooling) if feature != "prompt")
    memory = tuple(feature for feature in made if feature.startswith("running"))
    return tuple(dict.fromkeys((made[:1], (made[0], *memory), made)))


def pooling_for(features: Iterable[Feature]) -> str:
    """Return the pooling that has to be recorded for some features, such as ``last+max``."""
    needed = {POOLED[feature] for feature in features if feature in POOLED}
    return "+".join(pooling for pooling in POOLINGS if pooling in needed) or "last"


def parse_features(names: Sequence[str]) -> tuple[Feature, ...]:
    """Return features by their names.

    Raises:
        ProbeError: there is no such feature, none at all, or one twice.
    """
    known = tuple(feature for name in names for feature in FEATURES if feature == name)
    if not known or len(known) < len(names) or len(set(names)) < len(names):
        raise ProbeError(
            f"{', '.join(names) or 'nothing'} is not a choice of features: name some of "
            f"{', '.join(FEATURES)}, each once"
        )
    return known


def check_features(features: Sequence[Feature], pooling: str) -> None:
    """Refuse features that cannot be made from rows of a pooling.

    Raises:
        ProbeError: one needs a pooling that was not recorded.
    """
    missing = [feature for feature in features if feature not in features_from(pooling)]
    if missing:
        raise ProbeError(
            f"{', '.join(missing)} cannot be made from rows that hold {pooling} only: read the "
            f"run again with `trace-probe record --recapture RUN`, or use "
            f"{', '.join(features_from(pooling))}"
        )


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
    check_features(features, matrix.pooling)
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
    for low, high in zip(edges, edges[1:], strict=False):
        if low == high:
            continue
        number, chosen = index[low], sentence[low:high]
        rows = part[start[number] : start[number] + 2 + int(chosen.max())]
        found[low:high] = running_rows(rows, traces[number], feature, matrix)[1 + chosen]
    return found
