"""Several measurements of one thing: their median, and how far they lie apart."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Spread:
    """A figure over rounds, in the unit in which it was measured."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Return the median of some values, at least one, and how far they spread."""
        return cls(float(median(values)), float(min(values)), float(max(values)))
