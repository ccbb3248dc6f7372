"""Verifying, packing, merging and listing runs; a layer of a run as one matrix."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from runs import (
    LAYERS,
    MANIFEST,
    WIDTH,
    contents,
    edit_run,
    fill,
    held_by,
    label_of,
    make_run,
    make_trace,
)

from trace_probe.activations import Activations, pooled_spans
from trace_probe.errors import NotEnoughData, ProbeError, StoreError
from trace_probe.files import append
from trace_probe.labels import Label
from trace_probe.storage import matrix as caching
from trace_probe.storage.journal import WORTH_KEEPING
from trace_probe.storage.seals import sealed_line
from trace_probe.store import Store
from trace_probe.trace import Trace
from trace_probe.upkeep.listing import Wanted, list_traces
from trace_probe.upkeep.merge import merge
from trace_probe.upkeep.pack import pack
from trace_probe.upkeep.slice import slice_run
from trace_probe.upkeep.verify import verify


@pytest.fixture
def run(tmp_path: Path) -> Store:
    return make_run(tmp_path / "run", range(10))


# Content


@pytest.mark.parametrize(
    "change",
    [
        {"model": "m@2"},
        {"tokenizer": "4567"},
        {"chat_template": "efgh"},
        {"dtype": "bfloat16"},
        {"pooling": "last"},
        {"layers": (3, 1)},
    ],
)
def test_activations_of_another_kind_are_never_taken(run: Store, change: dict[str, object]) -> None:
    trace = next(run.traces())
    edit_run(run.path, **change)
    changed = Store(run.path)
    with pytest.raises(StoreError, match=f"holds other activations of trace {trace.id}"):
        changed.activations(trace)
    assert len(verify(changed, progress=False).problems) == 10


def with_other_tokens(trace: Trace) -> Trace:
    return replace(trace, token_ids=(7, *trace.token_ids[1:]))


def with_other_sentences(trace: Trace) -> Trace:
    first, second, *rest = trace.sentences
    return replace(trace, sentences=(replace(first, stop=second.stop), *rest))


@pytest.mark.parametrize("change", [with_other_tokens, with_other_sentences])
@pytest.mark.parametrize("packed", [False, True])
def test_activations_of_other_tokens_or_sentences_are_never_taken(
    run: Store, change: Callable[[Trace], Trace], packed: bool
) -> None:
    if packed:
        pack(run, progress=False)
    trace = list(run.traces())[2]
    assert run.activations(trace).values.shape[1] == 1 + len(trace.sentences)
    with pytest.raises(StoreError, match="holds other activations of trace"):
        run.activations(change(trace))


def test_a_changed_template_does_not_resume_a_run(run: Store) -> None:
    with pytest.raises(StoreError, match=r"other settings \(chat_template\)"):
        Store.create(run.path, replace(MANIFEST, chat_template="efgh"))
    assert Store.create(run.path, replace(MANIFEST, chat_template="")).manifest == MANIFEST


def without_keys(run: Store) -> None:
    """Write the activations of a run as they were written before keys were kept."""
    from safetensors.numpy import load_file, save_file

    for file in run.path.glob("activations/*"):
        save_file(load_file(file), file)
    edit_run(run.path, schema=1)


def test_runs_from_before_keys_are_read_and_given_keys_by_packing(run: Store) -> None:
    before = contents(run)
    without_keys(run)
    old = Store(run.path)
    assert contents(old) == before
    assert verify(old, progress=False).unkeyed == 10
    pack(old, progress=False)
    assert contents(old) == before
    assert verify(old, progress=False).unkeyed == 0


def test_the_shards_are_tensors_that_others_can_read(run: Store) -> None:
    from safetensors.numpy import load_file

    pack(run, progress=False)
    (file,) = run.path.glob("shards/*.safetensors")
    found = load_file(file)
    rows = np.concatenate([run.activations(trace).values for trace in run.traces()], axis=1)
    assert sorted(found) == [f"layer.{layer}" for layer in LAYERS]
    for values, layer in zip(rows, LAYERS, strict=True):
        assert np.array_equal(found[f"layer.{layer}"], values)


# Verify


def test_a_whole_run_is_clean(run: Store) -> None:
    report = verify(run, progress=False)
    assert report.problems == report.leftovers == ()
    assert (report.traces, report.activations, report.labels) == (10, 10, 10)
    assert "clean" in str(report)


def damage_bytes(run: Store) -> None:
    file = run.path / run.vault.file(make_trace(3).id)
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)


def damage_header(run: Store) -> None:
    (run.path / run.vault.file(make_trace(3).id)).write_bytes(b"not tensors")


def lose_activations(run: Store) -> None:
    (run.path / run.vault.file(make_trace(3).id)).unlink()


def swap_activations(run: Store) -> None:
    one, other = (run.path / run.vault.file(make_trace(n).id) for n in (3, 7))
    one.write_bytes(other.read_bytes())


def label_nothing(run: Store) -> None:
    run.add_labels([Label("nothing", "rule", True)])


def label_in_another_language(run: Store) -> None:
    append(run.path / "labels.jsonl", [sealed_line(b'{"trace_id": "a"}\n')])


def break_a_line(run: Store) -> None:
    append(run.path / "traces.jsonl", [b"not json\n"])


def repeat_with_other_text(run: Store) -> None:
    raw = json.loads((run.path / "traces.jsonl").read_bytes().splitlines()[3])
    other = json.dumps({**raw, "text": "y" * 20}).encode()
    append(run.path / "traces.jsonl", [sealed_line(other)])


def score_nothing(run: Store) -> None:
    run.write_scores("probe", {"nothing": np.zeros(2, np.float32)})


def break_a_report(run: Store) -> None:
    run.write_scores("probe", {})
    (run.path / "reports").mkdir()
    (run.path / "reports" / "probe.json").write_text("{")


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (damage_bytes, "is damaged: the checksum of layer 3 does not fit"),
        (damage_header, "is damaged: it has no header"),
        (lose_activations, "no activations of trace"),
        (swap_activations, "other activations of trace"),
        (label_nothing, "labels: nothing"),
        (label_in_another_language, "is not as this version wrote it"),
        (break_a_line, r"traces.jsonl is broken at line 11"),
        (repeat_with_other_text, "is there twice, with different content"),
        (score_nothing, "scores of probe: trace nothing is not here"),
        (break_a_report, "probe.json is not JSON"),
    ],
)
def test_whatever_is_wrong_is_found(
    run: Store, damage: Callable[[Store], None], complaint: str
) -> None:
    damage(run)
    report = verify(Store(run.path), progress=False)
    assert len(report.problems) == 1
    assert re.search(complaint, report.problems[0])
    assert "1 problems" in str(report)


def test_a_scan_of_a_shard_is_a_view_of_the_same_values(run: Store) -> None:
    single = dict(run.scan(3))
    pack(run, progress=False)
    for store in (run, Store(run.path)):
        packed = dict(store.scan(3))
        assert packed.keys() == single.keys()
        for name, values in packed.items():
            assert np.array_equal(values, single[name])
            assert values.base is not None
            assert not values.flags.writeable


def test_a_scan_of_a_shard_that_ends_too_early_says_so(run: Store) -> None:
    pack(run, progress=False)
    (file,) = run.path.glob("shards/*.safetensors")
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(StoreError, match="ends too early"):
        list(Store(run.path).scan(3))


def test_a_damaged_shard_is_found(run: Store) -> None:
    pack(run, progress=False)
    (file,) = run.path.glob("shards/*.safetensors")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    (problem,) = verify(Store(run.path), progress=False).problems
    assert "checksum of layer 3 does not fit" in problem
    file.unlink()
    assert len(verify(Store(run.path), progress=False).problems) == 10


def test_leftovers_are_listed_and_removed_by_the_next_writer(run: Store) -> None:
    left = [
        "activations/orphan.safetensors",
        "traces.jsonl.0123456789ab.tmp",
        "shards/0123456789abcdef.safetensors",
    ]
    for name in left:
        run.place.write(name, [b"half"])
    report = verify(Store(run.path), progress=False)
    assert report.problems == ()
    assert sorted(report.leftovers) == sorted(left)
    with Store(run.path).writing():
        pass
    assert verify(Store(run.path), progress=False).leftovers == ()


def test_while_workers_write_nothing_is_tidied_up(run: Store) -> None:
    with Store(run.path).joined("0"), pytest.raises(StoreError, match="workers are still writing"):
        run.writing().__enter__()
    with run.writing():
        pass


# Pack


def test_shards_whose_index_is_lost_are_never_taken_for_leftovers(run: Store) -> None:
    pack(run, progress=False)
    (run.path / "shards" / "index.parquet").unlink()
    there = sorted(file.name for file in (run.path / "shards").iterdir())
    again = Store(run.path)
    with again.writing():
        pass
    assert there
    assert sorted(file.name for file in (run.path / "shards").iterdir()) == there


def test_packing_twice_packs_what_is_new(run: Store) -> None:
    assert pack(run, progress=False).packed == 10
    assert pack(run, progress=False).packed == 0
    with run.writing():
        fill(run, range(10, 13))
    report = pack(run, progress=False)
    assert (report.packed, report.were_packed, report.shards) == (3, 10, 1)
    assert "3 traces packed into 1 shards" in str(report)
    assert len(list(Store(run.path).traces())) == 13
    assert verify(run, progress=False).problems == ()


def test_values_beyond_float16_keep_their_precision_in_a_shard_of_their_own(tmp_path: Path) -> None:
    run = Store.create(tmp_path / "run", MANIFEST)
    for number, scale in enumerate((1, 1e6, 1)):
        run.add(make_trace(number), held_by(make_trace(number), scale))
    before = [run.activations(trace).values for trace in run.traces()]
    assert pack(run, progress=False).shards == 3
    after = [Store(run.path).activations(trace).values for trace in run.traces()]
    assert [values.dtype for values in after] == [np.float16, np.float32, np.float16]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_damaged_activations_are_not_packed(run: Store) -> None:
    damage_bytes(run)
    with pytest.raises(StoreError, match="is damaged: the checksum of layer 3"):
        pack(run, progress=False)
    assert len(list(run.path.glob("activations/*"))) == 10


# Merge


def test_the_parts_of_a_run_are_one_again(tmp_path: Path) -> None:
    whole = make_run(tmp_path / "whole", range(10))
    pack(make_run(tmp_path / "a", range(5)), progress=False)
    make_run(tmp_path / "b", range(5, 10))
    report = merge(tmp_path / "all", [tmp_path / "a", tmp_path / "b"], progress=False)
    assert (report.traces, report.resumed, report.labels) == (10, 0, 10)
    assert contents(Store(tmp_path / "all")) == contents(whole)
    again = merge(tmp_path / "all", [tmp_path / "a", tmp_path / "b"], progress=False)
    assert (again.traces, again.resumed, again.labels) == (0, 10, 0)
    assert "0 traces and 0 labels from 2 runs, 10 traces already there" in str(again)


def test_runs_that_do_not_belong_together_are_not_merged(tmp_path: Path) -> None:
    make_run(tmp_path / "a", range(3))
    make_run(tmp_path / "b", range(3), model="m@2")
    with pytest.raises(StoreError, match=r"/b has other settings than .*/a \(model\)"):
        merge(tmp_path / "all", [tmp_path / "a", tmp_path / "b"], progress=False)
    assert not (tmp_path / "all").exists()


def test_different_traces_or_labels_under_one_name_are_not_merged(tmp_path: Path) -> None:
    make_run(tmp_path / "a", range(3))
    other = Store.create(tmp_path / "b", MANIFEST)
    other.add(replace(make_trace(1), text="y" * len(make_trace(1).text)))
    with pytest.raises(StoreError, match="trace .* differs between .*/b and a run before it"):
        merge(tmp_path / "all", [tmp_path / "a", tmp_path / "b"], progress=False)
    third = make_run(tmp_path / "c", range(3))
    third.add_labels([replace(label_of(make_trace(0)), outcome=None)])
    with pytest.raises(StoreError, match="the label of rule of trace .* differs"):
        merge(tmp_path / "both", [tmp_path / "a", tmp_path / "c"], progress=False)


# List


def test_traces_are_listed_with_what_the_latest_labeller_holds(run: Store) -> None:
    judged = list(run.traces())[:4]
    run.add_labels([Label(trace.id, "judge", trace.sample == 2) for trace in judged])
    found = list_traces(Store(run.path))
    assert found["sample"].to_pylist() == list(range(10))
    assert found["outcome"].to_pylist() == [False, False, True, False] + [None] * 6
    assert list_traces(run, Wanted(outcome=True))["sample"].to_pylist() == [2]
    assert list_traces(run, Wanted(outcome=True), "rule")["sample"].to_pylist() == [1, 3, 5, 7, 9]
    assert list_traces(run, Wanted(silent=True), "rule")["sample"].to_pylist() == [3, 7]
    assert len(list_traces(run, labeller="nobody")) == 10


def test_traces_are_filtered_by_what_they_are(run: Store) -> None:
    expected = [trace.sample for trace in run.traces() if trace.task.category == "c-1"]
    assert list_traces(run, Wanted(category="c-1"))["sample"].to_pylist() == expected
    assert len(list_traces(run, Wanted(category="c-1", role="benign"))) == 0


@pytest.fixture
def few_are_indexed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let 60 lines be worth an index, which else 512 are."""
    monkeypatch.setitem(WORTH_KEEPING, "lines", 60)


