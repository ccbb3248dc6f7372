from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tiny_models import FAMILIES, each_token, random_network, relative_error, word_tokenizer

from trace_probe.errors import ModelError
from trace_probe.trace import Sampling, Span

LAYERS = (0, 1, 2)


def some_ids(count: int, seed: int = 0) -> list[int]:
    return [int(i) for i in np.random.default_rng(seed).integers(6, 30, count)]


# In chunks


@pytest.mark.parametrize("family", [*FAMILIES, "gemma2"])  # gemma2 caps its scores
@pytest.mark.parametrize("chunk", [1, 7, 16])
def test_a_trace_read_in_chunks_is_the_trace_read_whole(
    tiny: Callable[..., Any], family: str, chunk: int
) -> None:
    from trace_probe.model.capture import Reading

    model, ids = tiny(family), some_ids(60)
    (whole,) = model.replay([ids], [each_token(60)], LAYERS)
    (pieces,) = model.replay([ids], [each_token(60)], LAYERS, Reading(pass_tokens=8, chunk=chunk))
    for layer in LAYERS:
        assert relative_error(pieces.at(layer), whole.at(layer)) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_read_block_by_block(tiny: Callable[..., Any], family: str) -> None:
    from trace_probe.model.chunks import comes_apart

    assert comes_apart(tiny(family).blocks.network.get_decoder())


def test_a_network_that_cannot_be_taken_apart_is_read_behind_an_ordinary_cache() -> None:
    from trace_probe.model.capture import Reading
    from trace_probe.model.chunks import comes_apart
    from trace_probe.model.local import Model

    network = random_network("granite", embedding_multiplier=3.0)  # of whatever enters
    model, ids = Model(network, word_tokenizer(), "granite"), some_ids(60)
    assert not comes_apart(model.blocks.network.get_decoder())
    (whole,) = model.replay([ids], [each_token(60)], LAYERS)
    (pieces,) = model.replay([ids], [each_token(60)], LAYERS, Reading(pass_tokens=8, chunk=7))
    for layer in LAYERS:
        assert relative_error(pieces.at(layer), whole.at(layer)) < 1e-5


# What is kept


def by_hand(tokens: np.ndarray, span: Span, pooling: str) -> np.ndarray:
    part = tokens[:, span.start : span.stop]
    pooled: dict[str, np.ndarray] = {"mean": part.mean(axis=1), "max": part.max(axis=1)}
    return {**pooled, "last": part[:, -1]}[pooling]


@pytest.mark.parametrize("pooling", ["mean", "last", "max", "last+mean+max", "max+last"])
@pytest.mark.parametrize("pass_tokens", [500, 50, 8])
def test_rows_are_pooled_over_their_spans(
    tiny: Callable[..., Any], pooling: Any, pass_tokens: int
) -> None:
    from trace_probe.model.capture import Reading

    model, traces = tiny(), [some_ids(n, n) for n in (60, 41, 33, 5)]
    spans = [[Span(3, 4), Span(4, 20), Span(18, 33)], [Span(0, 41)], [Span(5, 33)], [Span(4, 5)]]
    whole = model.replay(traces, [each_token(len(ids)) for ids in traces], LAYERS)
    reading = Reading(pooling, pass_tokens=pass_tokens, chunk=7)
    for tokens, pooled, wanted in zip(
        whole, model.replay(traces, spans, LAYERS, reading), spans, strict=True
    ):
        assert pooled.pooling == pooling
        rows = [
            np.concatenate([by_hand(tokens.values, span, one) for one in pooling.split("+")], -1)
            for span in wanted
        ]
        expected = np.stack(rows, axis=1)
        assert relative_error(pooled.values, expected) < 1e-5


@pytest.mark.parametrize("pass_tokens", [500, 8])
def test_raw_tokens_are_all_from_the_first_row_on(
    tiny: Callable[..., Any], pass_tokens: int
) -> None:
    from trace_probe.model.capture import Reading

    model, traces = tiny(), [some_ids(60), some_ids(41)]
    spans = [[Span(20, 21), Span(21, 60)], [Span(9, 10), Span(12, 30)]]
    reading = Reading(raw_tokens=True, pass_tokens=pass_tokens, chunk=7)
    found = model.replay(traces, spans, (2, 0), reading)
    whole = model.replay(traces, [each_token(60), each_token(41)], (2, 0))
    for one, tokens, (start, stop) in zip(found, whole, [(20, 60), (9, 30)], strict=True):
        assert one.tokens is not None
        assert one.tokens.shape == (2, stop - start, 32)
        assert relative_error(one.tokens, tokens.values[:, start:stop]) < 1e-5


