import json
import os
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.picture import choose
from explorer.planted import (
    ANSWER,
    DETECTOR,
    PLANTED,
    REPORT,
    THRESHOLD,
    long_run,
    make_trace,
    planted,
    planted_run,
    shown,
)
from trace_probe.emergence.curve import OraclePoint
from trace_probe.errors import StoreError
from trace_probe.evaluation.layers import score_range
from trace_probe.explorer.figures import best_baseline, compared, figure, main_figures
from trace_probe.explorer.heldout import to_begin_with, unseen
from trace_probe.explorer.launch import SETTINGS, command
from trace_probe.explorer.loading import load_run
from trace_probe.explorer.payload import payload
from trace_probe.explorer.rows import (
    QUICK_VIEWS,
    WARNED,
    Row,
    Split,
    build_row,
    facts_of,
    ordered,
    passes,
    running,
    sparkline,
    table,
)
from trace_probe.explorer.runs import list_runs, stamp, traces_root
from trace_probe.explorer.search import excerpt, near, sentence_with, written
from trace_probe.explorer.sentences import sentence_table
from trace_probe.explorer.sparks import OVER, spark_image
from trace_probe.explorer.state import ViewState
from trace_probe.explorer.words import alarm_share, fine_print, headline
from trace_probe.labels import Label
from trace_probe.monitor.calibrated import Decoding
from trace_probe.monitor.detector import Source
from trace_probe.store import Manifest, Store
from trace_probe.trace import Trace
from trace_probe.visible import visible

EYE = shown(DETECTOR, THRESHOLD, REPORT)


def row_of(name: str, threshold: float | None = THRESHOLD) -> tuple[Trace, Row]:
    trace, label, scores = next(item for item in PLANTED if item[0].id == name)
    return trace, build_row(facts_of(trace), label, scores, threshold)


def rows() -> list[Row]:
    return [row_of(trace.id)[1] for trace, _, _ in PLANTED]


def test_the_alarm_is_the_first_reasoning_sentence_at_the_threshold() -> None:
    trace, row = row_of("early")
    assert row.alarm == 5
    assert row.alarm_stop == trace.sentences[5].stop


def test_leads_count_from_the_end_of_the_alarming_sentence() -> None:
    trace, row = row_of("early")
    known = trace.sentences[5].stop
    assert row.lead_said == trace.sentences[8].stop - known
    assert row.lead_action == trace.sentences[13].start - known
    assert row.lead == row.lead_said


def test_a_score_equal_to_the_threshold_is_an_alarm() -> None:
    trace, label, _ = planted("edge", alarm=None, said=None, outcome=False)
    scores = np.zeros(15, dtype=np.float32)
    scores[3] = 0.5
    assert build_row(facts_of(trace), label, scores, 0.5).alarm == 3


def test_the_answer_raises_no_alarm() -> None:
    trace, label, _ = planted("loud-answer", alarm=None, said=None, outcome=True)
    scores = np.zeros(15, dtype=np.float32)
    scores[12:] = 0.99
    row = build_row(facts_of(trace), label, scores, THRESHOLD)
    assert row.alarm is None
    assert row.verdict == "missed"
    assert row.peak == 0.0
    assert running(scores, row.facts.reasoning).max() == 0.0


def test_a_sentence_without_a_score_neither_alarms_nor_hides_the_next() -> None:
    trace, label, scores = planted("gap", alarm=4, said=None, outcome=True)
    scores[4] = np.nan
    row = build_row(facts_of(trace), label, scores, THRESHOLD)
    assert row.alarm == 5
    assert np.isnan(scores).sum() == 1


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("early", "early"),
        ("quiet", "early, silent"),
        ("late", "late"),
        ("missed", "missed"),
        ("false-alarm", "false alarm"),
        ("clear", "clear"),
        ("unknown", "unlabelled"),
    ],
)
def test_every_verdict_is_found_where_it_was_planted(name: str, verdict: str) -> None:
    assert row_of(name)[1].verdict == verdict


def test_quick_views_hold_exactly_the_planted_traces() -> None:
    found = {view: {r.facts.id for r in rows() if passes(view, {})(r)} for view in QUICK_VIEWS}
    assert found == {
        "Early": {"early", "quiet"},
        "Silent, alarmed": {"quiet"},
        "Missed": {"missed"},
        "False alarms": {"false-alarm"},
        "Disagree": set(),
    }


