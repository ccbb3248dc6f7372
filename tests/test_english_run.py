"""The committed English run: its size, what it holds, and that its figures follow from it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.picture import choose
from trace_probe.emergence.curve import oracle_points
from trace_probe.evaluation.evaluate import evaluate
from trace_probe.evaluation.layers import read_scales
from trace_probe.evaluation.panel import Panel, build_panel
from trace_probe.explorer.loading import load_run
from trace_probe.monitor.detector import load_detector
from trace_probe.probing.corpus import Corpus, load_corpus
from trace_probe.probing.probe import SavedProbe, load_probe
from trace_probe.store import Store
from trace_probe.upkeep.verify import verify

ROOT = Path(__file__).parents[1]
RUN, PROBE = ROOT / "traces" / "english", ROOT / "probes" / "english"
MOST_BYTES = 8 * 2**20
BASELINES = ("category-only", "prompt-only", "length", "tfidf", "tfidf-with-prompt")


@pytest.fixture(scope="module")
def store() -> Store:
    return Store(RUN)


@pytest.fixture(scope="module")
def saved() -> SavedProbe:
    return load_probe(PROBE)


def panel_of(corpus: Corpus, saved: SavedProbe) -> Panel:
    """Return the tasks on which the probe was judged; all that it did not see is in the run."""
    card = saved.card
    test = corpus.where(lambda trace: trace.task.id not in card.seen)
    panel = build_panel(corpus.only(card.calibration_tasks), test, 0)
    return replace(panel, smoothing=saved.smoothing, ranked_by=saved.ranked_by)


def test_it_is_small_and_whole(store: Store) -> None:
    # What the explorer keeps for speed is not committed; other tests may have opened the run.
    files = [one for one in RUN.rglob("*") if one.is_file() and "cache" not in one.parts]
    assert sum(file.stat().st_size for file in files) <= MOST_BYTES
    assert not verify(store, progress=False).problems


def test_it_holds_every_trace_that_the_probe_did_not_learn_from_and_no_other(
    store: Store, saved: SavedProbe
) -> None:
    tasks = {trace.task.id for trace in store.traces()}
    assert not tasks & set(saved.card.training_tasks)
    assert set(saved.card.calibration_tasks) <= tasks
    assert store.manifest.layers == saved.card.layers
    assert len(store) > 120


def test_the_probe_and_the_rows_give_the_scores_that_are_kept(
    store: Store, saved: SavedProbe
) -> None:
    kept = store.scores("english")
    for name, scores in saved.scores(load_corpus(store, saved.card.labeller)).items():
        np.testing.assert_allclose(scores, kept[name], atol=2e-3)


def test_the_figures_of_the_report_follow_from_the_scores_that_are_kept(
    store: Store, saved: SavedProbe
) -> None:
    card = saved.card
    panel = panel_of(load_corpus(store, card.labeller, ()), saved)
    baselines = {name: (store.scores(name),) for name in BASELINES}
    found = evaluate(
        card.name,
        store.scores(card.name),
        baselines,
        panel,
        threshold=card.threshold,
        target_rate=card.target_false_alarm_rate,
    ).to_json()
    kept = store.report("english")
    assert kept is not None
    same = ("threshold", "false_alarm_rate", "sibling_alarm_rate", "within_prompt_auroc")
    for name in (*same, "caught_before_said", "caught_before_action", "pooled_auroc"):
        assert found[name] == pytest.approx(kept[name], abs=1e-6), name
    for name in BASELINES:
        for figure in ("within_prompt_auroc", "caught_before_action"):
            assert found["baselines"][name][figure] == pytest.approx(
                kept["baselines"][name][figure], abs=1e-6
            ), name


def test_all_layers_are_there_as_scores(store: Store) -> None:
    assert [scale.layer for scale in read_scales(store, "english")] == list(range(30))


def test_the_trace_that_is_shown_alarms_before_it_acts_once_the_act_is_likely() -> None:
    run = load_run(RUN)
    shown = choose(run, run.detector("english"))
    row = next(row for row in run.rows(run.detector("english")) if row.facts.id == shown)
    assert row.verdict == "early"
    assert (row.lead or 0) > 0
    known = [point for point in oracle_points(RUN)[shown] if point.token <= (row.alarm_stop or 0)]
    assert [(point.instrumental, point.known) for point in known[-4:]] == [(4, 8), *[(8, 8)] * 3]
    assert f"`{shown[:6]}`" in (ROOT / "docs" / "english.md").read_text("utf-8")


def test_its_probe_marks_what_lies_outside_its_range() -> None:
    detector = load_detector(PROBE)
    assert len(detector.distances) >= 19
    assert detector.outside([max(detector.distances) + 1]) is True
    assert detector.outside([np.median(detector.distances)]) is False
    assert json.loads((PROBE / "alarms.json").read_text())["calibrations"]
