"""Versions of Python and of packages against the bounds that the installation itself declares."""

import platform
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from trace_probe.doctor.finding import Finding, State

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
