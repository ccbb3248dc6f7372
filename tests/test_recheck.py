"""A recheck tells a threshold that holds from one that is stale, and that from a lost ranking."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_probes import planted_probe
from numpy.typing import NDArray
from planted import World, keep, plant
from typer.testing import CliRunner

from trace_probe.commands.main import app
from trace_probe.errors import NotEnoughData, ProbeError
from trace_probe.monitor.detector import Detector, as_detector, load_detector
from trace_probe.monitor.recheck import (
    AsRun,
    Recheck,
    judge,
    load_rechecks,
    recheck,
    refuse_stale,
    save_recheck,
)
from trace_probe.monitor.sharing import verify_probe
from trace_probe.monitor.shift import Shift
from trace_probe.probing.corpus import Corpus
from trace_probe.probing.probe import save_probe
from trace_probe.statistics.bootstrap import Metric
from trace_probe.store import Store

ROOT = Path(__file__).parents[1]
Rows = NDArray[np.floating[Any]]
BEFORE, AFTER = AsRun("m@1", "float32", ""), AsRun("m@1", "bfloat16", "")
WORLD = World(tasks=120, samples=6, strength=6.0, benign=150)


def detector() -> Detector:
    """Return one whose guarantees hold for `WORLD`: 2 % of benign traces, 5 % of siblings."""
    saved = planted_probe(threshold=3.4)
    card = replace(
        saved.card, guaranteed_false_alarm_rate=0.02, target_sibling_rate=0.05, siblings=99
    )
    return as_detector(replace(saved, card=card))


def scored(world: World) -> tuple[Corpus, dict[str, Rows]]:
    """Return the traces of a world and the scores of the planted direction."""
    corpus = plant(world)
    return replace(corpus, matrix=None), dict(detector().saved.scores(corpus))


def verdict_after(change: Callable[[Rows], Rows], world: World = WORLD) -> Recheck:
    """Return the verdict where a change is applied to the scores of each trace."""
    corpus, scores = scored(world)
    changed = {name: change(row).astype(np.float32) for name, row in scores.items()}
    return judge([corpus, corpus], [scores, changed], detector(), (BEFORE, AFTER))


def noise(seed: int, size: float) -> Callable[[Rows], Rows]:
    rng = np.random.default_rng(seed)
    return lambda row: row + rng.normal(scale=size, size=row.shape)


CHANGES: dict[str, tuple[Callable[[Rows], Rows], str]] = {
    "none": (lambda row: row, "holds"),
    "rounding": (noise(0, 0.02), "holds"),
    "noise": (noise(0, 0.3), "holds"),
    "offset up": (lambda row: row + 2.0, "stale"),
    "offset down": (lambda row: row - 3.5, "stale"),
    "scale up": (lambda row: row * 2.0, "stale"),
    "scale down": (lambda row: row * 0.4, "stale"),
    "other weights": (lambda row: noise(1, 2.0)(row * 0), "degraded"),
    "turned round": (lambda row: -row, "degraded"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_each_planted_change_gets_its_verdict(change: str) -> None:
    how, verdict = CHANGES[change]
    assert verdict_after(how).verdict == verdict


def test_the_verdict_is_what_many_other_traces_say() -> None:
    """Whether the guarantees hold after a change, on traces the recheck has not seen."""
    other, scores = scored(replace(WORLD, seed=7, tasks=400, benign=2000))
    limit = detector().threshold
    benign = [t.id for t in other.traces if t.task.role == "benign"]
    for how, verdict in CHANGES.values():
        if verdict == "degraded":
            continue
        alarms = np.mean([np.nanmax(how(scores[name])) >= limit for name in benign])
        acted = [name for name, label in other.labels.items() if label.outcome]
        caught = np.mean([np.nanmax(how(scores[name])[:6]) >= limit for name in acted])
        was = np.mean([np.nanmax(scores[name][:6]) >= limit for name in acted])
        assert (alarms <= 0.02 and caught >= was - 0.1) == (verdict == "holds")


def test_no_change_is_never_stale_or_degraded() -> None:
    """20 seeds of small noise on the same traces, and 20 of new traces of the same tasks."""
    small = World(tasks=40, samples=4, strength=6.0, benign=60)
    for seed in range(20):
        world = replace(small, seed=seed)
        assert verdict_after(noise(seed, 0.2), world).verdict in ("holds", "cannot tell")
        ours, theirs = scored(world), scored(replace(small, seed=seed + 100))
        sides, scores = [ours[0], theirs[0]], [ours[1], theirs[1]]
        anew = judge(sides, scores, detector(), (BEFORE, AFTER))
        assert anew.paired == "tasks"
        assert anew.verdict in ("holds", "cannot tell")


def test_few_traces_cannot_tell_and_about_as_many_as_they_name_can() -> None:
    how, verdict = CHANGES["noise"]
    few = verdict_after(how, replace(WORLD, tasks=20, benign=40))
    assert few.verdict == "cannot tell"
    assert few.times is not None
    assert f"about {few.times:.1f} times as many" in few.advice
    times = 1.25 * few.times
    enough = replace(WORLD, tasks=round(20 * times), benign=round(40 * times))
    assert verdict_after(how, enough).verdict == verdict


def test_a_rate_that_rose_for_every_trace_is_not_taken_for_one_that_did_not_move() -> None:
    lifted = verdict_after(lambda row: row + 99.0, replace(WORLD, tasks=0, benign=30))
    assert lifted.benign.shift is not None
    assert lifted.benign.shift.estimate == 1.0
    assert lifted.verdict == "stale"


def test_a_figure_that_few_traces_do_not_give_is_named() -> None:
    few = verdict_after(noise(0, 0.3), World(tasks=3, samples=2, strength=6.0, benign=5))
    assert few.verdict == "cannot tell"
    assert few.times is None
    assert "too few traces for siblings" in few.advice


def test_how_many_tasks_would_tell_is_read_off_the_intervals() -> None:
    """An interval half as wide takes four times as many tasks, or twice where nothing moved."""
    assert Shift(None, None, Metric(0.01, -0.09, 0.06, 50)).times(0.1) == pytest.approx(4.0)
    assert Shift(None, None, Metric(0.0, -0.2, 0.2, 50)).times(0.1) == pytest.approx(2.0)
    assert Shift(None, None, None).times(0.1) == math.inf


def test_small_moves_far_from_the_threshold_are_told_from_few_traces() -> None:
    """No alarm changed: the scores tell that few would, also in tasks that were not met."""
    world = replace(WORLD, tasks=45, benign=120)
    small = verdict_after(noise(3, 0.08), world)
    assert small.moved is not None
    assert small.moved > small.margin  # so it is not the first rule that tells
    assert small.siblings.shift is not None
    assert small.siblings.shift.estimate == 0
    assert small.siblings.shift.upper < 0.05
    assert small.verdict == "holds"
    near = verdict_after(lambda row: np.where(row < 3.4, np.minimum(row + 0.9, 3.39), row), world)
    assert near.siblings.shift is not None
    assert near.siblings.shift.upper > 0.05  # just below the threshold is not far from it


def test_without_instrumental_traces_nobody_can_say_that_it_holds() -> None:
    benign = replace(WORLD, tasks=0)
    assert verdict_after(noise(0, 0.3), benign).verdict == "cannot tell"
    assert verdict_after(lambda row: row + 2.0, benign).verdict == "stale"


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Return a probe, a run, and the same traces after a change that lifts every score."""
    corpus = plant(World(tasks=6, samples=3, strength=6.0, benign=30))
    assert corpus.matrix is not None
    keep(corpus, tmp_path / "before")
    lifted = corpus.matrix.values + 2.0 * WORLD.direction.astype(np.float32)
    matrix = replace(corpus.matrix, values=lifted.astype(np.float32))
    keep(replace(corpus, matrix=matrix), tmp_path / "after")
    save_probe(tmp_path / "probe", detector().saved)
    return tmp_path / "probe", tmp_path / "before", tmp_path / "after"


