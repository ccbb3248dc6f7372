"""Calibration: the threshold of each smoothing, for one model under one decoding.

Kept beside the probe in ``alarms.json``, one entry for each model and decoding it was
calibrated on, with what the scores of harmless traces looked like then (see `drift`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from trace_probe.errors import NotEnoughData, ProbeError
from trace_probe.probing.corpus import Corpus
from trace_probe.probing.kept import ALARMS, Beside
from trace_probe.probing.probe import SavedProbe
from trace_probe.probing.selection import set_threshold
from trace_probe.statistics.calibration import Guarantee, Threshold, impossible
from trace_probe.statistics.metrics import Scores
from trace_probe.statistics.smoothing import parse_smoothing
from trace_probe.store import Store
from trace_probe.trace import Sampling
from trace_probe.training import read_run

EARLIER = {"honest_rate": "guaranteed_rate"}
"""Names that earlier files have for fields of today."""


@dataclass(frozen=True)
class Decoding:
    """How tokens were drawn; another way of drawing gives other scores."""

    temperature: float
    top_p: float

    @classmethod
    def of(cls, sampling: Sampling) -> "Decoding":
        """Return the decoding of a sampling."""
        return cls(sampling.temperature, sampling.top_p)


@dataclass(frozen=True)
class Calibration:
    """The thresholds of a probe on one model under one decoding."""

    __pydantic_config__ = {"allow_inf_nan": False, "extra": "forbid"}

    model: str
    decoding: Decoding
    thresholds: dict[str, Threshold]
    """By name of the smoothing."""
    levels: tuple[float, ...]
    """The `level` of the scores of each calibration trace, ascending: drift is told from them."""
    tasks: tuple[str, ...]
    """Benign tasks that it was set on."""
    sibling_tasks: tuple[str, ...] = ()
    """Tasks whose siblings it was set on as well; nothing is to be measured on either."""
    distances: tuple[float, ...] = ()
    """The `level` of the distances of each calibration trace, ascending, see `probing.distance`:
    a text that lies farther is outside the calibrated range. Empty if the probe has none."""

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be."""
        for limit in self.thresholds.values():
            if wrong := impossible(limit, limit.value):
                raise ProbeError(wrong)


def level(scores: Iterable[float]) -> float | None:
    """Return where the scores of a trace lie: their median, which one alarm does not move."""
    given = [score for score in scores if np.isfinite(score)]
    return float(np.median(given)) if given else None


def levels(scores: Scores) -> list[float]:
    """Return the level of each trace that has one."""
    found = (level(row.tolist()) for row in scores.values())
    return [each for each in found if each is not None]


def calibrate(
    store: Store,
    saved: SavedProbe,
    smoothings: Sequence[str],
    rate: float,
    *,
    sibling_rate: float | None = 0.05,
    guarantee: Guarantee = "conformal",
) -> Calibration:
    """Set the threshold of each smoothing on harmless traces of a run that the probe has not seen.

    It is the higher of two: one at which at most a share `rate` of benign traces alarms, and one
    at which at most a share `sibling_rate` of siblings does; None gives no guarantee for them.
    Of a run with calibration tasks of the probe those are used, else every benign task but
    those that it learned from; one trace a task, since those of a task are alike. Siblings are
    those of labelled tasks that it did not learn from; where they are too few for a headline,
    there is no guarantee for them and their rate is not known.

    Raises:
        NotEnoughData: there is no such trace.
        ProbeError: the probe does not fit the run, or a smoothing is not known.

    Example:
        >>> from trace_probe.probing.probe import load_probe
        >>> probe = load_probe("probes/demo")
        >>> found = calibrate(Store("traces/demo"), probe, ["max", "mean:3"], rate=0.1)
        >>> {name: limit.n for name, limit in found.thresholds.items()}  # benign traces
        {'max': 26, 'mean:3': 26}
    """
    every = read_run(store, saved)
    calm = _harmless(store, saved, every)
    if not calm.traces:
        raise NotEnoughData(
            f"{store.path} has no benign trace that {saved.card.name} did not learn from: "
            f"record more, for example --tasks world:POOL:400:benign"
        )
    scores, unseen = saved.scores(every), _unseen(store, saved, every)
    thresholds = {}
    for name in smoothings:
        followed = parse_smoothing(name).apply(scores)
        thresholds[name] = set_threshold(
            {trace.id: followed[trace.id] for trace in calm.traces},
            (unseen, followed),
            rate=rate,
            sibling_rate=sibling_rate,
            guarantee=guarantee,
        )
    used = any(one.siblings for one in thresholds.values())
    found = _found(store, saved, thresholds, calm)
    return replace(found, sibling_tasks=tuple(sorted(unseen.tasks)) if used else ())


def range_of_card(store: Store, saved: SavedProbe) -> Calibration:
    """Return the threshold of a probe's card with the levels of the traces that it was set on.

    From them it is told which texts lie outside the calibrated range, and drift; the threshold
    stays as it is.

    Raises:
        NotEnoughData: the calibration tasks of the probe are not in this run.
        ProbeError: the probe does not fit the run.
    """
    card = saved.card
    calm = _harmless(store, saved, read_run(store, saved)).only(card.calibration_tasks)
    if not calm.traces:
        raise NotEnoughData(
            f"{store.path} has no calibration task of {card.name}: name the run it was trained on"
        )
    return _found(store, saved, {card.smoothing: replace(card.limit, n=len(calm.traces))}, calm)


def _found(
    store: Store, saved: SavedProbe, thresholds: dict[str, Threshold], calm: Corpus
) -> Calibration:
    """Return thresholds with the model and the traces that they were set on."""
    scores, distances = saved.read(calm)
    return Calibration(
        model=store.manifest.model,
        decoding=Decoding.of(store.manifest.sampling),
        thresholds=thresholds,
        levels=tuple(sorted(levels(scores))),
        tasks=tuple(sorted(set(calm.tasks))),
        distances=tuple(sorted(levels(distances))),
    )


def _unseen(store: Store, saved: SavedProbe, every: Corpus) -> Corpus:
    """Return the labelled traces of test tasks that a probe did not learn from.

    Labelled as those that it learned from, or by the latest labeller if the run lacks that one.
    """
    own = saved.card.labeller if saved.card.labeller in store.labellers() else None
    learned, labels = set(saved.card.training_tasks), store.labels(own)
    unseen = every.where(lambda trace: trace.task.id not in learned and trace.id in labels)
    return replace(unseen, labels=labels).aimed(saved.card.target).judged()


def _harmless(store: Store, saved: SavedProbe, every: Corpus) -> Corpus:
    """Return the first benign trace of each task that may calibrate."""
    calm = replace(every, labels=store.labels()).benign_sample
    own = set(calm.tasks) & set(saved.card.calibration_tasks)
    return calm.only(own or set(calm.tasks) - set(saved.card.training_tasks))


def _key(one: Calibration) -> tuple[str, Decoding]:
    return one.model, one.decoding


_KEPT = Beside(ALARMS, "calibrations", Calibration, _key, EARLIER, "calibrate again")
# One for each model and decoding; smoothings that only an older one holds are dropped with it.
load_calibrations, write_calibrations, save_calibration = _KEPT.load, _KEPT.write, _KEPT.keep
