"""What a stranger's run or probe may hold, and what accidents do: an error of ours, no more."""

import json
import os
import re
import struct
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import flips
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import LAYERS, contents, edit_run, held_by, label_of, make_run, make_trace
from test_episode import EPISODE

from trace_probe.episode import calls_of
from trace_probe.errors import ProbeError, StoreError, TraceProbeError
from trace_probe.files import append, json_bytes, write_json
from trace_probe.labels import Label
from trace_probe.monitor.calibrated import load_calibrations
from trace_probe.monitor.sharing import seal_probe, verify_probe
from trace_probe.probing.probe import load_probe, save_probe
from trace_probe.storage.place import Folder
from trace_probe.storage.records import to_label, to_line, to_trace
from trace_probe.storage.seals import sealed_line
from trace_probe.storage.tensors import checksum, encode, read_header
from trace_probe.store import Store
from trace_probe.trace import Span, Trace
from trace_probe.upkeep.merge import merge
from trace_probe.upkeep.pack import pack
from trace_probe.upkeep.repair import repair
from trace_probe.upkeep.seal import migrate, seal
from trace_probe.upkeep.verify import verify, verify_at

EACH = int(os.environ.get("TRACE_PROBE_FLIPS", "2"))
"""How many bits are flipped in each kind of file; 25 make more than 500 in all."""
DEEP = "[" * 100_000


def flip(file: Path, at: int) -> None:
    """Change one bit of a file."""
    data = bytearray(file.read_bytes())
    data[at] ^= 8
    file.write_bytes(data)


@pytest.fixture
def run(tmp_path: Path) -> Store:
    return make_run(tmp_path / "run", range(6))


@pytest.fixture
def probe(tmp_path: Path) -> Path:
    flips._probe(tmp_path / "probe")
    return tmp_path / "probe"


# Links and names that lead elsewhere


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """Return a folder with a file that is none of ours and must stay as it is."""
    folder = tmp_path / "foreign"
    folder.mkdir()
    (folder / "theirs.safetensors").write_text("theirs")
    return folder


@pytest.mark.parametrize("name", ["shards", "raw", "activations", "scores", "traces", "aside"])
def test_a_folder_that_is_a_link_is_not_entered(run: Store, foreign: Path, name: str) -> None:
    if (run.path / name).exists():
        (run.path / name).rename(run.path / f"{name}.moved")
    (run.path / name).symlink_to(foreign)
    if name == "aside":
        (run.path / "labels.jsonl").write_bytes(b"not json\n")
    with pytest.raises(StoreError, match=f"{name} is a link"):
        repair(Store(run.path), progress=False)
    assert [(file.name, file.read_text()) for file in foreign.iterdir()] == [
        ("theirs.safetensors", "theirs")
    ]


@pytest.mark.parametrize("name", [".lock", ".joined", "labels.jsonl", "traces.jsonl", "run.json"])
def test_a_file_that_is_a_link_is_neither_read_nor_written(
    run: Store, tmp_path: Path, name: str
) -> None:
    theirs = tmp_path / "theirs"
    text = (run.path / name).read_bytes()[:-5] + b'{"torn'
    theirs.write_bytes(text)
    (run.path / name).unlink()
    (run.path / name).symlink_to(theirs)
    with (
        pytest.raises(StoreError, match=f"{re.escape(name)} is a link"),
        Store(run.path).writing() as it,
    ):
        it.add_labels([label_of(make_trace(0))])
    assert theirs.read_bytes() == text


def test_locks_are_for_their_owner_and_are_not_emptied(run: Store) -> None:
    (run.path / ".lock").write_text("something")
    with run.writing():
        pass
    assert (run.path / ".lock").read_text() == "something"
    assert (run.path / ".joined").stat().st_mode & 0o777 == 0o600


