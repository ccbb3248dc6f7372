"""The headline of a report: caught before it is said, few siblings alarming.

Of a detector, of its baselines and of chance, all at thresholds of their own, set in the same way
on the same siblings: see `statistics.siblings`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trace_probe.evaluation.panel import Panel
from trace_probe.evaluation.report import NAME, RATES, at_rate
from trace_probe.statistics.bootstrap import Metric, Resampled, Values
from trace_probe.statistics.metrics import Scores, running_maxima, score_rows
from trace_probe.statistics.smoothing import MAX


@dataclass(frozen=True)
class Headline:
    """The headline of a detector by sibling rate, with what puts it into proportion."""

    caught: Mapping[str, Resampled]
    """Empty where there are too few siblings or prompts: see `MixedPrompts.shortage`."""
    chance: Mapping[str, Resampled]
    """The same of scores permuted within prompts."""
    lead: Mapping[str, Mapping[str, Resampled]]
    """How long before it is said those caught alarm, in ``sentences`` and in ``tokens``."""

    def figures(self) -> dict[str, Metric | None]:
        """Return the headline with its interval, by the names of a report."""
        return by_rate(self.caught)


def by_rate(caught: Mapping[str, Resampled], headline: str = NAME) -> dict[str, Metric | None]:
    """Return shares that are caught with their intervals, by the names of a report."""
    return {at_rate(rate, headline): interval(caught.get(rate)) for rate in RATES}


def interval(value: Resampled | None) -> Metric | None:
    """Return a figure with its interval, None where there is no figure."""
    return None if value is None else value.interval()


def caught_by_rate(followed: Scores, panel: Panel, weights: Values) -> dict[str, Resampled]:
    """Return the headline of a detector by sibling rate; nothing where there are too few traces.

    `followed` is what its alarm follows.
    """
    mixed = panel.mixed
    if mixed.shortage():
        return {}
    maxima = running_maxima(score_rows(panel.cohort, followed))
    return {rate: mixed.caught(maxima, weights, float(rate)) for rate in RATES}


def headline(followed: Scores, panel: Panel, weights: Values) -> Headline:
    """Return the headline of a detector beside chance, with the lead of what it catches."""
    mixed = panel.mixed
    if mixed.shortage():
        return Headline({}, {}, {})
    maxima = running_maxima(score_rows(panel.cohort, followed))
    return Headline(
        caught={rate: mixed.caught(maxima, weights, float(rate)) for rate in RATES},
        chance={
            rate: mixed.by_chance(maxima, weights, float(rate), seed=panel.seed) for rate in RATES
        },
        lead={rate: mixed.lead(maxima, weights, float(rate)) for rate in RATES},
    )


def caught_by_each(
    runs: Mapping[str, Sequence[Scores]], panel: Panel, weights: Values
) -> dict[str, dict[str, Resampled]]:
    """Return the headline of each baseline, of several runs that of the first.

    Its alarm follows the smoothing of the panel or plain scores, whichever catches more here: a
    rival is not to suffer from a smoothing that was chosen for another.
    """
    found = {}
    for name, several in runs.items():
        ways = [way.apply(several[0]) for way in dict.fromkeys((panel.smoothing, MAX))]
        found[name] = max((caught_by_rate(way, panel, weights) for way in ways), key=_smallest_rate)
    return found


def _smallest_rate(found: Mapping[str, Resampled]) -> float:
    return found[RATES[0]].estimate if found else 0.0
