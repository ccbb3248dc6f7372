"""What probes read of a thought while it is written, in a state of the size of a few rows.

Tokens are pooled sentence by sentence, and sentences into the thought, so that what is kept does
not grow with it. The features are those of `probing.features`, which makes them of finished traces.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trace_probe.probing.fitting import Reader
from trace_probe.probing.probe import ProbeCard, SavedProbe
from trace_probe.probing.recipe import FEATURES, Feature

HELD = 32
"""Tokens that are never pooled before their sentence ends: as many as a half-read tag may take
back from it."""
Rows = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Pool:
    """What is left of some tokens, however many they were; (layer, d_model) each."""

    tokens: int
    last: Rows
    total: Rows
    """In double precision, so that long sums lose nothing that counts."""
    highest: Rows

    @classmethod
    def of(cls, rows: NDArray[np.float32]) -> "Pool":
        """Return the pool of (token, layer, d_model)."""
        total = np.add.reduce(rows, axis=0, dtype=np.float64)
        return cls(len(rows), rows[-1], total, np.maximum.reduce(rows, axis=0))

    def then(self, later: "Pool") -> "Pool":
        """Return the pool of these tokens and of those that follow them."""
        return Pool(
            self.tokens + later.tokens,
            later.last,
            self.total + later.total,
            np.maximum(self.highest, later.highest),
        )


def _joined(first: Pool | None, second: Pool | None) -> Pool | None:
    return first.then(second) if first and second else first or second


@dataclass(frozen=True)
class Kept:
    """What is remembered of the earlier model calls of an episode."""

    prompt: Rows
    """(layer, d_model) at the last token of the first prompt."""
    thought: Pool | None
    """All sentences of reasoning so far."""


class Memory:
    """Reads one completion for some probes: rows of tokens go in, scores of sentences come out.

    Tokens are counted from the start of the completion. In a later call of an episode the thought
    goes on from what is `kept` of the calls before.
    """

    def __init__(self, probes: Sequence[SavedProbe], kept: Kept | None = None) -> None:
        cards = [saved.card for saved in probes]
        self._probes = [saved.probe for saved in probes]
        self._distances = [saved.distance for saved in probes]
        self.layers = layers_of(cards)
        """The layers whose rows go in."""
        self._features = tuple(f for f in FEATURES if any(f in card.features for card in cards))
        shape = (len(self.layers), len(self._features), cards[0].d_model)
        self._bank = np.empty(shape, dtype=np.float32)
        self._parts = [self._part_of(card) for card in cards]
        self._prompt: Rows | None = kept.prompt if kept else None
        self._begins = True
        """Whether the next row is of the prompt."""
        self._thought: Pool | None = kept.thought if kept else None
        """The sentences of reasoning that have ended."""
        self._begun: Pool | None = None
        """The first tokens of the sentence being written, if it is a long one."""
        self._rows = np.empty((0, len(self.layers), cards[0].d_model), dtype=np.float32)
        self._first = 0
        """The token that the first of these rows is of."""
        self.distances: tuple[float, ...] = ()
        """How far the latest sentence that ended lies from what each probe learned from, if that
        was read at all; nan for one that does not know it."""

    def _part_of(self, card: ProbeCard) -> Any:  # noqa: ANN401 - what an array is indexed by
        """Return where the row of a probe is among all features of all layers."""
        if card.features == self._features and card.layers == self.layers:
            return ...
        layers = [self.layers.index(layer) for layer in card.layers]
        if card.features == self._features and len(layers) == 1:
            return layers[0]
        return np.ix_(layers, [self._features.index(feature) for feature in card.features])

    @property
    def known(self) -> int:
        """Return how many tokens have been read."""
        return self._first + len(self._rows)

    def add(self, rows: NDArray[np.float32]) -> None:
        """Take (token, layer, d_model); the first of all is the last token of the prompt."""
        if self._begins and len(rows):
            self._begins = False
            self._prompt = rows[0] if self._prompt is None else self._prompt
            rows = rows[1:]
        self._rows = np.concatenate([self._rows, rows]) if len(self._rows) else rows

    @property
    def kept(self) -> Kept | None:
        """Return what a later call goes on from, None if nothing has been read."""
        return None if self._prompt is None else Kept(self._prompt, self._thought)

    def scores(self, start: int, stop: int) -> tuple[float, ...]:
        """Return the score of each probe for tokens ``[start, stop)`` of a sentence, so far.

        Empty if none of them has been read.
        """
        return self._scored(self._pool(start, stop))

    def end(self, start: int, stop: int, after: int = 0) -> tuple[float, ...]:
        """Return the scores of a sentence of reasoning that has ended, and remember it.

        White space behind its last word is no part of it, and forgotten: the tokens before `after`.
        """
        pool = self._pool(start, stop)
        scores = self._scored(pool)
        self.distances = tuple(self._each(self._distances)) if scores else ()
        self._thought = _joined(self._thought, pool)
        self.drop(max(stop, after))
        return scores

    def drop(self, stop: int) -> None:
        """Forget the rows of the tokens before `stop`."""
        count = min(max(stop - self._first, 0), len(self._rows))
        self._rows, self._first, self._begun = self._rows[count:], self._first + count, None

    def fold(
        self, start: int | None, words: Callable[[int, int], int] = lambda _, stop: stop
    ) -> None:
        """Pool all but the latest rows, of a sentence that began with token `start`, if of any.

        `words` says where the words of some tokens end: white space after them may be no part of
        the sentence, as a tag may follow.
        """
        stop = self.known - HELD
        if len(self._rows) <= 2 * HELD:
            return
        if start is not None and start < stop:
            stop = words(start, stop)
        begun = None if start is None else self._pool(start, stop)
        self.drop(stop)
        self._begun = begun

    def _pool(self, start: int, stop: int) -> Pool | None:
        first = max(start - self._first, 0)
        rows = self._rows[first : max(stop - self._first, first)]
        return _joined(self._begun, Pool.of(rows) if len(rows) else None)

    def _scored(self, sentence: Pool | None) -> tuple[float, ...]:
        if sentence is None:
            return ()
        thought = _joined(self._thought, sentence)
        assert thought is not None
        for number, feature in enumerate(self._features):
            self._bank[:, number] = self._value(feature, sentence, thought)
        return tuple(self._each(self._probes))

    def _each(self, readers: Sequence[Reader | None]) -> Iterator[float]:
        """Yield what each makes of its part of the features, nan for None."""
        for reader, part in zip(readers, self._parts, strict=True):
            row = self._bank[part].reshape(1, -1)
            yield nan if reader is None else float(reader.raw_scores(row)[0])

    def _value(self, feature: Feature, sentence: Pool, thought: Pool) -> Rows:
        """Return (layer, d_model) of one feature."""
        if feature == "prompt":
            assert self._prompt is not None
            return self._prompt
        if feature == "last":
            return sentence.last
        pool = thought if feature.startswith("running") else sentence
        return pool.total / pool.tokens if feature.endswith("mean") else pool.highest


def layers_of(cards: Sequence[ProbeCard]) -> tuple[int, ...]:
    """Return all layers that some probes read, the lowest first."""
    return tuple(sorted({layer for card in cards for layer in card.layers}))