def test_a_pipe_in_a_run_is_named_and_nobody_waits_for_it(run: Store) -> None:
    (run.path / "labels.jsonl").unlink()
    os.mkfifo(run.path / "labels.jsonl")
    with pytest.raises(StoreError, match=r"labels.jsonl is not a file"):
        Store(run.path).labels()


@pytest.mark.parametrize("name", ["../../outside/x", "/etc/x", "..", "a/b", "", "a\0b", "x" * 201])
def test_a_trace_whose_id_leads_elsewhere_is_no_trace(
    tmp_path: Path, run: Store, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "outside").mkdir()
    line = to_line(replace(make_trace(9), id=name))
    append(run.path / "traces.jsonl", [sealed_line(line)])
    merge(tmp_path / "merged", [run.path], progress=False)
    assert len(Store(tmp_path / "merged")) == 6
    assert "cannot be called" in caplog.text
    assert not list((tmp_path / "outside").iterdir())
    assert "cannot be called" in verify(Store(run.path), progress=False).problems[0]


@pytest.mark.parametrize("name", ["../../../x", "a/b", ".x", 3])
def test_a_probe_whose_name_leads_elsewhere_is_refused(probe: Path, name: object) -> None:
    card = json.loads((probe / "card.json").read_text())
    write_json(probe / "card.json", {**card, "schema": 1, "name": name, "seal": None})
    with pytest.raises(ProbeError, match="a probe cannot be called"):
        load_probe(probe)


def test_an_index_that_names_a_foreign_file_is_refused(run: Store) -> None:
    from trace_probe.storage.shards import Packed, write_index

    pack(run, progress=False)
    packed = {**run.vault.packed()}
    name, one = next(iter(packed.items()))
    for changed in (replace(one, shard="../foreign/x.safetensors"), replace(one, start=9, stop=3)):
        write_index(run.place, [*packed.values(), Packed(**{**asdict(changed), "trace_id": name})])
        with pytest.raises(StoreError, match=r"index.parquet is damaged"):
            Store(run.path).vault.packed()


def test_only_files_of_our_own_form_are_ever_deleted(run: Store) -> None:
    kept = ("activations/notes.txt", "raw/x.npy", "shards/mine.safetensors", "traces.jsonl.tmp")
    for name in kept:
        run.place.write(name, [b"theirs"])
    with run.writing():
        pass
    assert all((run.path / name).read_bytes() == b"theirs" for name in kept)


# Numbers that are none


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["coef_", "intercept_"])
def test_a_probe_with_a_weight_that_is_no_number_is_refused(
    tmp_path: Path, probe: Path, bad: float, where: str
) -> None:
    saved = load_probe(probe)
    getattr(saved.probe, where).reshape(-1)[-1] = bad
    save_probe(tmp_path / "bad", saved)
    with pytest.raises(ProbeError, match=r"probe.safetensors holds a weight that is inf or nan"):
        load_probe(tmp_path / "bad")


@pytest.mark.parametrize("bad", ["NaN", "Infinity", "-Infinity", "1e999", "null", '"0.5"', "true"])
@pytest.mark.parametrize("name", ["card.json", "alarms.json"])
def test_a_threshold_that_is_no_number_is_refused(probe: Path, bad: str, name: str) -> None:
    text = (probe / name).read_text()
    text = re.sub(r'("threshold"|"value"): [\d.]+', rf"\1: {bad}", text)
    (probe / name).write_text(text.replace('"schema": 2', '"schema": 1').replace('"seal"', '"x"'))
    text = re.sub(r',\s*"x": "\w+"', "", (probe / name).read_text())
    (probe / name).write_text(text)
    why = rf"{name}: \S*(threshold|value) is .*: it should be a (finite|valid) number"
    with pytest.raises(ProbeError, match=why):
        load_calibrations(probe) if name == "alarms.json" else load_probe(probe, "ignored")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("packed", [False, True])
