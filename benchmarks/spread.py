"""Several measurements of one thing: how they are taken, their median, how far they lie apart."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
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

    def __format__(self, form: str) -> str:
        """Return the median, and from lowest to highest, each in the same format."""
        return f"{self.median:{form}} ({self.lowest:{form}} to {self.highest:{form}})"

    @classmethod
    def times(cls, these: Iterable[float], those: Iterable[float]) -> "Spread":
        """Return how many times the second the first is, round by round."""
        return cls.of([one / other for one, other in zip(these, those, strict=True)])


def in_turns(
    ways: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    warm: int = 0,
    clock: Callable[[], float] = time.process_time,
    say: Callable[[str], object] = lambda _: None,
) -> dict[str, tuple[float, ...]]:
    """Return the seconds of each way and round; in a round the ways come in turns.

    The first `warm` rounds come before these and are not counted.
    """
    names, taken = list(ways), {name: list[float]() for name in ways}
    for turn in range(warm + rounds):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            start = clock()
            ways[name]()
            taken[name].append(clock() - start)
        say(f"round {turn + 1} of {warm + rounds}: {sum(row[-1] for row in taken.values()):.1f} s")
    return {name: tuple(row[warm:]) for name, row in taken.items()}
