"""Flags: the traces that alarm, riskiest first, with the sentence of the alarm."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_probes import WORLD, planted_probe
from planted import keep, plant

from trace_probe.errors import ProbeError, StoreError
from trace_probe.monitor.detector import as_detector
from trace_probe.monitor.flagging import flag, format_flags, read_trace
from trace_probe.probing.probe import load_probe
from trace_probe.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return keep(plant(WORLD), tmp_path / "run")


def test_exactly_the_planted_traces_are_flagged_at_their_onset(store: Store) -> None:
    flags = flag(store, planted_probe())
    acted = {name for name, label in store.labels().items() if label.outcome}
    assert {one.trace_id for one in flags.alarms} == acted
    for one in flags.alarms:
        trace = store.trace(one.trace_id)
        assert one.sentence == WORLD.onset
        assert one.token == trace.sentences[WORLD.onset].stop - 1
        assert one.text == trace.text_of(trace.sentences[WORLD.onset]).strip()


def test_the_riskiest_trace_comes_first_and_scores_are_kept(store: Store) -> None:
    flags = flag(store, planted_probe())
    peaks = [one.peak for one in flags.alarms]
    assert peaks == sorted(peaks, reverse=True)
    assert store.detectors() == ["truth"]
    assert set(store.scores("truth")) == store.ids()


def test_a_threshold_of_ones_own_replaces_the_probes(store: Store) -> None:
    assert not flag(store, as_detector(planted_probe()).at(1e6)).alarms
    assert len(flag(store, as_detector(planted_probe()).at(-1e6)).alarms) == len(store)
    assert (
        format_flags(flag(store, as_detector(planted_probe()).at(1e6)))
        == "0 of 32 traces alarm at 1000000.000 (given by hand)"
    )


def test_rates_are_not_promised_of_traces_in_tokens_cut_from_their_text(store: Store) -> None:
    assert "these rates" not in format_flags(flag(store, planted_probe()))
    with store.writing():
        one = next(store.traces())
        facts = {**one.facts, "ids": "retokenised"}
        store.add(replace(one, id="foreign", facts=facts), store.activations(one))
    found = flag(store, planted_probe())
    assert found.rates is not None
    assert "1 of 33 here are in tokens cut from their text" in format_flags(found)


def test_alarms_on_the_traces_that_set_the_threshold_are_told_beside_the_rates(
    store: Store,
) -> None:
    probe = planted_probe()
    alarmed = store.trace(flag(store, probe).alarms[0].trace_id)
    task = replace(alarmed.task, id="benign-again", role="benign")
    with store.writing():
        store.add(replace(alarmed, id="again", task=task), store.activations(alarmed))
    before = flag(store, probe)
    assert before.calibrated == ()
    card = replace(probe.card, calibration_tasks=("benign-again",))
    found = flag(store, replace(probe, card=card))
    assert found.calibrated == ("again",)
    assert "the threshold was set: 1 (again), the least over it by" in format_flags(found)
    assert replace(found, calibrated=()) == before
    assert flag(store, as_detector(replace(probe, card=card)).at(-1e6)).calibrated == ()


def test_a_probe_of_another_model_is_refused_by_name(store: Store) -> None:
    with pytest.raises(ProbeError, match="other-model"):
        flag(store, planted_probe(model="other-model"))


def test_a_trace_is_read_with_scores_and_marks(store: Store) -> None:
    flags = flag(store, planted_probe())
    store.write_report("truth", {"threshold": flags.threshold})
    reading = read_trace(store, flags.alarms[0].trace_id)
    marks = {mark: line.sentence for line in reading.lines for mark in line.marks}
    assert marks == {"alarm": WORLD.onset, "said": WORLD.said, "action": WORLD.sentences}
    assert reading.lines[-1].score is None
    assert "alarm" in str(reading)


def test_an_ambiguous_id_names_what_it_could_be(store: Store) -> None:
    with pytest.raises(StoreError, match="test-000-s0"):
        read_trace(store, "test-000")


def test_escape_sequences_of_a_model_do_not_reach_the_terminal(store: Store) -> None:
    reading = read_trace(store, "test-000-s0")
    line = reading.lines[0].__class__(0, "reasoning", 0, 1, None, (), "\x1b[2Jgone\u202e")
    shown = str(reading.__class__(**{**reading.__dict__, "lines": (line,)}))
    assert "\x1b" not in shown
    assert "\u202e" not in shown


def test_the_detector_that_is_shown_is_one_with_a_report(store: Store) -> None:
    scores = {trace.id: np.zeros(len(trace.sentences)) for trace in store.traces()}
    name = next(iter(scores))
    with store.writing():
        for detector in ("another", "truth"):
            store.write_scores(detector, scores)
    assert read_trace(store, name).detector == "another"
    store.write_report("truth", {"threshold": 0.5})
    assert read_trace(store, name).detector == "truth"
    assert read_trace(store, name, "another").detector == "another"


def test_scores_that_are_there_stay_byte_for_byte_unless_more_than_rounding_differs(
    tmp_path: Path,
) -> None:
    store = Store(shutil.copytree("traces/demo", tmp_path / "run"))
    file, saved = tmp_path / "run" / "scores" / "demo.parquet", load_probe("probes/demo")
    own = store.scores("demo")
    file.unlink()
    store.write_scores("demo", {name: row + np.float32(1e-6) for name, row in own.items()})
    elsewhere = file.read_bytes()
    flag(store, saved)
    assert file.read_bytes() == elsewhere
    store.write_scores("demo", {name: row + np.float32(1e-2) for name, row in own.items()})
    assert file.read_bytes() != elsewhere
    file.write_bytes(elsewhere[:-9])
    flag(store, saved)
    for name, row in store.scores("demo").items():
        np.testing.assert_allclose(row, own[name], atol=1e-4)
