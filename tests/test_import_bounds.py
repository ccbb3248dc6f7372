"""Foreign files are measured before they are read, and nothing in them gives a traceback."""

import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import make_run

from trace_probe.errors import TraceError, TraceProbeError
from trace_probe.interop import bounds
from trace_probe.interop.bounds import LONGEST_LINE, ZSTANDARD, check_archive, lines
from trace_probe.interop.exchange import export_run, import_export
from trace_probe.interop.fields import FieldMapping, read_lines
from trace_probe.interop.left_out import LeftOut
from trace_probe.interop.transcripts import read_transcripts
from trace_probe.store import Store
from trace_probe.text.channels import Format, format_of, split
from trace_probe.text.layout import lay_out
from trace_probe.text.sentences import sentence_spans

ROOT = Path(__file__).parents[1]
GIGABYTES = int(os.environ.get("TRACE_PROBE_GIGABYTES", "1"))
"""Of oversized logs; writing them takes longer than refusing them."""
FIXED: dict[str, Any] = {"max_examples": 100, "derandomize": True}


def bomb(
    path: Path, megabytes: int, kind: int = zipfile.ZIP_DEFLATED, *, lie: bool = False
) -> Path:
    """Write a small archive whose one member unpacks to as many megabytes."""
    with zipfile.ZipFile(path, "w", kind, compresslevel=1) as archive:
        with archive.open("header.json", "w", force_zip64=True) as member:
            for _ in range(megabytes >> 6):
                member.write(b" " * (1 << 26))
        if lie:
            archive.infolist()[0].file_size = 100
    return path


def refused(log: Path, run: Path) -> tuple[str, int]:
    """Import a log in a process of its own; return what it says, and the megabytes it took."""
    code = (
        "import pathlib, re, sys\n"
        "from trace_probe.interop import inspect_log\n"
        "from trace_probe.errors import TraceError\n"
        "try: inspect_log.import_inspect(sys.argv[1], sys.argv[2])\n"
        "except TraceError as error: print(error)\n"
        "status = pathlib.Path('/proc/self/status').read_text()\n"  # ru_maxrss is the parent's too
        "print(int(re.search(r'VmHWM:\\s+(\\d+)', status)[1]) // 1024)\n"
    )
    command = [sys.executable, "-c", code, str(log), str(run)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    said, megabytes = done.stdout.splitlines()
    assert not run.exists()
    return said, int(megabytes)


def test_a_log_of_megabytes_that_unpacks_to_gigabytes_is_refused_in_little_memory(
    tmp_path: Path,
) -> None:
    pytest.importorskip("inspect_ai", reason="reading Inspect logs needs the extra inspect")
    log = bomb(tmp_path / "bomb.eval", GIGABYTES << 10)
    assert log.stat().st_size < 5 * GIGABYTES << 20
    said, megabytes = refused(log, tmp_path / "run")
    assert "unpacks to more than" in said
    assert megabytes < 300


@pytest.mark.parametrize("frames", [1, 40])
def test_a_log_packed_as_inspect_packs_is_measured_in_little_memory(
    tmp_path: Path, frames: int
) -> None:
    """One frame of a few kilobytes, or many in a row, as Inspect writes large members."""
    pytest.importorskip("inspect_ai", reason="reading Inspect logs needs the extra inspect")
    zstandard = pytest.importorskip("zstandard", reason="Inspect brings it")
    packer = zstandard.ZstdCompressor(write_content_size=False)
    part = (GIGABYTES << 30) // frames
    frame = b"".join(packer.read_to_iter(io.BytesIO(b" " * part)))
    log = tmp_path / "bomb.eval"
    with zipfile.ZipFile(log, "w") as archive:
        archive.writestr("header.json", frame * frames)
    raw = log.read_bytes()
    for mark, at in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):  # it says that it is packed
        start = raw.index(mark) + at
        raw = raw[:start] + ZSTANDARD.to_bytes(2, "little") + raw[start + 2 :]
    log.write_bytes(raw)
    said, megabytes = refused(log, tmp_path / "run")
    assert "unpacks to more than 64 MB" in said
    assert megabytes < 300


