"""Smoothing, its thresholds and the drift check: the same live as in bulk; guarantees hold."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_probes import planted_probe
from planted import World, keep, plant

from trace_probe.errors import NotEnoughData, ProbeError
from trace_probe.monitor.calibrated import (
    Calibration,
    Decoding,
    calibrate,
    load_calibrations,
    save_calibration,
)
from trace_probe.monitor.detector import as_detector, load_detector
from trace_probe.monitor.drift import WINDOW, DriftCheck, check_levels
from trace_probe.monitor.flagging import flag, flags_csv, format_flags
from trace_probe.probing.distance import RowDistance
from trace_probe.probing.probe import SavedProbe, save_probe
from trace_probe.probing.selection import set_threshold
from trace_probe.statistics.metrics import trace_maxima
from trace_probe.statistics.smoothing import parse_smoothing
from trace_probe.store import Store

WORLD = World(tasks=8, samples=2, strength=8.0, benign=60)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return keep(plant(WORLD), tmp_path / "run")


def test_the_rules_are_what_their_names_say() -> None:
    scores = {"t": np.array([1.0, np.nan, 3.0, 2.0, -1.0])}

    def of(name: str) -> list[float]:
        values = parse_smoothing(name).apply(scores)["t"]
        assert np.isnan(values[1])
        return [float(value) for value in np.delete(values, 1)]

    assert of("max") == [1, 3, 2, -1]
    assert of("ema:0.5") == [1, 2, 2, 0.5]
    assert of("mean:3") == pytest.approx([1, 2, 2, 4 / 3])
    assert of("mean:1") == of("ema:1") == of("max") == of("1-of-1")
    assert of("2-of-3") == [-np.inf, 1, 2, 2]
    assert of("1-of-2") == [1, 3, 3, 2]
    assert of("cusum:0.5") == [0.5, 3, 4.5, 3]
    assert of("cusum:2") == [0, 1, 1, 0]
    assert of("cusum:-1e1") == [11, 24, 36, 45]
    for wrong in ("", "ema:0", "ema:2", "3-of-2", "0-of-2", "mean", "mean:0", "cusum", "cusum:"):
        with pytest.raises(ProbeError, match="no smoothing"):
            parse_smoothing(wrong)


@given(
    st.lists(st.floats(-5, 5), min_size=1, max_size=40),
    st.sampled_from(["mean:3", "ema:0.3", "2-of-4", "cusum:-0.3"]),
)
def test_a_statistic_never_looks_ahead(scores: list[float], name: str) -> None:
    whole = parse_smoothing(name).apply({"t": np.array(scores)})["t"]
    for stop in range(1, len(scores) + 1):
        assert (
            parse_smoothing(name).apply({"t": np.array(scores[:stop])})["t"][-1] == whole[stop - 1]
        )


@pytest.mark.parametrize("rule", ["max", "mean:5", "ema:0.5", "2-of-3", "cusum:0.3"])
@pytest.mark.parametrize("rate", [0.01, 0.05])
def test_each_smoothing_keeps_the_rate_that_it_was_calibrated_to(rule: str, rate: float) -> None:
    rng = np.random.default_rng(0)
    scores = {f"{i}": rng.normal(size=rng.integers(2, 12)) for i in range(40_000)}
    ids = list(scores)
    followed = parse_smoothing(rule).apply(scores)
    harmless = {name: followed[name] for name in ids[:20_000]}
    limit = set_threshold(harmless, None, rate=rate, sibling_rate=0.05).value
    assert abs((trace_maxima(followed, ids[20_000:]) >= limit).mean() - rate) < 0.005


def test_a_calibration_keeps_the_promise_to_siblings_too_and_says_which_binds(
    tmp_path: Path,
) -> None:
    world = replace(WORLD, tasks=24, samples=8, strength=2.0)
    run, saved = keep(plant(world), tmp_path / "run"), planted_probe()
    found = calibrate(run, saved, ["max", "2-of-3"], 0.2, sibling_rate=0.02)
    for name, one in found.thresholds.items():
        assert one.siblings > 40
        assert one.binds == "siblings"
        assert one.sibling_alarm_rate is not None
        assert one.sibling_alarm_rate <= 0.02
        assert one.value > calibrate(run, saved, [name], 0.2).thresholds[name].value
        assert "2.0% of siblings alarm (the siblings set" in str(one.rates)
    assert len(found.sibling_tasks) == 24
    lenient = calibrate(run, saved, ["max"], 0.05, sibling_rate=0.9).thresholds["max"]
    assert (lenient.binds, lenient.target_sibling_rate) == ("benign", 0.9)
    save_probe(tmp_path / "probe", saved)
    save_calibration(tmp_path / "probe", found)
    assert load_calibrations(tmp_path / "probe") == (found,)
    flags = flag(run, load_detector(tmp_path / "probe"))
    assert flags.rates == found.thresholds["max"].rates
    assert (
        "2.0% of siblings alarm (the siblings set the threshold); where the threshold was set: "
        in format_flags(flags)
    )


def test_a_calibration_without_siblings_leaves_their_rate_unknown(tmp_path: Path) -> None:
    run, saved = keep(plant(WORLD), tmp_path / "run"), planted_probe()
    learned = tuple(f"test-{number:03d}" for number in range(WORLD.tasks))
    knowing = SavedProbe(replace(saved.card, training_tasks=learned), saved.probe)
    found = calibrate(run, knowing, ["max"], 0.05)
    one = found.thresholds["max"]
    assert (one.sibling_alarm_rate, one.siblings, found.sibling_tasks) == (None, 0, ())
    assert "too few harmless traces share a prompt" in one.note
    assert "nothing for siblings; where the threshold was set: " in str(one.rates)
    assert str(one.rates).endswith("% of benign traces")


def test_calibrations_are_kept_for_each_decoding_and_found_again(
    store: Store, tmp_path: Path
) -> None:
    saved, folder = planted_probe(), tmp_path / "probe"
    save_probe(folder, saved)
    assert load_detector(folder).threshold == saved.card.threshold
    with pytest.raises(ProbeError, match="calibrate RUN"):
        load_detector(folder, smoothing="2-of-3")
    found = calibrate(store, saved, ["max", "2-of-3"], 0.05)
    save_calibration(folder, found)
    save_calibration(folder, found)
    assert load_calibrations(folder) == (found,)
    detector = load_detector(folder, smoothing="2-of-3")
    assert detector.threshold == found.thresholds["2-of-3"].value
    assert (detector.source.decoding, len(detector.levels)) == (Decoding(1.0, 1.0), 60)
    assert len(found.tasks) == 60
    (folder / "alarms.json").write_text(json.dumps({"calibrations": [{}]}), "utf-8")
    with pytest.raises(ProbeError, match="calibrate again"):
        load_detector(folder)


def test_calibrations_that_are_saved_at_once_are_all_kept(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved, folder = planted_probe(), tmp_path / "probe"
    save_probe(folder, saved)
    found, load = calibrate(store, saved, ["max"], 0.05), load_calibrations

    def slowly(probe: Path) -> tuple[Calibration, ...]:
        held = load(probe)
        time.sleep(0.05)
        return held

    monkeypatch.setattr("trace_probe.monitor.calibrated.load_calibrations", slowly)
    each = [replace(found, model=f"m@{number}") for number in range(6)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda one: save_calibration(folder, one), each))
    assert {one.model for one in load(folder)} == {one.model for one in each}
    assert not list(folder.glob("*.tmp"))


def test_without_benign_traces_nothing_is_promised(tmp_path: Path) -> None:
    run = keep(plant(World(tasks=4, samples=2)), tmp_path / "run")
    with pytest.raises(NotEnoughData, match="no benign trace"):
        calibrate(run, planted_probe(), ["max"], 0.05)


def test_flags_follow_a_smoothing_and_their_csv_runs_nothing(store: Store, tmp_path: Path) -> None:
    saved, folder = planted_probe(), tmp_path / "probe"
    save_probe(folder, saved)
    save_calibration(folder, calibrate(store, saved, ["2-of-3"], 0.05))
    flags = flag(store, load_detector(folder, smoothing="2-of-3"))
    acted = {name for name, label in store.labels().items() if label.outcome}
    assert acted <= {one.trace_id for one in flags.alarms}
    for one in flags.alarms:
        if one.trace_id in acted:
            assert one.sentence == WORLD.onset + 1
    assert "2-of-3" in format_flags(flags)
    assert flags.drift is not None
    evil = flags.alarms[0].__class__("=cmd()", "-1", 1.0, 0, 0, "@x\x1b[2J")
    text = flags_csv(flags.__class__(**{**flags.__dict__, "alarms": (evil,)}))
    assert text.splitlines()[1].startswith("'=cmd(),'-1,")
    assert "\x1b" not in text


def test_flags_mark_the_traces_that_lie_outside_the_calibrated_range(store: Store) -> None:
    known = replace(planted_probe(), distance=RowDistance.fit(np.eye(WORLD.d_model)))
    detector = as_detector(known)
    within = replace(detector, distances=(1e9,) * 30)
    assert {one.outside for one in flag(store, detector).alarms} == {None}
    unable = replace(within, probe=planted_probe())
    assert {one.outside for one in flag(store, unable).alarms} == {None}
    assert {one.outside for one in flag(store, within).alarms} == {False}
    assert "outside" not in format_flags(flag(store, within))
    found = flag(store, replace(detector, distances=(0.0,) * 30))
    assert {one.outside for one in found.alarms} == {True}
    assert found.outside == found.traces
    assert f"{found.traces} of {found.traces} traces lie outside the calib" in format_flags(found)
    assert format_flags(found).splitlines()[0].count("outside  ") == 1


def test_drift_is_seen_soon_and_not_where_there_is_none() -> None:
    rng = np.random.default_rng(1)
    false = 0
    for _ in range(60):
        calibrated = rng.normal(size=200).tolist()
        false += check_levels(calibrated, rng.normal(size=400).tolist()).drifted
    assert false <= 1  # each with a risk of 0.001
    check = DriftCheck(rng.normal(size=200).tolist())
    needed = next(n for n in range(200) if check.add(rng.normal(2.0)).drifted)
    assert needed < 60
    assert f"{check.drift.outside} of {needed + 1} traces lie outside" in check.drift.note
    assert check.drift.outside > needed / 4
    outside = check_levels([float(n) for n in range(101)], [-1.0, 0.5, 50.0, 99.5, 101.0, 102.0])
    assert (outside.outside, outside.traces) == (5, 6)  # the central 98 % is 1 to 99
    narrow = DriftCheck(rng.normal(size=200).tolist())
    assert not any(narrow.add(0.0).drifted for _ in range(3))


def test_the_drift_check_can_run_for_ever_and_says_nothing_from_too_little() -> None:
    check = DriftCheck([0.0, 1.0] * 50)
    for _ in range(WINDOW + 1):
        check.add(9.0)
    assert check.drift.traces == 1
    assert len(check._bag) == 101
    few = DriftCheck([0.0] * 5)
    assert not any(few.add(9.0).drifted for _ in range(100))
