"""Which model to load, and how: plain values, which travel to workers and need no torch."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Weights:
    """A model by name, and how it is loaded; see `trace_probe.model.bridge.load_weights`."""

    name: str
    """With its adapter, such as ``smollm2+my-adapter``; see `trace_probe.model.naming`."""
    device: str | None = None
    dtype: str | None = None
    revision: str | None = None
    """Of the base. An adapter has its own, in the name."""
    backend: Literal["hooks", "transformer-lens"] = "hooks"
    device_map: str | None = None
