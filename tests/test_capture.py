from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tiny_models import FAMILIES, random_network, word_tokenizer

from trace_probe.trace import Span

LAYERS = (0, 1, 2)


def relative_error(got: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(got - wanted).max() / np.abs(wanted).max())


def some_ids(count: int, seed: int = 0) -> list[int]:
    return [int(i) for i in np.random.default_rng(seed).integers(6, 30, count)]


def each_token(count: int) -> list[Span]:
    return [Span(i, i + 1) for i in range(count)]


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
    from trace_probe.model.chunks import _comes_apart

    assert _comes_apart(tiny(family)._base)


def test_a_network_that_cannot_be_taken_apart_is_read_behind_an_ordinary_cache() -> None:
    from trace_probe.model.capture import Reading
    from trace_probe.model.chunks import _comes_apart
    from trace_probe.model.local import Model

    network = random_network("granite", embedding_multiplier=3.0)  # of whatever enters
    model, ids = Model(network, word_tokenizer(), "granite"), some_ids(60)
    assert not _comes_apart(model._base)
    (whole,) = model.replay([ids], [each_token(60)], LAYERS)
    (pieces,) = model.replay([ids], [each_token(60)], LAYERS, Reading(pass_tokens=8, chunk=7))
    for layer in LAYERS:
        assert relative_error(pieces.at(layer), whole.at(layer)) < 1e-5