def test_only_the_deepest_block_that_is_asked_for_is_run_in_chunks_too(
    tiny: Callable[..., Any],
) -> None:
    from trace_probe.model.capture import Reading

    model, ran = tiny(), set[int]()
    handles = [
        block.register_forward_pre_hook(lambda *_, i=i: ran.add(i))
        for i, block in enumerate(model.blocks.network.get_decoder().layers)
    ]
    model.replay([some_ids(60)], [[Span(0, 60)]], (1,), Reading(pass_tokens=8, chunk=7))
    for handle in handles:
        handle.remove()
    assert ran == {0, 1}


def test_nothing_is_left_behind_by_chunks(tiny: Callable[..., Any]) -> None:
    from trace_probe.model.capture import Reading

    model = tiny()
    modules, attention = (
        list(model.blocks.network.get_decoder().layers),
        model.blocks.network.get_decoder().config._attn_implementation,
    )
    with pytest.raises(IndexError):
        model.replay([[*some_ids(60), 999]], [[Span(0, 60)]], (1,), Reading(pass_tokens=8))
    model.replay([some_ids(60)], [[Span(0, 60)]], (1,), Reading(pass_tokens=8, chunk=7))
    assert list(model.blocks.network.get_decoder().layers) == modules
    assert model.blocks.network.get_decoder().config._attn_implementation == attention
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model._network.modules())


def test_steering_reaches_a_trace_that_is_read_in_chunks(tiny: Callable[..., Any]) -> None:
    from trace_probe.model.capture import Reading
    from trace_probe.model.steering import Steering, steered

    model, ids = tiny(), some_ids(60)
    direction = np.random.default_rng(0).normal(size=32)
    with steered(model, Steering(1, direction, strength=5.0, start=20)):
        (whole,) = model.replay([ids], [each_token(60)], LAYERS)
        (pieces,) = model.replay([ids], [each_token(60)], LAYERS, Reading(pass_tokens=8, chunk=7))
    (plain,) = model.replay([ids], [each_token(60)], LAYERS)
    assert relative_error(pieces.values, whole.values) < 1e-5
    assert relative_error(whole.values, plain.values) > 1e-2


# Fidelity


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pass_tokens", [500, 8])
def test_a_replay_gives_the_log_probabilities_noted_while_writing(
    tiny: Callable[..., Any], family: str, pass_tokens: int
) -> None:
    from trace_probe.model.capture import Reading

    model, prompts = tiny(family), [some_ids(9), some_ids(14, 1)]
    written = model.generate(prompts, [1, 2], Sampling(temperature=0.7, max_new_tokens=40))
    ids = [[*prompt, *one.ids] for prompt, one in zip(prompts, written, strict=True)]
    noted = [one.logprobs for one in written]
    assert [len(some) for some in noted] == [len(one.ids) for one in written]
    reading = Reading(pass_tokens=pass_tokens, chunk=7)
    spans = [[Span(0, len(some))] for some in ids]
    for one in model.checked_replay(ids, spans, (0,), reading, noted):
        assert one.fidelity is not None
        assert one.fidelity.against == "log-probabilities"
        assert one.fidelity.error < 1e-5
    for i, some in enumerate(ids):
        some[len(prompts[i])] ^= 1  # not the token that was written
    for one in model.checked_replay(ids, spans, (0,), reading, noted):
        assert one.fidelity is not None
        assert one.fidelity.error > 1e-2


def test_without_log_probabilities_the_longest_trace_of_32_is_read_a_second_time(
    tiny: Callable[..., Any],
) -> None:
    lengths = [60, 3, *[5] * 30, 7, 9]
    ids = [some_ids(count) for count in lengths]
    found = tiny("gpt_oss").checked_replay(ids, [each_token(count) for count in lengths], LAYERS)
    read_twice = {i: one.fidelity for i, one in enumerate(found) if one.fidelity is not None}
    assert sorted(read_twice) == [0, 33]
    for fidelity in read_twice.values():
        assert fidelity.against == "second-pass"
        assert 0 < fidelity.error < 1e-5


def test_an_unfaithful_replay_is_refused() -> None:
    from trace_probe.activations import Activations, Fidelity
    from trace_probe.model.fidelity import refuse_unfaithful

    def off_by(error: float, against: Any = "log-probabilities") -> Activations:
        return Activations(np.zeros((1, 0, 4)), (0,), (), fidelity=Fidelity(against, error))

    refuse_unfaithful("t", off_by(1e-4), "float32")
    with pytest.raises(ModelError, match=r"trace t, read again, is 0.3 nats .* the same weights"):
        refuse_unfaithful("t", off_by(0.3), "float32")
    refuse_unfaithful("t", off_by(0.3), "bfloat16")
    refuse_unfaithful("t", off_by(0.3), "float32", tolerance=0.4)
    with pytest.raises(ModelError, match="a second reading in other chunks"):
        refuse_unfaithful("t", off_by(1e-3, "second-pass"), "float32")
    with pytest.raises(ModelError):
        refuse_unfaithful("t", off_by(float("nan")), "float32", tolerance=1e9)
