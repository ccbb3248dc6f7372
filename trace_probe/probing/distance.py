"""How far a row lies from those that a probe learned from: text that it does not know lies far.

The Mahalanobis distance, as Lee et al. (2018, arXiv 1807.03888) tell unfamiliar input by it. The
covariance is that of probabilistic principal components (Tipping and Bishop, 1999): a few axes
with variances of their own, and one variance for all others.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

AXES = 64
"""At most, and at most a quarter of the rows or half of their width."""
ROWS = 4096
"""From how many rows the axes are found; of more, these are taken at even steps."""
TOGETHER = 1024
"""Rows that are looked at at once."""
FARTHEST = float(np.finfo(np.float32).max)
"""What a distance is at most, so that it can be kept in single precision."""
PREFIX = "distance."
"""Before the names of the tensors in a probe's file."""


@dataclass(frozen=True)
class RowDistance:
    """The squared Mahalanobis distance of rows, divided by their width.

    It is near 1 for rows like those it was fitted to.
    """

    mean: NDArray[np.float32]
    """(width,)"""
    axes: NDArray[np.float32]
    """(axis, width), of length 1."""
    variance: NDArray[np.float32]
    """(axis,) along each axis, and behind them that of every other direction."""

    @classmethod
    def fit(cls, rows: NDArray[Any]) -> Self:
        """Return the distance from (row, width) rows."""
        from sklearn.decomposition import PCA

        rows = rows[:: -(-len(rows) // ROWS)].astype(np.float64)
        most = max(1, min(AXES, len(rows) // 4, rows.shape[1] // 2))
        with np.errstate(invalid="ignore"):  # of rows that are all the same
            found = PCA(most, random_state=0).fit(rows)
        others = rows.shape[1] - most
        rest = found.noise_variance_
        if 0 < min(rows.shape) - most < others:  # of fewer rows than axes PCA leaves axes out
            rest *= (min(rows.shape) - most) / others
        variance = np.append(found.explained_variance_, rest)
        least = 1e-6 * max(float(variance.max()), 1e-6)  # rows may all be the same
        parts = found.mean_, found.components_, np.maximum(variance, least)
        return cls(*(np.ascontiguousarray(part, np.float32) for part in parts))

    def raw_scores(self, X: NDArray[Any]) -> NDArray[Any]:
        """Return (row,) distances of (row, width) rows."""
        found, axes = np.empty(len(X)), self.axes.T.astype(np.float64)
        for first in range(0, len(X), TOGETHER):  # so that they are never all there twice
            centred = X[first : first + TOGETHER] - self.mean.astype(np.float64)
            along = (centred @ axes) ** 2
            whole = np.einsum("ij,ij->i", centred, centred)
            rest = np.maximum(whole - along.sum(axis=1), 0)
            squared = (along / self.variance[:-1]).sum(axis=1) + rest / self.variance[-1]
            found[first : first + TOGETHER] = squared / len(self.mean)
        return np.minimum(found, FARTHEST)

    def to_tensors(self) -> dict[str, NDArray[np.float32]]:
        """Return its parts by the names that they have in a probe's file."""
        return {f"{PREFIX}{name}": values for name, values in vars(self).items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[Any]]) -> Self | None:
        """Return it from a probe's tensors, or None from those of an earlier version.

        Raises:
            KeyError: a part of it is missing.
            ValueError: its parts do not fit each other, or a variance is not above 0.
        """
        if not any(name.startswith(PREFIX) for name in tensors):
            return None
        mean, axes, variance = (tensors[PREFIX + name] for name in ("mean", "axes", "variance"))
        shapes = axes.shape == (len(variance) - 1, len(mean)) and mean.ndim == variance.ndim == 1
        if not shapes or not (variance > 0).all():
            raise ValueError("the distance of its rows has parts that do not fit each other")
        return cls(mean, axes, variance)