@pytest.mark.parametrize("kind", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_log_in_a_kind_of_archive_that_inspect_does_not_write_is_refused(
    tmp_path: Path, kind: int
) -> None:
    """A kilobyte of bzip2 unpacks to a gigabyte, at once."""
    log = tmp_path / "bomb.eval"
    with zipfile.ZipFile(log, "w", kind) as archive:
        archive.writestr("header.json", b" " * (1 << 26))
    with pytest.raises(TraceError, match="Inspect does not pack in the kind"):
        check_archive(log)


def test_an_archive_that_lies_about_its_size_is_measured_all_the_same(tmp_path: Path) -> None:
    log = bomb(tmp_path / "lie.eval", 192, lie=True)
    with pytest.raises(TraceError, match=r"unpacks to more than \d+ MB"):
        check_archive(log)


@pytest.mark.parametrize(
    "data", [b"", b"PK\x05\x06" + b"\0" * 18, b"PK\x03\x04", b"{", b"[" * 10**5, b'{"eval": 3}']
)
@pytest.mark.parametrize("name", ["log.eval", "log.json"])
def test_what_is_no_log_is_one_sentence(tmp_path: Path, data: bytes, name: str) -> None:
    pytest.importorskip("inspect_ai", reason="reading Inspect logs needs the extra inspect")
    from trace_probe.interop.inspect_log import import_inspect

    log = tmp_path / name
    with pytest.raises(TraceError, match="there is no file"):
        import_inspect(log, tmp_path / "run")
    log.write_bytes(data)
    with pytest.raises(TraceError) as raised:
        import_inspect(log, tmp_path / "run")
    assert "\n" not in str(raised.value)


def test_a_line_that_is_no_transcript_is_not_read_to_its_end(tmp_path: Path) -> None:
    """Each token becomes an object: ten megabytes of short lines took more than a minute."""
    assert LONGEST_LINE == 512 << 20
    file = tmp_path / "long.jsonl"
    file.write_bytes(b"x" * 2000)
    with pytest.raises(TraceError, match=r"long.jsonl, line 1 is longer than 0 MB: take pictures"):
        list(lines(file, 1000))


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "p", "answer": "a\n" * 3000},
        {
            "messages": [
                {"role": "user", "content": "p"},
                {"role": "assistant", "content": "ok"},
                {"role": "tool", "content": "a\n" * 3000},
            ]
        },
    ],
)
def test_a_transcript_of_too_many_words_is_refused_and_one_long_word_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: dict[str, Any]
) -> None:
    assert bounds.MOST_WORDS == 2 << 20
    file = tmp_path / "long.jsonl"
    monkeypatch.setattr(bounds, "MOST_WORDS", 2000)
    file.write_text(json.dumps(record))
    with pytest.raises(TraceError, match=r"line 1: has more than 0 million words"):
        list(read_transcripts(file))
    file.write_text(json.dumps(record).replace("a\\n", "ab"))
    assert len(list(read_transcripts(file))) == 1


def test_pictures_do_not_count_in_the_size_of_a_transcript(tmp_path: Path) -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 5000000}}
    user = {"role": "user", "content": [{"type": "text", "text": "Look."}, picture]}
    record = {"messages": [user, {"role": "assistant", "content": "A cat."}]}
    for name, indent in (("one.jsonl", None), ("many.json", 2)):
        (tmp_path / name).write_text(json.dumps(record, indent=indent))
        [(trace, _)] = read_transcripts(tmp_path / name)
        assert trace.channel_text("prompt") == "Look.\n[image_url]\n\n"


def test_one_object_on_many_lines_that_is_no_json_is_told_as_such(tmp_path: Path) -> None:
    file = tmp_path / "torn.json"
    file.write_text('{\n  "prompt": "p",\n  "answer": "a" "b"\n}\n')
    with pytest.raises(TraceError, match=r"torn.json is not JSON: .* line 3 column 17"):
        list(read_transcripts(file, aside=LeftOut()))
    file.write_text('{\n{"prompt": "p", "answer": "a"}\n')
    aside = LeftOut()
    assert len(list(read_transcripts(file, aside=aside))) == 1
    assert [row.where for row in aside.rows] == ["line 1"]


def test_rows_that_are_kept_in_part_are_told_as_such(tmp_path: Path) -> None:
    aside = LeftOut()
    aside.row("line 1", "longer than all", "")
    aside.row("line 2", "is no chat", "{}")
    assert aside.told("x")[0].endswith("They are named in x, 1 of them without the whole row.")
    store = make_run(tmp_path / "run", range(1))
    for _ in range(2):
        again = LeftOut()
        again.row("line 1", "longer than all", "")
        again.row("line 9", "longer than all", "")
        again.keep(store, "t")
    kept = list(store.artifacts.lines("left_out", "t").values(dict))
    assert [row["where"] for row in kept] == ["line 1", "line 9"]


def test_an_export_with_a_line_that_no_trace_needs_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trace_probe.interop import exchange

    assert exchange.LONGEST_LINE == 64 << 20
    monkeypatch.setattr(exchange, "LONGEST_LINE", 1 << 20)
    (tmp_path / "run.jsonl").write_bytes(b" " * (1 << 21))
    with pytest.raises(TraceProbeError, match="line 1 is longer than 1 MB"):
        import_export(tmp_path / "run.jsonl", tmp_path / "run")


