"""What vLLM is told to keep or to guard: plain values that travel in its own configuration.

They stand under the key ``trace_probe`` of vLLM's ``--additional-config``, which reaches every
process of the engine and is a part of the key under which it keeps compiled code.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

from trace_probe.errors import ModelError

KEY = "trace_probe"
"""Under which the plan stands in ``--additional-config``, and a request in its extra arguments."""


@dataclass(frozen=True)
class CapturePlan:
    """Which rows of the residual stream the workers keep until they are asked for them."""

    layers: tuple[int, ...] = ()
    """0-based blocks."""
    room: int = 2 << 30
    """Bytes of float32 rows that a worker keeps; those of earlier requests go first."""


@dataclass(frozen=True)
class GuardPlan:
    """Which probes read along, and what an alarm leads to."""

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


Part = TypeVar("Part", CapturePlan, GuardPlan)


@dataclass(frozen=True)
class EnginePlan:
    """All that the workers of an engine are to do for us."""

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
    if not isinstance(raw, Mapping) or set(raw) - {"capture", "guard"} or not raw:
        raise ModelError(
            f"{KEY!r} in vLLM's additional configuration holds `capture` or `guard`: see "
            f"docs/vllm.md"
        )
    return EnginePlan(
        _part(CapturePlan, raw.get("capture")),
        _part(GuardPlan, raw.get("guard")),
    )


def _part(kind: type[Part], raw: object) -> Part | None:
    """Return a part of a plan from plain values."""
    if raw is None:
        return None
    known = {each.name for each in fields(kind)}
    if not isinstance(raw, Mapping) or set(raw) - known:
        raise ModelError(
            f"{kind.__name__} has {', '.join(sorted(known))}, not {raw!r:.80}: see docs/vllm.md"
        )
    given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()}
    return kind(**given)
