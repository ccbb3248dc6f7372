"""The linear head: one direction of the rows, and one offset."""

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from trace_probe.errors import ProbeError
from trace_probe.probing.binary import (
    BinaryProbe,
    ClassWeight,
    Floats,
    Tensors,
    class_means,
    row_scale,
)
from trace_probe.probing.recipe import Method
from trace_probe.statistics.bootstrap import Index


class LinearProbe(BinaryProbe):
    """A linear classifier of activation rows.

    Rows are standardised within classes for the fit and the scale is folded back, so that
    `coef_` (1, width) and `intercept_` (1,) act on raw rows: a score is one dot product.
    ``difference-of-means`` (Marks and Tegmark, arXiv 2310.06824) is not standardised; ``lda``
    whitens it with the covariance within classes, shrunk as of Ledoit and Wolf (2004).
    """

    head: ClassVar[str] = "linear"
    coef_: Floats
    intercept_: Floats

    def __init__(
        self,
        method: Method = "logistic",
        C: float = 0.01,
        class_weight: ClassWeight = "balanced",
    ) -> None:
        """Choose a method; a smaller `C` penalises more (logistic and ridge only)."""
        self.method = method
        self.C = C
        self.class_weight = class_weight

    @classmethod
    def of(cls, coef: NDArray[Any], intercept: float, **params: Any) -> Self:  # noqa: ANN401
        """Return a fitted probe of a direction (width,) and an offset."""
        probe = cls(**params)
        probe.coef_ = np.asarray(coef, np.float64).reshape(1, -1)
        probe.intercept_ = np.array([intercept], np.float64)
        return probe._as_fitted(probe.coef_.shape[1])

    def _fit(self, rows: NDArray[Any], codes: Index, weight: Floats) -> None:
        mean = np.average(rows, axis=0, weights=weight).astype(rows.dtype)
        scale = row_scale(rows, codes, weight)
        if self.method == "difference-of-means":
            scale[:] = 1.0
        coef, intercept = self._solve((rows - mean) / scale, codes, weight)
        self.coef_ = (coef / scale).astype(np.float64)[None]
        self.intercept_ = np.array([intercept - self.coef_[0] @ mean], np.float64)

    def _solve(self, Z: NDArray[Any], codes: Index, weight: Floats) -> tuple[Floats, float]:
        """Return direction and offset in standardised space."""
        if self.method == "logistic":
            return _logistic(Z, codes, weight, self.C)
        if self.method == "ridge":
            return _ridge(Z, codes, weight, self.C)
        if self.method == "lda":
            return _lda(Z, codes, weight)
        if self.method == "difference-of-means":
            low, high = class_means(Z, codes, weight)
            return high - low, float(-(high - low) @ (high + low) / 2)
        raise ProbeError(
            f"no method {self.method!r}: use logistic, difference-of-means, lda or ridge"
        )

    def raw_scores(self, X: NDArray[Any]) -> NDArray[Any]:
        """Return (row,) scores; see `BinaryProbe.raw_scores`."""
        scores: NDArray[Any] = X @ self.coef_[0].astype(X.dtype) + X.dtype.type(self.intercept_[0])
        return scores

    def direction(self) -> Floats:
        """Return (width,) the direction of the probe."""
        direction: Floats = self.coef_[0]
        return direction

    def to_tensors(self) -> dict[str, NDArray[np.float32]]:
        """Return ``coef`` (width,) and ``intercept`` (1,)."""
        check_is_fitted(self)
        return {
            "coef": np.ascontiguousarray(self.coef_[0], np.float32),
            "intercept": self.intercept_.astype(np.float32),
        }

    @classmethod
    def from_tensors(cls, tensors: Tensors, **params: Any) -> Self:  # noqa: ANN401
        """Return a fitted probe; see `BinaryProbe.from_tensors`."""
        return cls.of(tensors["coef"], float(tensors["intercept"][0]), **params)

    @classmethod
    def mean_of(cls, probes: Sequence[Self]) -> Self:
        """Return the probe of the mean direction; see `BinaryProbe.mean_of`."""
        coef = np.mean([probe.coef_[0] for probe in probes], axis=0)
        intercept = float(np.mean([probe.intercept_[0] for probe in probes]))
        return cls.of(coef, intercept, **probes[0].get_params())


def _logistic(Z: NDArray[Any], codes: Index, weight: Floats, C: float) -> tuple[Floats, float]:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=C, max_iter=1000, tol=1e-4)
    model.fit(Z, codes, sample_weight=weight.astype(Z.dtype))
    return model.coef_[0].astype(float), float(model.intercept_[0])


def _ridge(Z: NDArray[Any], codes: Index, weight: Floats, C: float) -> tuple[Floats, float]:
    """Solve weighted least squares on targets of -1 and 1 with a penalty of ``1 / C``."""
    target = 2.0 * codes - 1.0
    offset = float(np.average(target, weights=weight))
    weighted = (Z * weight[:, None]).astype(np.float64)
    gram = weighted.T @ Z + np.eye(Z.shape[1]) / C
    return np.asarray(np.linalg.solve(gram, weighted.T @ (target - offset)), np.float64), offset


def _lda(Z: NDArray[Any], codes: Index, weight: Floats) -> tuple[Floats, float]:
    """Solve linear discriminant analysis with the shrinkage of Ledoit and Wolf (2004)."""
    from sklearn.covariance import ledoit_wolf

    low, high = class_means(Z, codes, weight)
    centred = Z - np.stack([low, high])[codes]
    covariance, _ = ledoit_wolf(
        centred * np.sqrt(weight / weight.mean())[:, None], assume_centered=True
    )
    covariance[np.diag_indices_from(covariance)] += 1e-12  # all rows may be the same
    coef = np.linalg.solve(covariance, high - low)
    prior = np.bincount(codes, weight)
    return coef, float(np.log(prior[1] / prior[0]) - coef @ (high + low) / 2)
