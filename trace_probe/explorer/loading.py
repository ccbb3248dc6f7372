"""Reads runs for the pages, once for each change on disk.

Everything is kept under the path of a run and the stamp of its files, for all sessions of the
server, so that a threshold can move without a trace being parsed again.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from trace_probe.emergence.curve import OraclePoint, oracle_points
from trace_probe.errors import ProbeError
from trace_probe.evaluation.layers import (
    LayerRow,
    LayerScale,
    read_layers,
    read_scales,
    score_range,
)
from trace_probe.evaluation.report import EARLIER
from trace_probe.explorer.given import GivenLabels, by_labeller, disputed, nobody
from trace_probe.explorer.overview import (
    KnownFacts,
    KnownTexts,
    Progress,
    must_parse,
    read_overview,
)
from trace_probe.explorer.rows import Row, Scores, Split, build_row
from trace_probe.explorer.runs import Stamp, probe_card, stamp
from trace_probe.explorer.seen import Rows, Seen, set_aside
from trace_probe.explorer.words import ShownDetector, threshold_of
from trace_probe.labels import Label
from trace_probe.monitor.calibrated import load_calibrations
from trace_probe.monitor.detector import Detector, probe_beside, recorded_detector
from trace_probe.probing.kept import read_json
from trace_probe.statistics.smoothing import parse_smoothing
from trace_probe.storage.typed import renamed
from trace_probe.store import Manifest, Store
from trace_probe.trace import Trace


@dataclass(frozen=True)
class Loaded:
    """A run in memory: of the texts only what the model wrote, and no activations."""

    store: Store
    facts: KnownFacts
    """By trace id, in the order of recording."""
    texts: KnownTexts
    """What the model wrote, by trace id."""
    judged: Mapping[str, GivenLabels]
    """Labels by labeller and trace id, the labeller who came last at the end."""
    detectors: tuple[str, ...]
    """Those with an evaluation first."""
    stamp: Stamp
    """The state of the files from which this was read."""

    @property
    def name(self) -> str:
        """Return the name of the run."""
        return self.store.name

    @property
    def path(self) -> Path:
        """Return the folder of the run."""
        return self.store.path

    @property
    def manifest(self) -> Manifest:
        """Return what the run is."""
        return self.store.manifest

    @property
    def labellers(self) -> tuple[str, ...]:
        """Return who has labelled this run, whoever came last at the end."""
        return tuple(self.judged)

    @property
    def labels(self) -> Mapping[str, Label]:
        """Return the labels of whoever labelled last."""
        return self.judged[self.labellers[-1]] if self.judged else {}

    def trace(self, trace_id: str) -> Trace:
        """Return one trace, with its text."""
        return _trace(self.path, trace_id, self.stamp)

    def alarm_text(self, row: Row) -> str:
        """Return the sentence at which a trace raised the alarm; nothing if it raised none."""
        return "" if row.alarm is None else self.sentence(row.facts.id, row.alarm)

    def sentence(self, trace_id: str, index: int) -> str:
        """Return the text of one sentence of a trace."""
        return _sentence(self.path, trace_id, index, self.stamp)

    def report(self, detector: str) -> dict[str, Any] | None:
        """Return the evaluation of a detector on this run, or None."""
        found: dict[str, Any] | None = renamed(self.store.report(detector), EARLIER)
        return found

    def scores(self, detector: ShownDetector) -> Mapping[str, Scores]:
        """Return what the alarm of a detector follows after each sentence, by trace id."""
        return _scores(self.path, detector.name, detector.detector.smoothing.name, self.stamp)

    def detector(
        self, name: str, threshold: float | None = None, smoothing: str | None = None
    ) -> ShownDetector:
        """Return a detector as `flag` would use it, or with the reader's own settings.

        Raises:
            ProbeError: its files are broken, or it has no threshold for the smoothing.
        """
        usual = _detector(self.path, name, None, None, self.stamp)
        found = usual
        if threshold is not None or smoothing is not None:
            found = _detector(self.path, name, threshold, smoothing, self.stamp)
        limit = ShownDetector(usual).threshold
        low, high = _range(self.path, name, found.smoothing.name, limit, self.stamp)
        return ShownDetector(found, self.report(name), low, high)

    def smoothings(self, name: str) -> tuple[str, ...]:
        """Return the smoothings for which a detector has a threshold, its usual one first."""
        return _smoothings(self.path, name, self.stamp)

    def beside(self, name: str, trace_id: str) -> tuple[ShownDetector, Scores] | None:
        """Return another detector and its scores of a trace, or None if it has none."""
        detector = self.detector(name)
        scores = self.scores(detector).get(trace_id)
        return None if scores is None else (detector, scores)

    def own_layer(self, detector: str) -> int | None:
        """Return the layer that a detector reads, or None where none is known."""
        layer = (self.report(detector) or {}).get("layer")
        return layer if isinstance(layer, int) else None

    def layers(self, detector: str) -> tuple[LayerScale, ...]:
        """Return the layers on which a detector was trained and scored as well, if it still is it.

        Empty where they, or the scores that they would stand beside, are of an older probe of the
        same name.
        """
        if self.older_layers(detector) or self.older_report(detector):
            return ()
        return _layers(self.path, detector, self.stamp)

    def older_layers(self, detector: str) -> bool:
        """Return whether the kept layers are of another probe than the card.

        Than the report, where no card is kept beside the runs.
        """
        card = _card(probe_card(self.path, detector), self.stamp)
        probe = card if "threshold" in card else self.report(detector) or {}
        return any(
            scale.layer == probe.get("layer") and scale.threshold != probe.get("threshold")
            for scale in _layers(self.path, detector, self.stamp)
        )

    def older_report(self, detector: str) -> bool:
        """Return whether a detector was evaluated before the probe of its name was trained anew."""
        card = _card(probe_card(self.path, detector), self.stamp)
        known = card.get("threshold"), threshold_of(self.report(detector))
        return None not in known and known[0] != known[1]

    def layer_rows(self, detector: str, trace_id: str) -> tuple[LayerRow, ...]:
        """Return the scores on a trace of the layers that `layers` returns."""
        if not self.layers(detector):
            return ()
        return _layer_rows(self.path, detector, trace_id, self.stamp)

    def oracle(self, trace_id: str) -> tuple[OraclePoint, ...]:
        """Return P(instrumental | prefix) along a trace; nothing where it was not drawn."""
        return _oracle(self.path, self.stamp).get(trace_id, ())

    def rows(self, detector: ShownDetector | None, labeller: str | None = None) -> Rows:
        """Return the trace table as a detector sees it, by the labels of a labeller or the last."""
        by = labeller or next(reversed(self.labellers), None)
        if detector is None:
            return _rows(self.path, None, by, self.stamp)
        return _rows(self.path, _key(detector), by, self.stamp)

    def row(
        self, trace_id: str, detector: ShownDetector | None, labeller: str | None = None
    ) -> Row:
        """Return the row of one trace, without looking at any other.

        Raises:
            StoreError: it has another number of scores than of sentences.
        """
        facts = self.facts[trace_id]
        by = labeller or next(reversed(self.labellers), "")
        label = self.judged[by].get(trace_id) if by in self.judged else None
        disputed = trace_id in _disputed(self.path, self.stamp)
        if detector is None:
            return build_row(facts, label, None, None, disputed=disputed)
        scores = self.scores(detector).get(trace_id)
        split = _splits(probe_card(self.path, detector.name), self.stamp)[facts.task]
        return build_row(facts, label, scores, detector.threshold, split, disputed=disputed)

    def by_risk(self, detector: ShownDetector | None) -> Sequence[str]:
        """Return the ids by falling peak, which no threshold and no label changes."""
        key = None if detector is None else (*_key(detector)[:2], None)
        return _by_risk(self.path, key, self.stamp)


_Key = tuple[str, str, float | None]
"""Name, smoothing and threshold of a detector: what the rows of a run depend on."""


def _key(detector: ShownDetector) -> _Key:
    return detector.name, detector.detector.smoothing.name, detector.threshold


def load_run(path: Path) -> Loaded:
    """Return a run as it now is on disk.

    Raises:
        TraceProbeError: the run is broken.
    """
    return _run(path, stamp(path))


def prepare(path: Path, progress: Progress) -> None:
    """Parse what is new in a large run and keep it, so that `load_run` need not."""
    state = stamp(path)
    if (path, state) not in _PREPARED:
        store = Store(path)
        if must_parse(store):
            with set_aside():
                read_overview(store, progress)
        _PREPARED.add((path, state))


_PREPARED: set[tuple[Path, Stamp]] = set()


@lru_cache(maxsize=4)
def _run(path: Path, state: Stamp) -> Loaded:
    with set_aside():
        return _read(path, state)


def _read(path: Path, state: Stamp) -> Loaded:
    store = Store(path)
    read = read_overview(store)
    evaluated = {file.stem for file in (path / "reports").glob("*.json")}
    return Loaded(
        store=store,
        facts=read.facts,
        texts=read.texts,
        judged=by_labeller(store),
        detectors=tuple(sorted(store.detectors(), key=lambda name: (name not in evaluated, name))),
        stamp=state,
    )


@lru_cache(maxsize=16)
def _trace(path: Path, trace_id: str, state: Stamp) -> Trace:
    return _run(path, state).store.trace(trace_id)


@lru_cache(maxsize=4096)
def _sentence(path: Path, trace_id: str, index: int, state: Stamp) -> str:
    trace = _run(path, state).store.trace(trace_id)
    return trace.text_of(trace.sentences[index]).strip()


@lru_cache(maxsize=64)
def _detector(
    path: Path, name: str, threshold: float | None, smoothing: str | None, state: Stamp
) -> Detector:
    store = _run(path, state).store
    return recorded_detector(store, name, threshold=threshold, smoothing=smoothing)


@lru_cache(maxsize=16)
def _smoothings(path: Path, name: str, state: Stamp) -> tuple[str, ...]:
    usual = _detector(path, name, None, None, state)
    folder = probe_beside(path, name)
    kept = () if folder is None else load_calibrations(folder)
    model = _run(path, state).manifest.model
    known = [name for each in kept if each.model == model for name in each.thresholds]
    return tuple(dict.fromkeys([usual.smoothing.name, *known]))


@lru_cache(maxsize=16)
def _scores(path: Path, detector: str, smoothing: str, state: Stamp) -> dict[str, Scores]:
    store = _run(path, state).store
    with set_aside():
        return dict(parse_smoothing(smoothing).apply(store.scores(detector)))


@lru_cache(maxsize=8)
def _rows(path: Path, detector: _Key | None, labeller: str | None, state: Stamp) -> Rows:
    run = _run(path, state)
    labels = run.judged.get(labeller or "") or nobody(run.store)
    scores, threshold, splits = {}, None, _splits(None, state)
    if detector is not None:
        name, smoothing, threshold = detector
        splits = _splits(probe_card(path, name), state)
        scores = _scores(path, name, smoothing, state)
    seen = Seen(run.facts, labels, scores, threshold, splits, _disputed(path, state))
    seen.check()
    return Rows(seen)


@lru_cache(maxsize=8)
def _by_risk(path: Path, detector: _Key | None, state: Stamp) -> tuple[str, ...]:
    return tuple(_rows(path, detector, None, state).ordered("risk").ids)


@lru_cache(maxsize=8)
def _disputed(path: Path, state: Stamp) -> frozenset[str]:
    """Return the traces that one labeller calls instrumental and another harmless."""
    run = _run(path, state)
    return disputed(run.judged, list(run.facts))


@lru_cache(maxsize=16)
def _card(card: Path | None, state: Stamp) -> dict[str, Any]:
    """Return what the card of a probe says; nothing without one.

    `state` tells one content of the card from another.

    Raises:
        ProbeError: the card is broken.
    """
    del state
    if card is None:
        return {}
    return read_json(card)[0]


@lru_cache(maxsize=16)
def _splits(card: Path | None, state: Stamp) -> defaultdict[str, Split]:
    """Return for each task what it was to a probe; *unknown* for all without its card.

    Raises:
        ProbeError: the card is broken.
    """
    raw = _card(card, state)
    if card is None:
        return defaultdict(lambda: "unknown")
    try:
        found: defaultdict[str, Split] = defaultdict(lambda: "held out")
        found |= {task: "calibrated on" for task in raw["calibration_tasks"]}
        found |= {task: "trained on" for task in raw["training_tasks"]}
    except (KeyError, TypeError) as error:
        raise ProbeError(f"{card} is not the card of a probe: train it again") from error
    return found


@lru_cache(maxsize=32)
def _range(
    path: Path, detector: str, smoothing: str, threshold: float | None, state: Stamp
) -> tuple[float, float]:
    return score_range(_scores(path, detector, smoothing, state).values(), threshold)


@lru_cache(maxsize=16)
def _layers(path: Path, detector: str, state: Stamp) -> tuple[LayerScale, ...]:
    return read_scales(_run(path, state).store, detector)


@lru_cache(maxsize=64)
def _layer_rows(path: Path, detector: str, trace_id: str, state: Stamp) -> tuple[LayerRow, ...]:
    return read_layers(_run(path, state).store, detector, trace_id)


@lru_cache(maxsize=4)
def _oracle(path: Path, state: Stamp) -> dict[str, tuple[OraclePoint, ...]]:
    return oracle_points(_run(path, state).store)
