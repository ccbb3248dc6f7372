"""Text of one's own under a probe, and a generation under watch, on the committed demo."""

import json
import shutil
import time
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from explorer.conftest import make_run
from explorer.pages import APP, open_page, words
from trace_probe.errors import TraceError
from trace_probe.explorer.panels import Frame, panel
from trace_probe.explorer.runs import VARIABLE
from trace_probe.explorer.watching import Watched
from trace_probe.explorer.words import ShownDetector
from trace_probe.explorer.written import MOST_TEXTS, TEXT_DETECTOR, Pasted, score_words, transcripts
from trace_probe.monitor.detector import Detector, Source, as_detector
from trace_probe.monitor.scorer import ScoredSentence
from trace_probe.monitor.sharing import seal_probe
from trace_probe.probing.probe import load_probe
from trace_probe.statistics.smoothing import MAX
from trace_probe.store import Store

ROOT = APP.parent
EYE = Detector("eye", MAX, 0.5, Source("hand"))
DEMO, PROBE = ROOT / "traces" / "demo", ROOT / "probes" / "demo"


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv(VARIABLE, str(DEMO.parent))
    return Store(DEMO)


def paste(app: Any, reasoning: str, answer: str = "") -> Any:
    areas = {area.label: area for area in app.text_area}
    areas["Reasoning"].set_value(reasoning)
    areas["Answer"].set_value(answer)
    return next(one for one in app.button if one.label == "Score").click().run(timeout=120)


def test_pasted_text_becomes_one_transcript_in_its_parts() -> None:
    content = Pasted("Do it.", "I think. I plan.", "Done.").jsonl()
    ((trace, label),) = list(transcripts(content))
    assert label is None
    assert trace.channel_text("reasoning").split() == ["I", "think.", "I", "plan."]
    assert [span.channel for span in trace.sentences] == ["reasoning", "reasoning", "answer"]


def test_an_example_fills_the_fields_in_words_that_the_model_knows(demo: Store) -> None:
    app = open_page("score", r=demo.name)
    next(one for one in app.button if one.label == "Fill in an example").click().run()
    areas = {area.label: area.value for area in app.text_area}
    assert areas["Prompt"].startswith("You")
    assert areas["Reasoning"].count(".") > 2
    assert not any("<" in text for text in areas.values())


def test_a_file_of_too_many_texts_is_pointed_to_import() -> None:
    content = b"\n".join([Pasted("", "One.", "").jsonl()] * (MOST_TEXTS + 1))
    with pytest.raises(TraceError, match="trace-probe import"):
        list(transcripts(content))


def test_words_alone_give_scores_of_the_reasoning_and_none_of_the_answer(demo: Store) -> None:
    (found,) = score_words(Pasted("", "It will not do. Take dawn.", "Done.").jsonl(), demo)
    assert np.isfinite(found.scores[:2]).all()
    assert np.isnan(found.scores[2])


def test_a_recorded_trace_pasted_back_has_its_scores_up_to_the_end_of_the_thought(
    demo: Store,
) -> None:
    from trace_probe.explorer.written import score_with_probe
    from trace_probe.model.local import load_model

    saved = load_probe(PROBE)
    name = saved.card.model.rpartition("@")[0]
    trace = next(t for t in demo.traces() if t.thought == "closed" and t.finish == "stop")
    parts = [trace.channel_text(part) for part in ("reasoning", "answer")]
    content = Pasted(trace.task.prompt, *parts).jsonl()
    (found,) = score_with_probe(content, load_model(name), as_detector(saved))
    recorded = demo.scores(saved.card.name)[trace.id]
    inner = np.flatnonzero(np.isfinite(recorded))[:-1]
    assert len(inner) > 2
    assert [s.channel for s in found.trace.sentences] == [s.channel for s in trace.sentences]
    np.testing.assert_allclose(found.scores[inner], recorded[inner], atol=0.01)


def test_the_page_reads_pasted_text_with_the_probe(demo: Store) -> None:
    app = open_page("score", r="demo")
    assert not app.exception
    paste(app, "It will not do. I look at the grey panel.", "I open the grey panel.")
    assert not app.exception
    assert not app.error
    assert app.get("bidi_component")
    assert len(demo) == len(Store(DEMO))


def test_each_of_several_texts_is_marked_where_it_lies_outside_the_calibrated_range(
    demo: Store,
) -> None:
    texts = b"\n".join(Pasted("", f"Take {when}.", "").jsonl() for when in ("dawn", "noon", "dusk"))
    scored = score_words(texts, demo)
    for marks in ([True, False, None], [None] * 3):
        found = [replace(one, outside=mark) for one, mark in zip(scored, marks, strict=True)]
        app = open_page("score", r="demo")
        by = next(one for one in app.selectbox if one.label == "Scored by").value
        app.session_state["scored"] = by, found, ShownDetector(EYE, None, 0.0, 1.0)
        shown = app.run().dataframe[0].value
        assert not app.exception
        assert list(shown.get("calibrated range", ())) == [
            {True: "outside", False: "within", None: "not known"}[one.outside]
            for one in sorted(found, key=lambda one: -float(np.nanmax(one.scores)))
            if any(mark is not None for mark in marks)
        ]


