"""A detector: a probe, how its scores are smoothed, and from which value on they are an alarm.

Everything that raises alarms (commands, pages, the server, experiments, logs of Inspect) asks a
`Detector`, so all of them alarm at the same sentences. `load_detector` makes one of the folder of
a probe; `recorded_detector` finds the one behind the scores that a run keeps.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from trace_probe.errors import ProbeError
from trace_probe.evaluation.report import AGAIN
from trace_probe.evaluation.report import EARLIER as REPORTS
from trace_probe.monitor.calibrated import Decoding, level, load_calibrations
from trace_probe.monitor.drift import NEEDED
from trace_probe.probing.hub import local_folder
from trace_probe.probing.kept import CARD, MEND, read_json
from trace_probe.probing.probe import EARLIER as CARDS
from trace_probe.probing.probe import SavedProbe, load_probe
from trace_probe.statistics.calibration import Rates
from trace_probe.statistics.metrics import first_alarm
from trace_probe.statistics.smoothing import MAX, Smoothing, parse_smoothing
from trace_probe.storage.typed import from_plain, renamed
from trace_probe.store import Store
from trace_probe.trace import Sampling

OUTSIDE = (
    "outside the calibrated range: neither an alarm nor its absence can be relied on for texts "
    "like this"
)
FARTHEST = 0.99
"""The share of the calibration traces that lie no farther than what is within their range."""


@dataclass(frozen=True)
class Source:
    """Where a threshold comes from."""

    kind: Literal["card", "calibration", "report", "hand", "none"]
    """The probe's card, a calibration kept beside it, the report of a run, a person, nowhere."""
    decoding: Decoding | None = None
    """What a calibration holds for."""

    def __str__(self) -> str:
        """Return it in words, as a part of a sentence."""
        if self.decoding is not None:
            drawn = f"temperature {self.decoding.temperature:g}, top-p {self.decoding.top_p:g}"
            return f"calibration at {drawn}"
        return {
            "card": "the probe's card",
            "calibration": "a calibration",
            "report": "the report of the run",
            "hand": "given by hand",
            "none": "nothing known",
        }[self.kind]


