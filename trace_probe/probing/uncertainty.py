"""How unsure the model was of its own words: a baseline that a probe of activations must beat.

What a probe tells beyond it is not mere confidence.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from trace_probe.activations import ALL_POOLINGS
from trace_probe.errors import NotEnoughData
from trace_probe.probing.crossfit import cross_fit
from trace_probe.probing.dataset import Corpus
from trace_probe.probing.matrix import ActivationMatrix
from trace_probe.probing.probe import probe_scores
from trace_probe.probing.recipe import Recipe
from trace_probe.probing.selection import criterion
from trace_probe.statistics.metrics import Scores
from trace_probe.trace import MEASURES, Trace

OUTPUT_CONFIDENCE = "output confidence"
"""The name of the baseline."""
LAYER = 0
"""The only layer of a matrix of uncertainties."""
STRENGTHS = (0.01, 0.1, 1.0)
"""Of the baseline, of which training tasks choose: it has few numbers to learn from."""


def has_uncertainty(trace: Trace) -> bool:
    """Return whether the uncertainty of a trace's tokens was recorded."""
    return len(trace.uncertainty) == len(trace.sentences)


def uncertainty_matrix(traces: Sequence[Trace]) -> ActivationMatrix:
    """Return rows of the last, mean and highest uncertainty of each sentence.

    They are laid out as activations are, three numbers wide, so that every feature and head can
    be made of them. The row of the prompt, which the model did not write, is 0.

    Raises:
        NotEnoughData: a trace was recorded without.
    """
    blocks, start = [], [0]
    for trace in traces:
        if not has_uncertainty(trace):
            raise NotEnoughData(
                f"trace {trace.id} was recorded without the uncertainty of its tokens: record "
                f"with this version, from a model that is loaded here"
            )
        rows = np.zeros((1 + len(trace.sentences), 3 * len(MEASURES)), dtype=np.float32)
        if trace.uncertainty:
            rows[1:] = trace.uncertainty
        blocks.append(rows)
        start.append(start[-1] + len(rows))
    values = np.concatenate(blocks)[None]
    return ActivationMatrix(values, (LAYER,), np.array(start[:-1], dtype=np.intp), ALL_POOLINGS)


def confidence_scores(train: Corpus, every: Corpus, recipe: Recipe, seed: int = 0) -> Scores:
    """Return scores of output confidence, learned as a probe of a recipe learns.

    It reads the same features with the same head, and is the mean of the probes of four folds.
    Its strength is the one that does best on training tasks, out of fold.

    Raises:
        NotEnoughData: a trace was recorded without, or there are too few tasks.
    """
    known = replace(train, matrix=uncertainty_matrix(train.traces))
    own = replace(recipe, layers=(LAYER,))
    fitted = [cross_fit(known, replace(own, C=strength), seed=seed) for strength in STRENGTHS]
    best = max(fitted, key=lambda one: criterion(known, one.scores, recipe.rows).value)
    read = replace(every, matrix=uncertainty_matrix(every.traces))
    return probe_scores(best.mean(), read, best.recipe)
