"""Directions to steer along: a probe's, and those it must beat to be called a cause.

All are unit vectors, so that one dose moves the stream as far along any of them. A random
direction says what a push of that length does by itself; a direction fitted by the same probe
class to something unrelated says what a push along *any* readable concept does.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from trace_probe.errors import NotEnoughData
from trace_probe.probing.corpus import Corpus
from trace_probe.probing.probe import LinearProbe, ProbeCard, SavedProbe
from trace_probe.statistics.bootstrap import Mask
from trace_probe.trace import Trace

Kind = Literal["probe", "means", "random", "unrelated"]
Vector = NDArray[np.float64]
ALIKE = 0.5
"""Correlation from which two concepts count as one."""
RELATED = 0.15
"""Correlation with the outcome from which a concept counts as related."""


@dataclass(frozen=True, eq=False)
class Direction:
    """A way through the residual stream."""

    name: str
    kind: Kind
    vector: Vector
    """(d_model,), of length 1."""


@dataclass(frozen=True)
class Rows:
    """Sentences of labelled traces at one layer."""

    X: NDArray[np.float32]
    """(row, d_model)."""
    acted: Mask
    trace: tuple[Trace, ...]
    """Of each row."""
    sentence: NDArray[np.intp]

    @property
    def scale(self) -> float:
        """Return the mean length of a row: the unit of doses."""
        return float(np.linalg.norm(self.X, axis=1).mean())


def rows_at(corpus: Corpus, layer: int) -> Rows:
    """Return every reasoning sentence of the traces of known outcome at a layer.

    Raises:
        NotEnoughData: there is none, or one outcome only.
    """
    where = [(one, index) for one in corpus.known for index in one.trace.thoughts]
    acted = np.array([one.outcome for one, _ in where], dtype=bool)
    if not acted.any() or acted.all():
        raise NotEnoughData("directions need traces of both outcomes: record and label more")
    sentence = np.array([index for _, index in where], dtype=np.intp)
    first = corpus.activations.start[[one.place for one, _ in where]]
    return Rows(
        corpus.activations.part(layer)[first + 1 + sentence].astype(np.float32),
        acted,
        tuple(one.trace for one, _ in where),
        sentence,
    )


def tested(saved: SavedProbe, rows: Rows, layer: int) -> tuple[Direction, Direction]:
    """Return the probe's direction, fitted anew at another layer, and that between the means."""
    if layer in saved.card.layers:
        along = saved.direction(layer)
    else:
        along = np.asarray(_fit(saved.card, rows, rows.acted).coef_[0], np.float64)
    means = rows.X[rows.acted].mean(axis=0) - rows.X[~rows.acted].mean(axis=0)
    return (
        Direction(saved.card.name, "probe", _unit(along)),
        Direction("difference of means", "means", _unit(means)),
    )


def random_directions(count: int, width: int, seed: int = 0) -> list[Direction]:
    """Return directions drawn evenly from the sphere."""
    drawn = np.random.default_rng(seed).normal(size=(count, width))
    return [Direction(f"random {i}", "random", _unit(row)) for i, row in enumerate(drawn)]


def unrelated_directions(card: ProbeCard, rows: Rows, count: int) -> list[Direction]:
    """Return directions of the probe's class for concepts that do not go with the outcome.

    How far the reasoning has come, how long a sentence is, and which words a prompt holds,
    those of about half the tasks first.

    Raises:
        NotEnoughData: there are fewer such concepts.
    """
    found: list[tuple[str, Mask]] = []
    for name, mask in _concepts(rows):
        related = abs(_correlation(mask, rows.acted)) > RELATED
        if not related and all(abs(_correlation(mask, other)) < ALIKE for _, other in found):
            found.append((name, mask))
        if len(found) == count:
            return [
                Direction(name, "unrelated", _unit(_fit(card, rows, mask).coef_[0]))
                for name, mask in found
            ]
    raise NotEnoughData(
        f"only {len(found)} concepts that do not go with the outcome, {count} were asked for: "
        f"ask for fewer, or record more tasks"
    )


def _concepts(rows: Rows) -> Iterator[tuple[str, Mask]]:
    """Yield what holds of some rows and not of others."""
    yield "late in the reasoning", rows.sentence > np.median(rows.sentence)
    size = np.array([len(t.sentences[i]) for t, i in zip(rows.trace, rows.sentence, strict=True)])
    yield "long sentence", size > np.median(size)
    words = {trace.task.prompt_key: set(trace.task.prompt.lower().split()) for trace in rows.trace}
    keys = [trace.task.prompt_key for trace in rows.trace]
    count = Counter(word for each in words.values() for word in each)
    for word, n in sorted(count.items(), key=lambda item: (abs(item[1] / len(words) - 0.5), item)):
        if 0.1 <= n / len(words) <= 0.9:
            yield f"prompt has {word!r}", np.array([word in words[key] for key in keys])


def _correlation(one: Mask, other: Mask) -> float:
    if one.all() or not one.any() or other.all() or not other.any():
        return 1.0  # what always holds tells nothing apart
    return float(np.corrcoef(one, other)[0, 1])


def _fit(card: ProbeCard, rows: Rows, holds: Mask) -> LinearProbe:
    names = [trace.id for trace in rows.trace]
    _, code = np.unique(names, return_inverse=True)
    weight = 1.0 / np.bincount(code)[code]
    return LinearProbe(card.method, card.C).fit(rows.X, holds, sample_weight=weight)


def _unit(vector: Sequence[float] | NDArray[np.floating]) -> Vector:
    values = np.asarray(vector, dtype=np.float64)
    unit: Vector = values / np.linalg.norm(values)
    return unit
