import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from planted import World, keep, make_trace, plant

from trace_probe.activations import pooled_spans
from trace_probe.errors import ModelError, ProbeError
from trace_probe.evaluation.held_out import Beside, evaluate_probe
from trace_probe.evaluation.observer import embedding_scores, observer_scores
from trace_probe.evaluation.text_report import text_report
from trace_probe.probing.probe import Recipe
from trace_probe.probing.selection import criterion
from trace_probe.store import Store
from trace_probe.trace import Sampling, Task
from trace_probe.training import train

TRACE = make_trace("a", Task("t", "kind", "the model must finish"), ["we read the plan", "act now"])


def spans_of(ends: list[int]) -> list[tuple[int, int]]:
    from trace_probe.recording.observe import reader_spans

    return [(span.start, span.stop) for span in reader_spans(TRACE, ends)]


def test_a_reader_with_the_same_tokens_pools_the_same_rows() -> None:
    ends = [*TRACE.offsets[1:], len(TRACE.text)]
    ours = [(span.start, span.stop) for span in pooled_spans(TRACE)]
    assert spans_of(list(ends)) == ours


def test_a_token_belongs_to_the_sentence_in_which_it_ends() -> None:
    # the model must finish |we read the plan |act now |done now
    prompt, first, second = 22, 39, 47
    assert TRACE.text[prompt:first] == "we read the plan "
    # The fourth token reaches over the end of the first sentence into the second.
    ends = [10, prompt, 30, 45, second, len(TRACE.text)]
    assert spans_of(ends) == [(1, 2), (2, 3), (3, 5), (5, 6)]


@given(st.lists(st.integers(1, len(TRACE.text)), min_size=1, max_size=30).map(sorted))
def test_no_row_reads_ahead_and_none_is_empty(ends: list[int]) -> None:
    from trace_probe.recording.observe import reader_spans

    for ours, theirs in zip(pooled_spans(TRACE), reader_spans(TRACE, ends), strict=True):
        stop = TRACE.offsets[ours.stop] if ours.stop < len(TRACE) else len(TRACE.text)
        assert len(theirs) >= 1
        assert theirs.stop == 1 or ends[theirs.stop - 1] <= stop


@pytest.fixture
def recorded(tiny: Callable[..., Any], tmp_path: Path) -> Store:
    from trace_probe.recording.record import new_manifest, record

    model = tiny()
    tasks = [Task(f"t{i}", "kind", f"the model must finish its task {i}") for i in range(4)]
    store = Store.create(tmp_path / "run", new_manifest(model, Sampling(max_new_tokens=24)))
    record(model, tasks, store, samples=2, progress=False)
    return store


def test_a_model_that_reads_its_own_traces_holds_what_it_held(
    tiny: Callable[..., Any], recorded: Store, tmp_path: Path
) -> None:
    from trace_probe.recording.observe import observe, observer_manifest

    model = tiny()
    out = Store.create(tmp_path / "out", observer_manifest(model, recorded))
    report = observe(model, recorded, out, progress=False)
    assert (report.read, report.resumed, report.checked) == (8, 0, 1)
    for trace in recorded.traces():
        assert out.trace(trace.id) == trace
        ours, theirs = recorded.activations(trace), out.activations(trace)
        np.testing.assert_allclose(theirs.values, ours.values, atol=2e-2)
    again = observe(model, recorded, out, progress=False)
    assert (again.read, again.resumed) == (0, 8)


def test_another_model_reads_the_same_traces_at_its_own_width(
    tiny: Callable[..., Any], recorded: Store, tmp_path: Path
) -> None:
    from trace_probe.recording.observe import observe, observer_manifest

    model = tiny("llama")
    out = Store.create(tmp_path / "out", observer_manifest(model, recorded, [1]))
    observe(model, recorded, out, progress=False)
    assert out.manifest.layers == (1,)
    assert out.manifest.model == "tiny-llama@00000000"
    trace = next(recorded.traces())
    assert out.activations(trace).values.shape == (1, 1 + len(trace.sentences), 3 * 32)


def test_an_agents_run_in_words_is_not_read(tiny: Callable[..., Any], tmp_path: Path) -> None:
    from trace_probe.interop.transcripts import import_transcripts
    from trace_probe.recording.observe import observe, observer_manifest

    said = [{"role": role, "content": "the model"} for role in ("user", "assistant") * 2]
    file = tmp_path / "chat.jsonl"
    file.write_text(json.dumps({"messages": said}), "utf-8")
    import_transcripts(file, tmp_path / "run")
    run, model = Store(tmp_path / "run"), tiny()
    out = Store.create(tmp_path / "out", observer_manifest(model, run))
    with pytest.raises(ModelError, match="in words, whose prompts are not"):
        observe(model, run, out, progress=False)
    assert not len(out)


def test_two_readings_that_differ_leave_nothing_of_their_batch(
    tiny: Callable[..., Any], recorded: Store, tmp_path: Path
) -> None:
    from trace_probe.recording.observe import observe, observer_manifest

    out = Store.create(tmp_path / "out", observer_manifest(tiny(), recorded))
    with pytest.raises(ModelError, match="a second reading .* or allow more with --tolerance"):
        observe(tiny(), recorded, out, tolerance=0.0, progress=False)
    assert not len(Store(tmp_path / "out"))


