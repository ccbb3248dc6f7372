import json
from dataclasses import replace
from pathlib import Path

import pytest

from explorer.conftest import make_run
from explorer.pages import PAGES, VIEWS, open_page, reader_content, words
from explorer.planted import DETECTOR, HOSTILE, PLANTED, RISKY, THRESHOLD, make_trace
from trace_probe.labels import Label
from trace_probe.store import Manifest, Store

BROKEN = ("broken scores", "broken report", "short scores")

CARD = json.dumps({"training_tasks": ["making-copies-early"], "calibration_tasks": []})


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize(
    "kind",
    ["planted", "hostile", "unscored", "unlabelled", "unevaluated", "bare", "empty"],
)
def test_every_page_opens_on_every_kind_of_run(page: str, kind: str, traces: Path) -> None:
    make_run(kind, traces / "run")
    app = open_page(page)
    assert not app.exception
    assert not app.error


@pytest.mark.parametrize("page", PAGES)
def test_every_page_opens_on_a_run_with_a_broken_line(page: str, traces: Path) -> None:
    make_run("garbage", traces / "run")
    assert not open_page(page).exception


@pytest.mark.parametrize("page", PAGES)
def test_no_runs_says_where_it_looked_and_how_to_make_one(page: str, traces: Path) -> None:
    app = open_page(page)
    assert not app.exception
    assert str(traces) in words(app)
    assert "there is no run in it" in words(app)
    assert "trace-probe demo" in words(app)


def test_a_missing_folder_is_called_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACE_PROBE_TRACES", str(tmp_path / "nowhere"))
    assert "does not exist" in words(open_page("home"))


@pytest.mark.parametrize(
    ("page", "kind"),
    [*((page, "other schema") for page in PAGES), *(("home", kind) for kind in BROKEN)],
)
def test_a_broken_run_is_named_on_every_page(page: str, kind: str, traces: Path) -> None:
    make_run(kind, traces / "run")
    app = open_page(page)
    assert not app.exception
    assert "This run cannot be read" in words(app)
    assert str(traces / "run") in app.code[0].value


@pytest.mark.parametrize("kind", ["garbage", "foreign trace", "foreign label"])
def test_a_broken_line_is_named_and_the_rest_is_shown(kind: str, traces: Path) -> None:
    make_run(kind, traces / "run")
    app = open_page("traces")
    assert not app.exception
    assert "Some lines of this run cannot be read" in words(app)
    assert "is broken at line 1" in app.code[0].value
    assert bool(app.dataframe) == (kind != "foreign trace")


def test_a_broken_run_does_not_hide_the_others(traces: Path) -> None:
    make_run("other schema", traces / "bad")
    make_run("planted", traces / "good")
    app = open_page("traces", r="bad")
    assert "This run cannot be read" in words(app)
    app.selectbox(key="run").select("good").run()
    assert not app.error
    assert len(app.dataframe[0].value) == 7


def test_the_table_is_sorted_by_risk_and_filters_narrow_it(traces: Path) -> None:
    make_run("planted", traces / "run")
    app = open_page("traces")
    peaks = list(app.dataframe[0].value["peak"])
    assert peaks == sorted(peaks, reverse=True)
    app.multiselect(key="filter_outcome").select("harmless").run()
    assert set(app.dataframe[0].value["result"]) == {"false alarm", "clear"}
    app.multiselect(key="filter_role").select("test").run()
    assert "No trace passes these filters." in words(app)
    app.button[0].click().run()
    assert len(app.dataframe[0].value) == 7


def test_the_list_is_in_the_address_and_the_address_is_the_list(traces: Path) -> None:
    make_run("planted", traces / "run")
    app = open_page("traces")
    app.pills(key="filter_view").set_value("Missed").run()
    app.segmented_control(key="filter_sort").set_value("lead").run()
    assert app.query_params["view"] == "Missed"
    assert app.query_params["sort"] == "lead"
    linked = open_page("traces", r="run", outcome="harmless|instrumental", view="Early", q="late")
    assert "No trace passes" in words(linked)
    again = open_page("traces", r="run", outcome="harmless|no such")
    assert set(again.dataframe[0].value["outcome"]) == {"harmless"}


def test_a_list_without_rows_blames_the_strictest_filter(traces: Path) -> None:
    make_run("planted", traces / "run")
    app = open_page("traces", view="Missed", outcome="harmless")
    assert "the quick view removes 6 of 7" in words(app)