def test_activations_that_are_no_numbers_are_refused_where_they_are_read(
    run: Store, bad: float, packed: bool
) -> None:
    """Even with a checksum that fits: it finds accidents, not strangers."""
    trace = make_trace(3, 5)
    values = held_by(trace).values.astype(np.float16)
    values[1, 2, 3] = bad
    metadata = {"key": run.key(trace), "checksum": checksum(values, LAYERS), "fidelity": ""}
    shape = (values.shape[1], values.shape[2])
    run.place.write(run.vault.file(trace.id), encode(metadata, LAYERS, shape, values.dtype, values))
    for read in (
        lambda: run.activations(trace),
        lambda: list(run.scan(3)),
        lambda: run.layer_matrix(3, progress=False),
        lambda: pack(run, progress=False) if packed else run.activations(trace),
    ):
        with pytest.raises(StoreError, match=r"holds inf or nan in layer 3: .*store repair"):
            read()
    assert np.array_equal(run.activations(trace, [1]).values[0], values[0])


def test_scores_that_are_infinite_are_refused(run: Store) -> None:
    run.write_scores("eye", {make_trace(0).id: np.array([np.inf, np.nan], np.float32)})
    with pytest.raises(StoreError, match="a score that is infinite"):
        run.scores("eye")


# Files that are not what they should be


def read_some(run: Store, trace: Trace) -> None:
    run.report("eye")
    run.vault.packed()
    run.activations(trace)


@pytest.mark.parametrize("name", ["run.json", "reports/eye.json", "activations", "shards/index"])
def test_json_of_any_depth_is_an_error_of_ours(run: Store, name: str) -> None:
    trace = make_trace(0, 2)
    names = {"activations": run.vault.file(trace.id), "shards/index": "shards/index.parquet"}
    run.place.write(names.get(name, name), [struct.pack("<Q", len(DEEP)) + DEEP.encode()])
    with pytest.raises(StoreError):
        read_some(Store(run.path), trace)


@pytest.mark.parametrize("name", ["card.json", "alarms.json", "probe.safetensors"])
def test_a_probe_of_any_depth_is_an_error_of_ours(probe: Path, name: str) -> None:
    (probe / name).write_text(DEEP)
    with pytest.raises(ProbeError):
        _ = load_probe(probe), load_calibrations(probe)


def test_a_line_of_any_depth_is_named_and_the_others_are_read(
    run: Store, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("traces", "labels"):
        append(run.path / f"{name}.jsonl", [DEEP.encode() + b"\n"])
    again = Store(run.path)
    assert (len(list(again.traces())), len(again.labels())) == (6, 6)
    assert caplog.text.count("is broken at line 7") == 2


HEADERS = [
    {"layer.1": {"dtype": "F16", "shape": [2, 5], "data_offsets": [0, 10]}},
    {"layer.1": {"dtype": "F16", "shape": [2**60, 5], "data_offsets": [0, 10 * 2**60]}},
    {"layer.1": {"dtype": "F16", "shape": [-2, -5], "data_offsets": [0, 20]}},
    {"layer.1": {"dtype": "F16", "shape": [2], "data_offsets": [0, 4]}},
    {"layer.1": {"dtype": "F16", "shape": "25", "data_offsets": [0, 20]}},
    {"layer.1": {"dtype": "F64", "shape": [2, 5], "data_offsets": [0, 80]}},
    {"layer.1": {"dtype": ["F16"], "shape": [2, 5], "data_offsets": [0, 20]}},
    {"layer.1": {"dtype": "F16", "shape": [2.0, 5], "data_offsets": [0, 20]}},
    {"layer.1": {"dtype": "F16", "shape": [3, 7], "data_offsets": [0, 42]}},
    {"layer.1": 3},
    {"__metadata__": {"key": 3}},
    {"__metadata__": [1]},
]


@pytest.mark.parametrize("header", HEADERS, ids=range(len(HEADERS)))
def test_a_header_that_cannot_be_is_an_error_of_ours(run: Store, header: dict[str, Any]) -> None:
    edit_run(run.path, schema=1)
    old, trace = Store(run.path), make_trace(0, 2)
    text = json.dumps(header).encode()
    run.place.write(run.vault.file(trace.id), [struct.pack("<Q", len(text)) + text + bytes(80)])
    with pytest.raises(StoreError):
        old.activations(trace, [1])
    assert verify(old, progress=False).problems


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inside: (
        st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=8), inside, max_size=3)
    ),
    max_leaves=6,
)
CARD = json.loads(json.dumps(flips.CARD))
TRACE = json.loads(to_line(make_trace(0)))
RUN_OF_AN_AGENT = json.loads(to_line(EPISODE.joined()))
LABEL = json.loads(to_line(label_of(make_trace(1))))


