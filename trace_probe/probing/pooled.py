"""Probes of whole traces, and of several layers at once, as scikit-learn estimators.

A trace is a bag of rows. A pooled probe learns from rows and judges bags by the alarm statistic:
the highest value that a causal rule takes along the trace.
"""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted, validate_data

from trace_probe.errors import ProbeError
from trace_probe.probing.aggregation import AGGREGATIONS
from trace_probe.probing.binary import BinaryClassifier, Floats
from trace_probe.probing.probe import LinearProbe

Bags = Sequence[NDArray[np.floating[Any]]]
"""For each trace its rows in order, (sentence, d_model)."""


class PooledProbe(BinaryClassifier):
    """Classifier of traces: the scores of a linear probe, pooled along the trace.

    `X` is a list with one array (sentence, d_model) a trace, which `GridSearchCV` splits as it
    splits rows; a step before it in a `Pipeline` must take such lists as well.
    """

    def __init__(self, probe: LinearProbe | None = None, rule: str = "max") -> None:
        """Choose the probe of rows, and a rule of `AGGREGATIONS` such as ``top-3 mean``."""
        self.probe = probe
        self.rule = rule

    def fit(self, X: Bags, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Fit to traces and their classes; every trace counts the same, however long.

        Raises:
            ProbeError: there is no such rule, or no bag of that kind.
        """
        if self.rule not in AGGREGATIONS:
            raise ProbeError(f"no rule {self.rule!r}: use one of {', '.join(AGGREGATIONS)}")
        sizes = np.array([len(bag) for bag in X])
        if len(sizes) != len(np.asarray(y)) or not sizes.all():
            raise ProbeError("a pooled probe needs one class a trace, and a row at least")
        given = np.ones(len(sizes)) if sample_weight is None else np.asarray(sample_weight, float)
        trace = np.repeat(np.arange(len(sizes)), sizes)
        self.probe_ = clone(self.probe) if self.probe is not None else LinearProbe()
        self.probe_.fit(np.concatenate(X), np.asarray(y)[trace], (given / sizes)[trace])
        self.classes_ = self.probe_.classes_
        return self

    def decision_function(self, X: Bags) -> Floats:
        """Return (trace,) the statistic of each, -inf for one without rows."""
        check_is_fitted(self)
        rule = AGGREGATIONS[self.rule]
        scores = (self.probe_.decision_function(bag) for bag in X if len(bag))
        pooled = [float(rule(np.asarray(row, np.float64)).max()) for row in scores]
        found = np.full(len(X), -np.inf)
        found[[len(bag) > 0 for bag in X]] = pooled
        return found


class LayerEnsemble(BinaryClassifier):
    """Mean of one linear probe a layer, each in deviations of its own training scores.

    Rows are those of all layers side by side, (row, layers x d_model).
    """

    def __init__(self, probe: LinearProbe | None = None, layers: int = 1) -> None:
        """Choose the probe of a layer, and how many layers a row holds."""
        self.probe = probe
        self.layers = layers

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Fit one probe a layer.

        Raises:
            ProbeError: the columns cannot be shared out among the layers.
        """
        rows = validate_data(self, X, dtype=np.float32)
        if rows.shape[1] % self.layers:
            raise ProbeError(f"{rows.shape[1]} columns are not {self.layers} layers of one width")
        blank = self.probe if self.probe is not None else LinearProbe()
        parts = np.split(rows, self.layers, axis=1)
        self.probes_ = [clone(blank).fit(part, y, sample_weight) for part in parts]
        seen = [
            probe.decision_function(part) for probe, part in zip(self.probes_, parts, strict=True)
        ]
        self.spread_ = np.array([float(scores.std()) or 1.0 for scores in seen])
        self.classes_ = self.probes_[0].classes_
        return self

    def decision_function(self, X: ArrayLike) -> Floats:
        """Return (row,) the mean score of all layers; positive means the positive class."""
        check_is_fitted(self)
        rows = validate_data(self, X, dtype=np.float32, reset=False)
        parts = np.split(rows, self.layers, axis=1)
        scores = [
            probe.decision_function(part) for probe, part in zip(self.probes_, parts, strict=True)
        ]
        mean: Floats = np.mean(np.stack(scores) / self.spread_[:, None], axis=0)
        return mean
