"""What the name of a model says: a base, perhaps an adapter on top of it.

    Qwen/Qwen3-4B                    a model of the hub; a folder; a GGUF file; smollm2
    smollm2+my-adapter               the same with an adapter, a folder in the form of PEFT
    Qwen/Qwen3-4B+org/adapter@main   an adapter of the hub, at a revision
    smollm2+my-adapter,unmerged      the adapter is added at every pass, not into the weights
    organism:english-base            what comes with the package, a model or an adapter

Runs and probes keep such a name with a fingerprint behind an ``@``, so it is all that is needed
to load the model again.
"""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from trace_probe.errors import ModelError

FAMILY = Path(__file__).parents[1] / "organism" / "family"
SMOLLM2 = "smollm2"
ORGANISM = "organism:"
ORGANISM_BASE = SMOLLM2
"""The base of the organisms that are adapters."""
ADAPTER_CONFIG = "adapter_config.json"
UNMERGED = ",unmerged"
FINGERPRINT = re.compile("[0-9a-f]{8,}")
"""Of weights; what else stands behind an ``@``, such as a branch, may be of any model."""


class Named(NamedTuple):
    """The parts of a model's name."""

    base: str
    adapter: str = ""
    """Empty where there is none."""
    merged: bool = True
    """Whether the adapter is added to the weights, once, or to what they give, at every pass."""


def parse_name(name: str) -> Named:
    """Return the parts of a model's name."""
    plain = name.removesuffix(UNMERGED)
    merged = plain == name
    if plain.startswith(ORGANISM) and (organism_path(plain) / ADAPTER_CONFIG).is_file():
        return Named(ORGANISM_BASE, plain, merged)
    if "+" not in plain or Path(plain).expanduser().exists():
        if not merged:
            raise ModelError(f"{name} has no adapter: leave {UNMERGED!r} out")
        return Named(plain)
    parts = plain.split("+")
    cuts = [("+".join(parts[:n]), "+".join(parts[n:])) for n in range(1, len(parts))]
    # A folder may have a + in its name; no hub id has.
    base, adapter = next((cut for cut in cuts if Path(cut[1]).expanduser().is_dir()), cuts[0])
    return Named(base, adapter, merged)


def same_model(one: str, other: str) -> bool:
    """Return whether two identities are of one model; a copy in another folder is the same.

    Example:
        >>> same_model("organism:rl-s0@20da8b17", "my-copy@20da8b17")
        True
    """
    versions = {identity.rpartition("@")[2] for identity in (one, other)}
    return one == other or (len(versions) == 1 and bool(FINGERPRINT.fullmatch(versions.pop())))


def with_adapter(name: str, adapter: str | None) -> str:
    """Return the name of a model with an adapter in place of the one it has, if any is given."""
    return f"{parse_name(name).base}+{adapter}" if adapter else name


def without_version(identity: str) -> str:
    """Return the name in the identity that a run or a probe keeps of its model."""
    return identity.rpartition("@")[0] or identity


def is_gguf(path: Path) -> bool:
    """Return whether a path is called like a GGUF file."""
    return path.suffix.lower() == ".gguf"


def check_not_reserved(path: Path) -> Path:
    """Return a path whose name no organism can be taken for.

    Raises:
        ModelError: it is called like an organism, which runs and probes know by that name alone.
    """
    own = path.resolve().name
    if own.startswith(ORGANISM):
        raise ModelError(
            f"{own} is called like an organism of the package: rename it, or write {ORGANISM}NAME "
            f"for an organism"
        )
    return path


def _instead(name: str, known: Sequence[str]) -> str:
    """Return which organism may have been meant, or which there are."""
    there = [f"{ORGANISM}{each.removesuffix('-s0')}" for each in known]
    if not there:
        return ": build them with `trace-probe organism train`"
    close = get_close_matches(f"{ORGANISM}{name.removeprefix(ORGANISM)}", there, n=1, cutoff=0.9)
    return f": did you mean {close[0]}?" if close else f"; there are {', '.join(there)}"


def check_no_organism(name: str) -> None:
    """Refuse the bare name of an organism, which would be looked up on the hub.

    Raises:
        ModelError: an organism has that name.
    """
    if (FAMILY / name).is_dir() or (FAMILY / f"{name}-s0").is_dir():
        raise ModelError(f"{name} is an organism of the package: write {ORGANISM}{name}")


def organism_path(name: str) -> Path:
    """Return the folder of an organism: ``rl-s0``, or ``rl`` for the first of its seeds.

    Raises:
        ModelError: the family has no such member.
    """
    variant = name.removeprefix(ORGANISM)
    files = (*FAMILY.glob("*/config.json"), *FAMILY.glob(f"*/{ADAPTER_CONFIG}"))
    known = sorted({file.parent.name for file in files})
    variant = variant if variant in known else f"{variant}-s0"
    if variant not in known:
        raise ModelError(f"no organism {name!r}{_instead(name, known)}")
    return FAMILY / variant
