"""What a probe is to tell, and from which rows and features of which layers it learns that."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from trace_probe.activations import POOLINGS, Pooling, parse_poolings
from trace_probe.errors import ProbeError

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
Feature = Literal["last", "mean", "max", "running-mean", "running-max", "prompt"]
FEATURES: tuple[Feature, ...] = get_args(Feature)
POOLED: dict[Feature, Pooling] = {
    "last": "last",
    "mean": "mean",
    "max": "max",
    "running-mean": "mean",
    "running-max": "max",
}
"""Which recorded pooling each feature is made from; any will do for the prompt, one token long."""


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


def features_from(pooling: str) -> tuple[Feature, ...]:
    """Return the features that can be made from rows of a pooling such as ``last+mean``."""
    held = parse_poolings(pooling)
    return tuple(feature for feature in FEATURES if POOLED.get(feature, held[0]) in held)


def candidate_features(pooling: str) -> tuple[tuple[Feature, ...], ...]:
    """Return the choices of features that training compares, the simplest first.

    One pool of the sentence alone, that pool with a memory of the thought, and all that can be
    made of the rows but the prompt, which says nothing of one trace rather than another.
    """
    made = tuple(feature for feature in features_from(pooling) if feature != "prompt")
    memory = tuple(feature for feature in made if feature.startswith("running"))
    return tuple(dict.fromkeys((made[:1], (made[0], *memory), made)))


def pooling_for(features: Iterable[Feature]) -> str:
    """Return the pooling that has to be recorded for some features, such as ``last+max``."""
    needed = {POOLED[feature] for feature in features if feature in POOLED}
    return "+".join(pooling for pooling in POOLINGS if pooling in needed) or "last"


def parse_features(names: Sequence[str]) -> tuple[Feature, ...]:
    """Return features by their names.

    Raises:
        ProbeError: there is no such feature, none at all, or one twice.
    """
    known = tuple(feature for name in names for feature in FEATURES if feature == name)
    if not known or len(known) < len(names) or len(set(names)) < len(names):
        raise ProbeError(
            f"{', '.join(names) or 'nothing'} is not a choice of features: name some of "
            f"{', '.join(FEATURES)}, each once"
        )
    return known


def check_features(features: Sequence[Feature], pooling: str) -> None:
    """Refuse features that cannot be made from rows of a pooling.

    Raises:
        ProbeError: one needs a pooling that was not recorded.
    """
    missing = [feature for feature in features if feature not in features_from(pooling)]
    if missing:
        raise ProbeError(
            f"{', '.join(missing)} cannot be made from rows that hold {pooling} only: read the "
            f"run again with `trace-probe record --recapture RUN`, or use "
            f"{', '.join(features_from(pooling))}"
        )
