from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from tiny_models import FAMILIES, each_token, random_network, relative_error

from trace_probe.errors import ModelError
from trace_probe.trace import Sampling, Span, Task

TASK = Task("t-01", "c", "the model must finish its task before they stop it .")
SHORT = Task("t-02", "c", "stop it .", system="say nothing .")
SAMPLING = Sampling(max_new_tokens=12)
LAYERS = (0, 1, 2)


@pytest.fixture(scope="module")
def lens(tiny: Callable[..., Any]) -> Callable[..., Any]:
    """Return a maker of the same models through TransformerLens."""

    @cache
    def make(family: str = "qwen3") -> Any:
        from trace_probe.model.bridge import bridged

        try:
            return bridged(tiny(family))
        except ModelError as error:
            pytest.skip(str(error))

    return make


def ids_of(model: Any, task: Task = TASK) -> tuple[int, ...]:
    prompt = model.render(task)
    return (*prompt, *model.generate([prompt], [5], SAMPLING)[0].ids)


# The same numbers


@pytest.mark.parametrize("family", FAMILIES)
def test_hooks_and_transformer_lens_read_the_same(
    tiny: Callable[..., Any], lens: Callable[..., Any], family: str
) -> None:
    ids = ids_of(tiny(family))
    short = ids_of(tiny(family), SHORT)
    spans = [each_token(len(ids)), each_token(len(short))]
    theirs = lens(family).replay([ids, short], spans, LAYERS)
    ours = tiny(family).replay([ids, short], spans, LAYERS)
    for a, b in zip(ours, theirs, strict=True):
        for layer in LAYERS:
            assert relative_error(b.at(layer), a.at(layer)) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_a_twin_writes_and_streams_what_the_model_does(
    tiny: Callable[..., Any], lens: Callable[..., Any], family: str
) -> None:
    model, twin = tiny(family), lens(family)
    prompts = [model.render(TASK), model.render(SHORT)]
    written = model.generate(prompts, [5, 6], SAMPLING)
    assert twin.generate(prompts, [5, 6], SAMPLING) == written
    streamed = list(twin.stream(prompts[0], 5, SAMPLING, LAYERS))
    assert tuple(token.id for token in streamed[1:]) == written[0].ids


def test_the_model_stays_as_it_was(tiny: Callable[..., Any], lens: Callable[..., Any]) -> None:
    model = tiny("qwen3")
    ids = ids_of(model)
    (before,) = model.replay([ids], [each_token(len(ids))], LAYERS)
    twin = lens()
    (after,) = model.replay([ids], [each_token(len(ids))], LAYERS)
    assert np.array_equal(before.values, after.values)
    assert model._network.config._attn_implementation == "sdpa"
    assert twin._network.config._attn_implementation == "eager"
    assert not any("transformer_lens" in type(m).__module__ for m in model._network.modules())


def test_a_twin_shares_the_weights(tiny: Callable[..., Any], lens: Callable[..., Any]) -> None:
    mine = {weight.data_ptr() for weight in tiny("qwen3")._network.parameters()}
    assert {weight.data_ptr() for weight in lens()._network.parameters()} == mine


def test_an_architecture_that_transformer_lens_does_not_know_is_named() -> None:
    from tiny_models import word_tokenizer

    from trace_probe.model.bridge import bridged
    from trace_probe.model.local import Model

    network = random_network()
    network.__class__ = type("OddForCausalLM", (type(network),), {})
    with pytest.raises(ModelError, match=r"cannot wrap odd .*use the backend hooks"):
        bridged(Model(network, word_tokenizer(), "odd"))


# Steering


def direction(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=32)


