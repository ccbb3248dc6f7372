"""Where the files of a model lie, and what identifies them."""

import hashlib
from pathlib import Path
from typing import NamedTuple

from trace_probe.errors import ModelError
from trace_probe.model.adapters import Adapter
from trace_probe.model.converted import CONVERTED, converted, converted_here, smollm2_folder
from trace_probe.model.naming import (
    ADAPTER_CONFIG,
    ORGANISM,
    ORGANISM_BASE,
    SMOLLM2,
    UNMERGED,
    Named,
    check_no_organism,
    check_not_reserved,
    is_gguf,
    parse_name,
)
from trace_probe.model.naming import FAMILY as FAMILY
from trace_probe.model.naming import organism_path as organism_path

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


def locate(name: str) -> Path | str:
    """Return the folder that the name of a model without adapter means, or the hub id it is.

    A GGUF file is converted first, unless it has been.

    Raises:
        ModelError: it can be neither, or has an adapter, which stands elsewhere.
    """
    if parse_name(name).adapter:
        raise ModelError(f"{name} has an adapter, which is of no use here: name the base alone")
    if name == SMOLLM2:
        return smollm2_folder()
    if name.startswith(ORGANISM):
        return organism_path(name)
    path = Path(name).expanduser()
    if path.is_dir():
        return _checked(path)
    if is_gguf(path) and path.is_file():
        return converted(check_not_reserved(path))
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise ModelError(f"there is no folder or GGUF file {path}: give a model folder or a hub id")
    check_no_organism(name)
    return name


def _checked(path: Path) -> Path:
    """Return a folder if it can be that of a model."""
    if (path / "config.json").is_file():
        return check_not_reserved(path)
    if (path / ADAPTER_CONFIG).is_file():
        raise ModelError(
            f"{path} is an adapter, not a model: name the model it was made for, and give this "
            f"folder by --adapter"
        )
    raise ModelError(f"{path} is not a model folder: it has no config.json")


def known_as(name: str, place: Path | str) -> str:
    """Return what runs and cards call a model: one name for one model."""
    if not isinstance(place, Path) or name == SMOLLM2:
        return name
    if name.startswith(ORGANISM):
        return f"{ORGANISM}{place.name}"
    path = Path(name).expanduser()
    return path.stem if is_gguf(path) and path.is_file() else place.resolve().name


def fingerprint(folder: Path) -> str:
    """Return a hash of a model folder's content, of large files by 256 samples of 64 KiB.

    Two trainings of one architecture differ in nearly every weight, so samples tell them apart.
    A folder that was converted here is known by its weights and by the file that they were in:
    how its configuration is written depends on the version of transformers.
    """
    patterns = (CONVERTED, "*.safetensors") if converted_here(folder) else FINGERPRINTED
    hasher = hashlib.sha256()
    for file in sorted({file for pattern in patterns for file in folder.glob(pattern)}):
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


class Identity(NamedTuple):
    """By what name runs and probes know a model."""

    name: str
    """With a version: ``rl-s0@3f2a91c0``, or ``smollm2+my-adapter@91d20c7e``."""
    base: str
    """The same of the model beneath an adapter; empty where there is none."""


def identify(
    named: Named, place: Path | str, revision: str | None, adapter: Adapter | None
) -> Identity:
    """Return the identity of a model that has just been loaded.

    The version of a model with an adapter is made of those of both, and of how it was added. An
    organism's adapter has a name of its own only on the base that it was made for.
    """
    version = fingerprint(place) if isinstance(place, Path) else commit(place, revision)
    own = known_as(named.base, place)
    if adapter is None:
        return Identity(f"{own}@{version[:8]}", "")
    parts = f"{version} {adapter.fingerprint()} {'merged' if named.merged else 'unmerged'}"
    both = hashlib.sha256(parts.encode()).hexdigest()
    organism = adapter.name.startswith(ORGANISM) and own == ORGANISM_BASE
    shown = adapter.name if organism else f"{own}+{adapter.name}"
    how = "" if named.merged else UNMERGED
    return Identity(f"{shown}{how}@{both[:8]}", f"{own}@{version[:8]}")
