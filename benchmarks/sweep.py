"""The sweep against the same grid fitted by scikit-learn, layer by layer, in one process."""

import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.command import Figures, Say, run
from benchmarks.spread import Spread
from trace_probe.probing.probe import LinearProbe
from trace_probe.probing.ridge import Block, ridge_from_moments, ridge_paths, sum_moments
from trace_probe.probing.sweep import LOGISTIC_TO_RIDGE
from trace_probe.statistics.bootstrap import Values
from trace_probe.statistics.metrics import auroc

STRENGTHS = tuple(float(C) for C in np.logspace(-4, 0, 8))
FOLDS = 5
ROWS_A_TASK = 20
SIGNAL = 1.5
"""Of the planted direction; such that an AUROC of about 0.85 can be reached."""


Way = Callable[[Block], Values]
"""From rows to out-of-fold scores, (strength, row)."""


@dataclass(frozen=True)
class SweepPlan:
    """What is measured, and the grid it stands for."""

    layers: int = 3
    """Measured. Layers share nothing, so the ratio of one is the ratio of all."""
    rows: int = 20_000
    width: int = 2048
    grid_layers: int = 32
    """For which the time is given by multiplication."""
    seed: int = 0


@dataclass(frozen=True)
class Grid:
    """What one way of sweeping a layer took and chose."""

    seconds: float
    C: float
    auroc: float
    """Of the logistic probe with that C, fitted on all rows, on rows of other tasks."""


@dataclass(frozen=True)
class SweepBench(Figures):
    """Both ways side by side."""

    plan: SweepPlan
    strengths: tuple[float, ...]
    folds: int
    sweep: tuple[Grid, ...]
    scikit_learn: tuple[Grid, ...]
    peak_bytes: dict[int, int]
    """By number of rows, all read in blocks: the highest memory while moments are summed."""

    @property
    def ratio(self) -> Spread:
        """Return how many times longer scikit-learn took, layer by layer."""
        return Spread.times(
            *([one.seconds for one in way] for way in (self.scikit_learn, self.sweep))
        )

    @property
    def auroc_gap(self) -> float:
        """Return how much AUROC is lost against scikit-learn, at most."""
        pairs = zip(self.sweep, self.scikit_learn, strict=True)
        return max(theirs.auroc - ours.auroc for ours, theirs in pairs)

    @property
    def extrapolated_seconds(self) -> dict[str, float]:
        """Return the time for the whole grid: that of the median layer times the layers."""
        return {
            name: float(np.median([grid.seconds for grid in grids])) * self.plan.grid_layers
            for name, grids in (("sweep", self.sweep), ("scikit_learn", self.scikit_learn))
        }


def bench_sweep(plan: SweepPlan, say: Say) -> SweepBench:
    """Sweep planted layers in both ways, the first one of a layer in turns.

    Seconds are processor seconds of this process, summed over its threads. The final
    logistic fit is the same for both and is left out of them.
    """
    found: dict[str, list[Grid]] = {"sweep": [], "scikit-learn": []}
    ways: list[tuple[str, Way]] = [("sweep", _swept), ("scikit-learn", _fitted)]
    for layer in range(plan.layers):
        train, test = planted_layer(plan, layer)
        for name, way in ways if layer % 2 == 0 else reversed(ways):
            found[name].append(_measure(way, train, test))
            say(f"layer {layer}, {name}: {found[name][-1].seconds:.1f} s")
    counts = (plan.rows, 4 * plan.rows)
    return SweepBench(
        plan,
        STRENGTHS,
        FOLDS,
        tuple(found["sweep"]),
        tuple(found["scikit-learn"]),
        {count: peak_bytes(plan, count) for count in counts},
    )


def _measure(way: Way, train: Block, test: Block) -> Grid:
    start = time.process_time()
    held_out = way(train)
    best = int(np.argmax([auroc(scores, train.y) for scores in held_out]))
    seconds = time.process_time() - start
    probe = LinearProbe(C=STRENGTHS[best]).fit(train.X, train.y, sample_weight=train.weight)
    return Grid(seconds, STRENGTHS[best], auroc(probe.decision_function(test.X), test.y))