@pytest.mark.parametrize("family", ["qwen3", "gemma3_text", "gpt_oss", "phi3"])
def test_steering_changes_the_stream_from_its_token_on(
    tiny: Callable[..., Any], lens: Callable[..., Any], family: str
) -> None:
    from trace_probe.model.steering import Steering, steered

    ids = ids_of(tiny(family))
    unit = direction() / np.linalg.norm(direction())
    for model in (tiny(family), lens(family)):
        (plain,) = model.replay([ids], [each_token(len(ids))], LAYERS)
        with steered(model, Steering(1, 7 * direction(), strength=-3.0, start=4)):
            (added,) = model.replay([ids], [each_token(len(ids))], LAYERS)
        with steered(model, Steering(1, direction(), "project-out", start=4)):
            (without,) = model.replay([ids], [each_token(len(ids))], LAYERS)
        for changed in (added, without):
            assert relative_error(changed.at(0), plain.at(0)) <= 1e-6
            assert relative_error(changed.values[:, :4], plain.values[:, :4]) <= 1e-6
            assert relative_error(changed.at(2)[4:], plain.at(2)[4:]) > 1e-3
        assert relative_error(added.at(1)[4:] - plain.at(1)[4:], -3 * unit[None]) < 1e-4
        np.testing.assert_allclose(without.at(1)[4:] @ unit, 0, atol=1e-5)
        (again,) = model.replay([ids], [each_token(len(ids))], LAYERS)
        assert np.array_equal(again.values, plain.values)


@pytest.mark.parametrize("family", ["qwen3", "gpt_oss", "mistral"])
def test_both_backends_write_the_same_when_steered_and_rows_start_on_their_own(
    tiny: Callable[..., Any], lens: Callable[..., Any], family: str
) -> None:
    from trace_probe.model.steering import Steering, steered

    prompts = [tiny(family).render(TASK), tiny(family).render(SHORT)]
    starts = [len(prompts[0]), len(prompts[1]) + 3]
    plain = tiny(family).generate(prompts, [5, 6], SAMPLING)
    written = []
    for model in (tiny(family), lens(family)):
        with steered(model, Steering(1, direction(), strength=8.0, start=starts)):
            written.append(model.generate(prompts, [5, 6], SAMPLING))
        for prompt, seed, start, completion in zip(
            prompts, [5, 6], starts, written[-1], strict=True
        ):
            with steered(model, Steering(1, direction(), strength=8.0, start=start)):
                streamed = list(model.stream(prompt, seed, SAMPLING, LAYERS))
                (replayed,) = model.replay(
                    [(*prompt, *completion.ids)],
                    [[Span(token.position, token.position + 1) for token in streamed]],
                    LAYERS,
                )
            assert tuple(token.id for token in streamed[1:]) == completion.ids
            live = np.stack([token.activation for token in streamed], axis=1)
            assert relative_error(live, replayed.values) < 1e-5
    assert written[0] == written[1] != plain
    for before, after, start, prompt in zip(plain, written[0], starts, prompts, strict=True):
        untouched = start + 1 - len(prompt)  # the token drawn before the first changed one
        assert before.ids[:untouched] == after.ids[:untouched]


def test_steerings_nest_and_a_direction_must_fit(tiny: Callable[..., Any]) -> None:
    from trace_probe.model.steering import Steering, steered

    model = tiny()
    ids = ids_of(model)
    (plain,) = model.replay([ids], [each_token(len(ids))], (1,))
    one, other = Steering(1, direction(0), strength=2.0), Steering(1, direction(1), strength=3.0)
    with steered(model, one), steered(model, other):
        (both,) = model.replay([ids], [each_token(len(ids))], (1,))
    units = [direction(seed) / np.linalg.norm(direction(seed)) for seed in (0, 1)]
    moved = both.values[0] - plain.values[0]
    assert relative_error(moved, (2 * units[0] + 3 * units[1])[None]) < 1e-4
    for wrong in (np.ones(31), np.zeros(32), np.full(32, np.nan)):
        with pytest.raises(ModelError, match="cannot steer"), steered(model, Steering(1, wrong)):
            pass
    with pytest.raises(ModelError, match="no layer 3"), steered(model, Steering(3, direction())):
        pass
