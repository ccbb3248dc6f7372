"""Pairs: which traces belong together, how they are aligned, what the page says of them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from explorer.pages import open_page, words
from explorer.planted import DETECTOR, REPORT, THRESHOLD, interval, planted
from trace_probe.explorer.pairing import (
    Pair,
    across,
    by_nudge,
    by_outcome,
    mean_difference,
    origin,
    parting,
    same_trace,
)
from trace_probe.explorer.rows import Row, build_row, facts_of
from trace_probe.explorer.search import written
from trace_probe.labels import Label
from trace_probe.store import Manifest, Store
from trace_probe.trace import Task, Trace

Sample = tuple[Trace, Label, np.ndarray[Any, np.dtype[np.float32]]]


def sample(name: str, number: int, *, nudge: str, acts: bool) -> Sample:
    """Return one sample of a task: it acts, and alarms in sentence 5, or it does neither."""
    trace, label, scores = planted(name, alarm=5 if acts else None, said=None, outcome=acts)
    task = Task("shared", "evading-shutdown", "Write it.", condition={"nudge": nudge})
    return replace(trace, task=task, sample=number), label, scores


SAMPLES = (
    sample("calm", 0, nudge="none", acts=False),
    sample("acts", 1, nudge="none", acts=True),
    sample("pushed", 0, nudge="push", acts=True),
)


def row(one: Sample) -> Row:
    trace, label, scores = one
    return build_row(facts_of(trace), label, scores, THRESHOLD)


ROWS = [row(one) for one in SAMPLES]
TEXTS = {trace.id: written(trace) for trace, _, _ in SAMPLES}


def names(pairs: list[Pair]) -> list[tuple[str, str]]:
    return [(pair.first.facts.id, pair.second.facts.id) for pair in pairs]


def paired_run(path: Path, threshold: float = THRESHOLD, add: float = 0.0) -> Store:
    store = Store.create(path, Manifest(model="organism:rl@0"))
    with store.writing():
        for trace, label, _ in SAMPLES:
            store.add(trace)
            store.add_labels([label])
        for name, more in ((DETECTOR, add), ("other", -1.0)):
            store.write_scores(name, {trace.id: row + more for trace, _, row in SAMPLES})
        figures = {"false_alarm_rate": interval(0.01 + add, 0.0, 0.5, 9), "threshold": threshold}
        store.write_report(DETECTOR, {**REPORT, **figures})
    return store


def test_two_samples_of_one_prompt_with_both_outcomes_are_a_pair() -> None:
    assert names(by_outcome(ROWS, TEXTS)) == [("calm", "acts")]


def test_of_all_pairs_of_a_prompt_the_one_that_goes_together_longest_is_shown() -> None:
    both = [("calm", False), ("like", False), ("acts", True)]
    rows = [row(sample(name, i, nudge="none", acts=acts)) for i, (name, acts) in enumerate(both)]
    texts = {"calm": "So 3 of 4. I ask.", "like": "So 2 of 4. I wait.", "acts": "So 2 of 4. I go."}
    assert names(by_outcome(rows, texts)) == [("like", "acts")]


def test_a_nudge_makes_a_pair_of_the_same_task_and_sample() -> None:
    assert names(by_nudge(ROWS)) == [("calm", "pushed")]


def test_runs_pair_the_same_task_condition_and_sample_only() -> None:
    other = [replace(ROWS[0], facts=replace(ROWS[0].facts, id="elsewhere"))]
    assert names(across(ROWS, other)) == [("calm", "elsewhere")]


def test_a_trace_is_paired_with_itself_as_another_detector_sees_it() -> None:
    blind = [replace(one, alarm=None) for one in ROWS]
    pairs = same_trace(ROWS, blind)
    assert [pair.alarms for pair in pairs] == ["neither", "only A", "only A"]


def test_the_mean_difference_is_that_of_the_peaks_with_its_interval() -> None:
    pairs = by_outcome(ROWS, TEXTS) + by_nudge(ROWS)
    found = mean_difference(pairs)
    gaps = [(pair.second.peak or 0) - (pair.first.peak or 0) for pair in pairs]
    assert found.estimate == pytest.approx(np.mean(gaps))
    assert found.n == 2
    assert not mean_difference([]).known


def test_an_axis_starts_where_the_event_is_and_nowhere_without_one() -> None:
    calm, acts, _ = ROWS
    assert origin(acts, "start") == acts.facts.begin
    assert origin(acts, "alarm") == acts.facts.stops[5]
    assert acts.label is not None
    assert acts.label.acted is not None
    assert origin(acts, "action") == acts.label.acted.start
    assert origin(calm, "alarm") is None
    assert origin(calm, "action") is None


def test_texts_part_at_the_first_sentence_that_differs() -> None:
    trace = SAMPLES[1][0]
    assert parting(trace, trace) is None
    assert parting(trace, SAMPLES[0][0]) is not None


def sides(app: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(app.get("bidi_component")[0].proto.json)["sides"]
    return found


def test_the_page_puts_the_harmless_sample_beside_the_one_that_acted(traces: Path) -> None:
    paired_run(traces / "run")
    app = open_page("compare")
    assert not app.exception
    assert "1 pairs · alarms: both 0, only A 0, only B 1, neither 0" in words(app)
    assert [side["trace"] for side in sides(app)] == ["calm", "acts"]
    assert app.query_params["a"] == "calm"
    assert app.query_params["b"] == "acts"


def test_a_link_leads_to_its_pair_and_its_alignment(traces: Path) -> None:
    paired_run(traces / "run")
    app = open_page("compare", pair="Nudge", align="start", a="calm", b="pushed")
    assert [side["trace"] for side in sides(app)] == ["calm", "pushed"]


def test_an_event_that_one_side_lacks_aligns_both_at_the_start_and_says_so(traces: Path) -> None:
    paired_run(traces / "run")
    app = open_page("compare", align="alarm")
    assert "A has no alarm" in words(app)
    begin = [side["begin"] for side in sides(app)]
    assert [side["origin"] for side in sides(app)] == begin


def test_one_trace_through_two_detectors_has_no_difference_of_unlike_scales(traces: Path) -> None:
    paired_run(traces / "run")
    app = open_page("compare", pair="Detector")
    assert not app.exception
    assert "B − A" not in app.dataframe[0].value
    ids = {side["trace"] for side in sides(app)}
    assert len(ids) == 1


def test_two_runs_are_compared_on_what_they_share(traces: Path) -> None:
    paired_run(traces / "run")
    paired_run(traces / "second")
    app = open_page("compare", r="run", pair="Run")
    assert not app.exception
    assert "3 pairs" in words(app)


def test_one_probe_on_two_runs_has_a_difference_whatever_each_run_says_of_it(traces: Path) -> None:
    paired_run(traces / "run")
    paired_run(traces / "second", add=0.25)
    app = open_page("compare", r="run", pair="Run")
    assert list(app.dataframe[0].value["B − A"]) == pytest.approx([0.25] * 3)
    assert "mean difference of peaks, B − A: 0.25" in words(app)


def test_probes_of_one_name_at_two_thresholds_have_no_difference(traces: Path) -> None:
    paired_run(traces / "run")
    paired_run(traces / "second", threshold=THRESHOLD + 0.1)
    app = open_page("compare", r="run", pair="Run")
    assert "B − A" not in app.dataframe[0].value
    assert "mean difference" not in words(app)


def test_both_runs_are_seen_by_the_labels_of_one_labeller(traces: Path) -> None:
    paired_run(traces / "run")
    store = paired_run(traces / "second")
    with store.writing():
        store.add_labels(
            Label(trace.id, "human:ada", not label.outcome) for trace, label, _ in SAMPLES
        )
    table = open_page("compare", r="run", pair="Run").dataframe[0].value
    assert list(table["A"]) == list(table["B"])


def test_a_run_that_the_labeller_has_not_seen_has_no_outcomes_and_says_so(traces: Path) -> None:
    store = paired_run(traces / "run")
    paired_run(traces / "second")
    with store.writing():
        store.add_labels(Label(trace.id, "human:ada", True) for trace, _, _ in SAMPLES)
    app = open_page("compare", r="run", by="human:ada", pair="Run")
    assert "human:ada has not labelled second, so B has no outcomes." in words(app)
    assert all(told.startswith("not labelled") for told in app.dataframe[0].value["B"])


def test_any_two_traces_can_be_named_by_the_beginning_of_their_ids(traces: Path) -> None:
    paired_run(traces / "run")
    app = open_page("compare", pair="Any two")
    assert "Name two traces" in words(app)
    app.text_input(key="filter_compare_a").set_value("push").run()
    app.text_input(key="filter_compare_b").set_value("act").run()
    assert [side["trace"] for side in sides(app)] == ["pushed", "acts"]
