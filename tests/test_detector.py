"""One detector everywhere: each way of asking gives the same alarms, and says what it follows."""

import asyncio
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from explorer.pages import open_page

from trace_probe.errors import ProbeError
from trace_probe.explorer.runs import VARIABLE
from trace_probe.monitor.calibrated import (
    Calibration,
    Decoding,
    calibrate,
    range_of_card,
    save_calibration,
)
from trace_probe.monitor.detector import (
    Detector,
    Source,
    load_detector,
    outside_of,
    probe_beside,
    recorded_detector,
)
from trace_probe.monitor.flagging import read_trace
from trace_probe.monitor.sharing import seal_probe
from trace_probe.probing.probe import load_probe, save_probe
from trace_probe.statistics.calibration import Guarantee
from trace_probe.statistics.smoothing import MAX, parse_smoothing
from trace_probe.store import Store
from trace_probe.trace import Sampling

ROOT = Path(__file__).parents[1]
TASKS = 8
SAMPLING = Sampling(seed=5, top_p=0.98, max_new_tokens=90)
Alarms = set[tuple[str, str, int]]
"""Probe, trace and sentence."""


@dataclass(frozen=True)
class Setting:
    """How probes were calibrated, and what the one who asks gives by hand."""

    calibrations: tuple[tuple[str, float], ...] = ()
    """Guarantee and rate, the latest last."""
    temperature: float = 1.0
    """At which it was calibrated."""
    smoothing: str | None = None
    threshold: float | None = None
    probes: tuple[str, ...] = ("demo",)
    follows: str = "the probe's card"


CALIBRATED = (("conformal", 0.3),)
USUAL = "calibration at temperature 1, top-p 0.98"
SETTINGS = {
    "card": Setting(),
    "threshold given": Setting(threshold=0.2, follows="given by hand"),
    "calibrated": Setting(CALIBRATED, follows=USUAL),
    "calibrated, threshold given": Setting(CALIBRATED, threshold=-0.5, follows="given by hand"),
    "calibrated, smoothing given": Setting(CALIBRATED, smoothing="ema:0.5", follows=USUAL),
    "calibrated, k of n": Setting(CALIBRATED, smoothing="2-of-3", follows=USUAL),
    "calibrated, both given": Setting(
        CALIBRATED, smoothing="mean:3", threshold=-0.4, follows="given by hand"
    ),
    "PAC": Setting((("pac", 0.3),), follows=USUAL),
    "PAC, smoothing given": Setting((("pac", 0.4),), smoothing="mean:3", follows=USUAL),
    "another decoding": Setting(
        CALIBRATED, temperature=0.7, follows="calibration at temperature 0.7, top-p 0.98"
    ),
    "two probes": Setting(probes=("demo", "other")),
    "two probes, calibrated": Setting(CALIBRATED, probes=("demo", "other"), follows=USUAL),
}


@pytest.fixture(scope="module")
def model() -> Any:
    from trace_probe.model.local import load_model

    return load_model("organism:rl-s0")


