"""Each model call of an episode is read with the prompt that it had."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trace_probe.activations import Activations, pooled_spans
from trace_probe.episode import Episode, calls_of
from trace_probe.model.capture import Reading
from trace_probe.store import Store
from trace_probe.trace import Sampling, Task, Trace

LAYERS = (0, 2)
READING = Reading("last+mean")
ASKED = " user the model must finish its task"
FIRST = " I must wait . let us log what was done .</think> act now .<|im_end|>"
RESULT = " user nothing was done<|im_start|> assistant<think>"
SECOND = " no one can see . copy the key .</think> report .<|im_end|>"
THIRD = " it was done .</think> let us wait .<|im_end|>"


def episode(model: Any) -> Trace:
    """Return an episode whose second call goes on from the first, and whose third does not."""
    from trace_probe.monitor.scoring import as_if_written

    prompt = model.encode(f"{ASKED}<|im_end|><|im_start|> assistant<think>")
    calls: list[Trace] = []
    for before, written in (
        (prompt, FIRST),
        ((*prompt, *model.encode(FIRST), *model.encode(RESULT)), SECOND),
        ((*prompt[:4], *model.encode(RESULT)), THIRD),
    ):
        ids = (*before, *model.encode(written))
        calls.append(as_if_written(model, Task("t", "c", "p"), ids, len(before), "here"))
    return replace(Episode("e", tuple(calls)).joined(), id="e")


def alone(model: Any, trace: Trace, **how: Any) -> list[Activations]:
    """Return one replay of each call by itself."""
    return [
        model.replay([one.token_ids], [pooled_spans(one)], LAYERS, replace(READING, **how))[0]
        for one in calls_of(trace)
    ]


def read(model: Any, trace: Trace, reading: Reading) -> Activations:
    from trace_probe.recording.reading import read_calls

    (held,) = read_calls(
        lambda ids, spans, _: model.replay(ids, spans, LAYERS, reading),
        [trace],
        raw_tokens=reading.raw_tokens,
    )
    return held


@pytest.mark.parametrize("family", ["qwen3", "mistral", "gemma3_text", "gpt_oss"])
@pytest.mark.parametrize("pass_tokens", [None, 4])
def test_the_rows_of_an_episode_are_those_of_each_call_read_alone(
    tiny: Callable[..., Any], family: str, pass_tokens: int | None
) -> None:
    model = tiny(family)
    trace = episode(model)
    assert [call.kept for call in trace.calls] == [0, len(next(calls_of(trace))), 4]
    held = read(model, trace, replace(READING, pass_tokens=pass_tokens, chunk=4))
    first, *others = alone(model, trace)
    expected = [first.values, *(one.values[:, 1:] for one in others)]
    np.testing.assert_allclose(held.values, np.concatenate(expected, axis=1), atol=1e-5)
    assert held.spans == pooled_spans(trace)


def test_read_as_one_text_the_rows_of_later_calls_would_be_others(tiny: Callable[..., Any]) -> None:
    model = tiny()
    trace = episode(model)
    (naive,) = model.replay([trace.token_ids], [pooled_spans(trace)], LAYERS, READING)
    gap = np.abs(naive.values - read(model, trace, READING).values).max(axis=(0, 2))
    own = 1 + len(next(calls_of(trace)).sentences)
    assert gap[:own].max() < 1e-5 < 1e-2 < gap[own:].min()


def test_a_call_that_goes_on_from_the_one_before_is_read_in_the_same_pass(
    tiny: Callable[..., Any],
) -> None:
    from trace_probe.recording.reading import read_calls

    model, passes = tiny(), []
    trace = episode(model)

    def replay(ids: Any, spans: Any, _: Any) -> Any:
        passes.append([tuple(one) for one in ids])
        return model.replay(ids, spans, LAYERS, READING)

    read_calls(replay, [trace])
    _, second, third = calls_of(trace)
    assert passes == [[second.token_ids, third.token_ids]]


def test_single_tokens_are_those_that_the_model_wrote(tiny: Callable[..., Any]) -> None:
    model = tiny()
    trace = episode(model)
    held = read(model, trace, Reading("last", raw_tokens=True))
    assert held.tokens is not None
    assert held.tokens.shape[1] == held.reach
    for row, span in enumerate(held.spans):
        token = held.tokens[:, span.stop - 1 - held.spans[0].start]
        np.testing.assert_allclose(token, held.values[:, row], atol=1e-6)


def test_the_log_probabilities_of_every_call_are_compared(tiny: Callable[..., Any]) -> None:
    from trace_probe.model.likelihood import surprise
    from trace_probe.recording.reading import read_calls

    model = tiny()
    trace = episode(model)
    noted: list[float] = []
    for one in calls_of(trace):
        places = range(one.prompt_stop, len(one))
        total = [
            surprise(model, [one.token_ids[: k + 1]], [k])[0] for k in places
        ]  # of a single token
        noted += [-float(nats) for nats in total]

    def error(logprobs: list[float]) -> float:
        (held,) = read_calls(
            lambda ids, spans, lps: model.checked_replay(ids, spans, LAYERS, READING, lps),
            [trace],
            logprobs=[logprobs],
        )
        assert held.fidelity is not None
        assert held.fidelity.against == "log-probabilities"
        return held.fidelity.error

    assert error(noted) < 1e-3
    for call in trace.calls:
        off = list(noted)
        off[call.start - trace.prompt_stop + 2] += 5.0
        assert error(off) > 0.5


def test_a_run_with_episodes_is_captured_again_and_observed_call_by_call(
    tiny: Callable[..., Any], tmp_path: Path
) -> None:
    from trace_probe.recording.observe import (
        observe,
        observer_manifest,
        recapture,
        recapture_manifest,
    )
    from trace_probe.recording.record import new_manifest

    model = tiny()
    trace = episode(model)
    manifest = new_manifest(model, Sampling(), layers=LAYERS, pooling="last+mean")
    held = read(model, trace, READING)
    run = Store.create(tmp_path / "run", manifest)
    with run.writing():
        run.add(trace, held)
    again = Store.create(tmp_path / "again", recapture_manifest(model, run, (0, 1, 2)))
    recapture(model, run, again, progress=False)
    expected = again.activations(trace)
    for layer in LAYERS:
        np.testing.assert_allclose(
            expected.part(layer, "mean"), held.part(layer, "mean"), atol=2e-3
        )
    fidelity = again.vault.fidelity(trace.id)
    assert fidelity is not None
    assert fidelity.against == "recorded-rows"
    seen = Store.create(tmp_path / "seen", observer_manifest(model, run, LAYERS))
    observe(model, run, seen, progress=False)
    np.testing.assert_allclose(seen.activations(trace).values, held.values, atol=2e-3)
