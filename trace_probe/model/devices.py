"""Where a model can run: what torch was built for, and what it sees."""

import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Device:
    """An accelerator that torch sees."""

    kind: str
    """As torch calls it: ``cuda:0``, ``mps``."""
    name: str
    memory: int | None
    """Bytes; None where it is the machine's own."""
    bfloat16: bool


@dataclass(frozen=True)
class Torch:
    """The torch that is installed."""

    build: str
    """``cpu``, or such as ``CUDA 12.8``."""
    devices: tuple[Device, ...] = ()
    error: str = ""
    """Why it cannot be imported; empty if it can."""


def drivers(root: Path = Path("/")) -> tuple[str, ...]:
    """Return whose driver the machine has, without asking torch: NVIDIA, AMD, mps."""
    found = []
    if (root / "proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi"):
        found.append("NVIDIA")
    if (root / "dev/kfd").exists():
        found.append("AMD")
    if sys.platform == "darwin":
        found.append("mps")
    return tuple(found)


def look() -> Torch:
    """Import torch and return what it was built for and what it sees."""
    try:
        import torch
    except (ImportError, OSError) as error:  # a library that is not there is an OSError
        return Torch("", error=str(error).splitlines()[0] if str(error) else repr(error))
    cuda, rocm = torch.version.cuda, torch.version.hip
    build = f"ROCm {rocm}" if rocm else f"CUDA {cuda}" if cuda else "cpu"
    mps = torch.backends.mps.is_built()
    return Torch("mps" if build == "cpu" and mps else build, tuple(_devices()))


def _devices() -> Iterator[Device]:
    import torch

    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        about = torch.cuda.get_device_properties(index)
        native = about.major >= 8 or torch.version.hip is not None
        yield Device(f"cuda:{index}", about.name, about.total_memory, native)
    if torch.backends.mps.is_available():
        yield Device("mps", "Apple GPU", None, bfloat16=True)
