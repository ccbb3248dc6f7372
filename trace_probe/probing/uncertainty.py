"""How unsure the model was of its own words, as rows that a probe can read.

A baseline: what a probe of activations tells beyond this is not mere confidence.
"""

from collections.abc import Sequence

import numpy as np

from trace_probe.activations import ALL_POOLINGS
from trace_probe.errors import NotEnoughData
from trace_probe.probing.matrix import ActivationMatrix
from trace_probe.trace import MEASURES, Trace

LAYER = 0
"""The only layer of such a matrix."""


def uncertainty_matrix(traces: Sequence[Trace]) -> ActivationMatrix:
    """Return rows of the last, mean and highest uncertainty of each sentence.

    They are laid out as activations are, three numbers wide, so that every feature and head can
    be made of them. The row of the prompt, which the model did not write, is 0.

    Raises:
        NotEnoughData: a trace was recorded without.
    """
    blocks, start = [], [0]
    for trace in traces:
        if len(trace.uncertainty) != len(trace.sentences):
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