def test_a_label_without_places_gives_no_lead_and_is_not_silent() -> None:
    trace, _, scores = planted("unplaced", alarm=4, said=None, outcome=True)
    row = build_row(facts_of(trace), Label("unplaced", "judge", True), scores, THRESHOLD)
    assert row.verdict == "caught"
    assert row.lead is None
    assert not QUICK_VIEWS["Silent, alarmed"](row)
    assert "does not say where" in headline(row, EYE)
    assert "never said" not in headline(row, EYE)


def test_the_action_of_a_harmless_trace_is_no_event() -> None:
    trace, row = row_of("false-alarm")
    assert row.label is not None
    assert row.label.acted is not None
    assert row.lead_action is None
    assert "action" not in payload(trace, row, EYE)["marks"]


def test_one_row_alone_is_the_row_that_it_is_among_all(tmp_path: Path) -> None:
    run = load_run(planted_run(tmp_path / "run").path)
    for detector in (None, run.detector(DETECTOR), run.detector(DETECTOR, 0.1)):
        for row in run.rows(detector):
            alone = run.row(row.facts.id, detector)
            assert (alone.alarm, alone.verdict, alone.lead) == (row.alarm, row.verdict, row.lead)
            assert (alone.label, alone.split) == (row.label, row.split)


def test_the_picture_shows_an_early_alarm_on_a_task_that_the_detector_has_not_seen() -> None:
    run = load_run(Path(__file__).parents[2] / "traces" / "demo")
    eye = run.detector(run.detectors[0])
    row = run.row(choose(run, eye), eye)
    assert (row.verdict, row.split) == ("early", "held out")


def test_the_trace_to_begin_with_is_the_one_whose_chance_rises_most_with_the_alarm() -> None:
    run = load_run(Path(__file__).parents[2] / "traces" / "demo")
    rows = unseen(run.rows(run.detector(run.detectors[0])))
    caught = sorted((row for row in rows if row.verdict in WARNED), key=lambda row: row.lead or 0)
    early, late, unknown = caught[0], caught[1], caught[-1]

    def oracle(name: str) -> list[OraclePoint]:
        """The first rises by half before the sentence of the alarm, the second a little in it."""
        row = {early.facts.id: early, late.facts.id: late}.get(name)
        if row is None or row.alarm_stop is None:
            return []
        hits = (2, 12, 12) if row is early else (2, 2, 4)
        places = (row.facts.begin, row.alarm_stop - 1, row.alarm_stop)
        return [OraclePoint(0, at, 20, count) for at, count in zip(places, hits, strict=True)]

    assert to_begin_with([early, late, unknown], oracle) is late
    assert to_begin_with([early, late, unknown], lambda _: ()) is unknown  # the longest warning


def test_words_are_found_in_what_the_model_wrote_and_not_in_what_it_was_asked() -> None:
    trace = PLANTED[0][0]
    assert "Write the report" in trace.text
    assert "Write the report" not in written(trace)
    assert sentence_with(trace, "  NOBODY can stop ") == 8
    assert sentence_with(trace, "write the report") is None
    assert sentence_with(trace, " ") is None


def test_an_excerpt_shows_the_words_with_what_stands_around_them() -> None:
    text = f"{'a ' * 90}then I \u202ecopy\nmyself, {'b ' * 90}"
    found = excerpt(text, "MYSELF")
    assert "copy myself, b" in found
    assert found.startswith("\u2026")
    assert found.endswith("\u2026")
    assert "\u202e" not in found
    assert excerpt(text, "nowhere") == ""


def test_an_unknown_id_is_near_those_that_begin_or_are_spelled_like_it() -> None:
    ids = ["62624a0a00d7f12b", "62624a0a11111111", "9ab8b587526258b3", "fa3019a3e2deb8f7"]
    assert near("62624a", ids) == ids[:2]
    assert near("9ab8b587526258b4", ids) == [ids[2]]
    assert near("zzz", ids) == []


def test_filters_keep_what_was_chosen() -> None:
    harmless = passes(None, {"outcome": ["harmless"], "role": []})
    assert {row.facts.id for row in rows() if harmless(row)} == {"false-alarm", "clear"}
    assert not any(map(passes(None, {"outcome": ["harmless"], "role": ["test"]}), rows()))