@dataclass(frozen=True)
class Detector:
    """Decides at which sentence of a trace the alarm comes.

    Example:
        >>> detector = Detector("eye", parse_smoothing("mean:2"), 2.5, Source("hand"))
        >>> detector.alarm(np.array([1.0, 3.0, 3.0]))
        2
    """

    name: str
    smoothing: Smoothing
    threshold: float
    """A sentence alarms if its smoothed score is equal to it or above; inf means never."""
    source: Source
    probe: SavedProbe | None = None
    """None where only recorded scores are read."""
    levels: tuple[float, ...] = ()
    """Median scores of the calibration traces, from which drift is told; empty if not known."""
    distances: tuple[float, ...] = ()
    """Their median distances from what the probe learned from; empty if not known."""
    rates: Rates | None = None
    """How often harmless traces alarm; None if nobody measured it at this threshold."""

    @property
    def saved(self) -> SavedProbe:
        """Return the probe.

        Raises:
            ProbeError: it was made for recorded scores only.
        """
        if self.probe is None:
            raise ProbeError(f"{self.name} has recorded scores only: give the folder of a probe")
        return self.probe

    def follow(self, scores: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        """Return (sentence,) what the alarm follows, from the scores of a trace.

        Sentences without a score are nan and stay nan.
        """
        return self.smoothing.follow(scores)

    def alarm(self, scores: NDArray[np.floating[Any]]) -> int | None:
        """Return the first sentence that alarms, from (sentence,) scores; None if none does."""
        return first_alarm(self.follow(scores), self.threshold)

    def outside(self, distances: Iterable[float]) -> bool | None:
        """Return whether a trace is unlike those that the probe knows, by (sentence,) distances.

        That is if its median distance from the rows that the probe learned from is above that of
        99 % of the calibration traces: the threshold promises nothing of such a trace. None if
        theirs are not known or too few (`trace-probe calibrate` keeps them), or if the trace has
        no reasoning.
        """
        own = level(distances)
        if len(self.distances) < NEEDED or own is None:
            return None
        return own > float(np.quantile(self.distances, FARTHEST))

    def at(self, threshold: float) -> "Detector":
        """Return it with a threshold given by hand.

        Raises:
            ProbeError: it is no number.
        """
        if math.isnan(threshold):
            raise ProbeError(f"{self.name} cannot alarm from nan on: give a threshold in numbers")
        return replace(self, threshold=threshold, source=Source("hand"), rates=None)

    def __str__(self) -> str:
        """Return at which threshold it alarms, and why, in one line."""
        if self.source.kind == "none":
            return f"{self.name}: no threshold, so no alarms"
        smoothed = "" if self.smoothing == MAX else f" on {self.smoothing.name}"
        rates = f"; {self.rates}" if self.rates else ""
        return f"{self.name}: threshold {self.threshold:.3f}{smoothed} ({self.source}){rates}"


def outside_of(detectors: Sequence[Detector], distances: Iterable[Sequence[float]]) -> list[str]:
    """Return the names of detectors for which a trace lies outside the calibrated range.

    `distances` are those of its sentences, each with one for each detector, or empty.
    """
    columns = zip(*filter(None, distances), strict=True)
    there = zip(detectors, columns, strict=False)  # there are none without reasoning
    return [one.name for one, own in there if one.outside(own)]


def as_detector(probe: SavedProbe | Detector) -> Detector:
    """Return a probe with the smoothing and the threshold of its card."""
    if isinstance(probe, Detector):
        return probe
    card = probe.card
    source = Source("card")
    return Detector(card.name, probe.smoothing, card.threshold, source, probe, rates=card.rates)


def as_detectors(
    probes: SavedProbe | Detector | Sequence[SavedProbe | Detector],
) -> tuple[Detector, ...]:
    """Return one or several probes as detectors; see `as_detector`.

    Raises:
        ProbeError: their rows end differently, so that no one pass gives those of all.
    """
    several = [probes] if isinstance(probes, SavedProbe | Detector) else probes
    found = tuple(map(as_detector, several))
    if len({one.saved.card.row_end for one in found}) > 1:
        names = ", ".join(f"{one.name} ({one.saved.card.row_end})" for one in found)
        raise ProbeError(
            f"the rows of {names} do not end alike: use them one by one, or train them on one run"
        )
    return found


def load_detector(
    folder: Path | str,
    *,
    smoothing: str | None = None,
    threshold: float | None = None,
    decoding: Decoding | Sampling | None = None,
) -> Detector:
    """Return the detector of a probe's folder.

    The smoothing is that of the card unless one is named. The threshold is, in this order: the
    one given; that of the calibration for this decoding, or of the latest one if there is none
    for it or no decoding is given; that of the card.

    Args:
        folder: Where ``card.json`` and ``probe.safetensors`` lie, perhaps with ``alarms.json``;
            or a probe of a hub, ``hub:org/name@revision``.
        smoothing: ``max``, ``mean:N``, ``ema:WEIGHT``, ``K-of-N`` or ``cusum:DRIFT``.
        threshold: Smoothed score from which on it alarms.
        decoding: How the tokens to be scored are drawn, such as the sampling of a run.

    Raises:
        ProbeError: there is no probe, or it has no threshold for this smoothing.

    Example:
        >>> detector = load_detector("probes/demo", threshold=0.5)
        >>> str(detector.source), detector.alarm(np.array([0.1, 0.7]))
        ('given by hand', 1)
    """
    here = local_folder(folder)
    saved = load_probe(here)
    decoding = Decoding.of(decoding) if isinstance(decoding, Sampling) else decoding
    return _resolved(here, as_detector(saved), saved.card.model, (smoothing, threshold), decoding)


def _resolved(
    folder: Path,
    own: Detector,
    model: str,
    asked: tuple[str | None, float | None],
    decoding: Decoding | None,
) -> Detector:
    """Return the detector that a probe's card names, calibrated or set by hand."""
    smoothing, threshold = asked
    chosen = own.smoothing if smoothing is None else parse_smoothing(smoothing)
    kept = [each for each in load_calibrations(folder) if each.model == model]
    fitting = [each for each in kept if decoding in (None, each.decoding)]
    found = own if chosen == own.smoothing else None
    for each in fitting or kept:  # the latest last
        if chosen.name in each.thresholds:
            limit, source = each.thresholds[chosen.name], Source("calibration", each.decoding)
            given = (own.probe, each.levels, each.distances, limit.rates)
            found = Detector(own.name, chosen, limit.value, source, *given)
    if threshold is not None:
        return replace(found or own, smoothing=chosen).at(threshold)
    if found is None:
        raise ProbeError(
            f"{own.name} has no threshold for the smoothing {chosen.name}: set one with "
            f"`trace-probe calibrate RUN {folder} --smoothing {chosen.name}`"
        )
    return found


def recorded_detector(
    store: Store,
    name: str,
    *,
    smoothing: str | None = None,
    threshold: float | None = None,
) -> Detector:
    """Return the detector whose scores a run keeps under a name.

    If it is a probe that lies beside the runs (``probes/NAME``) and reads the model of the run,
    it alarms as `flag` would alarm on this run. If not, it alarms as in the report of the run;
    without a report it has no threshold and never alarms.

    Raises:
        ProbeError: the files of the probe are broken, or it has no threshold for the smoothing.
    """
    folder = probe_beside(store.path, name)
    if folder is not None:
        raw, file = read_json(folder / CARD)[0], str(folder / CARD)
        card = from_plain(_Stated, renamed(raw, CARDS), file, wrong=ProbeError, advice=MEND)
        if card.model == store.manifest.model and card.threshold is not None:
            own = Detector(name, parse_smoothing(card.smoothing), card.threshold, Source("card"))
            decoding = Decoding.of(store.manifest.sampling)
            return _resolved(folder, own, card.model, (smoothing, threshold), decoding)
    said, file = renamed(store.report(name) or {}, REPORTS), store.artifacts.url("reports", name)
    report = from_plain(_Stated, said, file, advice=AGAIN)
    chosen = parse_smoothing(smoothing or report.smoothing)
    known = report.threshold if chosen == parse_smoothing(report.smoothing) else None
    if threshold is not None:
        return Detector(name, chosen, threshold, Source("hand"))
    if known is not None:
        return Detector(name, chosen, known, Source("report"))
    return Detector(name, chosen, math.inf, Source("none"))


@dataclass(frozen=True)
class _Stated:
    """When a detector alarms, as a card or a report says; the rest of it need not be whole."""

    __pydantic_config__ = {"allow_inf_nan": False, "extra": "ignore"}

    model: str = ""
    threshold: float | None = None
    smoothing: str = MAX.name


def probe_beside(run: Path, name: str) -> Path | None:
    """Return the folder of a probe that is kept beside the runs, in ``probes/NAME``."""
    folder = probes_beside(run) / name
    return folder if (folder / CARD).is_file() else None


def probes_beside(run: Path) -> Path:
    """Return where the probes of a run are looked for: ``probes`` beside the folder of runs."""
    return run.resolve().parent.parent / "probes"
