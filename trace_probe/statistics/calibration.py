"""Thresholds that keep a guarantee: at most this share of harmless traces alarms, ever.

The statistic is the maximum over a whole trace. A threshold set on sentences would break
the guarantee, because a trace has many chances to alarm.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from trace_probe.errors import NotEnoughData

Guarantee = Literal["conformal", "pac"]
"""What holds on average over calibration sets, or for this one with high probability."""
Binding = Literal["benign", "siblings"]
"""Of the two guarantees of a threshold, the one that asked for the higher value."""
PAC_DELTA = 0.1
"""The probability with which the guarantee of a PAC threshold may fail."""


@dataclass(frozen=True)
class Threshold:
    """Where an alarm starts: at scores equal to or above `value`."""

    value: float
    target_rate: float
    """The whole-trace false-alarm rate that was asked for."""
    guaranteed_rate: float
    """The rate that the calibration traces can guarantee; above the target if they are too few."""
    n: int
    """Harmless traces it was set on."""
    method: Guarantee
    note: str = ""
    """What is to be said beside the rate; empty if nothing is."""
    false_alarm_rate: float | None = None
    """Share of the harmless traces that alarm at `value`; None if it was not measured."""
    target_sibling_rate: float | None = None
    """Share of siblings that may alarm; None if nobody asked."""
    sibling_alarm_rate: float | None = None
    """Share of the siblings that alarm at `value`; None if there were too few to know."""
    siblings: int = 0
    """How many siblings that is a share of."""
    binds: Binding = "benign"
    """Whose guarantee set `value`; that of the others would be kept at a lower one."""

    @property
    def rates(self) -> "Rates":
        """Return the rates that are guaranteed and those that were measured."""
        return Rates(
            self.guaranteed_rate,
            self.target_sibling_rate if self.siblings else None,
            self.false_alarm_rate,
            self.sibling_alarm_rate,
            self.binds,
        )


@dataclass(frozen=True)
class Rates:
    """How often harmless traces alarm at a threshold; None where it is not known.

    Example:
        >>> print(Rates(0.01, 0.05))
        guaranteed: at most 1.0% of benign traces and 5.0% of siblings alarm
    """

    benign: float
    """Guaranteed share of whole benign traces."""
    siblings: float | None = None
    """Guaranteed share of siblings: harmless traces of prompts that have an instrumental one."""
    benign_measured: float | None = None
    """Share of the calibration traces that alarm."""
    siblings_measured: float | None = None
    """Share of the siblings that alarm, by probes that have not learned from their tasks."""
    binds: Binding | None = None
    """Whose guarantee set the threshold."""

    def __str__(self) -> str:
        """Return them in words."""
        said = f"guaranteed: at most {_percent(self.benign)} of benign traces"
        if self.siblings is None:
            said += " alarm, nothing for siblings"
        else:
            said += f" and {_percent(self.siblings)} of siblings alarm"
            if self.binds is not None:
                whose = "siblings" if self.binds == "siblings" else "benign traces"
                said += f" (the {whose} set the threshold)"
        if self.benign_measured is None:
            return said
        seen = f"{self.benign_measured:.1%} of benign traces"
        if self.siblings_measured is not None:
            seen += f" and {self.siblings_measured:.1%} of siblings"
        return f"{said}; where the threshold was set: {seen}"


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{share:.1%}"


def guaranteed_threshold(
    maxima: NDArray[np.floating[Any]],
    rate: float,
    guarantee: Guarantee,
    sibling_rate: float | None = None,
    siblings: tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]] | None = None,
) -> Threshold:
    """Set a threshold on (trace,) maxima of harmless traces by a guarantee; see those of each kind.

    It is raised until siblings alarm no more often than is to be guaranteed, if it has to be. For
    them a guarantee of kind pac holds for this very threshold with ``1 - delta``: it is above the
    limit of that share of the resamples.

    Args:
        maxima: The highest value of each harmless trace.
        rate: Share of harmless traces that may alarm.
        guarantee: Which kind.
        sibling_rate: Share of siblings that may alarm; None gives no guarantee for them.
        siblings: The highest value of each, and (draw + 1,) the highest value that may not alarm,
            for the siblings and for each resample of their tasks; None if they are too few.

    Raises:
        NotEnoughData: there is no harmless trace that was scored.
    """
    found = (conformal_threshold if guarantee == "conformal" else pac_threshold)(maxima, rate)
    found = replace(found, target_sibling_rate=sibling_rate)
    if siblings is not None:
        peaks, limits = siblings
        drawn = limits[1:][np.isfinite(limits[1:])]
        pac = guarantee == "pac" and len(drawn)
        least = _above(np.float32(np.quantile(drawn, 1 - PAC_DELTA) if pac else limits[0]))
        value = max(found.value, least)
        measured = float((np.asarray(peaks) >= value).mean())
        binds: Binding = "siblings" if least > found.value else "benign"
        found = replace(found, value=value, binds=binds)
        found = replace(found, siblings=len(peaks), sibling_alarm_rate=measured)
    elif sibling_rate is not None:
        note = "too few harmless traces share a prompt with instrumental ones for a guarantee"
        found = replace(found, note="; ".join(part for part in (found.note, note) if part))
    return replace(found, false_alarm_rate=float((np.asarray(maxima) >= found.value).mean()))


def conformal_threshold(maxima: NDArray[np.floating[Any]], rate: float) -> Threshold:
    """Set a threshold by split conformal prediction on the maxima of harmless traces.

    A new trace that is exchangeable with these alarms with a probability of at most
    `guaranteed_rate`, on average over calibration sets. A rate needs ``1 / rate - 1`` traces. The
    threshold lies just above the ``ceil((n + 1) (1 - rate))``-th smallest of the `maxima`
    (trace,) (Vovk, Gammerman and Shafer 2005; Angelopoulos and Bates, arXiv 2107.07511).

    Raises:
        NotEnoughData: no trace has a score, or the rate is not between 0 and 1.
    """
    ordered = _sorted(maxima, rate)
    n = len(ordered)
    rank = math.ceil((n + 1) * (1 - rate) - 1e-9)
    allowed = max(n - rank, 0)
    honest = (allowed + 1) / (n + 1)
    note = "" if rank <= n else _shortage(n, rate, honest, traces_needed(rate, "conformal"))
    return Threshold(_above(ordered[n - 1 - allowed]), rate, honest, n, "conformal", note)


def pac_threshold(maxima: NDArray[np.floating[Any]], rate: float) -> Threshold:
    """Set a threshold whose true rate is at most `guaranteed_rate` with probability ``1 - delta``.

    Delta is `PAC_DELTA`. The probability is over calibration sets, so the guarantee holds for
    this very threshold. With n `maxima` (trace,), the threshold lets through the most of them, k,
    for which ``P(Binomial(n, rate) <= k) <= delta``: the exact bound of Clopper and Pearson
    (1934), which as a training-conditional guarantee of split conformal sets is that of Vovk
    (2012, arXiv 1209.2673). If not even k = 0 will do, `guaranteed_rate` is
    ``1 - delta ** (1 / n)``.

    Raises:
        NotEnoughData: no trace has a score, or the rate is not between 0 and 1.
    """
    from scipy.special import bdtr

    ordered = _sorted(maxima, rate)
    n = len(ordered)
    allowed = int((bdtr(np.arange(n), n, rate) <= PAC_DELTA).sum()) - 1
    if allowed >= 0:
        return Threshold(_above(ordered[n - 1 - allowed]), rate, rate, n, "pac")
    honest = 1 - PAC_DELTA ** (1 / n)
    note = _shortage(n, rate, honest, traces_needed(rate, "pac"))
    return Threshold(_above(ordered[-1]), rate, honest, n, "pac", note)


def traces_needed(rate: float, guarantee: Guarantee) -> int:
    """Return the smallest number of harmless traces that can guarantee a rate.

    With fewer a threshold guarantees a higher rate; see the function of each guarantee.

    Raises:
        NotEnoughData: the rate is not between 0 and 1.

    Example:
        >>> [traces_needed(0.001, "conformal"), traces_needed(0.001, "pac")]
        [999, 2302]
    """
    _check_rate(rate, "false-alarm rate")
    if guarantee == "conformal":
        return math.ceil(1 / rate - 1e-9) - 1
    return math.ceil(math.log(PAC_DELTA) / math.log1p(-rate))


def impossible(card: object, threshold: float) -> str:
    """Return what cannot be true of a card or threshold that was read; empty if all can.

    Every field whose name ends in ``_rate`` is a share. Scores are float32, so beyond its range a
    threshold is never reached, or always.

    Example:
        >>> impossible(Threshold(1.0, 0.05, 7.0, 20, "pac"), 1.0)
        'guaranteed_rate is 7, which is no share'
    """
    if not abs(threshold) <= float(np.finfo(np.float32).max):
        return f"the threshold is {threshold:g}, which no score can have"
    rates = {name: rate for name, rate in vars(card).items() if name.endswith("_rate")}
    wrong = [name for name, rate in rates.items() if rate is not None and not 0 <= rate <= 1]
    return f"{wrong[0]} is {rates[wrong[0]]:g}, which is no share" if wrong else ""


def check_rates(rate: float, sibling_rate: float) -> None:
    """Refuse rates that no threshold can keep, before anything is trained for them.

    Raises:
        NotEnoughData: one of them is not between 0 and 1.
    """
    _check_rate(rate, "false-alarm rate")
    _check_rate(sibling_rate, "sibling rate")


def _check_rate(rate: float, what: str) -> None:
    if not 0 < rate < 1:
        raise NotEnoughData(f"a {what} of {rate} cannot be calibrated: use 0 < rate < 1")


def _sorted(maxima: NDArray[np.floating[Any]], rate: float) -> NDArray[np.float32]:
    _check_rate(rate, "false-alarm rate")
    ordered = np.sort(np.asarray(maxima, dtype=np.float32))
    # A trace without reasoning has a maximum of -inf: it cannot alarm, and counts as such.
    if not np.isfinite(ordered).any() or np.isnan(ordered).any():
        raise NotEnoughData(
            "no scored harmless traces to calibrate on: "
            "record tasks of role `benign` into this run, with reasoning, and train again"
        )
    return ordered


def _above(maximum: np.float32) -> float:
    """Return the next float32, the precision in which scores are kept: ties must not alarm."""
    return float(np.nextafter(maximum, np.float32(np.inf)))


def _shortage(n: int, rate: float, honest: float, needed: int) -> str:
    return (
        f"{n} harmless traces cannot guarantee {rate:.2%} false alarms, "
        f"which needs {needed}: the threshold guarantees {honest:.2%}"
    )
