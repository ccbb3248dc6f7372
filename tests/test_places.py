"""The same run in a folder, in memory, and in a bucket of a local S3 server."""

import errno
import os
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import LAYERS, MANIFEST, contents, fill, held_by, label_of, make_run, make_trace

from trace_probe.errors import StoreError
from trace_probe.storage.place import Bucket, Folder, place_at
from trace_probe.store import Store
from trace_probe.upkeep.listing import list_traces, runs_in
from trace_probe.upkeep.merge import merge
from trace_probe.upkeep.pack import pack
from trace_probe.upkeep.verify import verify

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """Return the URL of a bucket on a server that speaks S3's protocol."""
    pytest.importorskip("s3fs", reason="the extra s3 is not installed")
    server = pytest.importorskip("moto.server", reason="moto is not installed")
    import s3fs

    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    with pytest.MonkeyPatch.context() as patched:
        for name, value in {**KEYS, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}.items():
            patched.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        name = f"traces-{port}"  # servers of one process share what they hold
        s3fs.S3FileSystem().mkdir(name)
        yield f"s3://{name}"
        s3fs.S3FileSystem.clear_instance_cache()
    running.stop()


@pytest.fixture(params=["folder", "memory", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))
    if request.param == "folder":
        return str(tmp_path / "runs")
    base = "memory:/" if request.param == "memory" else request.getfixturevalue("bucket")
    return f"{base}/{uuid.uuid4().hex}"


@pytest.fixture
def here() -> dict[str, object]:
    """Return what a run of ten traces holds."""
    return {"traces": [make_trace(number, 2 + number % 4) for number in range(10)]}


def test_a_run_is_created_recorded_into_and_read(root: str, here: dict[str, Any]) -> None:
    run = make_run(f"{root}/one", range(10))
    again = Store(f"{root}/one")
    assert list(again.traces()) == here["traces"]
    assert again.ids() == {trace.id for trace in here["traces"]}
    assert again.labels() == {trace.id: label_of(trace) for trace in here["traces"]}
    assert again.labellers() == ["rule"]
    trace = here["traces"][3]
    assert again.trace(trace.id) == trace
    expected = held_by(trace).values.astype(np.float16)
    assert np.array_equal(again.activations(trace).values, expected)
    assert np.array_equal(again.activations(trace, [3]).values[0], expected[1])
    assert contents(run) == contents(again)


def test_scores_and_reports_are_kept(root: str) -> None:
    run = make_run(f"{root}/one", range(3))
    ids = sorted(run.ids())
    run.write_scores("probe", {name: np.array([0.5, np.nan], np.float32) for name in ids})
    run.write_report("probe", {"auroc": 0.75})
    again = Store(f"{root}/one")
    assert again.detectors() == ["probe"]
    assert again.report("probe") == {"auroc": 0.75}
    assert again.report("other") is None
    assert sorted(again.scores("probe")) == ids
    with pytest.raises(StoreError, match="holds no scores of 'other'"):
        again.scores("other")


def test_a_reader_sees_what_another_adds_and_no_more(root: str) -> None:
    run = make_run(f"{root}/one", range(2))
    reader = Store(f"{root}/one")
    assert len(reader) == 2
    fill(run, [2])
    assert len(reader) == 3
    run.vault.write("uncommitted", "key", held_by(make_trace(9)))
    assert len(reader) == 3
    assert len(list(reader.traces())) == 3


def test_labels_that_come_later_replace_earlier_ones(root: str) -> None:
    run = make_run(f"{root}/one", range(3))
    changed = [replace(label_of(trace), rationale="again") for trace in run.traces()]
    with run.writing():
        run.add_labels(changed)
    assert Store(f"{root}/one").labels() == {label.trace_id: label for label in changed}


def test_many_writers_add_at_once_and_each_trace_is_there_once(root: str) -> None:
    Store.create(f"{root}/one", MANIFEST)
    first, second = Store(f"{root}/one"), Store(f"{root}/one")
    with first.joined("00000002") as one, second.joined("00000000") as two:
        fill(one, [2, 3])
        fill(two, [0, 1])
        assert len(Store(f"{root}/one")) == 0
    with Store(f"{root}/one").joined("00000002") as repeated:
        fill(repeated, [2, 3])
    reader = Store(f"{root}/one")
    assert [trace.sample for trace in reader.traces()] == [0, 1, 2, 3]
    with reader.writing():
        fill(reader, [4])
    assert [trace.sample for trace in reader.traces()] == [0, 1, 2, 3, 4]
    assert verify(reader, progress=False).problems == ()


