"""Reads runs for the pages, once for each change on disk.

A run is kept under its path and the stamp of its files, for all sessions of the server, so that a
threshold can move without a trace being parsed again. What is computed of it is kept in the run
itself, and goes with it.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, wraps
from pathlib import Path
from typing import Any, TypeVar, TypeVarTuple

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

Asked = TypeVarTuple("Asked")
Found = TypeVar("Found")
Method = Callable[["Loaded", *Asked], Found]


def remembered(most: int) -> Callable[[Method[*Asked, Found]], Method[*Asked, Found]]:
    """Let a method of a run keep its latest results, at most so many of them."""

    def decorate(method: Method[*Asked, Found]) -> Method[*Asked, Found]:
        @wraps(method)
        def result(run: "Loaded", *asked: *Asked) -> Found:
            held = run.results[method.__name__]
            found: Found = held.get(asked, held)
            if found is held:
                found = held[asked] = method(run, *asked)
                if len(held) > most:
                    held.pop(list(held)[0], None)
            return found

        return result

    return decorate


@dataclass(frozen=True, eq=False)
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
    results: defaultdict[str, dict[Hashable, Any]] = field(
        default_factory=lambda: defaultdict(dict)
    )
    """What was computed of it, by method and arguments: see `remembered`."""

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

    @remembered(16)
    def trace(self, trace_id: str) -> Trace:
        """Return one trace, with its text."""
        return self.store.trace(trace_id)

    def alarm_text(self, row: Row) -> str:
        """Return the sentence at which a trace raised the alarm; nothing if it raised none."""
        return "" if row.alarm is None else self.sentence(row.facts.id, row.alarm)

    @remembered(4096)
    def sentence(self, trace_id: str, index: int) -> str:
        """Return the text of one sentence of a trace."""
        trace = self.store.trace(trace_id)
        return trace.text_of(trace.sentences[index]).strip()

    def report(self, detector: str) -> dict[str, Any] | None:
        """Return the evaluation of a detector on this run, or None."""
        found: dict[str, Any] | None = renamed(self.store.report(detector), EARLIER)
        return found

    @remembered(16)
    def card(self, detector: str) -> dict[str, Any]:
        """Return what the card of a probe beside the runs says; nothing without one.

        Raises:
            ProbeError: the card is broken.
        """
        card = probe_card(self.path, detector)
        return {} if card is None else read_json(card)[0]

    @remembered(16)
    def _splits(self, detector: str) -> Mapping[str, Split]:
        """Return for each task what it was to a probe; *unknown* for all without its card."""
        card = probe_card(self.path, detector)
        if card is None:
            return defaultdict(lambda: "unknown")
        raw = self.card(detector)
        try:
            found: defaultdict[str, Split] = defaultdict(lambda: "held out")
            found |= {task: "calibrated on" for task in raw["calibration_tasks"]}
            found |= {task: "trained on" for task in raw["training_tasks"]}
        except (KeyError, TypeError) as error:
            raise ProbeError(f"{card} is not the card of a probe: train it again") from error
        return found

    @remembered(16)
    def _smoothed(self, detector: str, smoothing: str) -> Mapping[str, Scores]:
        with set_aside():
            return dict(parse_smoothing(smoothing).apply(self.store.scores(detector)))

    def scores(self, detector: ShownDetector) -> Mapping[str, Scores]:
        """Return what the alarm of a detector follows after each sentence, by trace id."""
        return self._smoothed(detector.name, detector.detector.smoothing.name)

    @remembered(64)
    def _follows(self, name: str, threshold: float | None, smoothing: str | None) -> Detector:
        return recorded_detector(self.store, name, threshold=threshold, smoothing=smoothing)

    @remembered(32)
    def _range(self, name: str, smoothing: str, threshold: float | None) -> tuple[float, float]:
        return score_range(self._smoothed(name, smoothing).values(), threshold)

    def detector(
        self, name: str, threshold: float | None = None, smoothing: str | None = None
    ) -> ShownDetector:
        """Return a detector as `flag` would use it, or with the reader's own settings.

        Raises:
            ProbeError: its files are broken, or it has no threshold for the smoothing.
        """
        usual = ShownDetector(self._follows(name, None, None))
        found = self._follows(name, threshold, smoothing)
        low, high = self._range(name, found.smoothing.name, usual.threshold)
        return ShownDetector(found, self.report(name), low, high)

    @remembered(16)
    def smoothings(self, name: str) -> tuple[str, ...]:
        """Return the smoothings for which a detector has a threshold, its usual one first."""
        folder = probe_beside(self.path, name)
        kept = () if folder is None else load_calibrations(folder)
        known = [
            one for each in kept if each.model == self.manifest.model for one in each.thresholds
        ]
        return tuple(dict.fromkeys([self._follows(name, None, None).smoothing.name, *known]))

    def beside(self, name: str, trace_id: str) -> tuple[ShownDetector, Scores] | None:
        """Return another detector and its scores of a trace, or None if it has none."""
        detector = self.detector(name)
        scores = self.scores(detector).get(trace_id)
        return None if scores is None else (detector, scores)

    def own_layer(self, detector: str) -> int | None:
        """Return the layer that a detector reads, or None where none is known."""
        layer = (self.report(detector) or {}).get("layer")
        return layer if isinstance(layer, int) else None

    @remembered(16)
    def _scales(self, detector: str) -> tuple[LayerScale, ...]:
        return read_scales(self.store, detector)

    def layers(self, detector: str) -> tuple[LayerScale, ...]:
        """Return the layers on which a detector was trained and scored as well, if it still is it.

        Empty where they, or the scores that they would stand beside, are of an older probe of the
        same name.
        """
        older = self.older_layers(detector) or self.older_report(detector)
        return () if older else self._scales(detector)

    def older_layers(self, detector: str) -> bool:
        """Return whether the kept layers are of another probe than the card.

        Than the report, where no card is kept beside the runs.
        """
        card = self.card(detector)
        probe = card if "threshold" in card else self.report(detector) or {}
        return any(
            scale.layer == probe.get("layer") and scale.threshold != probe.get("threshold")
            for scale in self._scales(detector)
        )

    def older_report(self, detector: str) -> bool:
        """Return whether a detector was evaluated before the probe of its name was trained anew."""
        known = self.card(detector).get("threshold"), threshold_of(self.report(detector))
        return None not in known and known[0] != known[1]

    @remembered(64)
    def layer_rows(self, detector: str, trace_id: str) -> tuple[LayerRow, ...]:
        """Return the scores on a trace of the layers that `layers` returns."""
        return read_layers(self.store, detector, trace_id) if self.layers(detector) else ()

    @cached_property
    def _oracle(self) -> dict[str, tuple[OraclePoint, ...]]:
        return oracle_points(self.store)

    def oracle(self, trace_id: str) -> tuple[OraclePoint, ...]:
        """Return P(instrumental | prefix) along a trace; nothing where it was not drawn."""
        return self._oracle.get(trace_id, ())

    @cached_property
    def _disputed(self) -> frozenset[str]:
        """Return the traces that one labeller calls instrumental and another harmless."""
        return disputed(self.judged, list(self.facts))

    def rows(self, detector: ShownDetector | None, labeller: str | None = None) -> Rows:
        """Return the trace table as a detector sees it, by the labels of a labeller or the last."""
        by = labeller or next(reversed(self.labellers), None)
        return self._rows(None if detector is None else _key(detector), by)

    @remembered(8)
    def _rows(self, detector: "_Key | None", labeller: str | None) -> Rows:
        labels = self.judged.get(labeller or "") or nobody(self.store)
        name, smoothing, threshold = detector or ("", "", None)
        scores = self._smoothed(name, smoothing) if detector else {}
        splits = self._splits(name)
        seen = Seen(self.facts, labels, scores, threshold, splits, self._disputed)
        seen.check()
        return Rows(seen)

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
        disputed = trace_id in self._disputed
        if detector is None:
            return build_row(facts, label, None, None, disputed=disputed)
        scores = self.scores(detector).get(trace_id)
        split = self._splits(detector.name)[facts.task]
        return build_row(facts, label, scores, detector.threshold, split, disputed=disputed)

    @remembered(8)
    def _by_risk(self, detector: "_Key | None") -> tuple[str, ...]:
        return tuple(self._rows(detector, None).ordered("risk").ids)

    def by_risk(self, detector: ShownDetector | None) -> Sequence[str]:
        """Return the ids by falling peak, which no threshold and no label changes."""
        return self._by_risk(None if detector is None else (*_key(detector)[:2], None))


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
    """Return a run; `state` tells one content of its files from another."""
    del state
    with set_aside():
        store = Store(path)
        read, judged = read_overview(store), by_labeller(store)
    evaluated = {file.stem for file in (path / "reports").glob("*.json")}
    detectors = sorted(store.detectors(), key=lambda name: (name not in evaluated, name))
    return Loaded(store, read.facts, read.texts, judged, tuple(detectors))