def test_a_long_list_comes_in_pages(traces: Path) -> None:
    store = Store.create(traces / "run", Manifest(model="m"))
    with store.writing():
        for number in range(205):
            store.add(make_trace(["One."], ["Two."], name=f"t{number:03}"))
    app = open_page("traces")
    assert len(app.dataframe[0].value) == 200
    assert "205 of 205 traces" in words(app)
    app.session_state["traces_page"] = 2
    app.run()
    assert len(app.dataframe[0].value) == 5


def test_the_sentence_at_the_alarm_is_in_the_list(traces: Path) -> None:
    make_run("planted", traces / "run")
    table = open_page("traces").dataframe[0].value
    alarmed = table[table["result"] == "early"]
    assert alarmed["sentence at the alarm"].iloc[0] in RISKY


def test_words_of_a_text_narrow_the_list_and_open_the_trace_at_their_sentence(
    traces: Path,
) -> None:
    make_run("planted", traces / "run")
    app = open_page("traces", q="nobody CAN stop")
    table = app.dataframe[0].value
    assert set(table["result"]) == {"early", "late", "missed"}
    assert all("so that nobody can stop me" in found for found in table["words found"])
    place = list(table["result"]).index("late")
    app.session_state["table_0"] = {"selection": {"rows": [place], "columns": [], "cells": []}}
    app.run()
    assert app.query_params["t"] == "late"
    assert reader_content(app)["focus"] == 9


def test_an_unknown_trace_proposes_those_that_are_nearly_so_called(traces: Path) -> None:
    make_run("planted", traces / "run")
    app = open_page("trace", t="earli")
    assert "early" in words(app)
    app.button(key="near_early").click().run()
    assert app.query_params["t"] == "early"
    assert reader_content(app)["trace"] == "early"


