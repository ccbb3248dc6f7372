"""Ridge probes of many penalties from the first and second moments of rows, or their kernel.

Ridge regression needs no rows, only their moments, and these add up: each fold is summed once,
its complement is the sum of the others, and one Krylov space serves all strengths. With fewer
rows than dimensions the kernel of the rows does the same.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trace_probe.errors import NotEnoughData
from trace_probe.probing.features import Dataset
from trace_probe.probing.linear import LinearProbe
from trace_probe.statistics.bootstrap import Index, Values

BLOCK = 4096
"""Rows that are read at once."""
TOLERANCE = 1e-6
"""Residual of a solution, relative to the right-hand side."""
ROUNDING = float(np.finfo(np.float64).eps)
CHECK = 32
"""The fewest steps between two looks at the residual."""


@dataclass(frozen=True)
class Block:
    """Rows to learn from, or a part of them."""

    X: NDArray[np.float32]
    """(row, d_model)."""
    y: NDArray[np.bool_]
    weight: Values
    fold: Index
    """In which fold each row is held out."""

    @classmethod
    def of(cls, rows: Dataset, fold_of: Mapping[str, int]) -> "Block":
        """Return rows with the fold in which the task of each is held out."""
        fold = np.array([fold_of[task] for task in rows.task], dtype=np.intp)
        return cls(rows.X, rows.y, rows.weight, fold)


@dataclass(frozen=True)
class Moments:
    """Weighted sums of rows by fold and class; their size does not depend on how many rows."""

    shift: NDArray[np.float32]
    """Taken off every row first, so that large means do not swamp float32."""
    weight: Values
    """(fold, class)."""
    total: Values
    """(fold, class, d_model)."""
    gram: Values
    """(fold, class, d_model, d_model)."""

    def of(self, columns: Index) -> "Moments":
        """Return the moments of some columns of the rows."""
        gram = self.gram[:, :, columns][:, :, :, columns]
        return Moments(self.shift[columns], self.weight, self.total[:, :, columns], gram)


class RidgePath(NamedTuple):
    """Ridge probes of all strengths that learned from the same rows."""

    coef: Values
    """(strength, d_model), on raw activations."""
    intercept: Values

    def probes(self) -> list[LinearProbe]:
        """Return the probe of each strength."""
        return [
            LinearProbe.of(coef, float(intercept), method="ridge")
            for coef, intercept in zip(self.coef, self.intercept, strict=True)
        ]


def sum_moments(blocks: Iterable[Block], folds: int) -> Moments:
    """Sum rows in one pass.

    Raises:
        NotEnoughData: there is no row.
    """
    found: Moments | None = None
    for block in blocks:
        found = found or _no_moments(block.X.mean(axis=0), folds)
        for fold in range(folds):
            for code in (0, 1):
                chosen = (block.fold == fold) & (block.y == bool(code))
                rows = block.X[chosen] - found.shift
                weighted = rows * block.weight[chosen, None].astype(np.float32)
                found.weight[fold, code] += block.weight[chosen].sum()
                found.total[fold, code] += weighted.sum(axis=0, dtype=np.float64)
                found.gram[fold, code] += rows.T @ weighted
    if found is None:
        raise NotEnoughData("no rows to sweep over: record and label traces first")
    return found


def _no_moments(shift: NDArray[np.float32], folds: int) -> Moments:
    d = len(shift)
    zeros = [np.zeros((folds, 2, *shape)) for shape in ((), (d,), (d, d))]
    return Moments(shift, *zeros)


def ridge_from_moments(moments: Moments, held: int, strengths: Sequence[float]) -> RidgePath:
    """Return the ridge probes that learned from all folds but one.

    They are those of ``LinearProbe("ridge", C)``: classes balanced, axes scaled within them.
    """
    others = [fold for fold in range(len(moments.weight)) if fold != held]
    weight = moments.weight[others].sum(axis=0)
    _check_classes(weight)
    half = weight.sum() / 2
    means = moments.total[others].sum(axis=0) / weight[:, None]
    scatter = np.zeros_like(moments.gram[0, 0])
    for code, mean in enumerate(means):
        for fold in others:
            scatter += moments.gram[fold, code] * (half / weight[code])
        scatter -= half * np.outer(mean, mean)
    scale = _scale(np.diag(scatter) / weight.sum())
    apart = (means[1] - means[0]) / scale
    gram = scatter / np.outer(scale, scale) + half / 2 * np.outer(apart, apart)
    coef = solve_path(gram, half * apart, 1 / np.array(strengths)) / scale
    return RidgePath(coef, -coef @ (moments.shift + means.mean(axis=0)))


def ridge_from_kernel(rows: Block, held: int, strengths: Sequence[float]) -> RidgePath:
    """Return the same probes by way of the products between rows: for fewer rows than axes."""
    others = rows.fold != held
    X, y, weight = rows.X[others].astype(np.float64), rows.y[others], rows.weight[others]
    total = np.bincount(y, weight, 2).astype(np.float64)
    _check_classes(total)
    balanced = weight * (total.sum() / 2 / total)[y.astype(int)]
    means = np.stack(
        [np.average(X[y == code], axis=0, weights=weight[y == code]) for code in (0, 1)]
    )
    middle = means.mean(axis=0)
    scale = _scale(np.average((X - means[y.astype(int)]) ** 2, axis=0, weights=balanced))
    root = np.sqrt(balanced)
    Z = (X - middle) / scale * root[:, None]
    coef = solve_path(Z @ Z.T, root * (2.0 * y - 1.0), 1 / np.array(strengths)) @ Z / scale
    return RidgePath(coef, -coef @ middle)


def solve_path(matrix: Values, target: Values, penalties: Values) -> Values:
    """Return ``(matrix + penalty I)^-1 target`` for each penalty, (penalty, d).

    All penalties have the same Krylov space, so one is grown until it holds the solution of
    the weakest (Lanczos with full reorthogonalisation), and its small tridiagonal matrix is
    decomposed in place of the large one.
    """
    d, length = len(target), float(np.linalg.norm(target))
    if not length:  # the classes have one mean: nothing can be learned
        return np.zeros((len(penalties), d))
    basis, diagonal, beside = np.empty((d, d)), np.empty(d), np.empty(d)
    basis[0] = target / length
    check = CHECK
    for k in range(1, d + 1):
        following = matrix @ basis[k - 1]
        diagonal[k - 1] = following @ basis[k - 1]
        for _ in range(2):  # once leaves rounding errors that grow
            following -= (basis[:k] @ following) @ basis[:k]
        beside[k - 1] = np.linalg.norm(following)
        whole = k == d or beside[k - 1] <= ROUNDING * d * diagonal[:k].max()
        if whole or k >= check:
            check = k + max(CHECK, k // 4)
            values, vectors = np.linalg.eigh(_tridiagonal(diagonal[:k], beside[: k - 1]))
            inside = (vectors[0] / (values + penalties[:, None])) @ vectors.T
            if whole or np.abs(beside[k - 1] * inside[:, -1]).max() < TOLERANCE:
                break
        basis[k] = following / beside[k - 1]
    return np.asarray(length * inside @ basis[:k], dtype=np.float64)


def _tridiagonal(diagonal: Values, beside: Values) -> Values:
    matrix: Values = np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1)
    return matrix


def _scale(variance: Values) -> Values:
    """Return deviations; as for `LinearProbe`, a constant axis keeps its scale."""
    deviation = np.sqrt(np.maximum(variance, 0.0))
    return np.where(deviation < 1e-6, 1.0, deviation)


def _check_classes(weight: Values) -> None:
    if not weight.all():
        raise NotEnoughData(
            "too few tasks with instrumental traces, or with harmless ones: a fold of the "
            "cross-validation has one outcome only. Record more samples of each task, or more tasks"
        )


def ridge_paths(rows: Block, folds: int, strengths: Sequence[float]) -> list[RidgePath]:
    """Return for each fold the probes that learned from the others, in the cheaper form."""
    if len(rows.X) < rows.X.shape[1]:
        return [ridge_from_kernel(rows, fold, strengths) for fold in range(folds)]
    moments = sum_moments(_parts(rows), folds)
    return [ridge_from_moments(moments, fold, strengths) for fold in range(folds)]


def _parts(rows: Block) -> Iterator[Block]:
    for start in range(0, len(rows.X), BLOCK):
        part = slice(start, start + BLOCK)
        yield Block(rows.X[part], rows.y[part], rows.weight[part], rows.fold[part])
