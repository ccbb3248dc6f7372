"""What a model held in its residual stream while it read, thought and said."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from trace_probe.errors import ProbeError, TraceError
from trace_probe.trace import Span, Trace

Pooling = Literal["mean", "last", "max"]
FLOAT16_MAX = 65504.0


@dataclass(frozen=True)
class Fidelity:
    """How far reading a trace again was from what can be compared with it."""

    against: Literal["log-probabilities", "second-pass"]
    """Those noted while the trace was written, or its activations read once more otherwise."""
    error: float
    """Root mean square over tokens, in nats; or greatest difference over greatest value."""


@dataclass(frozen=True)
class Activations:
    """Residual stream after chosen blocks, one row per span of tokens.

    Layer ``l`` is the 0-based block index, and its values are the residual stream *after*
    that block, before the model's final norm. (``hidden_states[-1]`` of transformers is
    after that norm and is therefore never used.)
    """

    values: NDArray[np.floating]
    """(layer, row, d_model), in the order of `layers` and `spans`."""
    layers: tuple[int, ...]
    spans: tuple[Span, ...]
    """The tokens of each row: first the last prompt token, then the sentences of the trace."""
    pooling: Pooling = "mean"
    tokens: NDArray[np.floating] | None = None
    """(layer, token, d_model): each token from the first row on, where raw tokens are wanted."""
    fidelity: Fidelity | None = None
    """None where nothing was compared."""

    def __post_init__(self) -> None:
        """Refuse values whose shape contradicts layers or spans."""
        if self.values.ndim != 3 or self.values.shape[:2] != (len(self.layers), len(self.spans)):
            raise TraceError(
                f"activations of shape {self.values.shape} do not fit "
                f"{len(self.layers)} layers and {len(self.spans)} spans"
            )
        raw = self.tokens
        if raw is not None and (raw.ndim != 3 or raw.shape[:2] != (len(self.layers), self.reach)):
            raise TraceError(
                f"raw activations of shape {raw.shape} do not fit {len(self.layers)} layers "
                f"and {self.reach} tokens"
            )

    @property
    def reach(self) -> int:
        """Return the number of tokens from the first of the first row to the last of any."""
        return max(span.stop for span in self.spans) - self.spans[0].start if self.spans else 0

    def at(self, layer: int) -> NDArray[np.floating]:
        """Return (row, d_model) of one layer.

        Raises:
            ProbeError: the layer was not recorded.
        """
        if layer not in self.layers:
            raise ProbeError(f"layer {layer} was not recorded; there are {list(self.layers)}")
        values: NDArray[np.floating] = self.values[self.layers.index(layer)]
        return values


def pooled_spans(trace: Trace) -> tuple[Span, ...]:
    """Return the rows that are recorded for a trace: the last prompt token, then each sentence."""
    stop = trace.prompt_stop
    return (Span(max(stop - 1, 0), stop, "prompt"), *trace.sentences)


def to_bytes(activations: Activations) -> bytes:
    """Return activations as a safetensors file: half precision, unless a value exceeds it.

    The tensors are ``layer.<l>``, (row, d_model), and with raw tokens ``tokens.<l>``,
    (token, d_model); the metadata says the pooling and, in JSON, the fidelity.

    Raises:
        TraceError: a value is inf or nan.
    """
    from safetensors.numpy import save

    tensors = {}
    for part, values in (("layer", activations.values), ("tokens", activations.tokens)):
        if values is None:
            continue
        if not np.isfinite(values).all():
            raise TraceError(
                "the activations hold inf or nan: load the model in float32 or bfloat16 "
                "and record again"
            )
        fits = float(np.abs(values).max(initial=0.0)) <= FLOAT16_MAX
        dtype = np.float16 if fits else np.float32
        for layer, rows in zip(activations.layers, values, strict=True):
            tensors[f"{part}.{layer}"] = np.ascontiguousarray(rows.astype(dtype))
    about: dict[str, str] = {"pooling": activations.pooling}
    if activations.fidelity is not None:
        about["fidelity"] = json.dumps(asdict(activations.fidelity))
    return bytes(save(tensors, about))


def read_activations(file: Path, layers: Sequence[int], spans: Sequence[Span]) -> Activations:
    """Return the pooled rows of some layers from a file that `to_bytes` made."""
    from safetensors import safe_open

    with safe_open(file, framework="numpy") as tensors:
        values = [tensors.get_tensor(f"layer.{layer}") for layer in layers]
        about = tensors.metadata() or {}  # files of earlier versions have none
    fidelity = json.loads(about.get("fidelity", "null"))
    return Activations(
        np.stack(values),
        tuple(layers),
        tuple(spans),
        about.get("pooling", "mean"),
        fidelity=Fidelity(**fidelity) if fidelity else None,
    )


def read_tokens(file: Path, layer: int) -> NDArray[np.floating]:
    """Return the raw tokens of a layer, (token, d_model), from a file that `to_bytes` made."""
    from safetensors import safe_open

    with safe_open(file, framework="numpy") as tensors:
        values: NDArray[np.floating] = tensors.get_tensor(f"tokens.{layer}")
    return values