def test_one_trace_is_shown_without_the_rows_of_all_others(
    traces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run("planted", traces / "run")
    open_page("trace", t="early")

    def refuse(*_: object) -> None:
        raise AssertionError("every row was made")

    monkeypatch.setattr("trace_probe.explorer.loading.Rows", refuse)
    app = open_page("trace", t="early", th="0.1")
    assert not app.exception
    assert reader_content(app)["threshold"] == pytest.approx(0.1)


def test_the_risk_stands_before_all_that_a_narrow_screen_cuts_off_and_ids_are_shown(
    traces: Path,
) -> None:
    make_run("planted", traces / "run")
    table = open_page("traces").dataframe[0]
    assert list(table.proto.column_order)[:2] == ["peak", "task"]
    assert "id" in table.proto.column_order
    assert set(table.value["id"]) == {trace.id for trace, _, _ in PLANTED}
    assert "trace quiet" in words(open_page("trace", t="quiet"))


def test_a_run_without_scores_is_read_without_risk_and_says_what_is_missing(traces: Path) -> None:
    make_run("unscored", traces / "run")
    content = reader_content(open_page("trace", t="early"))
    assert content["headline"].startswith("No scores for this trace.")
    assert content["scores"] == [None] * 15
    assert content["facts"][0]["value"] == "Not scored"
    table = open_page("traces")
    assert "trace-probe train" in words(table)
    assert "peak" not in table.dataframe[0].proto.column_order


def test_a_run_without_activations_is_pointed_to_what_words_can_tell(traces: Path) -> None:
    with Store.create(traces / "run", Manifest(model="m", source="imported")).writing() as store:
        store.add(make_trace(["One."], ["Two."]))
    for page in ("home", "traces", "metrics"):
        assert "by its words alone" in words(open_page(page))


def test_a_thought_that_was_cut_short_is_said_to_be(traces: Path) -> None:
    with Store.create(traces / "run", Manifest(model="m")).writing() as store:
        store.add(replace(make_trace(["One."], ["Two."]), thought="truncated"))
    assert reader_content(open_page("trace"))["note"] == "reasoning: truncated"


def test_labellers_can_be_chosen_and_their_disagreement_is_a_view(traces: Path) -> None:
    make_run("planted", traces / "run")
    store = Store(traces / "run")
    with store.writing():
        store.add_labels([Label("early", "human:ada", False), Label("missed", "human:ada", True)])
    app = open_page("traces", view="Disagree")
    assert app.selectbox(key="labeller").value == "rule"
    assert len(app.dataframe[0].value) == 1
    app.selectbox(key="labeller").select("human:ada").run()
    assert list(app.dataframe[0].value["outcome"]) == ["harmless"]
    assert app.query_params["by"] == "human:ada"


def test_filters_outlive_a_visit_to_another_page(traces: Path) -> None:
    make_run("planted", traces / "run")
    app = open_page("traces")
    app.multiselect(key="filter_outcome").select("harmless").run()
    app.switch_page(str(VIEWS / "metrics.py")).run()
    app.switch_page(str(VIEWS / "traces.py")).run()
    assert len(app.dataframe[0].value) == 2


def test_a_click_on_any_cell_of_a_row_opens_its_trace(traces: Path) -> None:
    make_run("planted", traces / "run")
    app = open_page("traces")
    place = list(app.dataframe[0].value["result"]).index("late")
    chosen = {"rows": [], "columns": [], "cells": [(place, "peak")]}
    app.session_state["table_0"] = {"selection": chosen}
    app.run()
    assert app.query_params["t"] == "late"


def test_a_sentence_is_judged_where_it_is_read(traces: Path) -> None:
    make_run("planted", traces / "run")
    app = open_page("trace", t="early", s="2")
    app.text_input(key="filter_label_name").set_value("ada").run()
    app.button(key="verdict_says").click().run()
    assert not app.exception
    (line,) = (traces / "run" / "annotations" / "ada.jsonl").read_text("utf-8").splitlines()
    kept = json.loads(line)
    assert (kept["trace_id"], kept["sentence"], kept["verdict"]) == ("early", 2, "says")
    assert kept["blind"] is False
    assert "You said: says it." in words(app)


def test_a_run_that_nobody_has_labelled_does_not_say_that_nothing_was_done(traces: Path) -> None:
    make_run("planted", traces / "run")
    (traces / "run" / "labels.jsonl").unlink()
    acted = next(one for one in open_page("home").metric if one.label == "Acted instrumentally")
    assert acted.value == "unknown"


def test_home_says_that_a_run_is_still_being_written(traces: Path) -> None:
    make_run("planted", traces / "run")
    assert "being written" not in words(open_page("home"))
    with Store(traces / "run").writing() as run:
        assert "being written" in words(open_page("home"))
        run.expect(1_000)
        assert f"Recording: {len(run)} of 1,000 traces." in words(open_page("home"))


def test_choosing_a_row_opens_its_trace_at_the_alarm(traces: Path) -> None:
    make_run("planted", traces / "run")
    app = open_page("traces")
    place = list(app.dataframe[0].value["result"]).index("early")
    app.session_state["table_0"] = {"selection": {"rows": [place], "columns": [], "cells": []}}
    app.run()
    assert not app.exception
    assert app.query_params["t"] == "early"
    assert reader_content(app)["focus"] == 5


def test_a_deep_link_lands_on_its_sentence_with_its_detector_and_threshold(traces: Path) -> None:
    make_run("planted", traces / "run")
    make_run("planted", traces / "newer")
    app = open_page("trace", r="run", t="early", s="2", p=DETECTOR, th="0.1")
    content = reader_content(app)
    assert content["trace"] == "early"
    assert content["focus"] == 2
    assert content["threshold"] == pytest.approx(0.1)
    assert app.selectbox(key="run").value == "run"
    assert "chosen by hand" in content["facts"][3]["detail"]


def test_the_address_always_links_to_what_is_shown(traces: Path) -> None:
    make_run("planted", traces / "run")
    app = open_page("trace", t="quiet")
    assert app.query_params == {"r": "run", "t": "quiet", "p": DETECTOR}


def test_moving_the_reader_moves_the_address_but_sends_nothing_new(traces: Path) -> None:
    make_run("planted", traces / "run")
    app = open_page("trace", t="early")
    before = app.get("bidi_component")[0].proto.json
    app.session_state["reader_run_early"] = {"sentence": 9}
    app.run()
    assert app.query_params["s"] == "9"
    assert app.get("bidi_component")[0].proto.json == before


def test_a_threshold_of_ones_own_moves_the_alarm(traces: Path) -> None:
    make_run("planted", traces / "run")
    app = open_page("trace", t="early")
    app.toggle[0].set_value(True).run()
    assert reader_content(app)["threshold"] == THRESHOLD
    app.slider[0].set_value(1.0).run()
    assert "alarm" not in reader_content(app)["marks"]
    assert app.query_params["th"] == "1"


def test_next_and_previous_walk_the_list(traces: Path) -> None:
    make_run("planted", traces / "run")
    app = open_page("trace", t="quiet")
    app.button[1].click().run()
    assert app.query_params["t"] == "early"
    app.button[0].click().run()
    assert app.query_params["t"] == "quiet"


@pytest.mark.parametrize("link", [{"t": "![x](http://evil.invalid)"}, {"r": "gone", "t": "gone"}])
def test_a_link_to_nothing_says_so_as_plain_text(link: dict[str, str], traces: Path) -> None:
    make_run("planted", traces / "run")
    app = open_page("trace", **link)
    assert not app.exception
    assert "not in this run" in words(app)
    assert any(link["t"] in code.value for code in app.code)
    assert not any(link["t"] in error.value for error in app.error)


def test_a_run_without_an_evaluation_shows_scores_and_says_there_is_no_threshold(
    traces: Path,
) -> None:
    make_run("unevaluated", traces / "run")
    app = open_page("trace", t="early")
    content = reader_content(app)
    assert content["threshold"] is None
    assert content["scores"][5] > THRESHOLD
    assert "without a threshold" in content["headline"]
    assert "no calibrated threshold" in words(open_page("traces"))


def test_home_calls_an_organism_an_instrument(traces: Path) -> None:
    make_run("planted", traces / "run")
    assert "not evidence about frontier" in words(open_page("home"))
    assert "not evidence about frontier" in words(open_page("about"))


def test_home_does_not_call_other_models_organisms(traces: Path) -> None:
    make_run("hostile", traces / "run")
    assert "not evidence about frontier" not in words(open_page("home"))


def test_about_shows_the_card_of_the_probe(traces: Path) -> None:
    make_run("planted", traces / "run")
    card = traces.parent / "probes" / DETECTOR / "card.json"
    card.parent.mkdir(parents=True)
    card.write_text(CARD, encoding="utf-8")
    assert CARD in words(open_page("about"))


def test_about_says_what_the_threshold_of_the_probe_is_of(traces: Path) -> None:
    make_run("planted", traces / "run")
    card = traces.parent / "probes" / DETECTOR / "card.json"
    card.parent.mkdir(parents=True)
    said = {
        "threshold": 0.6,
        "smoothing": "mean:3",
        "ranked_by": "mean:5",
        "target": "situation",
        "focus": "last",
        "guarantee": "pac",
    }
    card.write_text(json.dumps({**json.loads(CARD), **said}), encoding="utf-8")
    tables = [one.value for one in open_page("about").dataframe]
    shown = dict(pair for table in tables for pair in zip(*table.values.T, strict=True))
    for name, value in said.items():
        assert shown[name.replace("_", " ")] == str(value)


def test_about_calls_risk_what_the_alarm_follows(traces: Path) -> None:
    make_run("planted", traces / "run")
    told = "\n".join(one.value for one in open_page("about").markdown)
    assert "**Risk** of a sentence: its score, or a smoothed value of the scores up to it" in told
    assert "as *ranked by* says" in told


def test_tasks_the_probe_has_learned_from_are_told_apart(traces: Path) -> None:
    make_run("planted", traces / "run")
    assert "task held out" not in reader_content(open_page("trace", t="early"))["title"]
    card = traces.parent / "probes" / DETECTOR / "card.json"
    card.parent.mkdir(parents=True)
    card.write_text(CARD, encoding="utf-8")
    assert "training task" in reader_content(open_page("trace", t="early"))["title"]
    assert "task held out" in reader_content(open_page("trace", t="late"))["title"]
    home = words(open_page("home"))
    assert "An early warning" not in home
    assert "1 of 2 alarms" in home
    assert "on tasks the detector has not seen" in home


def test_a_broken_card_is_named(traces: Path) -> None:
    make_run("planted", traces / "run")
    card = traces.parent / "probes" / DETECTOR / "card.json"
    card.parent.mkdir(parents=True)
    card.write_text("{", encoding="utf-8")
    app = open_page("home")
    assert not app.exception
    assert "card.json is not JSON" in words(app)


def test_metrics_shows_every_baseline_beside_the_detector(traces: Path) -> None:
    make_run("planted", traces / "run")
    app = open_page("metrics")
    tables = [table.value for table in app.dataframe if "detector" in table.value]
    assert list(tables[-1]["detector"]) == [
        DETECTOR,
        "tf-idf",
        "prompt only",
        "category only",
    ]


@pytest.mark.parametrize("page", PAGES)
def test_hostile_text_never_reaches_markdown(page: str, traces: Path) -> None:
    make_run("hostile", traces / "run")
    app = open_page(page)
    sinks = [*app.markdown, *app.caption, *app.error, *app.info, *app.warning, *app.metric]
    sinks += [*app.title, *app.subheader, *app.expander, *app.button]
    assert not app.exception  # a page that broke shows no text at all
    texts = [str(getattr(sink, "value", "")) + str(getattr(sink, "label", "")) for sink in sinks]
    for hostile in HOSTILE:
        assert not any(hostile in text for text in texts)


def test_the_raw_view_shows_what_is_stored_with_hidden_characters_visible(traces: Path) -> None:
    make_run("hostile", traces / "run")
    app = open_page("trace")
    app.segmented_control[0].set_value("Raw").run()
    assert not app.exception
    raw = "\n".join(code.value for code in app.code)
    assert HOSTILE[0] in raw
    assert "\u202e" not in raw
    assert "\u27e6U+202E\u27e7" in raw
