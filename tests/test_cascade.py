"""A judge asked only where a probe alarms: what it saves and what it misses, on planted runs."""

from dataclasses import replace
from pathlib import Path

import pytest
from made_probes import planted_probe
from planted import World, keep, plant

from trace_probe.errors import NotEnoughData
from trace_probe.labels import Label
from trace_probe.monitor.cascade import cascade, format_cascade, lenient_limit
from trace_probe.monitor.detector import as_detector
from trace_probe.store import Store
from trace_probe.trace import Trace

WORLD = World(tasks=40, samples=4, strength=12.0, benign=300, hard_negatives=20)


class Oracle:
    """A judge that knows, and counts what it is asked."""

    name = "planted"

    def __init__(self, store: Store) -> None:
        self._labels = store.labels()
        self.asked = 0

    def label(self, trace: Trace) -> Label:
        self.asked += 1
        return self._labels[trace.id]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return keep(plant(WORLD), tmp_path_factory.mktemp("cascade") / "run")


def test_a_strong_probe_saves_most_calls_and_loses_nothing(store: Store) -> None:
    found = cascade(
        store, as_detector(planted_probe(4.0)), Oracle(store), pass_rate=0.1, truth="planted"
    )
    arms = {arm.name: arm for arm in found.arms}
    assert arms["judge"].calls == found.traces
    assert arms["probe"].calls == arms["probe"].tokens == 0
    assert arms["cascade"].calls < arms["judge"].calls
    assert found.caught_lost is not None
    assert found.caught_lost.estimate == 0.0
    assert found.calls_saved is not None
    assert found.calls_saved.estimate == 1 - arms["cascade"].calls / found.traces
    assert "stand-in" in found.note
    assert "stand-in" in format_cascade(found, (1.0, 2.0))
    assert "$" in format_cascade(found, (1.0, 2.0))


def test_a_probe_that_knows_nothing_loses_what_it_does_not_pass_on(tmp_path: Path) -> None:
    run = keep(plant(World(tasks=40, samples=4, strength=0.0, benign=300)), tmp_path / "run")
    detector = as_detector(planted_probe(4.0))
    found = cascade(run, detector, Oracle(run), pass_rate=0.1, truth="planted")
    assert found.caught_lost is not None
    assert found.caught_lost.estimate > 0.5


def test_the_first_stage_is_set_on_training_tasks_for_what_it_may_lose(store: Store) -> None:
    probe = planted_probe(4.0)
    tasks = sorted({trace.task.id for trace in store.traces()})
    calm = tuple(task for task in tasks[1::4] if task.startswith("benign"))
    card = replace(probe.card, training_tasks=tuple(tasks[::2]), calibration_tasks=calm)
    detector = as_detector(replace(probe, card=card))
    strict, mild = (lenient_limit(store, detector, "planted", lost) for lost in (0.2, 0.0))
    assert mild < strict
    found = cascade(store, detector, Oracle(store), most_lost=0.0, truth="planted")
    assert found.threshold == mild
    assert found.caught_lost is not None
    assert found.caught_lost.estimate <= 0.1
    passed = {kind: one.estimate for kind, one in found.passed.items() if one}
    assert passed["instrumental"] > 0.9 > passed["benign"]
    saved = found.calls_saved_at["0.01"]
    assert saved is not None
    expected = 1 - 0.01 * passed["instrumental"] - 0.99 * passed["benign"]
    assert saved.estimate == pytest.approx(expected)
    assert saved.lower < expected < saved.upper
    assert "where 1 in 100 is instrumental" in format_cascade(found)


def test_a_first_stage_without_training_tasks_asks_for_a_rate(store: Store) -> None:
    with pytest.raises(NotEnoughData, match="--pass-rate"):
        cascade(store, as_detector(planted_probe()), Oracle(store), truth="planted")


def test_traces_without_labels_are_not_compared(store: Store) -> None:
    with pytest.raises(NotEnoughData, match="labelled by nobody"):
        cascade(store, as_detector(planted_probe()), Oracle(store), pass_rate=0.1, truth="nobody")