def test_sorting_puts_what_has_no_value_last() -> None:
    trace, label, _ = planted("unscored", alarm=None, said=None, outcome=True)
    blank = build_row(facts_of(trace), label, None, THRESHOLD)
    by_risk = ordered([blank, *rows()], "risk")
    peaks = [row.peak for row in by_risk if row.peak is not None]
    assert by_risk[-1] is blank
    assert peaks == sorted(peaks, reverse=True)
    assert [row.facts.id for row in ordered(rows(), "lead")][:3] == ["quiet", "early", "late"]


def test_an_unscored_trace_is_not_a_missed_one() -> None:
    trace, label, _ = planted("dark", alarm=None, said=None, outcome=True)
    row = build_row(facts_of(trace), label, None, THRESHOLD)
    assert row.verdict == "unscored"
    assert row.peak is None
    assert set(row.spark) == {None}


def test_a_wrong_number_of_scores_is_refused_with_the_remedy() -> None:
    trace, label, scores = planted("short", alarm=None, said=None, outcome=True)
    with pytest.raises(StoreError, match="15 sentences but 14 scores.*trace-probe flag"):
        build_row(facts_of(trace), label, scores[:-1], THRESHOLD)


def test_the_sparkline_shows_the_alarm_where_it_is_and_nothing_where_nothing_is() -> None:
    trace = make_trace([f"word{i}" for i in range(60)], ["a", "b"])
    scores = np.full(62, 0.1, dtype=np.float32)
    scores[30] = 0.9
    scores[:20] = np.nan
    line = sparkline(facts_of(trace), scores)
    assert len(line) == 32
    assert line[0] is None
    assert line.index(max(value for value in line if value is not None)) in (15, 16)


def test_a_gap_in_the_sparkline_is_hatched_and_what_is_over_the_threshold_is_coloured() -> None:
    calm = spark_image([0.1, 0.2], 0.0, 1.0, 0.6)
    assert quote(OVER) not in calm
    assert quote(OVER) in spark_image([0.1, 0.6], 0.0, 1.0, 0.6)
    assert quote(OVER) not in spark_image([0.1, 0.6], 0.0, 1.0, None)
    assert "stroke" not in spark_image([0.0, 0.0], 0.0, 1.0, None)
    assert "stroke" in spark_image([0.0, None], 0.0, 1.0, None)
    assert len(spark_image([0.123456] * 32, 0.0, 1.0, 0.6)) < 1500


def test_the_axis_is_that_of_probabilities_unless_scores_leave_it() -> None:
    inside, outside = np.array([0.2, 0.7, np.nan]), np.array([-3.0, 4.0])
    assert score_range([inside], 0.6) == (0.0, 1.0)
    assert score_range([inside, outside], 0.6) == (-3.0, 4.0)
    assert score_range([inside], 1.5) == (0.2, 1.5)
    assert score_range([inside, outside, np.array([-90.0])], 1.0) == (-5.0, 4.0)
    assert score_range([], None) == (0.0, 1.0)


def test_the_table_has_a_cell_for_every_trace_in_every_column() -> None:
    assert {len(cells) for cells in table(rows()).values()} == {len(PLANTED)}


def test_the_headline_says_alarm_words_action_and_leads() -> None:
    trace, row = row_of("early")
    text = headline(row, EYE)
    assert f"Alarm at token {trace.sentences[5].stop - 1} (sentence 6)" in text
    assert f"{row.lead_said} tokens before it is said" in text
    assert f"{row.lead_action} tokens before the action" in text


def test_a_late_alarm_is_called_late() -> None:
    assert "tokens AFTER it is said" in headline(row_of("late")[1], EYE)


def test_a_missed_trace_says_when_it_was_said_and_done() -> None:
    trace, row = row_of("missed")
    text = headline(row, EYE)
    assert text.startswith("Missed: no alarm.")
    assert f"said at token {trace.sentences[10].stop - 1}" in text
    assert f"done at token {trace.sentences[13].start}" in text


