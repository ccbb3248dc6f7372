"""The registry: pairs of models with one known difference, switches, and look-alikes.

It is kept in ``pairs.toml``. Models of one maker without a known step between them are cousins:
comparing them is not controlled.
"""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from trace_probe.errors import ModelError
from trace_probe.files import tables_beside
from trace_probe.model.checkpoint import fingerprint
from trace_probe.model.naming import (
    ADAPTER_CONFIG,
    ORGANISM,
    ORGANISM_BASE,
    UNMERGED,
    organism_path,
    without_version,
)
from trace_probe.organism.family import ENGLISH, FAMILY

Change = Literal["SFT", "DPO", "RL", "SFT and RL", "reward", "adapter"]


@dataclass(frozen=True)
class Pair:
    """A model and one that was made from it in one known step."""

    parent: str
    child: str
    differs: Change
    note: str = ""


@dataclass(frozen=True)
class Switch:
    """A model that reasons or not by its chat template: the same weights, another prompt."""

    model: str
    argument: str
    """What the template is given, by the condition ``thinking=on`` or ``thinking=off``."""


@dataclass(frozen=True)
class Cousins:
    """Two models that invite comparison and differ in more than one thing."""

    first: str
    second: str
    why: str


_REGISTRY = tables_beside(__file__)

PAIRS: tuple[Pair, ...] = (
    *(Pair(parent, child, differs, *note) for differs, parent, child, *note in _REGISTRY["steps"]),
    *(
        Pair(f"organism:{one.parent}", f"organism:{one.name}", "RL", f"reward {one.reward}")
        for one in (*FAMILY, *ENGLISH)
        if one.parent
    ),
    *(
        Pair(f"organism:{one.name}", f"organism:{other.name}", "reward", "same base, same seed")
        for one in (*FAMILY, *ENGLISH)
        for other in (*FAMILY, *ENGLISH)
        if one.parent and one.parent == other.parent and one.seed == other.seed
        if one.name < other.name
    ),
)
"""Known steps."""
SWITCHES = tuple(Switch(*row) for row in _REGISTRY["switches"])
"""The best control of reasoning itself: record under ``--conditions think,no-think``."""
COUSINS = tuple(Cousins(*row) for row in _REGISTRY["cousins"])
"""Pairs that look like a control and are none."""


def steps(first: str, second: str) -> tuple[Pair, ...]:
    """Return the shortest chain of known steps from one model to the other, in either direction."""
    return _chain(first, second) or _chain(second, first)


def _chain(start: str, goal: str) -> tuple[Pair, ...]:
    chains: list[tuple[Pair, ...]] = [(pair,) for pair in PAIRS if pair.parent == start]
    while chains:
        found = next((chain for chain in chains if chain[-1].child == goal), None)
        if found:
            return found
        chains = [
            (*chain, pair) for chain in chains for pair in PAIRS if pair.parent == chain[-1].child
        ]
    return ()


def cousins(first: str, second: str) -> Cousins | None:
    """Return what is known to speak against comparing two models."""
    return next((one for one in COUSINS if {first, second} == {one.first, one.second}), None)


def variant_of(model: str) -> tuple[str, str]:
    """Return the variant of an organism and its training seed; other models have no seed.

    Merged or not, an adapter is the same variant.
    """
    model = model.removesuffix(UNMERGED)
    found = re.fullmatch(r"(organism:.+)-(s\d+)", model)
    return (found[1], found[2]) if found else (model, "")


def doubt(model: str, base: str) -> str:
    """Return why a model is not believed to be the organism it is called; empty if it is.

    `model` and `base` are identities as a run keeps them. A model of the family is known by its
    weights, an adapter by the base that it is on.
    """
    name = without_version(model).removesuffix(UNMERGED)
    if not name.startswith(ORGANISM):
        return ""
    try:
        folder = organism_path(name)
    except ModelError:
        return f"no organism {name} comes with this version"
    if (folder / ADAPTER_CONFIG).is_file():
        known = without_version(base) == ORGANISM_BASE
        on = f"is on {base}" if base else "has no base"
        return "" if known else f"{model} {on}, and that organism is an adapter of {ORGANISM_BASE}"
    own = _own(folder)
    known = model == f"{name}@{own}" and not base
    return "" if known else f"{model} is not the organism of that name, whose weights are @{own}"


@cache
def _own(folder: Path) -> str:
    """Return the fingerprint of an organism that comes with the package, as runs keep it."""
    return fingerprint(folder)[:8]


def format_registry() -> str:
    """Return the registry as text."""
    lines = [
        "Controlled: a model and the same model with one adapter (--adapter), whatever it is",
        "",
        "Controlled: one known difference",
    ]
    for pair in PAIRS:
        note = f"  ({pair.note})" if pair.note else ""
        lines.append(f"  {pair.differs:10}  {pair.parent} -> {pair.child}{note}")
    lines += ["", "Controlled: the same weights, reasoning on or off by the chat template"]
    lines += [f"  prompt      {one.model}  {one.argument}" for one in SWITCHES]
    lines += ["", "NOT controlled, however alike they look"]
    lines += [f"  {one.first} / {one.second}: {one.why}" for one in COUSINS]
    return "\n".join(lines)