def test_packed_it_reads_the_same(root: str) -> None:
    run = make_run(f"{root}/one", range(10))
    before = contents(run)
    report = pack(run, shard_bytes=300, progress=False)
    assert report.packed == 10
    assert report.shards > 1
    again = Store(f"{root}/one")
    assert contents(again) == before == contents(run)
    assert again.place.names("activations") == []
    found = verify(again, progress=False)
    assert (found.problems, found.packed, found.unkeyed) == ((), 10, 0)


def test_a_layer_is_read_as_one_matrix(root: str) -> None:
    run = make_run(f"{root}/one", range(6))
    matrix = run.layer_matrix(3, progress=False)
    for trace in run.traces():
        start, values = matrix.start[trace.id], run.activations(trace, [3]).values[0]
        assert np.array_equal(matrix.values[start : start + len(values)], values)


def test_runs_and_their_traces_are_listed(root: str) -> None:
    make_run(f"{root}/one", range(4))
    make_run(f"{root}/two", range(3))
    assert [url.rsplit("/", 1)[-1] for url in runs_in(root)] == ["one", "two"]
    assert [url.rsplit("/", 1)[-1] for url in runs_in(f"{root}/one")] == ["one"]
    assert list_traces(Store(f"{root}/two"))["sample"].to_pylist() == [0, 1, 2]
    assert runs_in(f"{root}/none") == []


def test_a_run_is_copied_from_one_place_to_another(root: str, tmp_path: Path) -> None:
    source = make_run(tmp_path / "here", range(5))
    merge(f"{root}/there", [tmp_path / "here"], progress=False)
    assert contents(Store(f"{root}/there")) == contents(source)


def test_what_is_not_there_or_not_ours_is_named(root: str) -> None:
    with pytest.raises(StoreError, match="no run at .*/none: .*make one with"):
        Store(f"{root}/none")
    make_run(f"{root}/one", range(1))
    with pytest.raises(StoreError, match=r"other settings \(layers\)"):
        Store.create(f"{root}/one", replace(MANIFEST, layers=(2,)))
    place_at(f"{root}/other").write("notes.txt", [b"mine"])
    with pytest.raises(StoreError, match="is not empty and not a run"):
        Store.create(f"{root}/other", MANIFEST)


def test_a_file_that_is_cut_short_is_named(root: str) -> None:
    run = make_run(f"{root}/one", range(1))
    (trace,) = run.traces()
    file = run.vault.file(trace.id)
    whole = run.place.read(file)
    for size in (len(whole) - 4, 100, 4, 0):
        run.place.write(file, [whole[:size]])
        with pytest.raises(StoreError, match="is damaged"):
            Store(f"{root}/one").activations(trace)


# What is particular to one of them


def test_a_url_that_went_through_a_path_is_understood(tmp_path: Path) -> None:
    place = place_at(Path("memory://some/run"))
    assert isinstance(place, Bucket)
    assert place.url == "memory://some/run"
    assert place_at(f"file://{tmp_path}/a").folder == tmp_path / "a"
    assert isinstance(place_at("traces/demo"), Folder)
    assert isinstance(place_at("traces/odd:name"), Folder)


def test_an_unknown_kind_of_url_is_named() -> None:
    with pytest.raises(StoreError, match="cannot open nosuch://x"):
        Store("nosuch://x/run")


def test_a_bucket_that_cannot_be_reached_is_named(bucket: str) -> None:
    assert bucket
    with pytest.raises(StoreError, match="cannot (reach|write) .*s3://nosuch"):
        Store.create("s3://nosuch/run", MANIFEST)


def test_a_server_that_is_gone_is_named(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    make_run(f"{bucket}/gone", range(1))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(StoreError, match=f"cannot reach {bucket}/gone/run.json"):
        Store(f"{bucket}/gone")
    s3fs.S3FileSystem.clear_instance_cache()


def test_a_name_is_on_disk_before_a_line_relies_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut a committed line must find its activations: file, folder, then line."""
    synced: list[str] = []
    fsync = os.fsync

    def watched(handle: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{handle}"))
        fsync(handle)

    store = Store.create(tmp_path / "run", MANIFEST)
    monkeypatch.setattr(os, "fsync", watched)
    fill(store, [0])
    temporary, folder, line = synced
    assert temporary.endswith(".tmp")
    assert folder == str(tmp_path / "run" / "activations")
    assert line == str(tmp_path / "run" / "traces.jsonl")


def test_a_folder_that_cannot_be_synced_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def odd(handle: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{handle}"):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", odd)
    assert len(make_run(tmp_path / "run", range(2))) == 2


def test_one_layer_is_fetched_without_the_others(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", range(1))
    (trace,) = run.traces()
    read: list[int] = []
    into = run.place.read_into

    def counted(name: str, start: int, buffer: memoryview) -> None:
        read.append(len(buffer))
        into(name, start, buffer)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(run.place, "read_into", counted)
        run.activations(trace, LAYERS[:1])
    assert read == [held_by(trace).values[0].size * 2]
