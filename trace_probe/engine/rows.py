"""The residual stream in a worker: copied as it passes, kept by request and position, pooled."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trace_probe.errors import ModelError
from trace_probe.model.pooling import PooledRows
from trace_probe.trace import Span

GROWTH = 4096
"""Rows by which the store grows at least."""


class Taps:
    """Copies the stream after chosen blocks of vLLM's model into buffers that stay in place.

    A block of vLLM returns its own part and the residual apart, since the norm that follows adds
    them; the stream is their sum. The copies are a part of the forward pass, so that compiled
    code and graphs make them too, if the taps are there before anything is compiled.
    """

    def __init__(self, model: torch.nn.Module, depth: int, layers: Sequence[int]) -> None:
        """Find the blocks; of those that another pipeline stage has, nothing is kept here.

        Raises:
            ModelError: the blocks cannot be found.
        """
        blocks = blocks_of(model, depth)
        if blocks is None:
            raise ModelError(
                f"{type(model).__name__} of vLLM has no list of its {depth} blocks to read "
                f"activations from: record with --engine transformers"
            )
        here = {layer: blocks[layer] for layer in sorted(set(layers))}
        self._blocks = {
            layer: block
            for layer, block in here.items()
            if type(block).__name__ != "PPMissingLayer"
        }
        self.layers = tuple(self._blocks)
        self.rows = torch.empty(0)

    def open(self, tokens: int, width: int, device: torch.device) -> None:
        """Make room for the tokens of one pass, and put the taps on."""
        self.rows = torch.zeros(len(self.layers), tokens, width, device=device)
        for place, block in enumerate(self._blocks.values()):
            block.register_forward_hook(_copier(self.rows[place]))


def blocks_of(model: torch.nn.Module, depth: int) -> torch.nn.ModuleList | None:
    """Return the blocks of a model of vLLM; None if it has no list of them."""
    for module in model.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == depth:
            return module
    return None


def _copier(rows: torch.Tensor) -> Callable[..., None]:
    """Return a forward hook that copies the stream, (token, d_model), into rows.

    A model that vLLM takes from transformers has the tokens of a pass as one batch of one text.
    """

    def copy(_module: object, _inputs: object, output: Any) -> None:  # noqa: ANN401
        hidden, *more = output if isinstance(output, tuple) else (output,)
        torch.ops.trace_probe.keep(rows, hidden, more[0] if more else None)

    return copy


# One operation that compiled code leaves as it is. Of plain copies into a part of the buffer, the
# compiler makes one that writes the whole buffer in each pass, however few tokens the pass has.
_OPERATIONS = torch.library.Library("trace_probe", "DEF")  # type: ignore[no-untyped-call]
_OPERATIONS.define("keep(Tensor(a!) rows, Tensor hidden, Tensor? residual) -> ()")  # type: ignore[no-untyped-call]


@torch.library.impl(_OPERATIONS, "keep", "CompositeExplicitAutograd")
def _keep(rows: torch.Tensor, hidden: torch.Tensor, residual: torch.Tensor | None) -> None:
    """Write the sum of what a block returns into the first rows."""
    hidden = hidden.view(-1, hidden.shape[-1])
    there = rows.narrow(0, 0, hidden.shape[0])
    there.copy_(hidden)
    if residual is not None:
        there.add_(residual.view(-1, hidden.shape[-1]))


@torch.library.register_fake("trace_probe::keep")  # type: ignore[untyped-decorator]
def _keep_nothing(rows: torch.Tensor, hidden: torch.Tensor, residual: torch.Tensor | None) -> None:
    """Tell the compiler that nothing is returned."""


@dataclass(frozen=True, slots=True)
class Part:
    """The tokens of one request in a pass."""

    key: str
    position: int
    """Of the first of them in the request."""
    start: int
    """Of the first of them in the pass."""
    count: int


class TokenRows:
    """Rows of requests, by position: one that is computed twice, after a preemption, is kept once.

    Whoever asks for a request whose rows were crowded out by later ones is told so.
    """

    def __init__(self, layers: Sequence[int], width: int, device: torch.device, room: int) -> None:
        """Keep at most `room` bytes of float32 rows."""
        self.layers = tuple(layers)
        self._most = max(room // (4 * width * max(len(layers), 1)), 1)
        self._rows = torch.empty(len(layers), 0, width, device=device)
        self._free: list[int] = []
        self.repeated = 0
        """Rows that came a second time."""
        self._slots: dict[str, NDArray[np.int64]] = {}
        """For each position of a request where its row lies, -1 if nowhere."""

    @torch.inference_mode()
    def put(self, parts: Sequence[Part], rows: torch.Tensor) -> None:
        """Keep what a pass gave of some requests, out of its (layer, token, d_model)."""
        fitting = [(part, slots) for part in parts if (slots := self._place(part)) is not None]
        if not fitting:
            return
        tokens = [np.arange(part.start, part.start + part.count) for part, _ in fitting]
        where = torch.from_numpy(np.concatenate([slots for _, slots in fitting]))
        picked = torch.from_numpy(np.concatenate(tokens))
        kept = rows.index_select(1, picked.to(rows.device))
        self._rows.index_copy_(1, where.to(rows.device), kept)

    def _place(self, part: Part) -> NDArray[np.int64] | None:
        """Return where the rows of a part go, None if there is no room for its request."""
        stop = part.position + part.count
        slots = self._slots.get(part.key, np.empty(0, dtype=np.int64))
        if len(slots) < stop:
            slots = np.concatenate([slots, np.full(stop - len(slots), -1)])
        here = slots[part.position :]
        missing = np.flatnonzero(here[: part.count] < 0)
        self.repeated += part.count - len(missing)
        if not self._make_room(len(missing), part.key):
            self.forget([part.key])
            return None
        here[missing] = [self._free.pop() for _ in missing]
        self._slots[part.key] = slots
        return here[: part.count]

    def _make_room(self, count: int, but: str) -> bool:
        """Have so many places free, if need be by forgetting the requests that came first."""
        if count <= len(self._free):
            return True
        had = self._rows.shape[1]
        size = min(self._most, max(2 * had, had + count, GROWTH))
        if size > had:
            more = self._rows.new_empty(self._rows.shape[0], size - had, self._rows.shape[2])
            self._rows = torch.cat([self._rows, more], dim=1)
            self._free += range(had, size)
        while count > len(self._free):
            oldest = next((key for key in self._slots if key != but), None)
            if oldest is None:
                return False
            self.forget([oldest])
        return True

    def pooled(self, key: str, spans: Sequence[Span], pooling: str) -> NDArray[np.float32] | None:
        """Return (layer, row, width) for spans of a request; None if a row of it is missing."""
        slots = self._of(key, spans)
        if slots is None:
            return None
        first = min(span.start for span in spans)
        collected = PooledRows([spans], self.layers, pooling)
        for place, layer in enumerate(self.layers):
            collected.take(layer, self._rows[place, slots][None], first)
        found: NDArray[np.float32] = collected.rows().numpy()
        return found

    def tokens(self, key: str, span: Span) -> NDArray[np.float32] | None:
        """Return (layer, token, d_model) of a request; None if a row of it is missing."""
        slots = self._of(key, [span])
        if slots is None:
            return None
        found: NDArray[np.float32] = self._rows[:, slots].cpu().numpy()
        return found

    def _of(self, key: str, spans: Sequence[Span]) -> torch.Tensor | None:
        """Return where the rows of a request lie from the first to the last of some spans."""
        slots = self._slots.get(key)
        start, stop = min(span.start for span in spans), max(span.stop for span in spans)
        wanted = [slice(span.start, span.stop) for span in spans]
        if slots is None or stop > len(slots) or any((slots[one] < 0).any() for one in wanted):
            return None
        # What lies between two spans may be missing; it is not pooled.
        return torch.from_numpy(np.maximum(slots[start:stop], 0)).to(self._rows.device)

    def forget(self, keys: Sequence[str]) -> None:
        """Let go of the rows of some requests."""
        for key in keys:
            slots = self._slots.pop(key, None)
            if slots is not None:
                self._free += slots[slots >= 0].tolist()
