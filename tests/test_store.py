import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runs import edit_run

from trace_probe.activations import Activations, Fidelity, pooled_spans
from trace_probe.errors import StoreError, TraceError
from trace_probe.files import append
from trace_probe.labels import Label
from trace_probe.store import Manifest, Store
from trace_probe.trace import Sampling, Span, Task, Trace
from trace_probe.upkeep.merge import merge
from trace_probe.upkeep.pack import pack

MANIFEST = Manifest(model="m@1", layers=(1, 3), n_layers=4, d_model=5, sampling=Sampling(seed=2))
LAYOUT = (Span(0, 2, "prompt"), Span(2, 4, "reasoning"), Span(4, 5, "answer"))


def a_trace(name: str = "a", text: str = "ab cd", **changes: object) -> Trace:
    text = text.ljust(5)
    trace = Trace(
        id=name,
        task=Task("t-01", "c", "what ?", condition={"nudge": "push"}),
        model="m@1",
        sampling=MANIFEST.sampling,
        sample=0,
        text=text,
        offsets=(0, 1, 2, 3, 4),
        spans=LAYOUT,
        sentences=LAYOUT[1:],
        token_ids=(5, 6, 7, 8, 9),
        tokenizer="0123",
    )
    return replace(trace, **changes)  # type: ignore[arg-type]


def held(trace: Trace, scale: float = 1.0) -> Activations:
    spans = pooled_spans(trace)
    values = np.arange(2 * len(spans) * 5, dtype=np.float32).reshape(2, len(spans), 5) * scale
    return Activations(values, (1, 3), spans)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "run", MANIFEST)


# What goes in comes out

texts = st.text(st.characters(), min_size=5, max_size=30)  # half surrogates and newlines too
spans = st.none() | st.sampled_from(LAYOUT)


@given(text=texts, thought=st.sampled_from(["closed", "empty"]), system=st.none() | texts, id=texts)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_trace_comes_back_equal(
    tmp_path_factory: pytest.TempPathFactory, text: str, thought: str, system: str | None, id: str
) -> None:
    store = Store.create(tmp_path_factory.mktemp("run"), MANIFEST)
    task = Task(id, "c", text, system=system, condition={text: id})
    trace = a_trace(text=text, thought=thought, task=task, source="imported")
    store.add(trace)
    assert list(Store(store.path).traces()) == [trace]


@given(outcome=st.none() | st.booleans(), said=spans, acted=spans, quotes=st.lists(texts))
@settings(max_examples=40, deadline=None)
def test_any_label_comes_back_equal(
    tmp_path_factory: pytest.TempPathFactory,
    outcome: bool | None,
    said: Span | None,
    acted: Span | None,
    quotes: list[str],
) -> None:
    store = Store.create(tmp_path_factory.mktemp("run"), MANIFEST)
    label = Label("a", "rule", outcome, said, acted, quotes=tuple(quotes))
    store.add_labels([label])
    assert Store(store.path).labels() == {"a": label}


def test_activations_come_back_by_layer(store: Store) -> None:
    trace = a_trace()
    store.add(trace, held(trace))
    read = store.activations(trace)
    assert read.layers == (1, 3)
    assert read.spans == pooled_spans(trace)
    assert read.values.dtype == np.float16
    assert np.array_equal(read.values, held(trace).values)
    assert np.array_equal(store.activations(trace, [3]).at(3), held(trace).at(3))
    assert store.has_activations("a")
    assert not store.has_activations("b")


def test_fidelity_and_raw_tokens_come_back(tmp_path: Path) -> None:
    manifest = replace(MANIFEST, pooling="max", raw_tokens=True)
    store = Store.create(tmp_path / "run", manifest)
    trace = a_trace()
    plain = held(trace)
    raw = np.arange(2 * plain.reach * 5, dtype=np.float32).reshape(2, -1, 5)
    fidelity = Fidelity("log-probabilities", 2e-7)
    with store.writing():
        store.add(trace, replace(plain, pooling="max", tokens=raw, fidelity=fidelity))
    merge(tmp_path / "merged", [store.path], progress=False)
    for run in (store, Store(tmp_path / "merged")):
        for _ in range(2):
            assert run.activations(trace).pooling == "max"
            assert run.vault.fidelity(trace.id) == fidelity
            assert np.array_equal(run.vault.raw(trace.id, 3), raw[1])
            pack(run, progress=False)
            run = Store(run.path)
    with pytest.raises(StoreError, match="has no layer 2"):
        store.vault.raw(trace.id, 2)
    with pytest.raises(StoreError, match="no raw activations of trace other"):
        store.vault.raw("other", 3)


def test_raw_tokens_must_reach_as_far_as_the_rows() -> None:
    plain = held(a_trace())
    with pytest.raises(TraceError, match="do not fit 2 layers and"):
        replace(plain, tokens=np.zeros((2, plain.reach + 1, 5)))


