"""What is left when a process is killed, the disk is full, or nothing may be written."""

import errno
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from runs import MANIFEST, contents, fill, held_by, label_of, make_run, make_trace

from trace_probe.errors import StoreError, TraceProbeError
from trace_probe.store import Store
from trace_probe.upkeep.merge import merge
from trace_probe.upkeep.pack import pack
from trace_probe.upkeep.verify import verify

KILLS = int(os.environ.get("TRACE_PROBE_KILLS", "6"))
"""How many processes are killed; CI is content with few."""


@pytest.mark.parametrize("by", ["hand", "model"])
def test_nothing_is_lost_by_kills_at_random_moments(tmp_path: Path, by: str) -> None:
    """Nothing committed is lost, nothing partial is seen, and in the end nothing differs."""
    command = [sys.executable, str(Path(__file__).with_name("kills.py")), str(tmp_path)]
    done = subprocess.run(
        [*command, "--kills", str(KILLS), "--by", by], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["kills"] == KILLS
    assert found["roads"] >= 1


def test_packing_goes_on_from_wherever_it_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right before every commit of a file, and right before every removal of one, in turn."""
    run = make_run(tmp_path / "run", range(12))
    before = contents(run)
    replace, unlink = os.replace, Path.unlink
    seen = set[tuple[str, int]]()

    def stop_once(name: str) -> None:
        moment = (name, len(list(run.path.glob("*/*.safetensors"))))
        if moment not in seen:
            seen.add(moment)
            raise KeyboardInterrupt

    def renamed(source: Path, target: Path) -> None:
        stop_once(Path(target).name)
        replace(source, target)

    def removed(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == ".safetensors":
            stop_once(path.name)
        unlink(path, missing_ok=missing_ok)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", renamed)
        patched.setattr(Path, "unlink", removed)
        for _ in range(200):
            try:
                report = pack(Store(run.path), shard_bytes=200, progress=False)
                break
            except KeyboardInterrupt:
                assert contents(Store(run.path)) == before
    assert len(seen) > 24
    found = verify(Store(run.path), progress=False)
    assert (found.packed, found.problems, found.leftovers) == (12, (), ())
    assert contents(Store(run.path)) == before
    assert report.were_packed == 12


def test_bringing_parts_together_goes_on_from_wherever_it_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.create(tmp_path / "run", MANIFEST)
    for order in range(4):
        with Store(store.path).joined(f"{order:08d}") as one:
            fill(one, [order])
    reader = Store(store.path)
    before = list(reader.traces())
    unlink = Path.unlink

    def stopped(path: Path, missing_ok: bool = False) -> None:
        if "traces" in path.parts and "00000002" in path.name:
            raise KeyboardInterrupt
        unlink(path, missing_ok=missing_ok)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", stopped)
        with pytest.raises(KeyboardInterrupt):
            store.writing().__enter__()
    assert list(reader.traces()) == list(Store(store.path).traces()) == before
    with Store(store.path).writing() as again:
        fill(again, [4])
    assert [trace.sample for trace in reader.traces()] == [0, 1, 2, 3, 4]
    assert len(list(again.lines_of("traces").walk())) == 5, "a line is there twice"
    found = verify(Store(store.path), progress=False)
    assert (found.traces, found.problems, found.leftovers) == (5, (), ())


def test_a_part_that_was_half_brought_is_brought_once(tmp_path: Path) -> None:
    """Whatever of it an interrupted writer appended, torn lines included."""
    store = Store.create(tmp_path / "run", MANIFEST)
    with store.writing():
        fill(store, [0])
    with store.joined("00000001"):
        fill(store, [1, 2, 3])
    grown = store.path / "traces.jsonl"
    (part,) = (store.path / "traces").iterdir()
    before, data = grown.read_bytes(), part.read_bytes()
    for stop in range(0, len(data) + 1, 7):
        grown.write_bytes(before + data[:stop])
        part.write_bytes(data)
        with Store(store.path).writing():
            assert grown.read_bytes() == before + data


# A disk that is full


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """Let the system refuse to make any file longer than `limit`, in the middle of a write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_is_cut_short_leaves_the_run_as_it_was(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", range(6))
    before = contents(run)
    size = (run.path / "traces.jsonl").stat().st_size
    with full_disk(size + 100), pytest.raises(StoreError, match="cannot write .*: File too large"):
        run.add(make_trace(7))
    with full_disk(50), pytest.raises(StoreError, match="cannot write .*: File too large"):
        run.add(make_trace(7), held_by(make_trace(7)))
    with full_disk(50), pytest.raises(StoreError, match="cannot write .*: File too large"):
        run.add_labels([label_of(trace) for trace in run.traces()])
    assert contents(run) == contents(Store(run.path)) == before
    assert not list(run.path.glob("**/*.tmp"))
    fill(run, [7])
    assert len(run) == 7


def full(*_arguments: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_packing_merging_and_caching_on_a_full_disk_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run", range(6))
    Store.create(tmp_path / "all", MANIFEST)
    before = contents(run)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        for work in (
            lambda: pack(run, progress=False),
            lambda: merge(tmp_path / "all", [run.path], progress=False),
            lambda: run.layer_matrix(1, progress=False),
        ):
            with pytest.raises(StoreError, match="cannot write .*: No space left on device"):
                work()
    found = verify(Store(run.path), progress=False)
    assert (found.problems, found.leftovers) == ((), ())
    assert contents(Store(run.path)) == before
    assert pack(run, progress=False).packed == 6
    assert merge(tmp_path / "all", [run.path], progress=False).traces == 6


# A store that can only be read


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Store]:
    """Return a run on a file system that is mounted for reading only."""
    make_run(tmp_path / "run", range(6))
    mount = ["mount", "--bind", str(tmp_path / "run"), str(tmp_path / "run")]
    remount = ["mount", "-o", "remount,ro,bind", str(tmp_path / "run")]
    try:
        mounted = all(
            subprocess.run(command, capture_output=True, check=False).returncode == 0
            for command in (mount, remount)
        )
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("only the superuser can mount a folder for reading only")
    yield Store(tmp_path / "run")
    subprocess.run(["umount", str(tmp_path / "run")], check=True)


def test_a_run_that_can_only_be_read_is_read_and_says_why_it_is_not_written(
    read_only: Store,
) -> None:
    assert len(contents(read_only)["traces"]) == 6  # type: ignore[arg-type]
    assert verify(read_only, progress=False).problems == ()
    for work in (
        lambda: pack(read_only, progress=False),
        lambda: read_only.joined("0").__enter__(),
        lambda: read_only.add_labels([label_of(make_trace(1))]),
        lambda: read_only.add(make_trace(9), held_by(make_trace(9))),
        lambda: read_only.write_report("probe", {}),
    ):
        with pytest.raises(TraceProbeError, match="cannot write .*: Read-only file system"):
            work()