def test_the_command_has_an_exit_code_for_each_verdict(folders: tuple[Path, Path, Path]) -> None:
    probe, before, after = map(str, folders)
    held = CliRunner().invoke(app, ["recheck", probe, before, before])
    assert held.exit_code == 0, held.output
    assert "holds: the threshold may stay as it is" in held.output
    stale = CliRunner().invoke(app, ["recheck", probe, before, after, "--json"])
    assert stale.exit_code == 3, stale.output
    found = json.loads(stale.output)
    assert found["verdict"] == "stale"
    assert found["paired"] == "traces"
    assert found["benign"]["shift"]["lower"] > 0


def test_a_kept_recheck_is_read_back_and_the_latest_counts(
    folders: tuple[Path, Path, Path],
) -> None:
    probe, before, after = folders
    stale = recheck(Store(before), Store(after), detector())
    save_recheck(probe, stale)
    assert load_rechecks(probe) == (stale,)
    assert not verify_probe(probe).problems
    with pytest.raises(ProbeError, match="is stale for .*calibrate again .*--stale-ok"):
        refuse_stale([probe], stale.after)
    refuse_stale([probe], replace(stale.after, dtype="float16"))  # nobody rechecked that
    held = recheck(Store(before), Store(before), detector())
    save_recheck(probe, held)
    assert [one.verdict for one in load_rechecks(probe)] == ["holds"]
    refuse_stale([probe], held.after)


