"""Whether live scores have left the range that the thresholds were calibrated on.

The guarantee of a threshold holds for traces like those it was set on. Each new trace is
ranked among the calibration traces and all others since, which under that guarantee gives
independent uniform p-values; a bet against them grows only if they are not. The bet exceeds
``1 / risk`` with probability at most `risk` however long one watches (Ville's inequality), so
the check may be read after each trace. Conformal test martingales: Vovk, Nouretdinov and
Gammerman, *Testing exchangeability on-line*, ICML 2003, with the simple mixture there.
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

WINDOW = 5000
"""Live traces after which the check starts anew, so that it can run for ever."""
NEEDED = 19
"""Calibration traces below which nothing can be said."""
_STAKES = np.linspace(0.02, 0.98, 49)


@dataclass(frozen=True)
class Drift:
    """What the check says after some live traces."""

    traces: int
    """Live traces since the check began."""
    outside: int
    """Of them, how many lay outside the central 98 % of the calibration traces."""
    evidence: float
    """Log10 of the bet: at `limit` and above the scores have left the range."""
    limit: float
    drifted: bool
    """Once true it stays so until the window ends."""

    @property
    def note(self) -> str:
        """Return what is to be said, empty if nothing is."""
        if not self.drifted:
            return ""
        return (
            f"the scores have left the calibrated range: {self.outside} of {self.traces} traces "
            f"lie outside the central 98 % of the calibration traces; the false-alarm rate is "
            f"no longer guaranteed, calibrate on traces like these"
        )


def calibrated_range(levels: Sequence[float]) -> tuple[float, float] | None:
    """Return between which levels 98 % of calibration traces lie; None if they are too few."""
    if len(levels) < NEEDED:
        return None
    low, high = np.quantile(levels, [0.01, 0.99])
    return float(low), float(high)


class DriftCheck:
    """Takes the level of one finished trace after another (`calibrated.level`)."""

    def __init__(self, levels: Sequence[float], *, risk: float = 0.001) -> None:
        """Start from the levels of calibration traces; fewer than `NEEDED` never drift."""
        self._calibrated = sorted(levels)
        self._limit = -float(np.log10(risk))
        self._range = calibrated_range(levels)
        self._restart()

    def _restart(self) -> None:
        self._bag = list(self._calibrated)
        self._logs = np.zeros(len(_STAKES))
        self._traces = self._outside = 0
        self._evidence = 0.0
        self._drifted = False

    def add(self, level: float) -> Drift:
        """Take the level of a finished trace; return what is known now."""
        if self._traces == WINDOW:
            self._restart()
        self._traces += 1
        if self._range is not None:
            self._outside += not self._range[0] <= level <= self._range[1]
            self._bet(self._rank(level))
        return self.drift

    @property
    def drift(self) -> Drift:
        """Return what is known so far."""
        return Drift(self._traces, self._outside, self._evidence, self._limit, self._drifted)

    def _rank(self, level: float) -> float:
        """Return the p-value of a level, small at both ends of the bag."""
        insort(self._bag, level)
        below = bisect_right(self._bag, level)
        above = len(self._bag) - bisect_left(self._bag, level)
        return min(1.0, 2 * min(below, above) / len(self._bag))

    def _bet(self, p: float) -> None:
        """Multiply each stake's capital by ``stake * p ** (stake - 1)``; the bet is their mean."""
        self._logs += np.log(_STAKES) + (_STAKES - 1) * np.log(p)
        top = self._logs.max()
        natural = top + np.log(np.exp(self._logs - top).mean())
        self._evidence = float(natural / np.log(10))
        self._drifted = self._drifted or self._evidence >= self._limit


def check_levels(calibrated: Sequence[float], levels: Iterable[float]) -> Drift:
    """Return what the check says after all levels, in their order."""
    check = DriftCheck(calibrated)
    for level in levels:
        check.add(level)
    return check.drift
