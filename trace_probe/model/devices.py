"""Where a model can run: what torch was built for, and what it sees."""

import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

STATUS = Path("/proc/self/status")


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


def forget_peak(device: str) -> None:
    """Begin anew to note the highest memory in use; see `memory_peak`."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats(device)
    elif STATUS.exists():
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def memory_peak(device: str) -> int:
    """Return the highest memory in use since `forget_peak`, in bytes: of a GPU, or this process.

    Where the system cannot forget (anywhere but on Linux), since the process began.
    """
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.max_memory_allocated(device))
    if STATUS.exists():
        return status_bytes("VmHWM")
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def memory_free(device: str) -> int | None:
    """Return how many bytes a model may still take, None where that is not known."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    about = Path("/proc/meminfo")
    return status_bytes("MemAvailable", about) if about.exists() else None


def status_bytes(name: str, file: Path = STATUS) -> int:
    """Return a figure of a file of Linux that has kilobytes, in bytes."""
    lines = file.read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
