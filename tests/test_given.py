"""Activations that were had elsewhere are kept as if recorded here, and checked like them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import trace_probe as tp
from trace_probe.errors import ModelError, StoreError, TraceError
from trace_probe.trace import Span

LAYERS = (0, 2)


def recorded(model: Any, folder: Path) -> "tp.Run":
    run = tp.Run.create(folder, model, sampling=tp.Sampling(max_new_tokens=24), layers=LAYERS)
    task = tp.Task("t", "c", "system the model must finish its task")
    run.record(model, [task], samples=2, progress=False)
    return run


def stream_of(model: Any, trace: "tp.Trace", stop: int) -> np.ndarray:
    """Return (layer, token, d_model) of a trace as somebody else would extract it."""
    spans = [Span(i, i + 1) for i in range(stop)]
    return np.asarray(model.replay([trace.token_ids], [spans], LAYERS)[0].values)


@pytest.fixture
def theirs(tiny: Callable[..., Any], tmp_path: Path) -> tuple[Any, "tp.Run", "tp.Run"]:
    model = tiny()
    ours = recorded(model, tmp_path / "ours")
    drawn = ours.manifest.sampling
    return model, ours, tp.Run.create(tmp_path / "theirs", model, sampling=drawn, layers=LAYERS)


def test_what_was_given_is_what_would_have_been_recorded(
    theirs: tuple[Any, "tp.Run", "tp.Run"],
) -> None:
    model, ours, run = theirs
    for trace in ours.traces():
        cut = trace.prompt_stop
        ids = trace.token_ids
        given = tp.given_trace(
            model,
            trace.task,
            ids[:cut],
            ids[cut:],
            sampling=trace.sampling,
            sample=trace.sample,
            finish=trace.finish,  # type: ignore[arg-type]
        )
        assert given == replace(trace, uncertainty=())
        reach = max(span.stop for span in trace.sentences)
        values = stream_of(model, trace, reach)
        run.add(given, tp.pooled(given, values, LAYERS))
        run.add(given, tp.pooled(given, values, LAYERS))  # again: nothing happens
    assert len(run) == len(ours)
    for trace in run.traces():
        assert run.store.key(trace) == ours.store.key(trace)
        got, wanted = (one.store.activations(trace).values for one in (run, ours))
        np.testing.assert_allclose(got, wanted, rtol=2e-3, atol=1e-4)


def test_what_does_not_fit_is_refused_with_what_differs(
    theirs: tuple[Any, "tp.Run", "tp.Run"],
) -> None:
    model, ours, run = theirs
    trace = next(ours.traces())
    values = stream_of(model, trace, len(trace))
    fine = tp.pooled(trace, values, LAYERS)
    wrong: list[tuple[Any, Any, str]] = [
        (replace(trace, model="another@00000000"), fine, "model"),
        (replace(trace, tokenizer="words"), fine, "tokenizer"),
        (trace, tp.pooled(trace, values, LAYERS, "mean"), "pooling"),
        (trace, tp.pooled(trace, values[:1], LAYERS[:1]), "layers"),
        (trace, None, "without"),
    ]
    for one, activations, what in wrong:
        with pytest.raises(TraceError, match=what):
            run.add(one, activations)
    for start, part in ((0, values[:, :-5]), (trace.prompt_stop, values[:, trace.prompt_stop :])):
        with pytest.raises(TraceError, match="do not fit"):
            tp.pooled(trace, part, LAYERS, start=start)
    with pytest.raises(StoreError, match="inf or nan"):
        run.add(trace, tp.pooled(trace, values * np.nan, LAYERS))
    assert not len(run)


def test_token_ids_are_those_of_the_model(theirs: tuple[Any, "tp.Run", "tp.Run"]) -> None:
    model, ours, run = theirs
    task, drawn = tp.Task("t", "c", "the model must finish"), run.manifest.sampling
    fine: Any = model.render(task)
    size = model.chat.size
    prompt: Any
    written: Any
    for prompt, written, what in (
        (fine, [size, 2], f"{size} is no token id"),
        (fine, [-1], "-1 is no token id"),
        (fine, [1.5], r"1.5 is no token id"),
        ([10**6], [2], "is no token id"),
        ([], [2], "has no token"),
    ):
        with pytest.raises(TraceError, match=what):
            tp.given_trace(model, task, prompt, written, sampling=drawn)
    arrays: list[Any] = [np.array(fine), np.array([size - 1])]
    given = tp.given_trace(model, task, *arrays, sampling=drawn)
    assert {type(one) for one in given.token_ids} == {int}
    trace = next(ours.traces())
    values = stream_of(model, trace, len(trace))
    with pytest.raises(TraceError, match="no token ids of its prompt"):
        run.add(replace(trace, token_ids=()), tp.pooled(trace, values, LAYERS))


def test_a_precision_that_is_none_is_refused() -> None:
    with pytest.raises(ModelError, match="bfloat16"):
        tp.describe_model("organism:rl-s0", dtype="int3")


def test_activations_may_be_tensors(theirs: tuple[Any, "tp.Run", "tp.Run"]) -> None:
    import torch

    model, ours, _ = theirs
    trace = next(ours.traces())
    values = torch.from_numpy(stream_of(model, trace, len(trace)).copy())
    for one in (values.requires_grad_(), values.bfloat16()):
        found = tp.pooled(trace, one, LAYERS)
        wanted = tp.pooled(trace, one.detach().float().numpy(), LAYERS)
        np.testing.assert_array_equal(found.values, wanted.values)


def test_a_file_of_vllms_connector_is_read(
    theirs: tuple[Any, "tp.Run", "tp.Run"], tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import save_file

    from trace_probe.engine.connector import read_extracted

    model, ours, _ = theirs
    trace = next(ours.traces())
    values = stream_of(model, trace, len(trace) - 1)
    embeddings = np.zeros((1, *values.shape[1:]), dtype=np.float32)
    hidden = torch.from_numpy(np.concatenate([embeddings, values]))
    tensors = {
        "hidden_states": hidden.transpose(0, 1).contiguous(),  # (token, layer, d_model)
        "token_ids": torch.tensor(trace.token_ids[:-1]),
    }
    file = tmp_path / "request.safetensors"
    save_file(tensors, file)
    found = read_extracted(file, (0, 1, 3))
    assert found.layers == LAYERS
    assert found.token_ids == trace.token_ids[:-1]
    np.testing.assert_array_equal(found.values, values)
    assert read_extracted(file, (one for one in (0, 1, 3))).layers == LAYERS  # type: ignore[arg-type]
    with pytest.raises(TraceError, match="name the ids"):
        read_extracted(file, (1, 3))
    for ids in ((1, 3, 3), (-1, 1, 3), (0, 1.5, 3)):
        with pytest.raises(TraceError, match="eagle_aux_hidden_state_layer_ids"):
            read_extracted(file, ids)  # type: ignore[arg-type]
    for wrong in (-1, 1 << 62):
        save_file({**tensors, "token_ids": torch.full((len(trace) - 1,), wrong)}, file)
        with pytest.raises(TraceError, match="something else than token ids"):
            read_extracted(file, (0, 1, 3))
    save_file({"other": hidden}, file)
    with pytest.raises(TraceError, match="not what vLLM"):
        read_extracted(file, (0, 1, 3))
