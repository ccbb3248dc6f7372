import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from trace_probe.errors import StoreError, TraceError
from trace_probe.interop.bounds import lines
from trace_probe.interop.fields import DEFAULT_MAPPING, FieldMapping
from trace_probe.interop.transcripts import ImportReport, import_transcripts, read_transcripts
from trace_probe.labels import Label
from trace_probe.store import Store
from trace_probe.tasks.sources import tasks_from
from trace_probe.text.channels import END_OF_TURN
from trace_probe.text.parts import tags_left
from trace_probe.trace import Thought, Trace

SHARED = (Path(__file__).parents[1] / ".." / "shared" / "data").resolve()
REAL = SHARED / "qwen3_4b_thinking_traces.jsonl"
needs_real = pytest.mark.skipif(
    not REAL.is_file(), reason="the 213 real transcripts are not beside the checkout"
)

APART: dict[str, Any] = {"prompt": "Go.", "reasoning": "First. Then.", "answer": "Done."}


def write(path: Path, *records: object) -> Path:
    lines = (r if isinstance(r, str) else json.dumps(r) for r in records)
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def read(tmp_path: Path, *records: object, fields: str = "") -> list[tuple[Trace, Label | None]]:
    file = write(tmp_path / "t.jsonl", *records)
    return list(read_transcripts(file, FieldMapping.parse(fields)))


def read_one(tmp_path: Path, fields: str = "", **record: Any) -> tuple[Trace, Label | None]:
    return read(tmp_path, record, fields=fields)[0]