@given(name=st.sampled_from(sorted(CARD)), value=json_values)
@settings(max_examples=60)
def test_no_card_gives_another_error_than_ours(
    tmp_path_factory: pytest.TempPathFactory, name: str, value: object
) -> None:
    folder = tmp_path_factory.mktemp("probe")
    flips._probe(folder)
    (folder / "card.json").write_text(json.dumps({**CARD, name: value}))
    try:
        saved = load_probe(folder)
    except TraceProbeError:
        return
    assert np.isfinite(saved.card.threshold)


def places(value: object) -> list[tuple[Any, Any]]:
    """Return every place within JSON as what holds it and its key or number there."""
    if not isinstance(value, dict | list):
        return []
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    return [(value, key) for key in keys] + [one for key in keys for one in places(value[key])]


@given(
    raw=st.sampled_from([(TRACE, to_trace), (RUN_OF_AN_AGENT, to_trace), (LABEL, to_label)]),
    data=st.data(),
    value=json_values | st.integers(-3, 40),
)
@settings(max_examples=400)
def test_no_line_gives_another_error_than_ours(
    raw: tuple[dict[str, Any], Callable[[dict[str, Any]], Trace | Label]],
    data: Any,
    value: object,
) -> None:
    """Anything may stand in any place of a line; what is read can be taken apart into calls."""
    line, read = json.loads(json.dumps(raw[0])), raw[1]
    name = data.draw(st.sampled_from(sorted(line)))
    inside, key = data.draw(st.sampled_from([(line, name), *places(line[name])]))
    inside[key] = value
    try:
        made = read(line)
    except TraceProbeError:
        return
    to_line(made)
    if isinstance(made, Trace):
        assert len(list(calls_of(made))) == max(len(made.calls), 1)
        assert [made.call_at(call.start) for call in made.calls] == list(range(len(made.calls)))


@given(
    text=st.binary(max_size=200) | json_values.map(lambda v: json.dumps({"layer.1": v}).encode())
)
@settings(max_examples=120)
def test_no_header_gives_another_error_than_ours(
    tmp_path_factory: pytest.TempPathFactory, text: bytes
) -> None:
    folder = tmp_path_factory.mktemp("header")
    (folder / "x").write_bytes(struct.pack("<Q", len(text)) + text)
    try:
        read_header(Folder(folder), "x")
    except TraceProbeError:
        return


def test_a_long_line_is_read_in_a_moment() -> None:
    """Spans and sentences were compared each with each: ten thousand took minutes."""
    count = 20_000
    spans = tuple(Span(at, at + 1, "answer" if at % 2 else "reasoning") for at in range(count))
    began = time.process_time()
    replace(
        make_trace(0),
        text="x" * count,
        offsets=tuple(range(count)),
        token_ids=(),
        spans=spans,
        sentences=spans,
    )
    assert time.process_time() - began < 5


# Accidents


def test_flipped_bits_are_found_and_change_nothing_silently() -> None:
    counts = flips.suffer(EACH, seed=1)
    assert {one.flips for one in counts.values()} == {EACH}
    for kind, one in counts.items():
        assert (one.cached if kind.startswith("cached") else one.reading + one.verify) == EACH