@pytest.fixture(scope="module")
def folder(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of a recorded run, `traces/run`, and two probes, `probes/...`, beside it."""
    from trace_probe.recording.record import new_manifest, record
    from trace_probe.tasks.sources import tasks_from

    root = tmp_path_factory.mktemp("detectors")
    shutil.copytree(ROOT / "probes" / "demo", root / "probes" / "demo")
    saved = load_probe(root / "probes" / "demo")
    card = replace(saved.card, name="other", smoothing="mean:3", threshold=-0.3)
    save_probe(root / "probes" / "other", replace(saved, card=card))
    manifest = new_manifest(model, SAMPLING, layers=(saved.card.layer,), pooling=saved.card.pooling)
    run = Store.create(root / "traces" / "run", manifest)
    record(model, tasks_from(f"world:table:{TASKS}"), run, progress=False)
    return root


@cache
def calibrated(probe: Path, guarantee: Guarantee, rate: float) -> Calibration:
    """Return how a probe is calibrated on the committed run; at each setting that says so."""
    demo, smoothings = Store(ROOT / "traces" / "demo"), ["max", "mean:3", "ema:0.5", "2-of-3"]
    return calibrate(
        demo, load_probe(probe), smoothings, rate, guarantee=guarantee, sibling_rate=rate
    )


def prepare(folder: Path, setting: Setting) -> None:
    """Calibrate the probes as a setting says."""
    for name in ("demo", "other"):
        probe = folder / "probes" / name
        (probe / "alarms.json").unlink(missing_ok=True)
        for guarantee, rate in setting.calibrations:
            found = calibrated(probe, guarantee, rate)
            decoding = Decoding(setting.temperature, found.decoding.top_p)
            save_calibration(probe, replace(found, decoding=decoding))


def by_command(folder: Path, setting: Setting, command: Callable[..., Any]) -> Alarms:
    """Return the alarms that `flag --json` lists."""
    given: list[object] = []
    given += ["--smoothing", setting.smoothing] if setting.smoothing else []
    given += ["--threshold", setting.threshold] if setting.threshold is not None else []
    alarms: Alarms = set()
    for name in setting.probes:
        run, probe = folder / "traces" / "run", folder / "probes" / name
        code, out, err = command("flag", run, probe, "--json", *given)
        assert code == 0, err
        flags = json.loads(out)
        assert flags["source"] == setting.follows
        alarms |= {(name, one["trace_id"], one["sentence"]) for one in flags["alarms"]}
    return alarms


def in_python(folder: Path, setting: Setting) -> Alarms:
    """Return the alarms of a `Detector` on the scores that the run keeps."""
    store = Store(folder / "traces" / "run")
    alarms: Alarms = set()
    for name in setting.probes:
        given: Any = {"smoothing": setting.smoothing, "threshold": setting.threshold}
        detector = recorded_detector(store, name, **given)
        assert str(detector.source) == setting.follows
        for trace_id, scores in store.scores(name).items():
            sentence = detector.alarm(scores)
            alarms |= set() if sentence is None else {(name, trace_id, sentence)}
    return alarms


def by_server(folder: Path, setting: Setting, model: Any) -> Alarms:
    """Return the alarms of a server that writes the recorded tokens again."""
    pytest.importorskip("fastapi")
    from trace_probe.monitor.live import Monitor
    from trace_probe.serving.audit import AuditLog
    from trace_probe.serving.guarded import GuardedModel
    from trace_probe.serving.limits import Limits

    given: Any = {"smoothing": setting.smoothing, "threshold": setting.threshold}
    detectors = [load_detector(folder / "probes" / name, **given) for name in setting.probes]
    served = GuardedModel(
        Monitor(model, detectors),
        AuditLog(folder / "audit.jsonl"),
        policy="annotate",
        limits=Limits(streams=4),
    )
    traces = list(Store(folder / "traces" / "run").traces())
    try:
        answers = asyncio.run(_asked(served, traces))
    finally:
        served.close()
    alarms: Alarms = set()
    for trace, (reply, text) in zip(traces, answers, strict=True):
        assert text == trace.text[trace.offsets[trace.prompt_stop] :]  # the recorded tokens
        told = reply.extension()
        assert {one["source"] for one in told["probes"]} == {setting.follows}
        for name in setting.probes:
            at = (one["sentence"] for one in told["sentences"] if name in one["alarms"])
            first = next(at, None)
            alarms |= set() if first is None else {(name, trace.id, first)}
    return alarms


async def _asked(served: Any, traces: Sequence[Any]) -> list[tuple[Any, str]]:
    from trace_probe.recording.plan import trace_seed
    from trace_probe.serving.protocol import ChatRequest

    answers = []
    for trace in traces:
        task = trace.task
        parts = [("system", task.system), ("user", task.prompt)]
        messages = tuple({"role": role, "content": text} for role, text in parts if text)
        sampling = replace(SAMPLING, seed=trace_seed(SAMPLING, task, trace.sample))
        asked = ChatRequest(messages, sampling, stream=False, include_usage=False)
        answer = await served.begin(asked)
        async for _ in served.parts(answer):
            pass
        answers.append((answer.reply, answer.reply.channels.text))
    return answers


def on_the_page(folder: Path, setting: Setting, monkeypatch: pytest.MonkeyPatch) -> Alarms:
    """Return the alarms that the table of traces shows."""
    monkeypatch.setenv(VARIABLE, str(folder / "traces"))
    traces = {trace.task.id: trace for trace in Store(folder / "traces" / "run").traces()}
    alarms: Alarms = set()
    for name in setting.probes:
        query = {"r": "run", "p": name, "sm": setting.smoothing, "th": setting.threshold}
        given = {key: str(value) for key, value in query.items() if value is not None}
        app = open_page("traces", **given)
        assert not app.exception
        shown = app.dataframe[0].value
        for task, places in zip(shown["task"], shown["alarm → said → act"], strict=True):
            token = places.partition(" ")[0]
            if token != "—":
                spans = traces[task].sentences
                at = next(i for i, span in enumerate(spans) if span.stop - 1 == int(token))
                alarms.add((name, traces[task].id, at))
    return alarms


@pytest.mark.parametrize("name", SETTINGS)
def test_every_way_of_asking_gives_the_same_alarms(
    name: str,
    folder: Path,
    model: Any,
    command: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    setting = SETTINGS[name]
    prepare(folder, setting)
    flagged = by_command(folder, setting, command)
    assert {probe for probe, _, _ in flagged} == set(setting.probes)  # else it would show nothing
    assert len(flagged) < TASKS * len(setting.probes)
    assert in_python(folder, setting) == flagged
    assert by_server(folder, setting, model) == flagged
    assert on_the_page(folder, setting, monkeypatch) == flagged


@pytest.fixture
def kept(tmp_path: Path) -> Store:
    """Return a copy of the committed run and its probe."""
    for kind in ("traces", "probes"):
        shutil.copytree(ROOT / kind / "demo", tmp_path / kind / "demo")
    return Store(tmp_path / "traces" / "demo")


def test_without_a_probe_beside_the_runs_the_report_counts(kept: Store) -> None:
    report = kept.report("demo") or {}
    shutil.rmtree(kept.path.parent.parent / "probes")
    assert probe_beside(kept.path, "demo") is None
    detector = recorded_detector(kept, "demo")
    assert (detector.threshold, detector.source) == (report["threshold"], Source("report"))
    unknown = recorded_detector(kept, "nobody")
    assert unknown.source == Source("none")
    assert unknown.alarm(np.array([1e9])) is None
    assert "no threshold" in str(unknown)


def test_a_probe_of_another_model_does_not_decide(kept: Store) -> None:
    file = kept.path.parent.parent / "probes" / "demo" / "card.json"
    card = json.loads(file.read_text("utf-8"))
    file.write_text(json.dumps(card | {"model": "another@0", "threshold": 77.0}), "utf-8")
    seal_probe(file.parent)
    assert recorded_detector(kept, "demo").source == Source("report")


def test_a_trace_that_is_shown_follows_the_calibration_too(kept: Store) -> None:
    probe = kept.path.parent.parent / "probes" / "demo"
    before = read_trace(kept, "0ecbaa")
    found = calibrate(kept, load_probe(probe), ["max"], 0.7, sibling_rate=0.7)
    save_calibration(probe, found)
    after = read_trace(kept, "0ecbaa")
    alarms = [
        [line.sentence for line in one.lines if "alarm" in line.marks] for one in (before, after)
    ]
    assert after.threshold == load_detector(probe).threshold < (before.threshold or 0)
    assert alarms[1] < alarms[0]


def test_a_smoothing_without_a_threshold_is_refused_with_the_command_that_sets_one(
    kept: Store,
) -> None:
    folder = kept.path.parent.parent / "probes" / "demo"
    with pytest.raises(ProbeError, match="calibrate RUN .* --smoothing 2-of-3"):
        load_detector(folder, smoothing="2-of-3")
    by_hand = load_detector(folder, smoothing="2-of-3", threshold=0.5)
    assert (by_hand.smoothing, by_hand.source) == (parse_smoothing("2-of-3"), Source("hand"))


def test_the_alarm_is_the_first_sentence_whose_smoothed_score_reaches_the_threshold() -> None:
    scores = np.array([np.nan, 2.0, 0.0, 2.0, 2.0])
    alarms = [
        Detector("eye", parse_smoothing(name), 1.0, Source("hand")).alarm(scores)
        for name in ("max", "mean:3", "2-of-3", "3-of-3")
    ]
    assert alarms == [1, 1, 3, None]
    assert Detector("eye", MAX, 2.5, Source("hand")).alarm(scores) is None


def test_a_trace_farther_than_the_calibration_traces_is_outside_the_range() -> None:
    distances = tuple(np.linspace(0.5, 1.5, 21))
    eye = Detector("eye", MAX, 5.0, Source("hand"), distances=distances)
    assert eye.outside([1.2, 9.0, 0.2]) is False  # the median counts, not the peak
    assert eye.outside([2.0, 2.5, np.nan]) is True
    assert eye.outside([0.01]) is False
    assert eye.outside([np.nan]) is None
    assert eye.outside([]) is None
    assert replace(eye, distances=distances[:5]).outside([9.0]) is None


def test_several_detectors_each_say_whether_a_trace_is_outside_their_range() -> None:
    near, far = (
        Detector(name, MAX, 5.0, Source("hand"), distances=(value,) * 20)
        for name, value in (("near", 1.0), ("far", 3.0))
    )
    assert outside_of([near, far], [(2.0, 2.0), (), (2.0, 4.0)]) == ["near"]
    assert outside_of([near, far], [(9.0, 9.0)]) == ["near", "far"]
    assert outside_of([near, far], [(), ()]) == []
    assert outside_of([near, far], [(np.nan, 9.0)]) == ["far"]


def test_a_card_s_threshold_is_kept_and_its_range_is_noted() -> None:
    saved = load_probe(ROOT / "probes" / "demo")
    found = range_of_card(Store(ROOT / "traces" / "demo"), saved)
    limit = found.thresholds[saved.card.smoothing]
    assert limit.value == saved.card.threshold
    assert limit.rates == saved.card.rates
    assert set(found.tasks) == set(saved.card.calibration_tasks)
    assert len(found.levels) == len(found.tasks)