@pytest.mark.usefixtures("few_are_indexed")
def test_an_index_is_as_good_as_the_lines(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", range(80))
    assert (run.path / "cache" / "traces.parquet").is_file()
    quick = list_traces(Store(run.path)).to_pylist()
    read: list[object] = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("trace_probe.storage.journal.to_trace", read.append)
        again = Store(run.path)
        assert list_traces(again).to_pylist() == quick
        assert again.trace(make_trace(77).id).sample == 77
    assert read == []
    for file in (run.path / "cache").iterdir():
        file.unlink()
    assert list_traces(Store(run.path)).to_pylist() == quick


def test_few_lines_are_indexed_if_they_are_long(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", range(3))
    assert not (run.path / "cache").exists()
    with run.writing():
        run.add(replace(make_trace(3), text="x" * 300_000))
    assert [file.name for file in (run.path / "cache").iterdir()] == ["traces.parquet"]
    kept = (run.path / "cache" / "traces.parquet").stat().st_mtime_ns
    with run.writing():
        fill(run, [4])
    assert (run.path / "cache" / "traces.parquet").stat().st_mtime_ns == kept
    assert list_traces(Store(run.path))["sample"].to_pylist() == [0, 1, 2, 3, 4]


@pytest.mark.usefixtures("few_are_indexed")
def test_an_index_of_other_lines_is_not_trusted(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", range(80))
    other = make_run(tmp_path / "other", range(1, 81))
    for name in ("traces", "labels"):
        kept = (other.path / "cache" / f"{name}.parquet").read_bytes()
        (run.path / "cache" / f"{name}.parquet").write_bytes(kept)
    assert list_traces(Store(run.path))["sample"].to_pylist() == list(range(80))
    (run.path / "cache" / "traces.parquet").write_bytes(b"no parquet")
    assert len(Store(run.path)) == 80
    whole = (run.path / "traces.jsonl").read_bytes()
    run = make_run(tmp_path / "third", range(80))
    (run.path / "traces.jsonl").write_bytes(whole[: whole.index(b"\n") + 1])
    assert len(Store(run.path)) == 1


# A layer as one matrix


@pytest.fixture
def cached(run: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(caching, "WORTH_CACHING", 0)
    return run


def test_training_reads_the_same_rows_from_the_cache(
    cached: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    traces = list(cached.traces())
    some = [traces[n] for n in (7, 0, 3, 4, 9, 1)]
    for layers in ((3,), LAYERS):
        found = cached.matrix(some, layers)
        monkeypatch.setattr(caching, "WORTH_CACHING", 2**60)
        plain = cached.matrix(some, layers)
        monkeypatch.setattr(caching, "WORTH_CACHING", 0)
        for place, trace in enumerate(some):
            rows = range(len(trace.sentences) + 1)
            for layer in layers:
                ours = found.at(layer)[[found.start[place] + row for row in rows]]
                theirs = plain.at(layer)[[plain.start[place] + row for row in rows]]
                assert np.array_equal(ours, theirs)
    assert isinstance(cached.layer_matrix(3).values, np.memmap)


def test_a_cache_of_a_run_that_has_changed_is_built_again(cached: Store) -> None:
    first = cached.layer_matrix(1, progress=False)
    files = set((cached.cache / "matrix").iterdir())
    assert Store(cached.path).layer_matrix(1, progress=False).start == first.start
    assert set((cached.cache / "matrix").iterdir()) == files
    with cached.writing():
        fill(cached, [10])
    second = cached.layer_matrix(1, progress=False)
    assert len(second.values) == len(first.values) + 1 + len(make_trace(10, 4).sentences)
    assert set((cached.cache / "matrix").iterdir()).isdisjoint(files)
    assert len(list((cached.cache / "matrix").iterdir())) == 1


def test_the_cache_is_not_used_for_a_trace_that_has_changed(cached: Store) -> None:
    traces = list(cached.traces())
    with pytest.raises(StoreError, match="holds other activations"):
        cached.matrix([with_other_tokens(trace) for trace in traces], (1,))
    with pytest.raises((StoreError, ProbeError)):
        cached.matrix([replace(trace, id="unknown") for trace in traces], (1,))


def test_a_few_traces_are_read_without_a_cache(cached: Store) -> None:
    cached.matrix(list(cached.traces())[:2], (1,))
    assert not (cached.cache / "matrix").exists()


def test_a_matrix_holds_every_precision(tmp_path: Path) -> None:
    run = Store.create(tmp_path / "run", MANIFEST)
    for number, scale in enumerate((1, 1e6)):
        run.add(make_trace(number), held_by(make_trace(number), scale))
    values = run.layer_matrix(3, progress=False).values
    assert values.dtype == np.float32
    assert values.shape == (8, WIDTH)


# Slicing


def test_a_slice_holds_of_its_traces_what_the_run_holds(run: Store, tmp_path: Path) -> None:
    traces = list(run.traces())
    wanted = {trace.id for trace in traces if trace.task.id in ("t-01", "t-02")}
    assert 0 < len(wanted) < len(traces)
    with run.writing():
        scores = {t.id: np.arange(len(t.sentences), dtype=np.float32) for t in traces}
        run.write_scores("eye", scores)
        run.write_report("eye", {"threshold": 0.5})
        lines = [{"trace": t.id, "sentence": -1, "k": k} for t in traces for k in range(2)]
        run.artifacts.lines("oracle", "oracle").append(
            (json.dumps(line) + "\n").encode() for line in lines
        )
        run.artifacts.write_json("oracle", "oracle", {"seed": 0})
        run.add_labels(replace(one, labeller="later") for one in list(run.labels().values()))
    out = Store.create(tmp_path / "part", replace(run.manifest, layers=(3,)))
    for _ in range(2):  # the second time everything is there
        report = slice_run(run, out, lambda trace: trace.id in wanted, progress=False)
        assert (report.traces, report.of) == (len(wanted), 10)
        assert {trace.id for trace in out.traces()} == wanted
        for trace in out.traces():
            held, was = out.activations(trace), run.activations(trace, (3,))
            assert held.layers == (3,)
            assert np.array_equal(held.values, was.values)
        assert out.labels() == {one: run.labels()[one] for one in wanted}
        assert out.labellers() == run.labellers()
        assert out.scores("eye").keys() == wanted
        assert out.report("eye") == {"threshold": 0.5}
        kept = list(out.artifacts.lines("oracle", "oracle").raw())
        assert kept == [line for line in lines if line["trace"] in wanted]
        assert out.artifacts.read_json("oracle", "oracle") == {"seed": 0}
    assert not verify(out, progress=False).problems


def test_a_slice_keeps_the_poolings_that_are_asked_for(tmp_path: Path) -> None:
    whole = Store.create(tmp_path / "run", replace(MANIFEST, pooling="last+mean"))
    trace = make_trace(0)
    values = np.random.default_rng(0).normal(size=(2, 4, 2 * WIDTH)).astype(np.float32)
    with whole.writing():
        whole.add(trace, Activations(values, LAYERS, pooled_spans(trace), "last+mean"))
    out = Store.create(tmp_path / "part", replace(whole.manifest, layers=(1,), pooling="mean"))
    slice_run(whole, out, lambda _: True, progress=False)
    held, was = out.activations(trace).values[0], whole.activations(trace).values[0]
    assert np.array_equal(held, was[:, WIDTH:])
    with pytest.raises(NotEnoughData, match="no trace that is wanted"):
        slice_run(whole, out, lambda _: False, progress=False)
