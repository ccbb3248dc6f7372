"""Sentences as vectors of an encoder, such as a sentence-transformers model on disk or the hub."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trace_probe.model.checkpoint import locate
from trace_probe.model.loading import read_network, read_tokenizer

BATCH = 64


class Embedder:
    """An encoder that is asked for the mean of its last layer over the tokens of a text."""

    def __init__(self, name: str) -> None:
        """Take a folder or hub id; no code that comes with a model is run.

        Raises:
            ModelError: it cannot be read.
        """
        self._tokenizer = read_tokenizer(name, locate(name))
        self.name = name

    @cached_property
    def _model(self) -> Any:  # noqa: ANN401 - a network, whose package is heavy
        return read_network(self.name, locate(self.name), "AutoModel").eval()

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return (text, width) vectors of unit length; equal texts are read once.

        A text is cut where the model's context ends.
        """
        unique, where = np.unique(np.array(texts, dtype=object).astype(str), return_inverse=True)
        order = np.argsort([len(text) for text in unique], kind="stable")
        parts = [unique[order[start : start + BATCH]] for start in range(0, len(order), BATCH)]
        rows = np.concatenate([self._read(part.tolist()) for part in parts])
        found = np.empty_like(rows)
        found[order] = rows
        return np.asarray(found[where], dtype=np.float32)

    def _read(self, texts: list[str]) -> NDArray[np.float32]:
        import torch

        inputs = self._tokenizer(
            texts, padding=True, truncation=True, max_length=self._longest(), return_tensors="pt"
        )
        with torch.inference_mode():
            hidden = self._model(**inputs).last_hidden_state.float()
            mask = inputs["attention_mask"][..., None].to(hidden.dtype)
            mean = (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
            unit = torch.nn.functional.normalize(mean, dim=1)
        return np.asarray(unit.numpy(), dtype=np.float32)

    def _longest(self) -> int:
        """Return the context length; tokenizers without one give an absurd number."""
        own = getattr(self._model.config, "max_position_embeddings", 512)
        return int(min(self._tokenizer.model_max_length, own))