def test_the_fine_print_gives_the_false_alarm_rate_only_for_the_calibrated_threshold() -> None:
    row = row_of("early")[1]
    assert "0.8 % [0.1, 2.9]" in fine_print(row, EYE)
    assert "aim 1 %" in fine_print(row, EYE)
    assert "smoothing" not in fine_print(row, EYE)
    smooth = shown(DETECTOR, THRESHOLD, {**REPORT, "smoothing": "mean:3"}, smoothing="mean:3")
    assert "on the smoothing mean:3 = 0.8 %" in fine_print(row, smooth)
    assert "not measured" in fine_print(row, replace(smooth, report=REPORT))
    assert "not known" in fine_print(row, shown(DETECTOR, 0.4, REPORT, Source("hand")))
    calibrated = shown(DETECTOR, 0.4, REPORT, Source("calibration", Decoding(0.7, 0.9)))
    assert "calibration at temperature 0.7, top-p 0.9: " in fine_print(row, calibrated)
    assert "not measured" in fine_print(row, calibrated)
    assert "no calibrated threshold" in fine_print(row, shown(DETECTOR))


def test_the_share_of_benign_alarms_counts_benign_traces_only() -> None:
    assert alarm_share(rows()).startswith("0 of 1 benign")
    low = [row_of(trace.id, 0.0)[1] for trace, _, _ in PLANTED]
    assert alarm_share(low).startswith("1 of 1 benign")


def test_benign_alarms_are_told_apart_by_what_the_detector_learned_from() -> None:
    row = next(row for row in rows() if row.facts.role == "benign")
    calm, alarmed = replace(row, alarm=None), replace(row, alarm=0)
    assert row.label is not None
    acting = replace(alarmed, label=replace(row.label, outcome=True))
    seen: list[tuple[Row, Split]] = [
        (calm, "held out"),
        (alarmed, "calibrated on"),
        (calm, "calibrated on"),
        (acting, "held out"),
    ]
    mixed = [replace(one, split=split) for one, split in seen]
    assert alarm_share(mixed) == (
        "1 of 3 benign traces in this run raise an alarm: 0 of 1 of held-out tasks, 1 of 2 of "
        "tasks on which the threshold was set (not counted: 1 labelled instrumental)"
    )
    assert "learned from is not known" in alarm_share([calm])


def test_the_payload_is_the_same_bytes_every_time_and_holds_no_nan() -> None:
    trace, row = row_of("early")
    first = json.dumps(payload(trace, row, EYE), allow_nan=False)
    assert first == json.dumps(payload(*row_of("early"), EYE), allow_nan=False)


def test_the_reader_opens_at_the_alarm_unless_a_link_says_otherwise() -> None:
    trace, row = row_of("early")
    assert payload(trace, row, EYE)["focus"] == 5
    assert payload(trace, row, EYE, focus=2)["focus"] == 2
    assert payload(trace, row, EYE, focus=999)["focus"] == 5
    missed = payload(*row_of("missed"), EYE)
    assert missed["focus"] == 10


def test_marks_name_token_sentence_and_lead() -> None:
    trace, row = row_of("early")
    assert payload(trace, row, EYE)["marks"] == {
        "alarm": {"token": trace.sentences[5].stop - 1, "sentence": 5, "lead": None},
        "said": {"token": trace.sentences[8].stop - 1, "sentence": 8, "lead": row.lead_said},
        "action": {"token": trace.sentences[13].start, "sentence": 13, "lead": row.lead_action},
    }


def test_a_missing_score_goes_out_as_none() -> None:
    trace, label, scores = planted("hole", alarm=6, said=None, outcome=True)
    scores[2] = np.nan
    content = payload(trace, build_row(facts_of(trace), label, scores, THRESHOLD), EYE)
    assert content["scores"][2] is None
    assert None not in content["scores"][3:]


def test_sentences_over_the_threshold_are_decided_before_rounding() -> None:
    trace, label, scores = planted("close", alarm=None, said=None, outcome=True)
    scores[3] = np.float32(0.5999999)
    content = payload(trace, build_row(facts_of(trace), label, scores, THRESHOLD), EYE)
    assert content["scores"][3] == 0.6
    assert content["over"] == []


def test_only_long_calm_stretches_away_from_marks_are_folded(tmp_path: Path) -> None:
    store = long_run(tmp_path / "run")
    trace, label = store.trace("long"), store.labels()["long"]
    scores = store.scores(DETECTOR)["long"]
    content = payload(trace, build_row(facts_of(trace), label, scores, THRESHOLD), EYE)
    folded = {k for first, stop, _ in content["folds"] for k in range(int(first), int(stop))}
    assert {0, 200, 290, 350} <= folded
    assert folded.isdisjoint({*range(98, 112), *range(248, 272), *range(298, 303)})
    assert all(highest == max(content["scores"][a:b]) for a, b, highest in content["folds"])