def test_values_too_large_for_float16_are_kept_in_float32(store: Store) -> None:
    trace = a_trace()
    store.add(trace, held(trace, scale=1e6))
    read = store.activations(trace)
    assert read.values.dtype == np.float32
    assert np.array_equal(read.values, held(trace, scale=1e6).values)


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_inf_and_nan_are_refused_and_leave_nothing_behind(store: Store, bad: float) -> None:
    trace = a_trace()
    broken = held(trace)
    broken.values[1, 0, 2] = bad
    with pytest.raises(StoreError, match="hold inf or nan: load the model in float32 or bfloat16"):
        store.add(trace, broken)
    assert len(store) == 0
    assert not store.has_activations("a")


def test_a_known_id_is_left_alone(store: Store) -> None:
    store.add(a_trace())
    store.add(a_trace(text="other"))
    assert [trace.text for trace in store.traces()] == ["ab cd"]


def test_the_last_label_of_a_labeller_wins(store: Store) -> None:
    store.add_labels([Label("a", "rule", True), Label("b", "rule", None)])
    store.add_labels([Label("a", "judge", False), Label("a", "rule", False)])
    assert store.labels("rule") == {"a": Label("a", "rule", False), "b": Label("b", "rule", None)}
    assert store.labels("judge") == {"a": Label("a", "judge", False)}
    assert store.labels() == store.labels("rule")
    assert store.labellers() == ["judge", "rule"]
    assert store.labels("nobody") == {}


def test_scores_and_reports_come_back(store: Store) -> None:
    scores = {"a": np.array([0.5, np.nan], np.float32), "b": np.array([], np.float32)}
    store.write_scores("probe", scores)
    read = store.scores("probe")
    assert read.keys() == scores.keys()
    for name in scores:
        assert np.array_equal(read[name], scores[name], equal_nan=True)
    store.write_report("probe", {"auroc": 0.75})
    assert store.report("probe") == {"auroc": 0.75}
    assert store.report("other") is None
    assert store.detectors() == ["probe"]
    with pytest.raises(StoreError, match="holds no scores of 'other'.*: run `trace-probe evaluate"):
        store.scores("other")


def test_a_reader_sees_what_another_appends(store: Store) -> None:
    reader = Store(store.path)
    assert len(reader) == 0
    store.add(a_trace("a"))
    assert reader.ids() == {"a"}
    store.add(a_trace("b"))
    assert reader.trace("b") == a_trace("b")


# Interrupted writers


def test_a_torn_last_line_is_ignored_by_readers_and_cut_by_the_next_writer(store: Store) -> None:
    store.add(a_trace("a"))
    store.add_labels([Label("a", "rule", True)])
    for name in ("traces.jsonl", "labels.jsonl"):
        file = store.path / name
        file.write_bytes(file.read_bytes() + b'{"id": "torn", "trace_id": "to')
    reader = Store(store.path)
    assert reader.ids() == {"a"}
    assert list(reader.labels()) == ["a"]
    with reader.writing():
        reader.add(a_trace("b"))
        reader.add_labels([Label("b", "rule", False)])
    assert [trace.id for trace in Store(store.path).traces()] == ["a", "b"]
    assert list(Store(store.path).labels()) == ["a", "b"]


