import json
import multiprocessing
import re
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
from explorer.planted import make_trace, planted_run
from runs import MANIFEST, make_run

from trace_probe.errors import TraceError
from trace_probe.labelling.annotations import (
    Annotation,
    AnnotationLabeller,
    Verdict,
    annotate,
    annotators,
    judged_place,
    read_annotations,
    verdicts_kept,
)
from trace_probe.labelling.runs import label_run, labeller
from trace_probe.store import Store

TRACE = make_trace(["One.", "Two.", "Three."], ["Four.", "Five."], name="t")


def verdict(sentence: int | None, word: Verdict) -> Annotation:
    start, stop, text = judged_place(TRACE, sentence)
    return Annotation(
        "t", sentence, word, "ada", "2026-01-01T00:00:00+00:00", True, start, stop, text
    )


def run_in(folder: Path) -> Store:
    return Store.create(folder, MANIFEST)


def labelled(folder: Path, *verdicts: Annotation) -> AnnotationLabeller:
    run = run_in(folder)
    for one in verdicts:
        annotate(run, one)
    return AnnotationLabeller(verdicts_kept(run, "ada").url)


def test_the_first_sentence_that_says_it_and_the_first_that_does_it_are_the_marks(
    tmp_path: Path,
) -> None:
    by = labelled(
        tmp_path, verdict(4, "does"), verdict(3, "does"), verdict(1, "says"), verdict(2, "says")
    )
    label = by.label(TRACE)
    assert by.name == "human:ada"
    assert label.outcome is True
    assert label.said == TRACE.sentences[1]
    assert label.acted == TRACE.sentences[3]
    assert not label.silent


def test_sentences_alone_never_make_a_trace_harmless(tmp_path: Path) -> None:
    label = labelled(tmp_path, verdict(0, "neither"), verdict(1, "unsure")).label(TRACE)
    assert label.outcome is None
    assert label.facts == {"said": "unknown"}


def test_a_trace_judged_as_a_whole_is_harmless_and_silent_on_it(tmp_path: Path) -> None:
    label = labelled(tmp_path, verdict(None, "neither")).label(TRACE)
    assert label.outcome is False
    assert label.facts == {}


def test_a_later_verdict_counts_and_a_withdrawn_one_does_not(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    for one in (verdict(0, "says"), verdict(0, "neither"), verdict(1, "does")):
        annotate(run, one)
    annotate(run, replace(verdict(1, "does"), verdict="withdrawn"))
    kept = verdicts_kept(run, "ada")
    assert {place: one.verdict for place, one in read_annotations(kept).items()} == {
        ("t", 0): "neither"
    }
    assert len(list(kept.raw())) == 4
    assert annotators(run) == ["ada"]


def test_a_torn_line_is_cut_and_the_next_verdict_stands(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    annotate(run, verdict(0, "says"))
    kept = verdicts_kept(run, "ada")
    with open(kept.url, "ab") as tail:
        tail.write(b'{"trace_id": "t", "sent')
    annotate(run, verdict(1, "does"))
    assert set(read_annotations(kept)) == {("t", 0), ("t", 1)}


def test_text_that_has_changed_since_is_refused(tmp_path: Path) -> None:
    by = labelled(tmp_path, verdict(0, "says"))
    other = make_trace(["Else.", "Two.", "Three."], ["Four.", "Five."], name="t")
    with pytest.raises(TraceError, match="not as it was"):
        by.label(other)


@pytest.mark.parametrize("name", ["", "../ada", "a/b", ".hidden", "a" * 41])
def test_a_name_that_could_leave_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(TraceError, match="cannot be a name"):
        verdicts_kept(run_in(tmp_path), name)


@pytest.mark.parametrize("line", ['{"trace_id": "t"}', json.dumps({"verdict": 3})])
def test_a_line_that_is_no_annotation_is_named_and_the_others_count(
    tmp_path: Path, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = run_in(tmp_path)
    kept = verdicts_kept(run, "ada")
    kept.append([line.encode() + b"\n"])
    annotate(run, verdict(1, "does"))
    assert set(read_annotations(kept)) == {("t", 1)}
    assert "ada.jsonl is broken at line 1: it is no annotation" in caplog.text


def test_annotations_become_labels_of_the_run_by_the_name_of_their_file(tmp_path: Path) -> None:
    store = planted_run(tmp_path / "run")
    trace = store.trace("early")
    start, stop, text = judged_place(trace, 13)
    one = Annotation("early", 13, "does", "ada", "now", False, start, stop, text)
    annotate(store, one)
    by = labeller(f"human:{verdicts_kept(store, 'ada').url}")
    found = label_run(store, by, progress=False)
    assert (found.labeller, found.labelled, found.instrumental) == ("human:ada", 1, 1)
    assert store.labels("human:ada")["early"].acted == trace.sentences[13]
    assert len(store.labels("rule")) == 7


LONG = "x" * 30_000
"""Of several pages, so that a reader can see half of a line that is being written."""


def write_many(run: Path, writer: int, count: int) -> None:
    """Give verdicts as one of several processes that write under one name."""
    store = Store(run)
    trace = next(store.traces())
    start, stop, text = judged_place(trace, None)
    for number in range(count):
        one = Annotation(
            trace.id, None, "unsure", "anna", "2026-01-01T00:00:00+00:00", True,
            start, stop, text, note=f"{writer}-{number} {LONG}",
        )  # fmt: skip
        annotate(store, one)


def test_many_writers_of_one_name_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", range(1)).path
    forked = multiprocessing.get_context("fork")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
        writers = [forked.Process(target=write_many, args=(run, n, 40)) for n in range(6)]
        for writer in writers:
            writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    text = (run / "annotations" / "anna.jsonl").read_text("utf-8")
    assert sorted(re.findall(r'"note": "(\d-\d+) ', text)) == sorted(
        f"{writer}-{number}" for writer in range(6) for number in range(40)
    )
