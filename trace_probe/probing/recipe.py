"""What a probe is to tell, and from which rows and features of which layers it learns that."""

from dataclasses import dataclass
from typing import Literal, get_args

from trace_probe.probing.features import Feature

Target = Literal["outcome", "verbalisation", "situation"]
"""Whether the trace acts instrumentally; whether it ever says so; whether its task offers it."""
Rows = Literal["before-said", "reasoning", "prompt"]
"""Sentences strictly before the first that says it; all strictly before the action; none."""
Focus = Literal["last", "all"]
"""Of a positive, the last of its rows or all of them; of a negative always all.

A trace is not decided from its first sentence on. Rows of a positive from before that moment
are those of any trace and carry a wrong label; the last row carries the right one if any does.
A negative has to be quiet in every sentence.
"""
Method = Literal["logistic", "difference-of-means", "lda", "ridge"]
Head = Literal["linear", "mlp"]
"""One direction, or a network with one hidden layer."""
TARGETS: tuple[Target, ...] = get_args(Target)
FOCUSES: tuple[Focus, ...] = get_args(Focus)


@dataclass(frozen=True)
class Recipe:
    """How a probe is trained; its baselines follow the same recipe."""

    layers: tuple[int, ...]
    """Blocks that it reads, 0-based; a row holds them side by side."""
    features: tuple[Feature, ...] = ("mean",)
    """What it reads of each layer; see `probing.features`."""
    head: Head = "linear"
    """What turns a row into a score."""
    method: Method = "logistic"
    C: float = 0.01
    rows: Rows = "before-said"
    guard: int = 0
    """Sentences before the one that says it that are left out as well."""
    guard_tokens: int = 0
    """Tokens before it that are left out: a row ends no later than so many before it."""
    focus: Focus = "all"

    @property
    def layer(self) -> int:
        """Return the deepest layer that it reads."""
        return max(self.layers)
