"""Sentences as vectors of an encoder that lies in a folder."""

from pathlib import Path

import numpy as np
import pytest
from tiny_models import word_tokenizer

from trace_probe.errors import ModelError
from trace_probe.model.embedder import BATCH, Embedder

WORDS = ("the model must finish", "we read", "act now", "we read the plan and then act")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny random encoder."""
    import torch
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("models") / "encoder"
    tokenizer = word_tokenizer()
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=24,
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_vectors_have_unit_length_and_do_not_depend_on_the_company(folder: Path) -> None:
    embed = Embedder(str(folder))
    together = embed(WORDS)
    assert together.shape == (4, 16)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1.0, rtol=1e-5)
    for text, vector in zip(WORDS, together, strict=True):
        np.testing.assert_allclose(embed([text])[0], vector, atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 1e-3


def test_texts_come_back_in_their_order_repeated_and_longer_than_a_batch(folder: Path) -> None:
    embed = Embedder(str(folder))
    many = [f"{WORDS[number % 4]} {'act ' * (number % 7)}" for number in range(2 * BATCH + 3)]
    found = embed(many)
    for number in (0, 5, BATCH, 2 * BATCH + 2):
        np.testing.assert_allclose(found[number], embed([many[number]])[0], atol=1e-5)


def test_a_text_is_cut_where_the_context_ends(folder: Path) -> None:
    embed = Embedder(str(folder))
    short, long = "act " * 24, "act " * 24 + "we read the plan " * 50
    cut, whole = embed([short, long])
    np.testing.assert_allclose(cut, whole, atol=1e-5)


def test_what_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match="there is no folder .*nowhere: give a model folder or a hub id"
    ):
        Embedder(str(tmp_path / "nowhere"))
