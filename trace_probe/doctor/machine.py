"""The machine: processor, memory, accelerators, models at hand, browser, room on disk."""

import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

from trace_probe.doctor.finding import Finding
from trace_probe.errors import ModelError
from trace_probe.model.checkpoint import FAMILY as FOLDER
from trace_probe.model.converted import smollm2_folder
from trace_probe.model.devices import Torch
from trace_probe.model.naming import SMOLLM2
from trace_probe.model.quantised import readers
from trace_probe.organism.family import FAMILY

GIB = 2**30
ROOM = 5 * GIB
"""Free disk below which a recording is worth a second thought."""


def processor() -> Finding:
    """Return how many threads there are, and how many torch was told to use."""
    affine = getattr(os, "sched_getaffinity", None)
    threads = len(affine(0)) if affine else os.cpu_count() or 1
    told = os.environ.get("OMP_NUM_THREADS")
    limit = f", OMP_NUM_THREADS={told}" if told else ""
    found = f"{threads} threads of {platform.machine()}{limit}"
    return Finding("machine", "cpu", "ok", found)


def memory() -> Finding:
    """Return the size of the main memory."""
    names = getattr(os, "sysconf_names", {})
    known = "SC_PHYS_PAGES" in names and "SC_PAGE_SIZE" in names
    size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if known else None
    return Finding("machine", "memory", "ok", f"{size / GIB:.1f} GiB" if size else "unknown")


def accelerators(torch: Torch, drivers: tuple[str, ...], wanted: str) -> Iterator[Finding]:
    """Yield whether torch works and fits the machine, and each accelerator that it sees.

    `drivers` are those of the machine, `wanted` is the requirement of torch as pip takes it.
    """
    again = f"pip install --force-reinstall {wanted}"
    if torch.error:
        yield Finding("machine", "torch", "broken", f"cannot be imported: {torch.error}", again)
        return
    found, fix = f"built for {torch.build}", ""
    unseen = [driver for driver in drivers if driver != "mps" and not torch.devices]
    if unseen and torch.build == "cpu":
        found += f", but the machine has a driver of {unseen[0]}"
        fix = f"{again}   # the wheel for GPUs, from the default index"
    elif unseen:
        found += f" and sees no GPU, though the machine has a driver of {unseen[0]}"
        fix = "update the driver, or look at CUDA_VISIBLE_DEVICES"
    yield Finding("machine", "torch", "optional" if fix else "ok", found, fix)
    for one in torch.devices:
        size = "shared memory" if one.memory is None else f"{one.memory / GIB:.0f} GiB"
        precision = "bfloat16" if one.bfloat16 else "no bfloat16: use --dtype float16"
        yield Finding("machine", one.kind, "ok", f"{one.name}, {size}, {precision}")
    if not torch.devices:
        yield Finding("machine", "gpu", "optional", "none: models run on the CPU, in float32")


def organisms() -> Finding:
    """Return whether the organisms that come with the package are there."""
    there = [one.name for one in FAMILY if (FOLDER / one.name / "model.safetensors").is_file()]
    lost = [one.name for one in FAMILY if one.name not in there]
    if lost:
        found = f"missing: {', '.join(lost)}"
        return Finding("models", "organisms", "broken", found, "install the package again")
    return Finding("models", "organisms", "ok", ", ".join(there))


def smollm2() -> Finding:
    """Return whether the pretrained model that `fetch` gets is there."""
    try:
        found = smollm2_folder()
    except ModelError:
        fix = f"trace-probe fetch {SMOLLM2}   # 93 MB, Apache-2.0; --from FILE without a network"
        return Finding("models", SMOLLM2, "optional", "not fetched", fix)
    return Finding("models", SMOLLM2, "ok", str(found))


def quantised() -> Finding:
    """Return which quantised models can be read, and what the others lack."""
    lacking = {method: packages for method, packages in readers().items() if packages}
    there = [method for method in readers() if method not in lacking]
    found = f"GGUF with the extra pretrained; {', '.join(there) or 'nothing else'}"
    fixes = sorted({each for packages in lacking.values() for each in packages})
    fix = f"pip install {' '.join(fixes)}   # for {', '.join(lacking)}" if lacking else ""
    return Finding("models", "quantised", "optional" if lacking else "ok", found, fix)


def hub() -> Finding:
    """Return where downloaded models lie, how many there are, and whether more may be had."""
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    try:
        models = sum(1 for _ in cache.glob("models--*"))
    except OSError:
        models = 0
    flags = [name for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if os.environ.get(name)]
    offline = f"; offline by {' and '.join(flags)}" if constants.HF_HUB_OFFLINE else ""
    return Finding("models", "hub cache", "ok", f"{cache}, {models} models{offline}")


def browser() -> Finding:
    """Return whether the browser is there that the explorer's own tests drive."""
    found = shutil.which("chromium")
    fix = "" if found else "apt-get install chromium   # only for the tests marked browser"
    return Finding("machine", "chromium", "ok" if found else "optional", found or "missing", fix)


def disk(folder: Path) -> Finding:
    """Return how much room there is where a run would be recorded."""
    free = shutil.disk_usage(folder).free
    tight = free < ROOM
    found = f"{free / GIB:.1f} GiB free in {folder.resolve()}"
    fix = "record fewer layers, or to another place" if tight else ""
    return Finding("machine", "disk", "optional" if tight else "ok", found, fix)
