"""Where the files of a model lie, and what identifies them; nothing here loads a model."""

import hashlib
from pathlib import Path

from trace_probe.errors import ModelError

FAMILY = Path(__file__).parents[1] / "organism" / "family"
FINGERPRINTED = (
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "vocab*",
    "merges*",
    "special_tokens*",
    "added_tokens*",
    "chat_template*",
    "*.safetensors",
    "*.bin",
)


def organism_path(name: str) -> Path:
    """Return the folder of an organism: ``rl-s0``, or ``rl`` for the first of its seeds.

    Raises:
        ModelError: the family has no such member.
    """
    variant = name.removeprefix("organism:")
    known = sorted(file.parent.name for file in FAMILY.glob("*/config.json"))
    variant = variant if variant in known else f"{variant}-s0"
    if variant not in known:
        there = ", ".join(known) or "none: build them with `trace-probe organism train`"
        raise ModelError(f"no organism {name!r}; there are {there}")
    return FAMILY / variant


def locate(name: str) -> Path | str:
    """Return the folder that a name means, or the hub id it is.

    Raises:
        ModelError: it can be neither.
    """
    if name.startswith("organism:"):
        return organism_path(name)
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(f"{path} is not a model folder: it has no config.json")
        return path
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise ModelError(f"there is no folder {path}: give a model folder or a hub id")
    return name


def known_as(name: str, place: Path | str) -> str:
    """Return what runs and cards call a model: one name for one model."""
    if not isinstance(place, Path):
        return name
    return f"organism:{place.name}" if name.startswith("organism:") else place.resolve().name


def fingerprint(folder: Path) -> str:
    """Return a hash of a model folder's content, of large files by 256 samples of 64 KiB.

    Two trainings of one architecture differ in nearly every weight, so samples tell them apart.
    """
    hasher = hashlib.sha256()
    for file in sorted({file for pattern in FINGERPRINTED for file in folder.glob(pattern)}):
        size = file.stat().st_size
        hasher.update(f"{file.name} {size}".encode())
        with open(file, "rb") as handle:
            for start in range(0, size, max(size // 256, 1 << 16)):
                handle.seek(start)
                hasher.update(handle.read(1 << 16))
    return hasher.hexdigest()


def commit(name: str, revision: str | None) -> str:
    """Return the commit of a hub model that has just been loaded, from where it is cached.

    Raises:
        ModelError: it is not there.
    """
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(name, "config.json", revision=revision)
    if not isinstance(config, str):
        raise ModelError(f"{name} is not in the hub's cache: load it from a folder instead")
    return Path(config).parent.name


def failure(name: str, place: Path | str, error: Exception) -> str:
    """Return what to do about a model that did not load."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    if isinstance(place, Path):
        return f"cannot load {name} ({reason}): the folder may be incomplete, copy it again"
    return (
        f"cannot load {name} ({reason}): check the id; without network, "
        f"run `hf download {name}` where there is one, or give a folder"
    )
