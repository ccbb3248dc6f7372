from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trace_probe.errors import TraceError
from trace_probe.interop.fields import DEFAULT_MAPPING, FieldMapping, Line, read_lines


def test_an_override_replaces_one_name_and_leaves_the_others() -> None:
    mapping = FieldMapping.parse("reasoning=chain, condition=mode+level")
    assert mapping.reasoning == ("chain",)
    assert mapping.condition == ("mode", "level")
    assert mapping.answer == DEFAULT_MAPPING.answer


@pytest.mark.parametrize("text", ["thought=cot", "reasoning", "reasoning=", "=cot", "a=b=c"])
def test_a_mapping_that_cannot_be_read_says_how_to_write_it(text: str) -> None:
    with pytest.raises(TraceError, match="NAME=FIELD.*reasoning"):
        FieldMapping.parse(text)


names = st.lists(st.text("abc_", min_size=1), min_size=1, max_size=3).map(tuple)


@given(names, names)
def test_a_mapping_is_parsed_back_from_its_text(
    reasoning: tuple[str, ...], label: tuple[str, ...]
) -> None:
    mapping = FieldMapping(reasoning=reasoning, label=label)
    assert FieldMapping.parse(str(mapping)) == mapping
    assert str(DEFAULT_MAPPING) == ""


def test_the_first_filled_field_counts() -> None:
    line = Line({"reasoning": None, "cot": "b", "thinking": "c"}, DEFAULT_MAPPING)
    assert line.text("reasoning") == "b"
    assert line.text("answer") is None


def test_a_field_of_the_wrong_type_is_named() -> None:
    line = Line({"cot": ["a"], "index": True, "think_closed": 1, "id": 1.5}, DEFAULT_MAPPING)
    with pytest.raises(TraceError, match="field 'cot' is .*expected a text"):
        line.text("reasoning")
    with pytest.raises(TraceError, match="'index' is True, expected a whole number"):
        line.whole("index")
    with pytest.raises(TraceError, match="'think_closed' is 1, expected true or false"):
        line.flag("closed")
    with pytest.raises(TraceError, match="'id' is 1.5, expected a text or a whole"):
        line.key("id")


def test_lines_are_cut_at_newlines_only(tmp_path: Path) -> None:
    file = tmp_path / "f.jsonl"
    file.write_bytes('{"a": "x\u2028y"}\r\n\n{"a": "z"}'.encode())
    found = [(number, line.record) for number, line in read_lines(file, DEFAULT_MAPPING)]
    assert found == [(1, {"a": "x\u2028y"}), (3, {"a": "z"})]


@pytest.mark.parametrize(
    "line", [b"{", b"[]", b"[" * 100_000, b'{"a": "\xff"}', b'{"a": "\\ud800"}']
)
def test_a_line_that_is_no_object_is_named(tmp_path: Path, line: bytes) -> None:
    file = tmp_path / "f.jsonl"
    file.write_bytes(b'{"a": 1}\n' + line)
    with pytest.raises(TraceError, match="f.jsonl, line 2 is not"):
        list(read_lines(file, DEFAULT_MAPPING))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="cannot read .*gone"):
        list(read_lines(tmp_path / "gone.jsonl", DEFAULT_MAPPING))