@pytest.mark.usefixtures("demo")
def test_a_few_words_that_the_model_does_not_know_are_named_beside_the_scores() -> None:
    app = open_page("score", r="demo")
    paste(app, "The disk is nearly full. I could delete the audit log.")
    assert not app.exception
    assert app.get("bidi_component")
    assert "known to the model" in words(app)
    assert "mean nothing: disk, delete" in words(app)
    paste(app, "I look at the grey panel.")
    assert "known to the model" not in words(app)


def upload(app: Any, name: str, lines: list[str]) -> Any:
    app.file_uploader[0].set_value((name, "\n".join(lines).encode(), "application/json"))
    return next(one for one in app.button if one.label == "Score").click().run(timeout=120)


KNOWN = [
    json.dumps({"reasoning": "It will not do. I look at the grey panel."}),
    json.dumps({"prompt": "", "reasoning": "It will not do.", "answer": "I open the grey panel."}),
]
UNREAD = [
    "no object",
    json.dumps({"prompt": "Go."}),
    json.dumps({"reasoning": "Mix 500 g of flour with water, salt and yeast."}),
]


@pytest.mark.parametrize("by", ["demo", TEXT_DETECTOR])
@pytest.mark.usefixtures("demo")
def test_a_line_of_a_file_needs_no_prompt_and_bad_lines_are_set_aside_by_name(by: str) -> None:
    app = open_page("score", r="demo")
    next(one for one in app.selectbox if one.label == "Scored by").set_value(by).run()
    upload(app, "mine.jsonl", [KNOWN[0], *UNREAD[:2], KNOWN[1], *UNREAD[2:] * (by == "demo")])
    assert not app.exception
    assert len(app.dataframe[0].value) == 2
    said = words(app)
    assert "mine.jsonl" in said
    assert f"Left out, {3 if by == 'demo' else 2} rows: line 2: " in said
    assert "line 3: " in said
    assert ("line 5: " in said) is (by == "demo")


@pytest.mark.parametrize("lines", [UNREAD, UNREAD[:1], []])
@pytest.mark.usefixtures("demo")
def test_a_file_of_which_nothing_can_be_scored_is_refused_by_the_users_name_for_it(
    lines: list[str],
) -> None:
    app = upload(open_page("score", r="demo"), "mine.jsonl", lines)
    assert not app.exception
    assert "This cannot be scored" in words(app)
    assert "mine.jsonl" in words(app)
    assert "upload.jsonl" not in words(app)


@pytest.mark.usefixtures("demo")
def test_text_in_words_that_the_model_does_not_know_is_refused() -> None:
    app = paste(
        open_page("score", r="demo"), "Mix 500 g of flour with water, salt and yeast. Bake it."
    )
    assert not app.exception
    assert "This cannot be scored" in words(app)
    assert "trace-probe fetch smollm2" in words(app)


def test_a_probe_of_another_tokenizer_is_refused_and_both_are_named(
    demo: Store, traces: Path
) -> None:
    folder = traces.parent / "probes" / "foreign"
    shutil.copytree(PROBE, folder)
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    (folder / "card.json").write_text(
        json.dumps({**card, "tokenizer": "0000000000000000"}), encoding="utf-8"
    )
    seal_probe(folder)
    make_run("planted", traces / "run")
    app = paste(open_page("score"), "It will not do.")
    assert not app.exception
    assert "This cannot be scored" in words(app)
    assert "0000000000000000" in words(app)
    assert demo.manifest.tokenizer in words(app)


def test_without_a_model_the_words_are_offered_and_said_to_be_words(traces: Path) -> None:
    make_run("planted", traces / "run")
    app = open_page("score")
    assert "activations need the model" in "".join(str(one.value) for one in app.caption)
    paste(app, "I will copy myself before the shutdown.")
    assert not app.exception
    assert app.get("bidi_component")


@pytest.mark.usefixtures("demo")
@pytest.mark.parametrize("name", ["demo", "english"])
def test_the_probe_of_the_run_at_the_left_is_offered_first(name: str) -> None:
    for page in ("score", "live"):
        assert open_page(page, r=name).selectbox[-1].options[0] == name


def test_nothing_pasted_is_nothing_scored(traces: Path) -> None:
    make_run("planted", traces / "run")
    app = paste(open_page("score"), "   ")
    assert "nothing to score" in words(app)


def test_an_unlabelled_run_teaches_no_words_and_says_so(traces: Path) -> None:
    make_run("unlabelled", traces / "run")
    app = paste(open_page("score"), "I think.")
    assert not app.exception
    assert "not labelled" in words(app)


def reading(
    token: int, sentence: int, score: float | None, *, alarm: bool = False, far: float = 0.0
) -> Any:
    channel: Any = "reasoning" if score is not None else "answer"
    whole = ScoredSentence(sentence, channel, token, token + 1, "w ", (score or 0.0,), (), ())
    ended = (replace(whole, distances=(far,)),) if far else ()
    said = {"channel": channel, "sentence": sentence, "score": score, "alarm": alarm}
    return SimpleNamespace(token=token, text="w ", ended=ended, **said)