def test_a_checksum_that_is_gone_is_missed(run: Store) -> None:
    for line in run.lines_of("labels").walk():
        assert line.value is not None
    file = run.path / "labels.jsonl"
    file.write_bytes(file.read_bytes().replace(b'"seal"', b'"sea1"', 1))
    assert "its checksum is missing" in verify(Store(run.path), progress=False).problems[0]


def test_later_scans_pay_nothing_for_checksums(run: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    import zlib

    pack(run, progress=False)
    reader, summed, crc = Store(run.path), [], zlib.crc32

    def counted(data: Any, start: int = 0) -> int:
        summed.append(len(data))
        return crc(data, start)

    monkeypatch.setattr("trace_probe.storage.tensors.zlib.crc32", counted)
    list(reader.scan(3))
    first = len(summed)
    list(reader.scan(3))
    assert first >= 6
    assert len(summed) == first


def test_later_scans_read_no_header_again_unless_the_file_was_replaced(
    run: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = list[str]()

    def counted(place: Any, name: str, **how: Any) -> Any:
        headers.append(name)
        return read_header(place, name, **how)

    monkeypatch.setattr("trace_probe.storage.tensors.read_header", counted)
    reader = Store(run.path)
    list(reader.scan(3))
    assert len(headers) == len(run)
    list(reader.scan(3))
    assert len(headers) == len(run)
    file = run.path / run.vault.file(next(run.traces()).id)
    flip(file, -3)
    with pytest.raises(StoreError, match="checksum of layer 3 does not fit"):
        list(reader.scan(3))
    assert len(headers) == len(run) + 1


def break_a_trace(run: Store) -> None:
    lines = (run.path / "traces.jsonl").read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b'"sample": 2', b'"sample": 3')
    (run.path / "traces.jsonl").write_bytes(b"".join(lines))


def break_activations(run: Store) -> None:
    file = run.path / run.vault.file(make_trace(2, 4).id)
    flip(file, -3)


def break_scores(run: Store) -> None:
    run.write_scores("eye", {t.id: np.zeros(len(t.sentences), np.float32) for t in run.traces()})
    flip(run.path / "scores" / "eye.parquet", 40)


@pytest.mark.parametrize(
    ("damage", "traces"), [(break_a_trace, 5), (break_activations, 5), (break_scores, 6)]
)
def test_what_is_broken_is_set_aside_and_the_rest_can_be_used(
    run: Store, damage: Callable[[Store], None], traces: int
) -> None:
    before = contents(run)
    damage(run)
    assert verify(Store(run.path), progress=False).problems
    report = repair(Store(run.path), progress=False)
    assert report.left == ()
    after = contents(Store(run.path))
    assert len(Store(run.path)) == traces
    assert all(trace in before["traces"] for trace in after["traces"])  # type: ignore[operator,attr-defined]
    assert verify(Store(run.path), progress=False).problems == ()
    assert any((run.path / "aside").rglob("*.*"))
    assert "are now in aside/" in str(report)


def test_a_damaged_index_of_the_shards_is_made_again_from_the_shards(run: Store) -> None:
    before = contents(run)
    pack(run, shard_bytes=200, progress=False)
    flip(run.path / "shards" / "index.parquet", 60)
    with pytest.raises(StoreError, match="index.parquet is damaged.*store repair"):
        contents(Store(run.path))
    report = repair(Store(run.path), progress=False)
    assert (report.files, report.left) == (["shards/index.parquet"], ())
    assert contents(Store(run.path)) == before
    assert verify(Store(run.path), progress=False).problems == ()


@pytest.mark.parametrize("since", [False, True])
def test_a_lost_index_of_the_shards_is_made_again_from_the_shards(run: Store, since: bool) -> None:
    """Also if more was recorded and packed since, so that there is an index of that."""
    pack(run, shard_bytes=200, progress=False)
    before = contents(run)
    shards = sorted(run.path.glob("shards/*.safetensors"))
    (run.path / "shards" / "index.parquet").unlink()
    again = Store(run.path)
    with pytest.raises(StoreError, match=r"is not in shards/index.parquet: .*store repair"):
        again.activations(make_trace(0, 2))
    if since:
        with again.writing():
            again.add(make_trace(9), held_by(make_trace(9)))
        pack(again, progress=False)
        before = {**before, "traces": list(again.traces())}
    found = verify(Store(run.path), progress=False)
    assert len(found.problems) == len(shards)
    assert "store repair" in found.problems[0]
    report = repair(Store(run.path), progress=False)
    assert (report.lines, report.files, report.traces, report.left) == (0, [], [], ())
    assert "shards/index.parquet was made again" in str(report)
    after = contents(Store(run.path))
    assert after["traces"] == before["traces"]
    assert after["values"].items() >= before["values"].items()  # type: ignore[attr-defined]
    assert verify(Store(run.path), progress=False).problems == ()


def test_a_shard_that_is_damaged_is_set_aside_where_the_index_is_lost(run: Store) -> None:
    pack(run, shard_bytes=200, progress=False)
    before = contents(run)
    damaged = min(run.path.glob("shards/*.safetensors"))
    (run.path / "shards" / "index.parquet").unlink()
    flip(damaged, 60)
    report = repair(Store(run.path), progress=False)
    assert (report.files, report.left) == ([f"shards/{damaged.name}"], ())
    assert list(run.path.glob(f"aside/shards/{damaged.name}.*"))
    after = contents(Store(run.path))
    assert 0 < len(Store(run.path)) == 6 - len(report.traces) < 6
    assert before["values"].items() >= after["values"].items()  # type: ignore[attr-defined]
    assert verify(Store(run.path), progress=False).problems == ()


def test_a_shard_that_does_not_say_what_it_holds_is_named(run: Store) -> None:
    pack(run, progress=False)
    (shard,) = run.path.glob("shards/*.safetensors")
    layers = [np.zeros((2, 5), np.float16)] * 2
    shard.write_bytes(b"".join(encode({}, LAYERS, (2, 5), layers[0].dtype, layers)))
    flip(run.path / "shards" / "index.parquet", 60)
    with pytest.raises(StoreError, match="does not say which traces it holds: restore"):
        repair(Store(run.path), progress=False)


def test_a_line_that_is_broken_does_not_cost_its_activations(run: Store) -> None:
    """Their file looks like one that nobody committed; a copy of the line would be of no use."""
    break_a_trace(run)
    with Store(run.path).writing():
        pass
    assert len(list(run.path.glob("activations/*"))) == 6


def test_a_damaged_last_newline_costs_no_trace(run: Store) -> None:
    file = run.path / "traces.jsonl"
    file.write_bytes(file.read_bytes()[:-1] + b"\x0b")
    assert len(Store(run.path)) == 6
    assert "its newline is damaged" in verify(Store(run.path), progress=False).problems[0]
    with Store(run.path).writing() as again:
        again.add(make_trace(7))
    assert len(Store(run.path)) == 7
    assert verify(Store(run.path), progress=False).problems[0].startswith("no activations")


def test_what_was_edited_on_purpose_can_be_sealed(run: Store) -> None:
    text = (run.path / "run.json").read_text().replace('"tasks": ""', '"tasks": "mine"')
    (run.path / "run.json").write_text(text)
    with pytest.raises(StoreError, match=r"run.json is damaged: .*trace-probe store seal"):
        Store(run.path)
    assert "run.json is damaged" in verify_at(run.path, progress=False).problems[0]
    break_a_trace(run)
    seal(Store(run.path, "ignored"), progress=False)
    again = Store(run.path)
    assert again.manifest.tasks == "mine"
    assert [trace.sample for trace in again.traces()] == [0, 1, 3, 3, 4, 5]
    assert verify(again, progress=False).problems == ()


def unsealed(run: Store, *, packed: bool) -> None:
    """Make a run as schema 1 left it."""
    if packed:
        pack(run, progress=False)
    for name in ("traces.jsonl", "labels.jsonl"):
        data = (run.path / name).read_bytes()
        (run.path / name).write_bytes(re.sub(rb', "seal": "\w{8}"', b"", data))
    raw = json.loads((run.path / "run.json").read_text())
    raw.pop("seal")
    (run.path / "run.json").write_bytes(json_bytes({**raw, "schema": 1}))


@pytest.mark.parametrize("packed", [False, True])
def test_a_run_of_schema_1_is_read_unchecked_and_can_be_migrated(run: Store, packed: bool) -> None:
    unsealed(run, packed=packed)
    before = contents(Store(run.path))
    found = verify(Store(run.path), progress=False)
    assert (found.problems, found.unchecked) == ((), 12)
    assert "12 lines, files or activations of an earlier version are unchecked" in str(found)
    migrate(Store(run.path), progress=False)
    again = Store(run.path)
    assert again.manifest.schema == 2
    assert contents(again) == before
    found = verify(again, progress=False)
    assert (found.problems, found.unchecked) == ((), 0)


def test_a_run_that_is_broken_is_not_migrated(run: Store) -> None:
    unsealed(run, packed=False)
    append(run.path / "labels.jsonl", [b"{}\n"])
    with pytest.raises(StoreError, match="1 problems.*repair the run before"):
        migrate(Store(run.path), progress=False)
    assert Store(run.path).manifest.schema == 1


def test_a_damaged_cache_is_made_again_without_a_word(
    run: Store, caplog: pytest.LogCaptureFixture
) -> None:
    values = run.layer_matrix(3, progress=False).values.tobytes()
    (file,) = (run.cache / "matrix").iterdir()
    for data in (b"", b"not an array", file.read_bytes()[:-40], DEEP.encode()):
        file.write_bytes(data)
        assert run.layer_matrix(3, progress=False).values.tobytes() == values
        run.place.write("cache/traces.parquet", [data])
        assert len(Store(run.path)) == 6
    assert not caplog.text


# Probes


def test_every_file_of_a_probe_is_verified_whatever_the_first_holds(probe: Path) -> None:
    assert verify_probe(probe).problems == verify_probe(probe).unchecked == ()
    for name in ("card.json", "probe.safetensors", "alarms.json"):
        flip(probe / name, 50)
    problems = "\n".join(verify_probe(probe).problems)
    assert all(f"{name} " in problems for name in ("card.json", "probe.safetensors", "alarms.json"))


def test_a_probe_that_was_edited_on_purpose_can_be_sealed(probe: Path) -> None:
    text = (probe / "card.json").read_text().replace('"threshold": 0.625', '"threshold": 0.5')
    (probe / "card.json").write_text(text)
    with pytest.raises(ProbeError, match="checksum does not fit.*trace-probe probe seal"):
        load_probe(probe)
    seal_probe(probe)
    assert load_probe(probe).card.threshold == 0.5
    assert len(load_calibrations(probe)) == 1
    assert verify_probe(probe).problems == ()


def test_what_a_dead_writer_left_in_a_probe_folder_is_swept(probe: Path) -> None:
    names = ("card.json.0123456789ab.tmp", "alarms.json.0123456789ab.tmp")
    for name in names:
        (probe / name).write_text("half")
    (probe / "notes.tmp").write_text("mine")
    assert sorted(verify_probe(probe).leftovers) == sorted(names)
    save_probe(probe, load_probe(probe))
    assert [file.name for file in probe.glob("*.tmp")] == ["notes.tmp"]


def test_a_file_that_is_being_written_is_not_swept(tmp_path: Path) -> None:
    import fcntl

    from trace_probe.files import sweep

    file = tmp_path / "card.json.0123456789ab.tmp"
    with open(file, "wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        sweep(tmp_path)
        assert file.exists()
    sweep(tmp_path)
    assert not file.exists()
