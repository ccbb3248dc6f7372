"""Files of hidden states that vLLM writes by itself, with its method `extract_hidden_states`."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trace_probe.errors import TraceError

MOST = 1 << 31
"""Token ids are below it, whatever the model."""


class Extracted(NamedTuple):
    """What a file of vLLM's connector holds of one request."""

    token_ids: tuple[int, ...]
    """The prompt; where output tokens were asked for also what was written, but the last token,
    which was never read."""
    layers: tuple[int, ...]
    """0-based blocks, as everywhere here."""
    values: NDArray[np.float32]
    """(layer, token, d_model)."""


def read_extracted(file: Path | str, ids: Sequence[int]) -> Extracted:
    """Read a file that vLLM's ``ExampleHiddenStatesConnector`` wrote.

    `ids` are the ``eagle_aux_hidden_state_layer_ids`` with which vLLM ran: ``i + 1`` is the stream
    after block ``i``, and 0 the embeddings, which are passed over. While vLLM still writes, its
    own ``load_hidden_states`` waits; this does not.

    Raises:
        TraceError: it is no such file, holds another number of layers, or `ids` are none of layers.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    ids = tuple(ids)
    wrong = [one for one in ids if not isinstance(one, int | np.integer) or one < 0]
    if wrong or len(set(ids)) < len(ids):
        raise TraceError(
            f"{list(ids)} are no ids of different layers, which are integers from 0 on: name the "
            f"`eagle_aux_hidden_state_layer_ids` with which vLLM ran"
        )
    try:
        tensors = load_file(file)
        hidden, read = tensors["hidden_states"], tensors["token_ids"]
    except (OSError, KeyError, SafetensorError) as error:
        raise TraceError(
            f"{file} is not what vLLM's connector of hidden states writes ({error}): give a file "
            f"named in `hidden_states_path` of an answer"
        ) from error
    if hidden.dim() != 3 or hidden.shape[:2] != (read.numel(), len(ids)):
        raise TraceError(
            f"{file} holds {tuple(hidden.shape)} for {read.numel()} tokens, which is not (token, "
            f"layer, d_model) for {len(ids)} layers: name the ids with which vLLM ran"
        )
    whole = read.dim() == 1 and read.dtype in (torch.int64, torch.int32)
    sane = whole and bool(((read >= 0) & (read < MOST)).all())
    if not sane or not hidden.is_floating_point() or not hidden.float().isfinite().all():
        raise TraceError(
            f"{file} holds inf, nan or something else than token ids ({read.dtype}, 0 or more) and "
            f"their floating-point values ({hidden.dtype}): let vLLM write it again"
        )
    places = [place for place, i in enumerate(ids) if i > 0]
    values: NDArray[np.float32] = hidden[:, places].transpose(0, 1).float().numpy()
    return Extracted(tuple(read.tolist()), tuple(int(ids[place]) - 1 for place in places), values)
