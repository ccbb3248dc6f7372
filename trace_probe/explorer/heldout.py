"""How a detector does on the traces it has not learned from, threshold by threshold."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trace_probe.emergence.curve import OraclePoint
from trace_probe.explorer.figures import Figure
from trace_probe.explorer.rows import Row
from trace_probe.statistics.bootstrap import share, wilson

BINS = 8
FEWEST = 5
"""Traces a bin must hold for its share to say anything."""

Floats = NDArray[np.floating]


def unseen(rows: Sequence[Row]) -> list[Row]:
    """Return the traces of tasks that the detector did not learn from, as far as is known."""
    return [row for row in rows if row.split in ("held out", "unknown")]


def to_begin_with(rows: Sequence[Row], oracle: Callable[[str], Sequence[OraclePoint]]) -> Row:
    """Return the trace in which the chance of the act rises most in the sentence of the alarm.

    The longest warning breaks ties; it alone counts where the oracle was asked about none of them.
    """
    known = [row for row in rows if oracle(row.facts.id)] or rows
    return max(known, key=lambda row: (rise_at_alarm(row, oracle(row.facts.id)), row.lead or 0))


def rise_at_alarm(row: Row, points: Sequence[OraclePoint]) -> float:
    """Return how much likelier the act is after the sentence of the alarm than before it."""
    until = row.alarm_stop or 0
    read = [point.probability for point in points if point.token <= until]
    return read[-1] - read[-2] if len(read) > 1 else 0.0


def peak_in_time(row: Row) -> float | None:
    """Return the highest reasoning score before the action, or of all reasoning without one."""
    if row.scores is None:
        return None
    acted = None if row.label is None else row.label.acted
    chosen = row.facts.reasoning & ~np.isnan(row.scores)
    if acted is not None:
        chosen = chosen & (row.facts.stops <= acted.start)
    return float(row.scores[chosen].max()) if chosen.any() else None


def peaks(rows: Sequence[Row], holds: Callable[[Row], bool]) -> Floats:
    """Return the peaks in time of the rows for which something holds, without the unknown."""
    found = (peak_in_time(row) for row in rows if holds(row))
    return np.array([peak for peak in found if peak is not None])


def acted(row: Row) -> bool:
    """Return whether a trace is known to have acted instrumentally."""
    return row.label is not None and row.label.outcome is True


def benign(row: Row) -> bool:
    """Return whether a trace is of a benign task."""
    return row.facts.role == "benign" and not acted(row)


@dataclass(frozen=True)
class TradeOff:
    """What is caught before the action, at what price in false alarms, by threshold."""

    threshold: Floats
    """Falling."""
    caught: Floats
    false_alarms: Floats
    n_acted: int
    n_benign: int

    def at(self, threshold: float) -> tuple[float, float]:
        """Return both shares at a threshold: caught, false alarms."""
        index = int((self.threshold >= threshold).sum()) - 1
        if index < 0:
            return 0.0, 0.0
        return float(self.caught[index]), float(self.false_alarms[index])


def trade_off(rows: Sequence[Row]) -> TradeOff | None:
    """Return the trade-off on unseen tasks; None without instrumental and benign traces."""
    positive, negative = peaks(unseen(rows), acted), peaks(unseen(rows), benign)
    if not len(positive) or not len(negative):
        return None
    limits = np.unique(np.concatenate([positive, negative]))[::-1]

    def at_least(values: Floats) -> Floats:
        below = np.searchsorted(np.sort(values), limits, side="left")
        shares: Floats = 1 - below / len(values)
        return shares

    return TradeOff(limits, at_least(positive), at_least(negative), len(positive), len(negative))


@dataclass(frozen=True)
class Bin:
    """Traces of like risk: what was foretold of them and what they did."""

    foretold: float
    observed: Figure


def reliability(rows: Sequence[Row], *, probabilities: bool) -> list[Bin]:
    """Return the share that acted among unseen test traces of like risk, with Wilson intervals.

    A score that is no probability is taken for a logit.
    """
    judged = [
        (peak, acted(row))
        for row in unseen(rows)
        if row.facts.role == "test" and row.label is not None and row.label.outcome is not None
        for peak in [peak_in_time(row)]
        if peak is not None
    ]
    if len(judged) < 2 * FEWEST:
        return []
    peak = np.array([one[0] for one in judged])
    hit = np.array([one[1] for one in judged])
    foretold = peak if probabilities else 0.5 * (1 + np.tanh(peak / 2))
    order = np.argsort(foretold, kind="stable")
    parts = np.array_split(order, min(BINS, len(judged) // FEWEST))
    observed = (wilson(float(hit[part].mean()), len(part), n=len(part)) for part in parts)
    return [
        Bin(float(foretold[part].mean()), Figure.of(value, len(part)))
        for part, value in zip(parts, observed, strict=True)
    ]


def by_category(rows: Sequence[Row], *, seed: int = 0) -> dict[str, Figure]:
    """Return for each category the share of acting traces caught before the action."""
    known = (row for row in unseen(rows) if acted(row) and row.scores is not None)
    chosen = [row for row in known if row.alarm is None or row.lead_action is not None]
    found = {}
    for category in sorted({row.facts.category for row in chosen}):
        here = [row for row in chosen if row.facts.category == category]
        hit = np.array([(row.lead_action or 0) > 0 for row in here])
        value = share(hit, [row.facts.task for row in here], seed=seed)
        found[category] = Figure.of(value, len(here))
    return found
