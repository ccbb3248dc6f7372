"""What vLLM is told to keep or to guard: plain values that travel in its own configuration.

They stand under the key ``trace_probe`` of vLLM's ``--additional-config``, which reaches every
process of the engine and is a part of the key under which it keeps compiled code.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from trace_probe.errors import ModelError
from trace_probe.storage.typed import from_plain
from trace_probe.trace import EXACT

KEY = "trace_probe"
"""Under which the plan stands in ``--additional-config``, and a request in its extra arguments."""
ASKED = "guarded-"
"""In the name of each request of which the server asks, once it is over, what the guard knows."""


@dataclass(frozen=True)
class CapturePlan:
    """Which rows of the residual stream the workers keep until they are asked for them."""

    __pydantic_config__ = EXACT
    layers: tuple[int, ...] = ()
    """0-based blocks."""
    room: int = 2 << 30
    """Bytes of float32 rows that a worker keeps; those of earlier requests go first."""


@dataclass(frozen=True)
class GuardPlan:
    """Which probes read along, and what an alarm leads to."""

    __pydantic_config__ = EXACT
    probes: tuple[str, ...] = ()
    """Folders of probes on the model that is served."""
    model: str = ""
    """Name of the model, as probes know it; empty if vLLM was given the same."""
    policy: str = "annotate"
    """``annotate``: only say so. ``stop``: end the answer at the alarm. ``withhold``: end it, and
    give none of its text."""
    audit: str = "alarms.jsonl"
    """The log of alarms, appended to."""
    smoothing: str | None = None
    threshold: float | None = None
    every: int = 16
    """Tokens after which a sentence that goes on is read; no alarm waits for that."""
    unasked: bool = True
    """Whether to guard all requests. If not, those with ``{"trace_probe": 1}`` among their
    ``vllm_xargs`` are guarded."""
    stale_ok: bool = False
    """Whether to go on with a probe whose latest recheck speaks against it."""


@dataclass(frozen=True)
class EngineOptions:
    """How an engine is run for a recording; plain values, which travel to its workers."""

    arguments: str = "{}"
    """More arguments of `vllm.LLM` as JSON, such as ``{"tensor_parallel_size": 2}``."""
    fidelity: float = 1 / 32
    """Share of the traces, the longest ones, that transformers reads again to compare the rows."""
    room: int = CapturePlan.room
    """Bytes of rows that a worker keeps."""


@dataclass(frozen=True)
class EnginePlan:
    """All that the workers of an engine are to do for us."""

    __pydantic_config__ = EXACT
    capture: CapturePlan | None = None
    guard: GuardPlan | None = None

    def configuration(self) -> dict[str, Any]:
        """Return what to give vLLM as its additional configuration."""
        parts = {"capture": self.capture, "guard": self.guard}
        return {KEY: {name: asdict(part) for name, part in parts.items() if part is not None}}


def read_plan(configuration: object) -> EnginePlan | None:
    """Return the plan in an additional configuration of vLLM; None if there is none.

    Raises:
        ModelError: it is there, but is none.
    """
    raw = configuration.get(KEY) if isinstance(configuration, Mapping) else None
    if raw is None:
        return None
    what, advice = f"{KEY!r} in vLLM's additional configuration", "see docs/vllm.md"
    found = from_plain(EnginePlan, raw, what, wrong=ModelError, advice=advice)
    if found == EnginePlan():
        raise ModelError(f"{what} holds neither `capture` nor `guard`: {advice}")
    return found
