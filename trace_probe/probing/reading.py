"""Scores laid out by sentence, for detectors that need nothing but the text of a trace."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from trace_probe.probing.dataset import Corpus
from trace_probe.statistics.metrics import Scores
from trace_probe.trace import Trace


def reasoning_sentences(trace: Trace) -> list[int]:
    """Return the indices of the reasoning sentences of a trace."""
    return [index for index, span in enumerate(trace.sentences) if span.channel == "reasoning"]


def spread(trace: Trace, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (sentence,) scores from (reasoning sentence,) ones; nan for other sentences."""
    scores = np.full(len(trace.sentences), np.nan)
    scores[reasoning_sentences(trace)] = values
    return scores


def constant_scores(every: Corpus, value: Callable[[Trace], float]) -> Scores:
    """Return the same score for every reasoning sentence of a trace."""
    return {
        trace.id: spread(trace, np.full(len(reasoning_sentences(trace)), value(trace)))
        for trace in every.traces
    }