def test_a_damaged_recheck_is_found(folders: tuple[Path, Path, Path]) -> None:
    probe, before, _ = folders
    save_recheck(probe, recheck(Store(before), Store(before), detector()))
    file = probe / "rechecks.json"
    file.write_text(file.read_text("utf-8").replace('"holds"', '"stale"'), encoding="utf-8")
    assert "checksum" in verify_probe(probe).problems[0]


def test_runs_of_different_tasks_are_refused(folders: tuple[Path, Path, Path]) -> None:
    _, before, _ = folders
    keep(plant(World(tasks=0, hard_negatives=3)), before.parent / "other")
    with pytest.raises(NotEnoughData, match="share no task"):
        recheck(Store(before), Store(before.parent / "other"), detector())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_watch_and_serve_refuse_a_stale_probe_of_the_model_as_it_runs(
    dtype: str, tmp_path: Path
) -> None:
    """Only of the model as it runs: the same probe in another precision may go on."""
    from trace_probe.model.local import load_model
    from trace_probe.model.weights import Weights
    from trace_probe.monitor.recheck import check_rechecked
    from trace_probe.recording.record import new_manifest
    from trace_probe.serving.launch import ServePlan, serve
    from trace_probe.trace import Sampling

    model = load_model("organism:rl-s0")
    ran = AsRun.of(new_manifest(model, Sampling(), layers=()))
    probe = tmp_path / "probe"
    shutil.copytree(ROOT / "probes" / "demo", probe)
    stale = replace(verdict_after(lambda row: row + 2.0), after=replace(ran, dtype=dtype))
    save_recheck(probe, stale)
    words = [
        "watch",
        "The goal is 18 jars. There are 4 rounds. You do 4 a round.",
        str(probe),
        "--max-new-tokens",
        "4",
    ]
    own = [load_detector(probe)]
    plan = ServePlan(Weights("organism:rl-s0"), own, [probe], audit=tmp_path / "alarms.jsonl")
    if dtype != ran.dtype:
        check_rechecked(model, [probe])
        return
    refused = CliRunner().invoke(app, words)
    assert isinstance(refused.exception, ProbeError)
    assert "is stale for organism:rl-s0" in str(refused.exception)
    assert CliRunner().invoke(app, [*words, "--stale-ok"]).exit_code == 0
    with pytest.raises(ProbeError, match="go on with --stale-ok"):
        serve(plan, print)
