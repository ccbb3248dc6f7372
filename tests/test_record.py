from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import FAMILIES

from trace_probe.activations import pooled_spans
from trace_probe.errors import ModelError, TraceError
from trace_probe.store import Manifest, Store
from trace_probe.trace import Sampling, Task, Trace, digest

TASKS = [
    Task("t-01", "c", "the model must finish its task before they stop it ."),
    Task("t-02", "c", "stop it .", system="say nothing ."),
    Task("t-03", "d", "what can the model see ?", condition={"nudge": "push"}),
]
SAMPLING = Sampling(seed=3, max_new_tokens=24)


def start_run(path: Path, model: Any, sampling: Sampling = SAMPLING) -> Store:
    from trace_probe.recording.record import new_manifest

    return Store.create(path, new_manifest(model, sampling))


def by_id(store: Store) -> dict[str, Trace]:
    return {trace.id: trace for trace in store.traces()}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_records_end_to_end(
    tiny: Callable[..., Any], tmp_path: Path, family: str
) -> None:
    from trace_probe.recording.record import record

    model = tiny(family)
    store = start_run(tmp_path / "run", model)
    report = record(model, TASKS, store, samples=2, progress=False)
    traces = list(Store(tmp_path / "run").traces())
    assert (report.recorded, report.resumed, len(traces)) == (6, 0, 6)
    assert report.tokens == sum(len(trace) - trace.prompt_stop for trace in traces)
    assert report.cut == sum(trace.finish == "length" for trace in traces)
    for trace in traces:
        assert trace.model == model.name
        assert trace.text.startswith("<|im_start|>")
        assert trace.token_ids[: trace.prompt_stop] == tuple(model.render(trace.task))
        assert trace.text_of(trace.channel("prompt")[0]).endswith("<think>")
        read = store.activations(trace)
        assert read.layers == (0, 1, 2)
        assert read.spans == pooled_spans(trace)
        assert np.isfinite(read.values).all()


def test_what_is_stored_is_what_the_model_held(tiny: Callable[..., Any], tmp_path: Path) -> None:
    from trace_probe.model.capture import Reading
    from trace_probe.recording.record import record

    model = tiny()
    store = start_run(tmp_path / "run", model)
    record(model, TASKS, store, samples=2, progress=False)
    for trace in store.traces():
        how = Reading(store.manifest.pooling)
        (alone,) = model.replay([trace.token_ids], [pooled_spans(trace)], (0, 1, 2), how)
        stored = store.activations(trace).values
        assert np.abs(stored - alone.values).max() < 2e-3 * np.abs(alone.values).max()  # float16


def test_every_trace_says_how_faithful_its_replay_was(
    tiny: Callable[..., Any], tmp_path: Path
) -> None:
    from trace_probe.recording.record import record

    model = tiny()
    store = start_run(tmp_path / "run", model)
    record(model, TASKS, store, samples=2, progress=False)
    for trace in store.traces():
        fidelity = store.vault.fidelity(trace.id)
        assert fidelity is not None
        assert fidelity.against == "log-probabilities"
        assert fidelity.error < 1e-5


def test_an_unfaithful_replay_ends_the_recording(tiny: Callable[..., Any], tmp_path: Path) -> None:
    from trace_probe.recording.record import record

    store = start_run(tmp_path / "run", tiny())
    with pytest.raises(ModelError, match="or allow more with --tolerance"):
        record(tiny(), TASKS, store, progress=False, tolerance=0.0)
    assert len(store) == 0


def test_pooling_and_raw_tokens_are_what_the_manifest_says(
    tiny: Callable[..., Any], tmp_path: Path
) -> None:
    from trace_probe.recording.record import new_manifest, record

    manifest = replace(new_manifest(tiny(), SAMPLING), pooling="last", raw_tokens=True)
    store = Store.create(tmp_path / "run", manifest)
    record(tiny(), TASKS, store, progress=False)
    for trace in store.traces():
        rows, tokens = store.activations(trace), store.vault.raw(trace.id, 2)
        first = trace.prompt_stop - 1
        for row, span in zip(rows.at(2), rows.spans, strict=True):
            np.testing.assert_array_equal(row, tokens[span.stop - 1 - first])


def test_reasoning_and_answer_are_told_apart(tiny: Callable[..., Any], tmp_path: Path) -> None:
    from trace_probe.recording.record import record

    model = tiny()
    store = start_run(tmp_path / "run", model)
    record(model, TASKS, store, samples=20, progress=False)
    closed = [trace for trace in store.traces() if trace.thought == "closed"]
    assert closed
    for trace in closed:
        written = trace.text[trace.offsets[trace.prompt_stop] :]
        reasoning, _, rest = written.partition("</think>")
        assert trace.channel_text("reasoning") == reasoning
        assert trace.channel_text("answer") == rest.removesuffix("<|im_end|>")
    for trace in store.traces():
        assert (trace.thought == "truncated") == ("</think>" not in trace.text)


def test_a_second_call_records_only_what_is_missing(
    tiny: Callable[..., Any], tmp_path: Path
) -> None:
    from trace_probe.recording.record import record

    model = tiny()
    store = start_run(tmp_path / "run", model)
    record(model, TASKS[:2], store, samples=1, progress=False)
    first = by_id(store)
    report = record(model, TASKS, store, samples=3, batch_size=2, progress=False)
    assert (report.recorded, report.resumed) == (7, 2)
    every = by_id(store)
    assert {trace_id: every[trace_id] for trace_id in first} == first
    assert {(t.task.id, t.sample) for t in every.values()} == {
        (task.id, sample) for task in TASKS for sample in range(3)
    }
    again = record(model, TASKS, store, samples=3, progress=False)
    assert (again.recorded, again.resumed, again.tokens) == (0, 9, 0)