def test_deep_json_in_a_line_is_named(tmp_path: Path) -> None:
    file = tmp_path / "deep.jsonl"
    file.write_text('{"prompt": ' + "[" * 10**5 + "]" * 10**5 + "}")
    with pytest.raises(TraceError, match="line 1 is not JSON"):
        list(read_transcripts(file))


# Fuzz: whatever comes, only our own errors

ANY_TEXT = st.text(max_size=60) | st.lists(
    st.sampled_from(
        ["<think>", "</think>", "[THINK]", "<|channel|>", "analysis", "final", "<|message|>"]
        + [". ", "\n", "e.g. ", "1. ", "a", "…", "。", "”", " ", "\u2028", "\N{GRINNING FACE}"]
    ),
    max_size=30,
).map("".join)
KINDS = ["<think>", "[THINK]", "<|channel|>", "<|im_start|>", "", None]


@settings(**FIXED)
@given(ANY_TEXT, st.sampled_from(KINDS), st.booleans())
def test_channels_of_any_text_tile_it(text: str, template: str | None, prefilled: bool) -> None:
    format: Format = format_of(template, "m")
    cut = split(text, 0, format, prefilled=prefilled)
    assert "".join(text[start:stop] for _, start, stop in cut.ranges) == text
    offsets = tuple(range(len(text)))
    layout = lay_out(text, offsets, 0, cut)
    assert all(0 <= span.start < span.stop <= len(text) for span in layout.sentences)


@settings(**FIXED)
@given(ANY_TEXT, st.integers(1, 5))
def test_sentences_of_any_tokens_tile_them(text: str, width: int) -> None:
    offsets = tuple(range(0, len(text), width))
    spans = sentence_spans(text, offsets, 0, len(offsets), "reasoning")
    assert [token for span in spans for token in range(span.start, span.stop)] == list(
        range(len(offsets))
    )


ANY_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None, categories=None), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
NAMES = [field for names in vars(FieldMapping()).values() for field in names]


@settings(**FIXED)
@given(st.dictionaries(st.sampled_from(NAMES), ANY_JSON | ANY_TEXT, max_size=8))
def test_any_transcript_is_read_or_named(
    tmp_path_factory: pytest.TempPathFactory, record: dict[str, Any]
) -> None:
    file = tmp_path_factory.mktemp("fuzz") / "t.jsonl"
    file.write_text(json.dumps(record), "utf-8")
    try:
        for trace, label in read_transcripts(file):
            json.dumps([repr(trace), repr(label)])
            trace.text.encode()
    except TraceProbeError as error:
        assert "line 1" in str(error)  # noqa: PT017 - any of our errors, or none


@settings(**FIXED)
@given(st.binary(max_size=80))
def test_any_bytes_are_read_as_lines_or_named(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    file = tmp_path_factory.mktemp("fuzz") / "t.jsonl"
    file.write_bytes(data)
    try:
        list(read_lines(file, FieldMapping()))
    except TraceError as error:
        assert "t.jsonl, line " in str(error)  # noqa: PT017 - any of our errors, or none


@settings(**FIXED)
@given(st.text(max_size=30))
def test_any_mapping_is_parsed_or_named(text: str) -> None:
    try:
        FieldMapping.parse(text)
    except TraceError as error:
        assert "write NAME=FIELD" in str(error)  # noqa: PT017 - any of our errors, or none


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("export")
    export_run(make_run(folder / "run", range(3)), folder / "run.jsonl")
    return (folder / "run.jsonl").read_bytes().splitlines(keepends=True)


@settings(max_examples=40, derandomize=True)
@given(st.data())
def test_an_export_that_was_changed_anywhere_is_read_or_named(
    tmp_path_factory: pytest.TempPathFactory, exported: list[bytes], data: st.DataObject
) -> None:
    """A field of a line is replaced by anything, or a byte is flipped."""
    folder, lines = tmp_path_factory.mktemp("fuzz"), list(exported)
    number = data.draw(st.integers(0, len(lines) - 1))
    if data.draw(st.booleans()):
        value = json.loads(lines[number])
        inner = value[data.draw(st.sampled_from(sorted(value)))]
        place = inner if isinstance(inner, dict) else value
        place[data.draw(st.sampled_from(sorted(place)))] = data.draw(ANY_JSON)
        lines[number] = json.dumps(value).encode() + b"\n"
    else:
        broken = bytearray(lines[number])
        broken[data.draw(st.integers(0, len(broken) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        lines[number] = bytes(broken)
    file = folder / "run.jsonl"
    file.write_bytes(b"".join(lines))
    try:
        import_export(file, folder / "back")
        list(Store(folder / "back").traces())
    except TraceProbeError as error:
        assert str(error)  # noqa: PT017 - any of our errors, or none