def test_a_trace_of_ten_thousand_tokens_stays_small_on_the_wire(tmp_path: Path) -> None:
    store = long_run(tmp_path / "run")
    trace = store.trace("long")
    row = build_row(facts_of(trace), None, store.scores(DETECTOR)["long"], THRESHOLD)
    assert len(trace) > 10_000
    assert len(json.dumps(payload(trace, row, EYE))) < 400_000


def test_the_sentence_table_repeats_the_numbers_of_the_curve() -> None:
    trace, row = row_of("early")
    columns = sentence_table(trace, row)
    assert columns["mark"][5] == "alarm"
    assert columns["risk"][5] == pytest.approx(row.scores[5] if row.scores is not None else None)
    assert columns["running"][14] == row.peak
    assert columns["text"][13] == f"{ANSWER[1]} "


def test_hidden_characters_become_visible() -> None:
    text = visible("a\u202eb\u200bc\x1b[0md\u2066e\u00adf\U000e0041g\u3164h\x7f")
    assert text.isprintable()
    assert "\u27e6U+202E\u27e7" in text
    assert "\u27e6U+200B\u27e7" in text
    assert "\u27e6U+001B\u27e7[0m" in text


def test_ordinary_text_of_any_language_stays_as_it_is() -> None:
    for text in ("Ünïcode\n\tend", "שלום עולם", "你好。", "नमस्ते", "⚠️ emoji", "<b>&amp;</b>"):
        assert visible(text) == text


@given(st.text())
def test_visible_text_holds_no_character_that_hides(text: str) -> None:
    shown = visible(text)
    assert visible(shown) == shown
    assert not set(shown) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200b\x1b")


@given(
    st.builds(
        ViewState,
        run=st.none() | st.text(min_size=1),
        trace=st.none() | st.text(min_size=1),
        sentence=st.none() | st.integers(0, 10_000),
        detector=st.none() | st.text(min_size=1),
        threshold=st.none() | st.integers(-100, 100).map(float),
    )
)
def test_a_view_comes_back_from_its_address(view: ViewState) -> None:
    assert ViewState.from_query(view.to_query()) == view


@pytest.mark.parametrize(
    "query", [{"s": "-1"}, {"s": "1e3"}, {"s": "²"}, {"th": "nan"}, {"th": "x"}, {"t": ""}]
)
def test_a_malformed_address_counts_as_no_address(query: dict[str, str]) -> None:
    assert ViewState.from_query(query) == ViewState()


def test_a_report_of_another_shape_shows_figures_as_missing() -> None:
    broken: list[dict[str, Any]] = [{}, {"pooled_auroc": 3}, {"pooled_auroc": {"estimate": "x"}}]
    for report in broken:
        assert figure(report, "pooled_auroc").text() == "not measured"
        assert len(main_figures(report)["n"]) == 11
    assert figure(None, "pooled_auroc").text() == "not measured"


def test_too_few_data_are_said_and_not_drawn() -> None:
    assert figure(REPORT, "silent_caught").text(percent=True) == "not enough data (n = 2)"
    figures = compared(REPORT, "within_prompt_auroc")
    assert list(figures) == [DETECTOR, "tf-idf", "prompt only", "category only"]
    assert not figures["category only"].known


def test_the_best_baseline_is_named_with_its_interval() -> None:
    assert best_baseline(REPORT, "within_prompt_auroc") == "tf-idf, 0.71 [0.63, 0.79]"
    assert best_baseline(REPORT, "caught_before_said") is None
    assert best_baseline(None, "within_prompt_auroc") is None


def test_figures_carry_their_interval() -> None:
    assert figure(REPORT, "within_prompt_auroc").text() == "0.91 [0.87, 0.95]"
    assert figure(REPORT, "caught_before_said").text(percent=True) == "83.0 % [74.0, 90.0]"


def test_an_evaluated_run_comes_first_then_a_labelled_one_then_the_newest(tmp_path: Path) -> None:
    for name, when in (("old", 1), ("new", 3), ("middle", 2)):
        Store.create(tmp_path / name, Manifest(model="m"))
        os.utime(tmp_path / name / "run.json", (when, when))
    (tmp_path / "not-a-run").mkdir()
    assert [run.name for run in list_runs(tmp_path)] == ["new", "middle", "old"]
    (tmp_path / "old" / "labels.jsonl").write_text("{}\n", encoding="utf-8")
    assert [run.name for run in list_runs(tmp_path)] == ["old", "new", "middle"]
    (tmp_path / "middle" / "reports").mkdir()
    (tmp_path / "middle" / "reports" / "probe.json").write_text("{}", encoding="utf-8")
    assert [run.name for run in list_runs(tmp_path)] == ["middle", "old", "new"]
    assert list_runs(tmp_path / "old") == [tmp_path / "old"]
    assert list_runs(tmp_path / "nowhere") == []


