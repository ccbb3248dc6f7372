"""Change what a model holds while it reads and writes: along one direction, from a token on."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from trace_probe.errors import ModelError
from trace_probe.model.local import Model


@dataclass(frozen=True)
class Steering:
    """A change of the residual stream after one block."""

    layer: int
    """Block, 0-based."""
    direction: NDArray[np.floating]
    """(d_model,); only where it points matters."""
    how: Literal["add", "project-out"] = "add"
    strength: float = 0.0
    """With ``add``: the length of what is added to the stream at each token; may be negative."""
    start: int | Sequence[int] = 0
    """The first token that is changed, as its index in the trace; one for all rows or each."""


@contextlib.contextmanager
def steered(model: Model, steering: Steering) -> Iterator[None]:
    """Change the stream in whatever the model does within: generate, stream or replay.

    What reads at the same layer within sees the change. Steerings nest, and add up.

    Raises:
        ModelError: the layer does not exist, or the direction does not fit the model.
    """
    unit = _unit(model, steering)
    positions = torch.zeros(1, 0, dtype=torch.long)

    def note(_module: object, args: tuple[object, ...], kwargs: Mapping[str, Any]) -> None:
        nonlocal positions
        positions = _positions(args, kwargs)

    def change(_layer: int, hidden: torch.Tensor) -> torch.Tensor:
        wide, along = hidden.float(), unit.to(hidden.device)
        start = torch.as_tensor(steering.start, device=hidden.device).reshape(-1, 1)
        chosen = (positions.to(hidden.device) >= start)[..., None]
        if steering.how == "add":
            changed = wide + steering.strength * along
        else:
            changed = wide - (wide * along).sum(-1, keepdim=True) * along
        return torch.where(chosen, changed, wide).to(hidden.dtype)

    base = model.blocks.network.get_decoder()
    handle = base.register_forward_pre_hook(note, with_kwargs=True)
    try:
        with model.blocks.tapped((steering.layer,), change):
            yield
    finally:
        handle.remove()


def _unit(model: Model, steering: Steering) -> torch.Tensor:
    model.check_layers((steering.layer,))
    direction = torch.as_tensor(np.asarray(steering.direction, dtype=np.float32))
    if direction.shape != (model.d_model,) or not direction.isfinite().all() or not direction.any():
        raise ModelError(
            f"a direction of shape {tuple(direction.shape)} cannot steer {model.name}: "
            f"it takes {model.d_model} finite values that are not all 0"
        )
    length: torch.Tensor = torch.linalg.vector_norm(direction)
    return direction / length


def _positions(args: Sequence[object], kwargs: Mapping[str, Any]) -> torch.Tensor:
    """Return (row or 1, token): the index in its trace of each token of a forward pass.

    With padding on the left only the positions that `generate` computes are right; without
    them tokens are counted from the end of the cache.
    """
    given = kwargs.get("position_ids")
    if given is not None:
        assert isinstance(given, torch.Tensor)
        return given
    entering = (kwargs.get("input_ids"), kwargs.get("inputs_embeds"), *args)
    ids = next(tokens for tokens in entering if tokens is not None)
    assert isinstance(ids, torch.Tensor)
    cache = kwargs.get("past_key_values")
    past = 0 if cache is None else int(cache.get_seq_length())
    return torch.arange(past, past + ids.shape[1], device=ids.device)[None]