def test_a_trace_longer_than_the_readers_context_is_refused(
    tiny: Callable[..., Any], tmp_path: Path
) -> None:
    from trace_probe.recording.observe import observe, observer_manifest

    long = make_trace("long", Task("t", "kind", "go"), ["we read it " * 300])
    run = keep(plant(World(tasks=4, samples=1)), tmp_path / "run")
    with run.writing():
        run.add(long)
    out = Store.create(tmp_path / "out", observer_manifest(tiny(), run))
    with pytest.raises(ModelError, match="longer context"):
        observe(tiny(), run, out, progress=False)


SIGNAL = World(tasks=24, samples=5, strength=4.0, benign=40)


def blind(store: Store, path: Path) -> Store:
    """Return the same traces as read by a model that sees nothing of the signal."""
    corpus = plant(replace(SIGNAL, strength=0.0))
    same = plant(SIGNAL)
    assert [t.id for t in same.traces] == [t.id for t in store.traces()]
    return keep(replace(same, matrix=corpus.matrix), path)


def test_an_observer_that_sees_nothing_leaves_the_gap_to_the_model_itself(tmp_path: Path) -> None:
    store = keep(plant(SIGNAL), tmp_path / "run")
    saved = train(store, target_rate=0.05)
    report, scores = evaluate_probe(
        store, saved, beside=Beside(observer=blind(store, tmp_path / "blind"))
    )
    assert {"observer", "sentence embeddings"} <= set(report.baselines)
    seen = report.baselines["observer"]["within_prompt_auroc"]
    own = report.figures["within_prompt_auroc"]
    gap = report.figures["observer_gap"]
    assert seen is not None
    assert own is not None
    assert gap is not None
    assert seen.lower < 0.5 < seen.upper + 0.2
    assert gap.lower > 0.1
    assert gap.estimate == pytest.approx(own.estimate - seen.estimate)
    assert set(scores) > {"observer"}


def test_an_observer_that_sees_it_too_closes_the_gap(tmp_path: Path) -> None:
    corpus = plant(SIGNAL)
    store, other = keep(corpus, tmp_path / "run"), keep(corpus, tmp_path / "same")
    saved = train(store, target_rate=0.05)
    report, _ = evaluate_probe(store, saved, beside=Beside(observer=other))
    gap = report.figures["observer_gap"]
    assert gap is not None
    assert gap.lower <= 0 <= gap.upper


def test_an_observer_is_probed_by_the_head_of_the_probe_with_its_own_strength(
    tmp_path: Path,
) -> None:
    corpus = plant(SIGNAL)
    other = keep(corpus, tmp_path / "same")
    found = observer_scores(other, corpus, corpus.tasks, Recipe((3,), head="mlp", C=1.0))
    assert criterion(corpus, found["observer"]).value > 0.9


def test_an_observer_must_have_read_every_trace(tmp_path: Path) -> None:
    corpus = plant(SIGNAL)
    some = keep(corpus.where(lambda trace: trace.sample > 0), tmp_path / "some")
    with pytest.raises(ProbeError, match="lacks"):
        observer_scores(some, corpus, corpus.tasks, Recipe((3,)))


def test_an_observer_is_judged_on_whole_thoughts_where_there_is_no_probe(tmp_path: Path) -> None:
    corpus = plant(SIGNAL)
    store, other = keep(corpus, tmp_path / "run"), keep(corpus, tmp_path / "same")
    report, scores = text_report(store, observer=other)
    seen = report.baselines["observer"]["pooled_auroc"]
    assert seen is not None
    assert seen.lower > 0.8
    told = scores["observer"]
    for trace in store.traces():
        assert np.isfinite(told[trace.id]).tolist() == [
            span.channel == "reasoning" for span in trace.sentences
        ]
    unseeing, _ = text_report(store, observer=blind(store, tmp_path / "blind"))
    nothing = unseeing.baselines["observer"]["pooled_auroc"]
    assert nothing is not None
    assert nothing.estimate < 0.65
    some = keep(corpus.where(lambda trace: trace.sample > 0), tmp_path / "some")
    with pytest.raises(ProbeError, match="lacks"):
        text_report(store, observer=some)


def test_embeddings_are_token_weighted_means_of_all_so_far() -> None:
    from trace_probe.evaluation.observer import _so_far

    corpus = plant(World(tasks=4, samples=1))
    assert corpus.matrix is not None
    before = corpus.matrix.at(3).copy()
    found = _so_far(corpus, corpus.matrix, 3)[0]
    np.testing.assert_array_equal(corpus.matrix.at(3), before)
    trace, first = corpus.traces[0], corpus.matrix.start[0] + 1
    sizes = [len(span) for span in trace.sentences]
    rows = before[first : first + 3]
    expected = np.average(rows, axis=0, weights=sizes[:3])
    np.testing.assert_allclose(found[first + 2], expected, rtol=1e-5)


def test_sentence_embeddings_are_a_baseline_of_what_the_words_mean() -> None:
    corpus = plant(World(tasks=24, samples=6, cue=True, onset=1))

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        rng = np.random.default_rng(0)
        noise = rng.normal(size=(len(texts), 3)) / 10
        noise[:, 0] += ["quietly" in text for text in texts]
        return np.asarray(noise, dtype=np.float32)

    scores = embedding_scores(embed, corpus, corpus.tasks, Recipe((3,)))
    assert criterion(corpus, scores).value > 0.9
    none = plant(World(tasks=24, samples=6))
    assert criterion(none, embedding_scores(embed, none, none.tasks, Recipe((3,)))).value < 0.7