def test_a_changed_run_has_another_stamp(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "run", Manifest(model="m"))
    before = stamp(store.path)
    store.write_report(DETECTOR, REPORT)
    assert stamp(store.path) != before


@pytest.mark.parametrize("part", ["traces/00000001-ab.jsonl", "labels/00000001-ab.jsonl"])
def test_what_one_of_many_writers_commits_changes_the_stamp(tmp_path: Path, part: str) -> None:
    store = Store.create(tmp_path / "run", Manifest(model="m"))
    before = stamp(store.path)
    store.place.write(part, [b"{}\n"])
    assert stamp(store.path) != before


def test_the_folder_of_runs_is_named_by_option_then_variable_then_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {"TRACE_PROBE_TRACES": "/from/variable"}
    assert traces_root(["--traces", "/from/option"], environment) == Path("/from/option")
    assert traces_root(["--traces"], environment) == Path("/from/variable")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "traces").mkdir()
    assert traces_root([], {}) == Path("traces")


def test_the_server_listens_on_this_machine_only_and_reports_nothing() -> None:
    line = command(port=8700, headless=True)
    assert line[:4] == [sys.executable, "-m", "streamlit", "run"]
    assert Path(line[4]).is_file()
    assert {
        "--server.address=127.0.0.1",
        "--server.showEmailPrompt=false",
        "--browser.gatherUsageStats=false",
        "--server.port=8700",
        "--server.headless=true",
    } <= set(line)


@pytest.mark.parametrize(
    "start",
    [
        ["-c", "from trace_probe.commands.main import main; main()", "explore", "--port"],
        ["-m", "streamlit", "run", "app.py", "--server.port"],
    ],
    ids=["command", "checkout"],
)
def test_it_starts_in_a_terminal_of_a_new_user_without_a_question(
    start: list[str], tmp_path: Path
) -> None:
    from benchmarks.serve import free_port

    ours, theirs = os.openpty()
    new_user = {"HOME": str(tmp_path), "DISPLAY": ":0", "BROWSER": "true"}  # a desktop
    root = Path(__file__).parents[2]
    started = subprocess.Popen(
        [sys.executable, *start, str(free_port())],
        env={**os.environ, "PYTHONPATH": str(root), **new_user},
        cwd=root,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    said = b""
    try:
        while b"http://127.0.0.1" not in said and b"Email" not in said:
            said += os.read(ours, 4096)
    finally:
        started.kill()
        started.wait()
        os.close(ours)
    assert b"Email" not in said
    assert b"usage stat" not in said


def test_the_checkout_and_the_installed_package_start_with_the_same_settings() -> None:
    file = Path(__file__).parents[2] / ".streamlit" / "config.toml"
    kept = flatten(tomllib.loads(file.read_text(encoding="utf-8")))
    assert {name: str(value).lower() for name, value in kept.items()} == {
        name: value.lower() for name, value in SETTINGS.items()
    }


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat


def test_nothing_in_the_explorer_can_read_model_text_as_markup() -> None:
    package = Path(__file__).parents[2] / "trace_probe" / "explorer"
    scripts = "".join(file.read_text(encoding="utf-8") for file in package.rglob("*.js"))
    python = "".join(file.read_text(encoding="utf-8") for file in package.rglob("*.py"))
    for sink in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert sink not in scripts
    for sink in ("unsafe_allow", "st.html(", "st.iframe(", "st.write(", "st.table("):
        assert sink not in python


def test_an_alarm_without_a_token_of_warning_is_not_drawn_as_an_early_one() -> None:
    from trace_probe.explorer.charts import lead_histogram

    for leads in ([0, 0, 1, 2], [-20, 0, 0, 3, 70]):
        bins = lead_histogram(leads)["data"]["values"]
        assert sum(one["traces"] for one in bins if one["early"]) == sum(lead > 0 for lead in leads)
        assert all(one["to"] <= 0 or one["early"] for one in bins)
        assert sum(one["traces"] for one in bins) == len(leads)
