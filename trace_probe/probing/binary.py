"""What the heads of probes have in common as scikit-learn classifiers of two classes."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Tags
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from trace_probe.errors import NotEnoughData

Floats = NDArray[np.float64]
Rows = NDArray[np.float32]
ClassWeight = Literal["balanced"] | Mapping[Any, float] | None
Tensors = Mapping[str, NDArray[np.float32]]
"""Weights by name, as a safetensors file holds them."""


class UnsuitableRows(NotEnoughData, ValueError):
    """These rows or classes cannot be learned from; scikit-learn expects a `ValueError`."""


class BinaryProbe(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier of two classes by the sign of a score.

    A subclass fits itself in `_fit` and scores rows in `raw_scores`.

    Attributes:
        classes_: Both classes in order; a positive score stands for the second one.
        n_features_in_: The width of a row.
    """

    head: ClassVar[str]
    """The name of this kind of probe in a recipe."""
    classes_: NDArray[Any]
    n_features_in_: int
    class_weight: ClassWeight

    def __sklearn_tags__(self) -> Tags:
        """Say that there are two classes, no more."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Fit to rows (row, width) and two classes, the greater of which is the positive one.

        Rows without weight are left out.

        Raises:
            UnsuitableRows: there are not exactly two classes, or a row is not finite.
            ProbeError: a parameter has a value that it cannot have.
        """
        rows, targets = validate_data(self, X, y, dtype=[np.float32, np.float64])
        given = _check_sample_weight(
            sample_weight, rows, dtype=np.float64, ensure_non_negative=True, copy=True
        )
        check_classification_targets(targets)
        kind = type_of_target(targets, input_name="y", raise_unknown=True)
        if kind != "binary":
            raise UnsuitableRows(
                f"Only binary classification is supported. The type of the target is {kind}: "
                f"give two classes"
            )
        rows, targets, given = (part[given > 0] for part in (rows, targets, given))
        self.classes_, codes = np.unique(targets, return_inverse=True)
        if len(self.classes_) != 2:
            raise UnsuitableRows(
                "a probe tells two classes apart, and these rows are of one class: "
                "record more samples or other tasks"
            )
        self._fit(rows, codes.astype(np.intp), self._weights(codes, given))
        return self

    def _weights(self, codes: NDArray[np.intp], given: Floats) -> Floats:
        """Return the weight of each row; balanced classes have half of the total each."""
        if self.class_weight is None:
            return given
        if isinstance(self.class_weight, Mapping):
            factors = np.array([self.class_weight.get(name, 1.0) for name in self.classes_])
        else:
            factors = given.sum() / 2 / np.bincount(codes, given)
        weighted: Floats = given * factors[codes]
        return weighted

    @abstractmethod
    def _fit(self, rows: NDArray[Any], codes: NDArray[np.intp], weight: Floats) -> None:
        """Learn from (row, width) rows of classes 0 and 1."""

    @abstractmethod
    def raw_scores(self, X: NDArray[Any]) -> NDArray[Any]:
        """Return (row,) scores of (row, width) rows as they are, in their own precision.

        Nothing is checked: this is the way for rows that are known to fit, one at a time.
        """

    @abstractmethod
    def direction(self) -> Floats:
        """Return (width,) the gradient of the score, the mean over the rows it learned from."""

    @abstractmethod
    def to_tensors(self) -> dict[str, NDArray[np.float32]]:
        """Return the weights by name."""

    @classmethod
    @abstractmethod
    def from_tensors(cls, tensors: Tensors, **params: Any) -> Self:  # noqa: ANN401
        """Return a fitted probe of classes False and True from what `to_tensors` gave.

        Raises:
            KeyError: a tensor is missing.
        """

    @classmethod
    @abstractmethod
    def mean_of(cls, probes: Sequence[Self]) -> Self:
        """Return one probe whose score is the mean score of several of the same parameters."""

    def _as_fitted(self, width: int) -> Self:
        self.classes_, self.n_features_in_ = np.array([False, True]), width
        return self

    def decision_function(self, X: ArrayLike) -> Floats:
        """Return (row,) scores as log odds; positive means the positive class."""
        check_is_fitted(self)
        rows = validate_data(self, X, dtype=np.float64, reset=False)
        scores: Floats = self.raw_scores(rows)
        return scores

    def predict_proba(self, X: ArrayLike) -> Floats:
        """Return (row, 2) probabilities, the logistic of the score.

        A probability in earnest only where the score was fitted as log odds.
        """
        positive = 0.5 * (1 + np.tanh(self.decision_function(X) / 2))
        return np.column_stack([1 - positive, positive])

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return (row,) the class of each row."""
        scores = self.decision_function(X)
        chosen: NDArray[Any] = self.classes_[(scores > 0).astype(int)]
        return chosen


def row_scale(rows: NDArray[Any], codes: NDArray[np.intp], weight: Floats) -> NDArray[Any]:
    """Return the standard deviation of each axis around the class means.

    The total deviation would shrink the very axes that separate the classes. A constant
    axis keeps its scale.
    """
    centred = rows - np.stack(class_means(rows, codes, weight)).astype(rows.dtype)[codes]
    scale = np.sqrt(np.average(centred**2, axis=0, weights=weight)).astype(rows.dtype)
    return np.where(scale < 1e-6, rows.dtype.type(1.0), scale)


def class_means(
    rows: NDArray[Any], codes: NDArray[np.intp], weight: Floats
) -> tuple[Floats, Floats]:
    """Return the weighted mean of the rows of either class."""
    low, high = (
        np.average(rows[codes == code].astype(float), axis=0, weights=weight[codes == code])
        for code in (0, 1)
    )
    return np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