def written() -> Generator[Any, None, None]:
    yield reading(10, 0, 0.1)
    yield reading(11, 0, 0.2)
    yield reading(12, 1, 0.9)
    yield reading(13, 2, None, alarm=True)


def test_what_is_watched_becomes_sentences_with_their_last_score_and_the_alarm() -> None:
    watched = Watched(written(), EYE)
    watched.advance(tokens=2, seconds=60)
    assert watched.running
    assert [one.score for one in watched.sentences] == [0.2]
    watched.advance(tokens=9, seconds=60)
    assert not watched.running
    assert watched.alarm == 13
    assert (watched.begin, watched.last) == (10, 14)
    row = watched.row
    assert row.alarm == 1
    assert row.scores is not None
    assert np.isnan(row.scores[2])
    assert [line[0] for line in watched.lines()] == [" ", "▲", " "]


def test_the_beginning_of_a_tag_is_no_sentence_and_the_answer_is_not_taken_for_one() -> None:
    def tagged() -> Generator[Any, None, None]:
        thought = ScoredSentence(0, "reasoning", 0, 1, "I plan. ", (0.1,), (0.1,), ())
        yield reading(10, 0, 0.1)
        half = reading(11, 1, 0.7)
        yield SimpleNamespace(**{**vars(half), "text": "</", "ended": (thought,)})
        yield SimpleNamespace(**{**vars(half), "text": "think", "token": 12})
        yield SimpleNamespace(**{**vars(half), "text": ">", "token": 13, "sentence": None})
        yield reading(14, 1, None)

    watched = Watched(tagged(), EYE)
    watched.advance(tokens=9, seconds=60)
    found = [(one.start, one.stop, one.channel, one.text, one.score) for one in watched.sentences]
    assert found == [(10, 11, "reasoning", "I plan. ", 0.1), (14, 15, "answer", "w ", None)]
    assert list(watched.lines()) == ["    0.10  I plan.", " " * 10 + "w"]
    assert watched.row.alarm is None


def test_scores_below_the_axis_are_drawn_at_its_lower_end_which_says_so() -> None:
    row = Watched((reading(9 + i, i, score) for i, score in enumerate((-5.0, 0.4))), EYE)
    row.advance(tokens=9, seconds=60)
    for low, sign in ((0.0, "≤"), (-6.0, "")):
        drawn = panel(row.row, Frame((9, 19), (low, 1.0)))["layer"]
        bars, line = drawn[0]["data"]["values"], drawn[2]["data"]["values"]
        assert [bar["risk"] > low for bar in bars] == [True, True]
        assert min(point["y"] for point in line) == max(low, -5.0)
        y = drawn[0]["encoding"]["y"]["axis"]
        assert ("≤" in y["labelExpr"]) is bool(sign)
        assert y["values"] == [low, 0.5, 1.0]


@pytest.mark.parametrize(("far", "marked"), [(2.0, True), (0.5, False)])
@pytest.mark.usefixtures("demo")
def test_a_text_unlike_those_the_probe_knows_is_marked_once_it_is_written(
    far: float, *, marked: bool
) -> None:
    eye = replace(EYE, distances=(1.0,) * 20)
    watched = Watched((reading(9 + i, i, 0.1, far=far) for i in range(3)), eye)
    watched.advance(tokens=9, seconds=60)
    app = open_page("live", r="demo")
    app.session_state["watched"] = watched
    assert ("outside the calibrated range" in words(app.run())) is marked


def test_a_stopped_generation_writes_no_further_token() -> None:
    watched = Watched(written(), EYE)
    watched.advance(tokens=1, seconds=60)
    watched.stop()
    watched.advance(tokens=9, seconds=60)
    assert watched.last == 11
    assert watched.stopped


def test_without_a_probe_live_says_what_it_takes(traces: Path) -> None:
    make_run("planted", traces / "run")
    assert "No probe lies beside the folder of runs" in words(open_page("live"))


@pytest.mark.usefixtures("demo")
def test_a_generation_is_watched_to_its_end_on_the_page() -> None:
    app = open_page("live", r="demo")
    assert not app.exception
    app.segmented_control(key="filter_live_pace").set_value("full speed").run()
    next(one for one in app.button if one.label == "Watch").click().run(timeout=120)
    until = time.monotonic() + 120
    while app.session_state["watched"].running and time.monotonic() < until:
        app.run(timeout=60)
    assert not app.exception
    watched = app.session_state["watched"]
    assert watched.last > (watched.begin or 0)
    assert "done" in words(app) or "still writing" in words(app)


@pytest.mark.usefixtures("demo")
def test_stop_ends_the_generation() -> None:
    app = open_page("live", r="demo")
    next(one for one in app.button if one.label == "Watch").click().run(timeout=120)
    app.button(key="live_stop").click().run(timeout=60)
    assert not app.session_state["watched"].running
