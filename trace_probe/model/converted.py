"""GGUF files as model folders: converted once and kept in the user's cache."""

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

from trace_probe.errors import ModelError, StoreError
from trace_probe.files import remove_cached, replace_cached, user_cache, write_json
from trace_probe.model.loading import read_gguf
from trace_probe.model.naming import SMOLLM2
from trace_probe.storage.locks import making

CONVERTED = "converted.json"
"""Says from which file a folder was made."""
CONVERSION = 1
"""Of the way it is made: raise it where the weights would come out differently."""
NEEDED = ("gguf", "accelerate")
BLOCK = 1 << 20


def models_cache() -> Path:
    """Return the folder that holds converted models."""
    return user_cache("models")


def converted_here(folder: Path) -> bool:
    """Return whether a folder was made by `convert`; others may say so, but lie elsewhere."""
    return folder.parent == models_cache() and (folder / CONVERTED).is_file()


def smollm2_folder() -> Path:
    """Return where SmolLM2 is.

    Raises:
        ModelError: it was not fetched yet.
    """
    folder = models_cache() / SMOLLM2
    if not converted_here(folder):
        raise ModelError(
            f"{SMOLLM2} is not on this machine yet (93 MB, Apache-2.0), get it by: "
            f"trace-probe fetch {SMOLLM2}"
        )
    return folder


def converted(file: Path) -> Path:
    """Return the folder of a GGUF file's model; made if it is not there.

    Raises:
        ModelError: it cannot be read, or what reads it is not installed.
    """
    check_needs()
    sha = sha256(file)
    folder = models_cache() / f"{file.stem}-{sha[:12]}"
    if not converted_here(folder):
        with made_once(folder) as part:
            convert(file, part, sha)
    return folder


def check_needs() -> None:
    """Raise ModelError unless the packages are there that read GGUF files."""
    lacking = [name for name in NEEDED if find_spec(name) is None]
    if lacking:
        raise ModelError(
            f"a GGUF file is read by {' and '.join(lacking)}, which "
            f"{'is' if len(lacking) == 1 else 'are'} not installed: "
            f"pip install 'trace-probe[pretrained]'"
        )


def convert(file: Path, out: Path, sha: str) -> None:
    """Write the model of a GGUF file as bfloat16 safetensors into an empty folder.

    Raises:
        ModelError: the file is damaged, or of a kind that transformers does not read.
    """
    from safetensors.torch import save_file

    network, tokenizer = read_gguf(file.name, file)
    network.config.save_pretrained(out)
    network.generation_config.save_pretrained(out)
    tokenizer.save_pretrained(out)
    tied = set(network.all_tied_weights_keys)
    weights = {name: value for name, value in network.state_dict().items() if name not in tied}
    save_file(
        {name: value.contiguous() for name, value in weights.items()},
        out / "model.safetensors",
        metadata={"format": "pt"},
    )
    write_json(out / CONVERTED, {"sha256": sha, "conversion": CONVERSION})


@contextlib.contextmanager
def made_once(folder: Path) -> Iterator[Path]:
    """Give an empty folder that takes its name when the block ends, and is removed if it fails.

    Raises:
        ModelError: another process is making the same folder.
    """
    part = folder.with_name(f".{folder.name}.part")
    with _locked(folder):
        remove_cached(part)  # of one that was interrupted
        part.mkdir(parents=True)
        try:
            yield part
            replace_cached(part, folder)
        finally:
            remove_cached(part)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(making(folder))
        except StoreError as error:
            raise ModelError(str(error)) from error
        yield


def sha256(file: Path, tell: Callable[[int], object] = lambda _: None) -> str:
    """Return the SHA-256 of a file's content; `tell` hears of each block that was read."""
    hasher = hashlib.sha256()
    with open(file, "rb") as handle:
        while block := handle.read(BLOCK):
            hasher.update(block)
            tell(len(block))
    return hasher.hexdigest()
