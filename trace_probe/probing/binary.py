"""Classifiers of two classes by the sign of a score, as scikit-learn expects them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Tags

Floats = NDArray[np.float64]


class BinaryClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """What follows from `decision_function` and `classes_`, which a subclass provides."""

    classes_: NDArray[Any]
    """Both classes in order; a positive score stands for the second one."""

    def __sklearn_tags__(self) -> Tags:
        """Say that there are two classes, no more."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags

    def decision_function(self, X: Any) -> Floats:  # noqa: ANN401
        """Return (row,) scores; positive means the positive class."""
        raise NotImplementedError

    def predict_proba(self, X: Any) -> Floats:  # noqa: ANN401
        """Return (row, 2) probabilities, the logistic of the score.

        A probability in earnest only where the score was fitted as log odds.
        """
        return logistic_of(self.decision_function(X))

    def predict(self, X: Any) -> NDArray[Any]:  # noqa: ANN401
        """Return (row,) the class of each row."""
        scores = self.decision_function(X)
        chosen: NDArray[Any] = self.classes_[(scores > 0).astype(int)]
        return chosen


def logistic_of(scores: Floats) -> Floats:
    """Return (row, 2) probabilities of both classes from (row,) scores as log odds."""
    positive = 0.5 * (1 + np.tanh(scores / 2))
    return np.column_stack([1 - positive, positive])