def _swept(rows: Block) -> Values:
    scores = np.empty((len(STRENGTHS), len(rows.X)))
    ridge = [C * LOGISTIC_TO_RIDGE for C in STRENGTHS]
    for fold, path in enumerate(ridge_paths(rows, FOLDS, ridge)):
        held = rows.fold == fold
        scores[:, held] = (rows.X[held] @ path.coef.T.astype(np.float32)).T
        scores[:, held] += path.intercept[:, None]
    return scores


def _fitted(rows: Block) -> Values:
    """Fit every cell, each from the solution of the next stronger penalty."""
    from sklearn.linear_model import LogisticRegression

    scores = np.empty((len(STRENGTHS), len(rows.X)))
    for fold in range(FOLDS):
        some, held = rows.fold != fold, rows.fold == fold
        mean, scale = rows.X[some].mean(axis=0), rows.X[some].std(axis=0)
        Z = (rows.X[some] - mean) / scale
        model = LogisticRegression(max_iter=1000, warm_start=True, class_weight="balanced")
        others = (rows.X[held] - mean) / scale
        for cell, C in enumerate(STRENGTHS):
            model.set_params(C=C).fit(Z, rows.y[some], rows.weight[some].astype(np.float32))
            scores[cell, held] = model.decision_function(others)
    return scores


def planted_layer(plan: SweepPlan, layer: int) -> tuple[Block, Block]:
    """Return rows to sweep over and rows of other tasks.

    Like a residual stream: a power-law spectrum, effects of tasks, a weak signal across axes.
    """
    rng = np.random.default_rng([plan.seed, layer])
    spectrum = np.arange(1, plan.width + 1) ** -0.5
    turn = np.linalg.qr(rng.normal(size=(plan.width, plan.width)).astype(np.float32))[0]
    signal = SIGNAL * rng.normal(size=plan.width) * spectrum / plan.width**0.5

    def rows(count: int) -> Block:
        task = np.arange(count) // ROWS_A_TASK
        y = rng.random(count) < 0.3
        X = rng.normal(size=(count, plan.width)).astype(np.float32)
        X += rng.normal(size=(task[-1] + 1, plan.width)).astype(np.float32)[task] / 2
        X = (X * spectrum.astype(np.float32) + np.outer(y, signal.astype(np.float32))) @ turn
        return Block(X, y, np.ones(count), task % FOLDS)

    return rows(plan.rows), rows(max(plan.rows // 4, ROWS_A_TASK))


def peak_bytes(plan: SweepPlan, count: int) -> int:
    """Return the most memory that NumPy held while `count` rows were swept block by block."""

    def blocks() -> Iterator[Block]:
        rng = np.random.default_rng(plan.seed)
        size = plan.rows // 10
        for _ in range(0, count, size):
            X = rng.normal(size=(size, plan.width)).astype(np.float32)
            yield Block(X, rng.random(size) < 0.3, np.ones(size), np.arange(size) % FOLDS)

    tracemalloc.start()
    try:
        ridge_from_moments(sum_moments(blocks(), FOLDS), 0, STRENGTHS)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def format_bench(bench: SweepBench) -> str:
    """Return the measurement as text."""
    plan, whole = bench.plan, bench.extrapolated_seconds
    lines = [
        f"{plan.layers} layers measured, {len(bench.strengths)} strengths x {bench.folds} folds, "
        f"{plan.rows} x {plan.width} rows; processor seconds a layer",
        *(
            f"layer {layer}: sweep {ours.seconds:.1f} (C {ours.C:.2g}, AUROC {ours.auroc:.4f}), "
            f"scikit-learn {theirs.seconds:.1f} (C {theirs.C:.2g}, AUROC {theirs.auroc:.4f})"
            for layer, (ours, theirs) in enumerate(
                zip(bench.sweep, bench.scikit_learn, strict=True)
            )
        ),
        f"scikit-learn takes so many times as long: {bench.ratio:.1f}",
        f"AUROC lost, at most: {bench.auroc_gap:+.4f}",
        f"{plan.grid_layers} layers, by multiplication: {whole['sweep']:.0f} s "
        f"against {whole['scikit_learn']:.0f} s",
        *(f"{rows} rows: {peak / 2**20:.0f} MiB" for rows, peak in bench.peak_bytes.items()),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    run(SweepPlan, bench_sweep, format_bench)