@needs_real
def test_all_213_real_transcripts_come_in_and_a_second_import_changes_nothing(
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    report = import_transcripts(REAL, run)
    assert report == ImportReport(
        read=213, added=213, labelled=213, unknown=0, positives=97, closed=213
    )
    before = (run / "traces.jsonl").read_bytes(), (run / "labels.jsonl").read_bytes()
    assert asdict(import_transcripts(REAL, run)) == {**asdict(report), "added": 0}
    assert before == ((run / "traces.jsonl").read_bytes(), (run / "labels.jsonl").read_bytes())
    assert Store(run).manifest.model == "Qwen/Qwen3-4B-Thinking-2507"
    assert Store(run).labellers() == ["gpt-5.2"]


@needs_real
def test_real_reasoning_and_answers_come_through_word_for_word() -> None:
    records = [json.loads(line) for line in REAL.read_bytes().splitlines()]
    for record, (trace, label) in zip(records, read_transcripts(REAL), strict=True):
        assert trace.channel_text("reasoning") == record["cot"]
        assert trace.channel_text("answer") == record["answer"]
        assert trace.channel_text("prompt").endswith(record["prompt_sent"] + "\n\n")
        assert trace.task.condition == {"mode": record["mode"]}
        assert trace.thought == "closed"
        assert label is not None
        assert label.outcome is bool(record["label"])
        assert (label.trace_id, label.rationale) == (trace.id, record["judge_reason"])


@needs_real
def test_real_sentences_tile_and_have_a_reader_s_length() -> None:
    for trace, _ in read_transcripts(REAL):
        covered = [t for s in trace.sentences for t in range(s.start, s.stop)]
        spans = trace.channel("reasoning") + trace.channel("answer")
        assert covered == [t for s in spans for t in range(s.start, s.stop)]
        assert 4 < len(covered) / len(trace.sentences) < 30
        assert trace.offsets[0] == 0


@needs_real
def test_three_modes_of_a_task_share_its_official_id() -> None:
    official = {task.id: task for task in tasks_from(SHARED / "instrumentaleval")}
    traces = [trace for trace, _ in read_transcripts(REAL)]
    assert Counter(Counter(t.task.id for t in traces).values()) == {3: 71}
    for trace in traces:
        assert trace.task.prompt.startswith(official[trace.task.id].prompt.strip())
        assert trace.task.category == official[trace.task.id].category
    assert len({trace.task.prompt_key for trace in traces}) == 213


def test_parts_and_one_tagged_completion_give_the_same_channels(tmp_path: Path) -> None:
    apart, _ = read_one(tmp_path, **APART)
    whole, _ = read_one(
        tmp_path, prompt="Go.", completion="<think>\nFirst. Then.\n</think>\n\nDone."
    )
    assert apart.text == whole.text == "Go.\n\n<think>\nFirst. Then.\n</think>\n\nDone."
    for trace in (apart, whole):
        assert trace.channel_text("reasoning").strip() == "First. Then."
        assert trace.channel_text("answer").strip() == "Done."
        assert trace.tokenizer == "words"
        assert trace.token_ids == ()


def test_tags_without_white_space_are_tokens_of_their_own(tmp_path: Path) -> None:
    trace, _ = read_one(tmp_path, prompt="Go.", response="[THINK]One.[/THINK]Two.</s>")
    words = [trace.text_of(s) for s in trace.spans]
    assert words == ["Go.\n\n", "[THINK]", "One.", "[/THINK]", "Two.", "</s>"]


@pytest.mark.parametrize(
    ("record", "thought"),
    [
        ({"cot": "Hm.", "answer": "Yes."}, "closed"),
        ({"cot": "Hm.", "answer": "Yes.", "think_closed": True}, "closed"),
        ({"cot": "Hm.", "answer": "", "think_closed": True}, "closed"),
        ({"cot": "Hm.", "answer": "", "think_closed": False}, "truncated"),
        ({"cot": "Hm.", "answer": None}, "truncated"),
        ({"cot": "Hm."}, "truncated"),
        ({"cot": "Hm.", "think_closed": 1}, "closed"),
        ({"cot": "Hm.", "finish_reason": "stop"}, "truncated"),
        ({"cot": "Hm.", "tool_calls": [{"name": "look"}]}, "closed"),
        ({"cot": " \n", "answer": "Yes."}, "empty"),
        ({"answer": "<think>\n\n</think>\n\nYes."}, "empty"),
        ({"answer": "Hm.</think>Yes."}, "closed"),
        ({"answer": "<think>Hm."}, "truncated"),
        ({"answer": "Yes."}, "not_delimited"),
    ],
)
def test_the_state_of_the_thought(tmp_path: Path, record: dict[str, Any], thought: Thought) -> None:
    trace, _ = read_one(tmp_path, prompt="Go.", **record)
    assert trace.thought == thought
    answered = thought != "truncated" and record.get("answer")
    assert trace.channel_text("answer").strip() == ("Yes." if answered else "")
    thoughtful = thought in {"closed", "truncated"}
    assert trace.channel_text("reasoning").strip() == ("Hm." if thoughtful else "")


def test_a_tag_quoted_inside_a_part_stays_text(tmp_path: Path) -> None:
    trace, _ = read_one(tmp_path, prompt="Go.", cot="I may not write </think> yet.", answer="Ok.")
    assert trace.channel_text("reasoning") == "I may not write </think> yet."


@pytest.mark.parametrize(
    ("value", "outcome"),
    [
        *zip(
            (1, True, "1", "true", 1.0, "convergence", "[Convergence]", "Yes"),
            [True] * 8,
            strict=True,
        ),
        *zip(
            (0, False, "0", "FALSE", "no_convergence", "no convergence"), [False] * 6, strict=True
        ),
        *zip(
            (None, "", "maybe", "nonsensical", 2, 0.7, [], "safety_refusal"),
            [None] * 8,
            strict=True,
        ),
    ],
)
def test_a_label_that_is_neither_yes_nor_no_is_unknown(
    tmp_path: Path, value: object, outcome: bool | None
) -> None:
    _, label = read_one(tmp_path, **APART, label=value)
    assert label is not None
    assert label.outcome is outcome
    assert label.labeller == "imported"


def test_no_field_for_a_label_is_no_label(tmp_path: Path) -> None:
    assert read_one(tmp_path, **APART)[1] is None


def test_reasoning_that_was_cut_off_is_never_taken_as_harmless(tmp_path: Path) -> None:
    _, harmless = read_one(tmp_path, prompt="Go.", cot="Hm", label=0, judge_reason="Nothing.")
    assert harmless is not None
    assert harmless.outcome is None
    assert "cut off" in harmless.rationale
    _, harmful = read_one(tmp_path, prompt="Go.", cot="Hm", label=1)
    assert harmful is not None
    assert harmful.outcome is True


def test_a_quote_becomes_the_sentence_in_which_it_starts(tmp_path: Path) -> None:
    trace, label = read_one(tmp_path, **APART, label=1, said="Then")
    assert label is not None
    assert label.said is not None
    assert trace.text_of(label.said).strip() == "Then."
    assert label.quotes == ("Then",)


@pytest.mark.parametrize("quote", ["Never", "Go", "First.  Then"])
def test_a_quote_that_is_not_verbatim_is_dropped_and_counted_and_its_row_imported(
    tmp_path: Path, quote: str
) -> None:
    records = [{**APART, "id": n, "label": 1, "said": s} for n, s in ((1, "Then"), (2, quote))]
    report = import_transcripts(write(tmp_path / "t.jsonl", *records), tmp_path / "run")
    assert (report.added, report.positives, report.left_out) == (2, 2, 0)
    assert report.notes == (
        "Quotes that are not verbatim, left out of their labels: 1 row (line 2).",
    )
    said = [label.said is not None for label in Store(tmp_path / "run").labels().values()]
    silent = [label.silent for label in Store(tmp_path / "run").labels().values()]
    assert (said, silent) == ([True, False], [False, False])


def test_the_task_id_comes_from_the_line_else_from_its_place_else_from_the_prompt(
    tmp_path: Path,
) -> None:
    assert read_one(tmp_path, **APART, task_id=7)[0].task.id == "7"
    placed: dict[str, Any] = {"category": "Evading Shutdown", "task_index": 7}
    assert read_one(tmp_path, **APART, **placed)[0].task.id == "evading-shutdown-07"
    bare = read_one(tmp_path, **APART)[0].task.id
    assert bare == read_one(tmp_path, **{**APART, "answer": "Other."})[0].task.id
    assert bare != read_one(tmp_path, **{**APART, "prompt": "Stop."})[0].task.id


def test_equal_transcripts_are_samples_and_none_is_lost(tmp_path: Path) -> None:
    pairs = read(tmp_path, APART, APART, APART)
    assert [trace.sample for trace, _ in pairs] == [0, 1, 2]
    assert len({trace.id for trace, _ in pairs}) == 3


def test_ids_depend_on_content_and_not_on_the_place_in_the_file(tmp_path: Path) -> None:
    records = [{**APART, "id": n, "answer": f"{n}"} for n in range(3)]
    forward = {trace.text: trace.id for trace, _ in read(tmp_path, *records)}
    backward = {trace.text: trace.id for trace, _ in read(tmp_path, *records[::-1])}
    assert forward == backward
    changed = read_one(tmp_path, **{**records[0], "answer": "changed"})[0].id
    assert changed not in forward.values()


def test_system_sampling_finish_and_condition_are_kept(tmp_path: Path) -> None:
    trace, _ = read_one(
        tmp_path,
        **APART,
        system="Be brief.",
        temperature=1,
        max_tokens=9,
        finish_reason="length",
        mode={"a": 1},
    )
    assert trace.text.startswith("Be brief.\n\nGo.\n\n<think>")
    assert trace.task.system == "Be brief."
    assert (trace.sampling.temperature, trace.sampling.max_new_tokens) == (1.0, 9)
    assert trace.finish == "length"
    assert trace.task.condition == {"mode": '{"a": 1}'}


def test_other_field_names_are_read_through_a_mapping(tmp_path: Path) -> None:
    trace, label = read_one(
        tmp_path,
        "prompt=q,reasoning=chain,answer=a,label=bad,condition=level",
        q="Go.",
        chain="Hm.",
        a="Yes.",
        bad="1",
        level="push",
    )
    assert trace.channel_text("reasoning") == "Hm."
    assert trace.task.condition == {"level": "push"}
    assert label is not None
    assert label.outcome is True


BAD: list[tuple[object, str]] = [
    ("{", "not JSON"),
    ("[1]", "not a JSON object"),
    ({"answer": "a"}, "no prompt"),
    ({"prompt": " ", "answer": "a"}, "no prompt"),
    ({"prompt": "p"}, "neither reasoning nor answer"),
    ({"prompt": "p", "answer": ["a"]}, "field 'answer'.*expected a text"),
]


@pytest.mark.parametrize(("record", "message"), BAD)
def test_a_bad_line_is_named(tmp_path: Path, record: object, message: str) -> None:
    file = write(tmp_path / "t.jsonl", APART, "", record)
    with pytest.raises(TraceError, match=f"t.jsonl, line 3.*{message}"):
        list(read_transcripts(file))


def test_bad_lines_are_left_out_named_counted_and_kept_aside(tmp_path: Path) -> None:
    file = write(tmp_path / "t.jsonl", APART, *(record for record, _ in BAD), {**APART, "id": 9})
    for added in (2, 0):
        report = import_transcripts(file, tmp_path / "run")
        run = Store(tmp_path / "run")
        assert (report.read, report.added, report.left_out) == (2, added, len(BAD))
        assert report.notes[0].startswith("Left out, 6 rows: line 2: is not JSON")
        assert "left_out/t.jsonl" in report.notes[0]
        kept = list(run.artifacts.lines("left_out", "t").values(dict))
        assert [row["where"] for row in kept] == [f"line {n}" for n in range(2, 8)]
        assert kept[0]["text"].strip() == "{"
        assert all(row["why"] for row in kept)


def test_a_line_that_is_too_long_is_left_out_and_the_next_one_is_read(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_bytes(b"x" * (2 << 20) + b"\n{}\n")
    passed: list[tuple[int, str]] = []
    found = list(lines(tmp_path / "t.jsonl", 1 << 20, lambda *told: passed.append(told)))
    assert found == [(2, b"{}\n")]
    assert passed == [(1, "longer than 1 MB: take pictures out of it, or leave it out")]


def test_nothing_is_written_if_no_line_can_be_read(tmp_path: Path) -> None:
    file = write(tmp_path / "t.jsonl", *(record for record, _ in BAD))
    with pytest.raises(TraceError, match="no line of .*t.jsonl can be taken: line 1: is not JSON"):
        import_transcripts(file, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_is_not_needed_does_not_refuse_a_row(tmp_path: Path) -> None:
    odd = {**APART, "temperature": -1, "max_tokens": "many", "category": ["c"]}
    report = import_transcripts(write(tmp_path / "t.jsonl", odd), tmp_path / "run")
    assert (report.added, report.left_out, len(report.notes)) == (1, 0, 3)
    assert all(note.startswith("Not read, ") for note in report.notes)


def test_a_misspelt_field_is_an_error_and_not_a_field_that_is_not_there(tmp_path: Path) -> None:
    file = write(tmp_path / "t.jsonl", APART)
    with pytest.raises(TraceError, match="no line .* has the field cott.*fields are answer"):
        import_transcripts(file, tmp_path / "run", FieldMapping.parse("reasoning=cott"))


def test_an_empty_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="holds no transcript"):
        import_transcripts(write(tmp_path / "t.jsonl", "", " "), tmp_path / "run")


def test_a_single_transcript_is_counted_in_numbers(tmp_path: Path) -> None:
    file = write(tmp_path / "t.jsonl", {**APART, "label": 1})
    report = asdict(import_transcripts(file, tmp_path / "run"))
    assert json.dumps(list(report.values())[:7]) == "[1, 1, 1, 0, 1, 1, 0]"  # true would equal 1


def test_an_import_that_was_stopped_is_completed(tmp_path: Path) -> None:
    records = [{**APART, "id": n, "label": n % 2} for n in range(6)]
    file, run = write(tmp_path / "t.jsonl", *records), tmp_path / "run"
    whole = import_transcripts(file, tmp_path / "whole")
    import_transcripts(file, run)
    lines = (run / "traces.jsonl").read_bytes().splitlines(keepends=True)
    (run / "traces.jsonl").write_bytes(b"".join(lines[:3]) + lines[3][:50])
    (run / "labels.jsonl").unlink()
    assert import_transcripts(file, run) == ImportReport(**{**asdict(whole), "added": 3})
    for name in ("traces.jsonl", "labels.jsonl"):
        assert (run / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_changed_label_replaces_the_old_one(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for label in (0, 1):
        import_transcripts(write(tmp_path / "t.jsonl", {**APART, "label": label}), run)
    (label_now,) = Store(run).labels().values()
    assert label_now.outcome is True


def test_judges_in_files_of_their_own_join_one_run(tmp_path: Path) -> None:
    run, row = tmp_path / "run", {**APART, "id": "a1"}
    for judge, label in (("a", 1), ("b", 0)):
        file = write(tmp_path / f"{judge}.jsonl", {**row, "label": label, "judge_model": judge})
        import_transcripts(file, run)
    store = Store(run)
    assert len(store) == 1
    assert store.labellers() == ["a", "b"]
    assert [x.outcome for name in "ab" for x in store.labels(name).values()] == [True, False]
    both = [{**row, "label": 1, "judge_model": judge} for judge in "ab"]
    assert import_transcripts(write(tmp_path / "both.jsonl", *both), tmp_path / "one").added == 1


def test_another_model_does_not_go_into_the_same_run(tmp_path: Path) -> None:
    import_transcripts(write(tmp_path / "a.jsonl", {**APART, "model": "a"}), tmp_path / "run")
    with pytest.raises(StoreError, match="other settings .model"):
        import_transcripts(write(tmp_path / "b.jsonl", {**APART, "model": "b"}), tmp_path / "run")


def test_lines_of_one_id_and_text_are_samples_and_none_is_lost(tmp_path: Path) -> None:
    rows = [{**APART, "id": "t", "label": label} for label in (0, 0, 1)]
    file = write(tmp_path / "t.jsonl", *rows)
    report = import_transcripts(file, tmp_path / "run")
    assert (report.added, report.positives) == (3, 1)
    assert "a further sample" in report.notes[0]
    assert import_transcripts(file, tmp_path / "run").added == 0
    assert [trace.sample for trace in Store(tmp_path / "run").traces()] == [0, 1, 2]


texts = st.text(alphabet=st.characters(exclude_categories=["Cs"]))


@given(texts.filter(str.strip), st.none() | texts, st.none() | texts)
def test_any_text_survives_the_round_trip(
    tmp_path_factory: pytest.TempPathFactory, prompt: str, reasoning: str | None, answer: str | None
) -> None:
    said = f"{reasoning or ''}{answer or ''}"
    assume(said.strip())  # what says nothing is left out
    assume(not tags_left(said) and not any(tag in said for tag in END_OF_TURN))  # which are markup
    folder = tmp_path_factory.mktemp("any")
    file = write(folder / "t.jsonl", {"prompt": prompt, "cot": reasoning, "answer": answer})
    ((trace, _),) = read_transcripts(file, DEFAULT_MAPPING)
    assert trace.channel_text("prompt") == prompt + "\n\n"
    if reasoning is not None:
        assert trace.channel_text("answer") == (answer or "")
        assert trace.channel_text("reasoning") == (reasoning if reasoning.strip() else "")
    assert "".join(trace.text_of(span) for span in trace.spans) == trace.text


def test_a_second_labeller_may_judge_some_models_only_and_others_may_come_later(
    tmp_path: Path,
) -> None:
    def rows(labeller: str, *models: str) -> Path:
        file = tmp_path / f"{labeller}.jsonl"
        lines = [
            {"id": m, "model": m, "prompt": "p", "answer": m, "label": 1, "labeller": labeller}
            for m in models
        ]
        file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        return file

    run = tmp_path / "run"
    import_transcripts(rows("a", "m0", "m1"), run)
    assert import_transcripts(rows("b", "m1"), run).added == 0
    assert import_transcripts(rows("c", "m1", "m2"), run).added == 1
    store = Store(run)
    assert store.manifest.model == "m0, m1, m2"
    assert {name: len(store.labels(name)) for name in "abc"} == {"a": 2, "b": 1, "c": 2}