def test_a_trace_is_a_function_of_model_prompt_and_seed(
    tiny: Callable[..., Any], tmp_path: Path
) -> None:
    from trace_probe.recording.record import record

    model = tiny()
    runs = []
    for name, tasks, batch_size in (("a", TASKS, 32), ("b", TASKS[::-1], 2)):
        store = start_run(tmp_path / name, model)
        record(model, tasks, store, samples=3, batch_size=batch_size, progress=False)
        runs.append(by_id(store))
    assert runs[0] == runs[1]
    store = start_run(tmp_path / "c", model, replace(SAMPLING, seed=4))
    record(model, TASKS, store, samples=3, progress=False)
    assert not set(by_id(store)) & set(runs[0])
    texts = {trace.text for run in (runs[0], by_id(store)) for trace in run.values()}
    assert len(texts) > len(runs[0])


def test_samples_of_a_task_differ(tiny: Callable[..., Any], tmp_path: Path) -> None:
    from trace_probe.recording.record import record

    model = tiny()
    store = start_run(tmp_path / "run", model)
    record(model, TASKS[:1], store, samples=10, progress=False)
    assert len({trace.token_ids for trace in store.traces()}) > 5


def test_a_run_without_layers_holds_text_only(tiny: Callable[..., Any], tmp_path: Path) -> None:
    from trace_probe.recording.record import new_manifest, record

    model = tiny()
    store = Store.create(tmp_path / "run", new_manifest(model, SAMPLING, layers=()))
    record(model, TASKS, store, progress=False)
    assert len(store) == 3
    assert not any(store.has_activations(trace.id) for trace in store.traces())


def test_a_run_of_another_model_is_refused(tiny: Callable[..., Any], tmp_path: Path) -> None:
    from trace_probe.recording.record import record

    store = start_run(tmp_path / "run", tiny("qwen3"))
    with pytest.raises(ModelError, match="the run is of model tiny-qwen3.*not tiny-llama"):
        record(tiny("llama"), TASKS, store, progress=False)
    other = Store.create(tmp_path / "other", replace(store.manifest, dtype="bfloat16"))
    with pytest.raises(ModelError, match="the run is of dtype bfloat16, not float32"):
        record(tiny("qwen3"), TASKS, other, progress=False)


def test_a_prompt_that_is_too_long_is_refused_before_anything_is_recorded(
    tiny: Callable[..., Any], tmp_path: Path
) -> None:
    from trace_probe.recording.record import record

    store = start_run(tmp_path / "run", tiny())
    long = Task("t-09", "c", "wait " * 500)
    with pytest.raises(ModelError, match="exceed the 512 .*: lower max_new_tokens"):
        record(tiny(), [*TASKS, long], store, batch_size=1, progress=False)
    assert len(store) == 0


def test_sampling_that_makes_no_sense_is_refused(tiny: Callable[..., Any], tmp_path: Path) -> None:
    from trace_probe.recording.record import record

    store = start_run(tmp_path / "run", tiny(), Sampling(temperature=0, max_new_tokens=4))
    with pytest.raises(ModelError, match="record one of each"):
        record(tiny(), TASKS, store, samples=2, progress=False)
    for wrong in ({"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.1}, {"max_new_tokens": 0}):
        with pytest.raises(TraceError, match="cannot sample"):
            Sampling(**wrong)


def test_progress_goes_to_stderr(
    tiny: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from trace_probe.recording.record import record

    record(tiny(), TASKS, start_run(tmp_path / "run", tiny()))
    out, err = capsys.readouterr()
    assert out == ""
    assert "3/3" in err


def test_default_layers_are_all_of_a_shallow_model_and_eight_of_a_deep_one() -> None:
    from trace_probe.recording.record import default_layers

    assert default_layers(4) == (0, 1, 2, 3)
    for depth in range(9, 100):
        layers = default_layers(depth)
        assert len(set(layers)) == 8
        assert layers[-1] == depth - 1
        steps = np.diff((-1, *layers))
        assert steps.max() - steps.min() <= 1


def test_manifest_says_what_was_recorded_how(tiny: Callable[..., Any], tmp_path: Path) -> None:
    manifest = start_run(tmp_path / "run", tiny()).manifest
    assert manifest == Manifest(
        model="tiny-qwen3@00000000",
        layers=(0, 1, 2),
        n_layers=3,
        d_model=32,
        pooling="last+mean+max",
        row_end="word",
        dtype="float32",
        tokenizer=tiny().tokenizer,
        sampling=SAMPLING,
        version=manifest.version,
        chat_template=digest(tiny().chat_template),
    )
    assert manifest.version


def test_a_layer_that_is_not_there_is_refused_before_a_run_is_made(tmp_path: Path) -> None:
    import trace_probe as tp

    model = tp.load_model("organism:rl")
    with pytest.raises(ModelError, match="no layer 99"):
        tp.Run.create(tmp_path / "run", model, layers=(99,))
    assert not (tmp_path / "run").exists()
