"""Where the residual stream passes by: after each block of a model, to be read or changed.

The residual stream of tokens as they are written, kept where it lies until it is wanted.
"""

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from trace_probe.errors import ModelError

Backend = Literal["hooks", "transformer-lens"]

Tap = Callable[[int, torch.Tensor], torch.Tensor | None]
"""Takes a layer and the residual stream after it, (batch, token, d_model); may replace it."""


class Blocks(Protocol):
    """The blocks of a network, by 0-based index.

    What passes by is the residual stream *after* a block and before the model's final norm,
    for the last block too.
    """

    backend: Backend
    network: PreTrainedModel
    """Whose forward pass runs by the taps."""

    def tapped(self, layers: Sequence[int], tap: Tap) -> AbstractContextManager[None]:
        """Hand the stream after each of `layers` to `tap` in every pass; leave nothing behind.

        Of two taps at one layer the one that was set first comes first.
        """

    def ready(self, layers: Sequence[int]) -> AbstractContextManager[None]:
        """Make it cheap to tap `layers` again and again; untapped passes stay as they are.

        Taps still come in the order in which they are set. A forward hook that is none of these
        taps is seen by them only if it was put on before: one that is to change the stream has
        to be on a block before the context begins.
        """


class HookedBlocks:
    """Blocks read by forward hooks on the modules of transformers, which cost little."""

    backend: Backend = "hooks"

    def __init__(self, network: PreTrainedModel, name: str) -> None:
        """Find the blocks of a network.

        Raises:
            ModelError: they cannot be found.
        """
        self.network = network
        blocks = find_blocks(network.get_decoder())
        if blocks is None:
            raise ModelError(f"{name} has no list of its blocks to read activations from")
        self._outlets = [_Outlet(block, layer) for layer, block in enumerate(blocks)]

    def tapped(self, layers: Sequence[int], tap: Tap) -> AbstractContextManager[None]:
        """Hand the stream after each of `layers` to `tap`, as `Blocks` says."""
        return _Tapping([self._outlets[layer] for layer in layers], tap)

    @contextlib.contextmanager
    def ready(self, layers: Sequence[int]) -> Iterator[None]:
        """Keep hooks on `layers`, since to put one on takes longer than what it does.

        However many keep it ready, a block bears one hook, which a pass without taps runs
        through once. What else is to change the stream is put on before, as `Blocks` says.
        """
        outlets = [self._outlets[layer] for layer in layers]
        with _changing:
            for outlet in outlets:
                outlet.keep()
        try:
            yield
        finally:
            with _changing:
                for outlet in outlets:
                    outlet.release()


_changing = threading.RLock()
"""Held while taps change: generations of other threads, or dropped ones, may end meanwhile."""


class _Tapping(AbstractContextManager[None]):
    """A tap at some outlets until the context ends; a class, since it is entered every token.

    To leave it again does nothing.
    """

    def __init__(self, outlets: "Sequence[_Outlet]", tap: Tap) -> None:
        self._outlets, self.tap = outlets, tap

    def __enter__(self) -> None:
        with _changing:
            for outlet in self._outlets:
                outlet.open(self)

    def __exit__(self, *_: object) -> None:
        with _changing:
            for outlet in self._outlets:
                outlet.close(self)


class _Outlet:
    """Where the stream after one block is tapped: a forward hook, on while it is needed."""

    def __init__(self, block: torch.nn.Module, layer: int) -> None:
        self._block, self._layer = block, layer
        self._tappings: list[_Tapping] = []
        self._keepers = 0
        """How many will tap it again and again."""
        self._hook: RemovableHandle | None = None

    def open(self, tapping: _Tapping) -> None:
        self._tappings.append(tapping)
        if self._hook is None:
            self._settle()

    def close(self, tapping: _Tapping) -> None:
        if tapping in self._tappings:
            self._tappings.remove(tapping)
        if not self._keepers:
            self._settle()

    def keep(self) -> None:
        self._keepers += 1
        self._settle()

    def release(self) -> None:
        self._keepers -= 1
        self._settle()

    def _settle(self) -> None:
        """Put the hook on if anybody needs it, and take it off if nobody does."""
        needed = bool(self._tappings or self._keepers)
        if needed and self._hook is None:
            self._hook = self._block.register_forward_hook(self._see)
        elif self._hook is not None and not needed:
            self._hook.remove()
            self._hook = None

    def _see(self, _module: object, _inputs: object, output: object) -> object:
        hidden = output[0] if isinstance(output, tuple) else output
        assert isinstance(hidden, torch.Tensor)
        changed = None
        for tapping in tuple(self._tappings):
            found = tapping.tap(self._layer, hidden)
            if found is not None:
                hidden = changed = found
        if changed is None or not isinstance(output, tuple):
            return changed
        return changed, *output[1:]


def find_blocks(base: PreTrainedModel) -> torch.nn.ModuleList | None:
    """Return the decoder blocks: the outermost list of modules as long as the model is deep."""
    depth = base.config.get_text_config().num_hidden_layers
    for module in base.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == depth:
            return module
    return None


def input_device(network: PreTrainedModel) -> torch.device:
    """Return where token ids go: to where the embedding is, or is read to from disk."""
    embedding = network.get_input_embeddings()
    hook = getattr(embedding, "_hf_hook", None)
    return torch.device(getattr(hook, "execution_device", None) or embedding.weight.device)


class RowTap:
    """Keeps the last token of each forward pass; nothing is copied or moved before `take`."""

    def __init__(self, layers: Iterable[int]) -> None:
        """Say which layers are kept; each pass has to come by all of them, the lowest first."""
        self.layers = tuple(sorted(set(layers)))
        self._held: list[torch.Tensor] = []
        """(batch, 1, d_model) each, pass by pass and in each the layers in their order."""

    def consume(self, layer: int, hidden: torch.Tensor) -> None:  # noqa: ARG002
        """Keep the last token of each row of (batch, token, d_model).

        A model is trusted not to change in place what a block gave, as transformers itself is
        where it returns hidden states; so of a pass of one token nothing is copied.
        """
        self._held.append(hidden if hidden.shape[1] == 1 else hidden[:, -1:].clone())

    def take(self) -> NDArray[np.float32]:
        """Return (batch, pass, layer, d_model) of the passes since the last call: one transfer.

        It may be inf or nan, of which whoever scores it makes an alarm.
        """
        held, self._held = self._held, []
        device = held[0].device
        if any(row.device != device for row in held[1 : len(self.layers)]):
            held = [row.to(device) for row in held]
        rows: NDArray[np.float32] = torch.cat(held, dim=1).to("cpu", torch.float32).numpy()
        return rows.reshape(len(rows), -1, len(self.layers), rows.shape[2])
