"""Labelling by hand: what is asked, what is kept, what it is good for."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from explorer.conftest import make_run
from explorer.pages import open_page, words
from explorer.planted import PLANTED, THRESHOLD
from trace_probe.explorer.label_queue import QUEUES, between, of_label, queue, with_labels
from trace_probe.explorer.rows import build_row, facts_of
from trace_probe.labelling.annotations import Annotation, Verdict, judged_place
from trace_probe.store import Store

ROWS = [build_row(facts_of(t), label, scores, THRESHOLD) for t, label, scores in PLANTED]


def said(trace: int, sentence: int, verdict: Verdict, who: str = "ada") -> Annotation:
    one = PLANTED[trace][0]
    return Annotation(one.id, sentence, verdict, who, "now", True, *judged_place(one, sentence))


def test_what_lies_nearest_to_the_threshold_is_asked_first() -> None:
    rows = {row.facts.id: row for row in ROWS}
    places = queue("near threshold", ROWS, {})
    gaps = []
    for trace_id, sentence in places:
        scores = rows[trace_id].scores
        assert scores is not None
        gaps.append(abs(float(scores[sentence]) - THRESHOLD))
    assert gaps == sorted(gaps)
    assert all(rows[trace_id].facts.reasoning[sentence] for trace_id, sentence in places)


def test_contradictions_are_false_alarms_and_marks_without_one() -> None:
    places = queue("disagreement", ROWS, {})
    assert ("false-alarm", 6) in places
    assert ("missed", 10) in places
    assert not [place for place in places if place[0] in ("early", "clear")]


def test_the_audit_is_a_seeded_draw_without_what_was_judged() -> None:
    first = queue("random", ROWS, {}, seed="ada")
    assert first == queue("random", ROWS, {}, seed="ada")
    assert first != queue("random", ROWS, {}, seed="bob")
    done = {first[0]: said(0, 0, "neither")}
    assert queue("random", ROWS, done, seed="ada") == first[1:]  # type: ignore[arg-type]


def test_a_label_speaks_of_its_marks_and_is_silent_where_it_cannot_tell() -> None:
    early, unknown = ROWS[0], ROWS[6]
    assert of_label(early, 8) is True
    assert of_label(early, 13) is True
    assert of_label(early, 2) is False
    assert of_label(unknown, 2) is None


def test_agreement_leaves_the_unsure_out() -> None:
    one: dict[tuple[str, int | None], Annotation] = {
        ("early", 8): said(0, 8, "says"),
        ("early", 2): said(0, 2, "neither"),
    }
    other = {**one, ("early", 2): said(0, 2, "neither"), ("early", 3): said(0, 3, "unsure")}
    found = between(one, other, ROWS)
    assert (found.estimate, found.n) == (1.0, 2)
    assert with_labels(other, ROWS).n == 2
    assert not between({}, one, ROWS).known


def judge(app: Any, verdict: str) -> Any:
    return app.button(key=f"verdict_{verdict}").click().run()


def lines(run: Path, who: str = "ada") -> list[dict[str, Any]]:
    text = (run / "annotations" / f"{who}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_a_verdict_is_appended_with_its_provenance_and_the_next_is_asked(traces: Path) -> None:
    make_run("planted", traces / "run")
    app = open_page("label")
    assert "Enter your name" in words(app)
    app.text_input(key="filter_label_name").set_value("ada").run()
    before = app.code[0].value
    judge(app, "neither")
    assert not app.exception
    (kept,) = lines(traces / "run")
    assert kept["annotator"] == "ada"
    assert kept["verdict"] == "neither"
    assert kept["blind"] is True
    assert kept["queue"] == "random"
    assert kept["detector"] == "mean-L4"
    assert kept["stop"] > kept["start"]
    assert app.code[0].value != before or "sentence" in words(app)
    assert "Last verdict: neither" in words(app)


def test_blind_hides_risk_until_the_verdict(traces: Path) -> None:
    make_run("planted", traces / "run")
    app = open_page("label", queue="near threshold")
    app.text_input(key="filter_label_name").set_value("ada").run()
    assert not [text.value for text in app.text if "risk 0" in text.value]
    judge(app, "says")
    assert [
        text.value for text in app.text if text.value.startswith("Last") and "risk 0" in text.value
    ]
    app.toggle(key="filter_label_blind").set_value(False).run()
    assert [text.value for text in app.text if text.value.startswith("risk 0")]


def test_to_undo_is_to_append_and_asks_again(traces: Path) -> None:
    make_run("planted", traces / "run")
    app = open_page("label")
    app.text_input(key="filter_label_name").set_value("ada").run()
    first = app.code[0].value
    judge(app, "does")
    next(one for one in app.button if one.label == "Undo").click().run()
    assert [one["verdict"] for one in lines(traces / "run")] == ["does", "withdrawn"]
    assert app.code[0].value == first


def test_verdicts_become_labels_that_training_can_name(traces: Path) -> None:
    make_run("planted", traces / "run")
    app = open_page("label")
    app.text_input(key="filter_label_name").set_value("ada").run()
    app.button(key="whole_neither").click().run()
    next(one for one in app.button if one.label == "Make labels of them").click().run()
    assert "labelled by human:ada" in words(app)
    store = Store(traces / "run")
    assert [label.outcome for label in store.labels("human:ada").values()] == [False]
    assert "--labeller human:ada" in words(app)


def test_a_read_only_run_says_so_and_asks_nothing(
    traces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run("planted", traces / "run")
    monkeypatch.setattr(os, "access", lambda *_: False)
    app = open_page("label")
    app.text_input(key="filter_label_name").set_value("ada").run()
    assert "read-only" in words(app)
    assert not [one for one in app.button if one.key.startswith("verdict")]


def test_a_name_that_is_no_file_name_is_refused(traces: Path) -> None:
    make_run("planted", traces / "run")
    app = open_page("label")
    app.text_input(key="filter_label_name").set_value("../x").run()
    assert "cannot be a name" in words(app)
    assert not (traces / "run" / "annotations").exists()


def test_every_queue_says_what_it_is() -> None:
    assert set(QUEUES) == {"near threshold", "disagreement", "random"}