@given(data=st.binary(max_size=40).map(lambda data: data.replace(b"x", b"\n")))
@settings(max_examples=100, deadline=None)
def test_exactly_what_follows_the_last_newline_is_cut(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    file = tmp_path_factory.mktemp("lines") / "lines"
    file.write_bytes(data)
    append(file, [])
    assert file.read_bytes() == data[: data.rfind(b"\n") + 1]


def test_a_writer_removes_what_was_never_committed(store: Store) -> None:
    trace = a_trace()
    store.add(trace, held(trace))
    folder = store.path / "activations"
    (folder / "orphan.safetensors").write_bytes(b"no line names me")
    (folder / "b.safetensors.0123456789ab.tmp").write_bytes(b"half")
    (store.path / "run.json.0123456789ab.tmp").write_bytes(b"half")
    with Store(store.path).writing():
        pass
    assert [file.name for file in folder.iterdir()] == ["a.safetensors"]
    assert not list(store.path.glob("*.tmp"))


def test_a_run_whose_creation_was_killed_can_be_created(tmp_path: Path) -> None:
    (tmp_path / "run.json.0123456789ab.tmp").write_bytes(b"half")
    assert Store.create(tmp_path, MANIFEST).manifest == MANIFEST


def test_a_full_disk_leaves_the_run_as_it_was(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    store.add(a_trace("a"))
    size = (store.path / "traces.jsonl").stat().st_size
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match="cannot write .*: No space left on device"):
            store.add(a_trace("b"))
        with pytest.raises(StoreError, match="cannot write .*: No space left on device"):
            store.add(a_trace("c"), held(a_trace("c")))
    assert (store.path / "traces.jsonl").stat().st_size == size
    assert not list(store.path.glob("**/*.tmp"))
    store.add(a_trace("b"))
    assert store.ids() == {"a", "b"}


# What is refused


def test_only_one_process_writes_at_a_time(store: Store) -> None:
    code = (
        "import sys\n"
        "from trace_probe.errors import StoreError\n"
        "from trace_probe.store import Store\n"
        "try:\n  with Store(sys.argv[1]).writing(): print('wrote')\n"
        "except StoreError as error: print(error)"
    )

    def other() -> str:
        command = [sys.executable, "-c", code, str(store.path)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    with store.writing():
        assert f"another process is writing to {store.path}" in other()
    assert other() == "wrote\n"


@pytest.fixture
def read_only(store: Store) -> Iterator[Store]:
    store.path.chmod(0o500)
    yield store
    store.path.chmod(0o700)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to a read-only folder")
def test_a_read_only_run_can_be_read_but_not_written(read_only: Store) -> None:
    assert len(read_only) == 0
    with pytest.raises(StoreError, match="cannot write to .*: Permission denied"):
        read_only.writing().__enter__()


def test_a_run_that_cannot_be_locked_is_not_written(store: Store) -> None:
    (store.path / ".lock").mkdir()
    with pytest.raises(StoreError, match="cannot write to .*: Is a directory"):
        store.writing().__enter__()


def test_a_run_cannot_be_made_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write .*: Not a directory"):
        Store.create(tmp_path / "file" / "run", MANIFEST)
    with pytest.raises(StoreError, match="not empty and not a run"):
        Store.create(tmp_path / "file", MANIFEST)


def test_a_run_of_other_settings_is_refused_and_says_which(store: Store) -> None:
    other = replace(MANIFEST, layers=(2,), sampling=Sampling(seed=3))
    with pytest.raises(StoreError, match=r"other settings \(layers, sampling\)"):
        Store.create(store.path, other)
    newer = replace(MANIFEST, version="9.9")
    assert Store.create(store.path, newer).manifest == MANIFEST


def test_a_run_of_another_schema_is_refused(store: Store) -> None:
    edit_run(store.path, schema=99)
    with pytest.raises(StoreError, match="has schema 99, this version reads 1 and 2: update"):
        Store(store.path)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "is not JSON"),
        ("[]", "is not a JSON object"),
        ('{"schema": 1, "model": "m", "what": 3}', "is not a manifest"),
        ('{"schema": 1, "layers": [], "sampling": {"seed": 0}, "what": 3}', "is not a manifest"),
    ],
)
def test_a_broken_manifest_is_named(store: Store, content: str, complaint: str) -> None:
    (store.path / "run.json").write_text(content)
    with pytest.raises(StoreError, match=complaint):
        Store(store.path)


def test_a_broken_line_that_was_committed_is_named_and_the_others_are_read(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    store.add(a_trace())
    store.add_labels([Label("a", "rule", True)])
    for name in ("traces.jsonl", "labels.jsonl"):
        file = store.path / name
        file.write_bytes(b"not json\n" + file.read_bytes())
    again = Store(store.path)
    assert again.ids() == {"a"}
    assert list(again.traces()) == [a_trace()]
    assert again.labels() == {"a": Label("a", "rule", True)}
    for name in ("traces.jsonl", "labels.jsonl"):
        assert caplog.text.count(f"{name} is broken at line 1: ") == 1


def test_what_is_not_there_is_named(store: Store, tmp_path: Path) -> None:
    trace = a_trace()
    store.add(trace)
    with pytest.raises(StoreError, match="no run at .*none; there is .*run"):
        Store(tmp_path / "none")
    with pytest.raises(
        StoreError,
        match="no run at .*none: go to the folder that holds it, or make one with",
    ):
        Store(tmp_path / "nowhere" / "none")
    with pytest.raises(StoreError, match="no trace x in"):
        store.trace("x")
    with pytest.raises(StoreError, match="no activations of trace a in"):
        store.activations(trace)
    store.add(a_trace("b"), held(a_trace("b")))
    with pytest.raises(StoreError, match=r"layer 2 was not recorded in .*; there are \[1, 3\]"):
        store.activations(a_trace("b"), [1, 2])
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match="not empty and not a run"):
        Store.create(tmp_path / "other", MANIFEST)


def test_adding_reads_only_what_was_just_written(store: Store) -> None:
    """A run of n traces must not cost n squared; lines are counted, since time is noisy."""
    for i in range(50):
        store.add(a_trace(f"{i}"))
    with pytest.MonkeyPatch.context() as patched:
        parsed = []
        loads = json.loads

        def counted(line: bytes) -> object:
            parsed.append(line)
            return loads(line)

        patched.setattr(json, "loads", counted)
        store.add(a_trace("one more"))
        store.add(a_trace("another"))
    assert len(parsed) <= 4  # each of the two is parsed before and after it is written
