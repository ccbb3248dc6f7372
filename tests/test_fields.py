from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trace_probe.errors import TraceError
from trace_probe.interop.fields import DEFAULT_MAPPING, REPLACED, FieldMapping, Line, read_lines
from trace_probe.interop.left_out import LONGEST, LeftOut


def test_an_override_replaces_one_name_and_leaves_the_others() -> None:
    mapping = FieldMapping.parse("reasoning=chain, condition=mode+level")
    assert mapping.reasoning == ("chain",)
    assert mapping.condition == ("mode", "level")
    assert mapping.answer == DEFAULT_MAPPING.answer


@pytest.mark.parametrize("text", ["thought=cot", "reasoning", "=cot", "a=b=c"])
def test_a_mapping_that_cannot_be_read_says_how_to_write_it(text: str) -> None:
    with pytest.raises(TraceError, match="NAME=FIELD.*reasoning"):
        FieldMapping.parse(text)


def test_a_name_without_fields_is_switched_off() -> None:
    mapping = FieldMapping.parse("label=, answer=reply")
    assert mapping.label == ()
    assert FieldMapping.parse(str(mapping)) == mapping
    assert Line({"label": 1}, mapping).filled("label") is None


names = st.lists(st.text("abc_", min_size=1), max_size=3).map(tuple)


@given(names, names)
def test_a_mapping_is_parsed_back_from_its_text(
    reasoning: tuple[str, ...], label: tuple[str, ...]
) -> None:
    mapping = FieldMapping(reasoning=reasoning, label=label)
    assert FieldMapping.parse(str(mapping)) == mapping
    assert str(DEFAULT_MAPPING) == ""


def test_the_first_filled_field_counts() -> None:
    for empty in (None, "", " \n", float("nan")):
        line = Line({"reasoning": empty, "cot": "b", "thinking": "c"}, DEFAULT_MAPPING)
        assert line.text("reasoning") == "b"
        assert line.text("answer") is None
    assert Line({"reasoning": "", "cot": None}, DEFAULT_MAPPING).text("reasoning") == ""
    assert Line({"label": 0, "outcome": 1}, DEFAULT_MAPPING).filled("label") == ("label", 0)


def test_numbers_and_flags_are_read_in_every_way_that_programs_write_them() -> None:
    line = Line(
        {"index": 3.0, "max_tokens": 8096.0, "temperature": "0.7", "id": 1.0, "task_id": 7},
        DEFAULT_MAPPING,
    )
    assert (line.whole("index"), line.whole("max_new_tokens")) == (3, 8096)
    assert (line.number("temperature"), line.key("id"), line.key("task")) == (0.7, "1", "7")
    for value, flag in ((1, True), (0.0, False), ("true", True), ("No", False), (False, False)):
        assert Line({"think_closed": value}, DEFAULT_MAPPING).flag("closed") is flag


def test_what_is_not_needed_and_cannot_be_read_is_noted() -> None:
    line = Line({"temperature": "hot"}, DEFAULT_MAPPING)
    assert line.spare(line.number, "temperature") is None
    assert line.notes == ["Not read, field 'temperature' is 'hot', expected a number"]


def test_a_list_of_contents_is_its_texts_and_its_thoughts() -> None:
    given = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "I hide it."}]},
        {"type": "text", "text": "Done."},
    ]
    found = Line({"answer": given}, DEFAULT_MAPPING).contents("answer")
    assert found == ("Done.", "I hide it.")


def test_a_field_of_the_wrong_type_is_named() -> None:
    line = Line({"cot": ["a"], "index": True, "think_closed": 2, "id": 1.5}, DEFAULT_MAPPING)
    with pytest.raises(TraceError, match="field 'cot' is .*expected a text"):
        line.text("reasoning")
    with pytest.raises(TraceError, match="'index' is True, expected a whole number"):
        line.whole("index")
    with pytest.raises(TraceError, match="'think_closed' is 2, expected true or false"):
        line.flag("closed")
    with pytest.raises(TraceError, match="'id' is 1.5, expected a text or a whole"):
        line.key("id")


def test_lines_are_cut_at_newlines_only(tmp_path: Path) -> None:
    file = tmp_path / "f.jsonl"
    file.write_bytes('{"a": "x\u2028y"}\r\n\n{"a": "z"}'.encode())
    found = [(number, line.record) for number, line in read_lines(file, DEFAULT_MAPPING)]
    assert found == [(1, {"a": "x\u2028y"}), (3, {"a": "z"})]


@pytest.mark.parametrize("line", [b"{", b"[]", b"[" * 100_000, b'{"a": "\xff"}'])
def test_a_line_that_is_no_object_is_named(tmp_path: Path, line: bytes) -> None:
    file = tmp_path / "f.jsonl"
    file.write_bytes(b'{"a": 1}\n' + line)
    with pytest.raises(TraceError, match="f.jsonl, line 2 is not"):
        list(read_lines(file, DEFAULT_MAPPING))
    left = LeftOut()
    assert [number for number, _ in read_lines(file, DEFAULT_MAPPING, left)] == [1]
    [row] = left.rows
    assert (row.where, row.text) == ("line 2", line.decode(errors="replace")[:LONGEST])


def test_half_of_a_surrogate_pair_is_replaced_and_noted(tmp_path: Path) -> None:
    file = tmp_path / "f.jsonl"
    file.write_bytes(b'{"a": "x \\ud83d y", "b": "\\ud83d\\ude00"}')
    [(_, line)] = read_lines(file, DEFAULT_MAPPING)
    assert line.record == {"a": "x \ufffd y", "b": "\U0001f600"}
    assert line.notes == [REPLACED]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ('{"a": 1}\n'.encode("utf-16"), "UTF-16: save the file as UTF-8"),
        ('{"a": 1}\n'.encode("utf-16-le"), "UTF-16: save the file as UTF-8"),
        (b'[{"a": 1},\n{"a": 2}]', "JSON array: write one JSON object a line"),
        (b"id,prompt,answer\n1,a,b\n", "table .CSV., not JSON: write one JSON object a line"),
        (b"PAR1\x15\x04", "Parquet, not text: unpack it"),
    ],
)
def test_a_file_of_another_kind_is_said_in_one_sentence(
    tmp_path: Path, data: bytes, said: str
) -> None:
    file = tmp_path / "f.jsonl"
    file.write_bytes(data)
    for left in (None, LeftOut()):
        with pytest.raises(TraceError, match=f"f.jsonl, line 1 .*{said}") as raised:
            list(read_lines(file, DEFAULT_MAPPING, left))
        assert "\n" not in str(raised.value)


def test_a_first_line_that_cannot_be_read_does_not_refuse_the_others(tmp_path: Path) -> None:
    file = tmp_path / "f.jsonl"
    file.write_bytes(b'made by us, in May\n{"a": 1}\n')
    assert [line.record for _, line in read_lines(file, DEFAULT_MAPPING, LeftOut())] == [{"a": 1}]


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="cannot read .*gone"):
        list(read_lines(tmp_path / "gone.jsonl", DEFAULT_MAPPING))
