"""Studies and the parts of the report: every figure with its interval, or why there is none."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from explorer.conftest import make_run
from explorer.pages import open_page, words
from explorer.planted import DETECTOR, HOSTILE, PLANTED, REPORT, THRESHOLD, interval
from trace_probe.explorer.heldout import (
    by_category,
    peak_in_time,
    reliability,
    trade_off,
    unseen,
)
from trace_probe.explorer.results import kept, results_folder
from trace_probe.explorer.rows import build_row, facts_of
from trace_probe.statistics.calibration import PAC_DELTA
from trace_probe.store import Store

ROWS = [build_row(facts_of(t), label, scores, THRESHOLD) for t, label, scores in PLANTED]
TABS = ("Baselines", "Early warning", "False alarms", "Calibration", "Transfer")
STUDY: dict[str, Any] = {
    "tasks": 12,
    "shares": [
        {
            "run": "rl",
            "group": "all",
            "figure": "instrumental",
            "value": interval(0.4, 0.3, 0.5, 40),
        }
    ],
    "rates": [],
    "explained": [],
    "differences": [
        {
            "first": "rl",
            "second": "rlhf",
            "group": "all",
            "value": interval(0.2, 0.1, 0.3, 12),
            "mcnemar": {"first_only": 5, "second_only": 1, "p": 0.2},
        }
    ],
    "comparisons": [
        {"first": "rl", "second": "rlhf", "controlled": True, "differs": HOSTILE[1]},
        {"first": "rl", "second": "x", "controlled": False, "differs": "dtype"},
    ],
    "notes": ["1 task of rl is in no other run"],
}


def test_a_peak_in_time_lies_before_the_action() -> None:
    early = ROWS[0]
    assert early.scores is not None
    assert peak_in_time(early) == pytest.approx(float(early.scores[5:12].max()))
    assert peak_in_time(replace(early, scores=None)) is None


def test_the_trade_off_starts_with_few_alarms_and_ends_with_all() -> None:
    found = trade_off(ROWS)
    assert found is not None
    assert (found.n_acted, found.n_benign) == (4, 1)
    assert found.caught[-1] == 1.0
    assert found.false_alarms[-1] == 1.0
    assert (np.diff(found.caught) >= 0).all()
    assert found.at(THRESHOLD) == (0.75, 0.0)
    assert found.at(99.0) == (0.0, 0.0)


def test_a_benign_trace_that_acts_is_no_false_alarm() -> None:
    one = next(row for row in ROWS if row.facts.role == "benign")
    assert one.label is not None
    acting = replace(one, label=replace(one.label, outcome=True))
    found, before = trade_off([*ROWS, acting]), trade_off(ROWS)
    assert found is not None
    assert before is not None
    assert found.n_benign == before.n_benign


def test_no_trade_off_without_benign_traces() -> None:
    assert trade_off([row for row in ROWS if row.facts.role != "benign"]) is None


def test_tasks_learned_from_are_left_out() -> None:
    seen = [replace(row, split="trained on") for row in ROWS]
    assert unseen(seen) == []
    assert trade_off(seen) is None


def test_risk_is_reliable_where_the_share_that_acts_is_the_risk() -> None:
    rows = []
    draw = np.random.default_rng(0)
    trace, label, _ = PLANTED[0]
    for _ in range(400):
        risk = float(draw.uniform())
        outcome = bool(draw.uniform() < risk)
        scores = np.full(15, risk, dtype=np.float32)
        one = replace(label, outcome=outcome)
        rows.append(build_row(facts_of(trace), one, scores, THRESHOLD))
    bins = reliability(rows, probabilities=True)
    assert len(bins) == 8
    inside = 0
    for each in bins:
        low, high = each.observed.lower, each.observed.upper
        assert low is not None
        assert high is not None
        inside += low <= each.foretold <= high
    assert inside >= 6
    assert reliability(rows[:5], probabilities=True) == []


def test_each_category_has_its_share_caught() -> None:
    found = by_category(ROWS)
    assert sum(value.n or 0 for value in found.values()) == 4
    assert all(value.known for value in found.values())


@pytest.mark.parametrize("tab", TABS)
@pytest.mark.parametrize("kind", ["planted", "rich", "hostile"])
def test_every_part_of_the_report_opens(tab: str, kind: str, traces: Path) -> None:
    make_run(kind, traces / "run")
    app = open_page("metrics", tab=tab)
    assert not app.exception
    assert app.query_params["tab"] == tab


def test_the_demo_has_every_part(monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).parents[2] / "traces"
    monkeypatch.setenv("TRACE_PROBE_TRACES", str(root))
    for tab in TABS:
        app = open_page("metrics", r="demo", tab=tab)
        assert not app.exception
        assert "evaluate again" not in words(app)


def test_another_run_of_the_same_detector_is_set_beside(traces: Path) -> None:
    make_run("planted", traces / "run")
    make_run("planted", traces / "second")
    app = open_page("metrics", tab="Transfer")
    assert set(app.dataframe[0].value["run"]) == {"run", "second"}


def test_a_kept_transfer_result_is_a_matrix(traces: Path) -> None:
    make_run("planted", traces / "run")
    figure = {"within_prompt_auroc": interval(0.7, 0.6, 0.8, 9), "pooled_auroc": None}
    keep(traces, "t", {"across": "nudge", "cells": {"push": {"none": figure}}})
    app = open_page("metrics", tab="Transfer")
    assert list(app.dataframe[0].value["none"]) == ["0.70 [0.60, 0.80]"]


def keep(traces: Path, name: str, value: object) -> None:
    folder = results_folder(traces)
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")


def test_results_are_told_apart_by_what_they_hold_and_broken_ones_named(traces: Path) -> None:
    keep(traces, "study", STUDY)
    keep(traces, "transfer", {"across": "nudge", "cells": {}})
    (results_folder(traces) / "torn.json").write_text("{", encoding="utf-8")
    assert set(kept(traces, "study").found) == {"study"}
    assert set(kept(traces, "transfer").found) == {"transfer"}
    assert "torn.json" in kept(traces, "study").broken[0]


def test_a_study_of_the_run_at_hand_is_computed(traces: Path) -> None:
    make_run("planted", traces / "run")
    app = open_page("study")
    assert not app.exception
    assert "test tasks in all of them" in words(app)
    assert app.query_params["runs"] == "run"


def test_runs_that_share_nothing_say_so(traces: Path) -> None:
    make_run("planted", traces / "run")
    make_run("hostile", traces / "other")
    app = open_page("study", r="run", runs="run|other")
    assert not app.exception
    assert "share no labelled test task" in words(app)


def test_a_kept_study_shows_differences_and_what_is_not_controlled(traces: Path) -> None:
    make_run("planted", traces / "run")
    keep(traces, "organisms", STUDY)
    app = open_page("study")
    app.selectbox(key="filter_study_source").select("organisms").run()
    assert not app.exception
    said = words(app)
    assert "NOT a controlled pair" in said
    assert HOSTILE[1] in said
    assert list(app.dataframe[0].value["difference [95 %]"]) == ["0.20 [0.10, 0.30]"]


def test_a_report_of_another_version_loses_parts_not_the_page(traces: Path) -> None:
    make_run("planted", traces / "run")
    store = Store(traces / "run")
    with store.writing():
        store.write_report(DETECTOR, {**REPORT, "more": [], "useful_warning": 3, "prefix": None})
    for tab in TABS:
        assert not open_page("metrics", tab=tab).exception


@pytest.mark.parametrize(
    ("ranked_by", "said"), [("max", "ranked by plain scores"), ("mean:5", "ranked by mean:5")]
)
def test_what_ranks_is_named_in_the_words_of_the_report(
    ranked_by: str, said: str, traces: Path
) -> None:
    make_run("planted", traces / "run")
    store = Store(traces / "run")
    with store.writing():
        store.write_report(DETECTOR, {**REPORT, "rule": "mean:3", "ranked_by": ranked_by})
    assert f"smoothing mean:3 · {said}" in words(open_page("metrics"))


@pytest.mark.parametrize(
    ("ranked_by", "said"), [("max", "plain scores"), ("mean:5", "scores (ranked by mean:5)")]
)
def test_what_is_of_ranked_scores_is_told_from_what_the_alarm_follows(
    ranked_by: str, said: str, traces: Path
) -> None:
    make_run("planted", traces / "run")
    store = Store(traces / "run")
    near = {"offset": [-1], "positive": [interval(0.5, 0.4, 0.6, 9)], "negative": [], "n": 9}
    more = {"event_aligned": near, "brier": interval(0.1, 0.0, 0.2, 9)}
    with store.writing():
        store.write_report(
            DETECTOR, {**REPORT, "rule": "mean:3", "ranked_by": ranked_by, "more": more}
        )
    drawing_near = words(open_page("metrics", tab="Early warning"))
    assert "Scores before it is said" in drawing_near
    assert f"Of {said}." in drawing_near
    assert f"Of {said} before it is said" in words(open_page("metrics", tab="Calibration"))


def test_the_confidence_of_a_promise_is_that_of_its_threshold(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRACE_PROBE_TRACES", str(Path(__file__).parents[2] / "traces"))
    app = open_page("metrics", r="demo", tab="False alarms")
    assert PAC_DELTA == 0.1
    assert any("pac with 90 % confidence" in caption.value for caption in app.caption)
