"""All that can be said of an installation and its machine, and what to do about it."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from trace_probe.doctor import findings
from trace_probe.doctor.findings import Finding
from trace_probe.model import devices

MARKS = {"ok": "ok", "optional": "--", "broken": "!!"}


def checkup(folder: Path | str = ".") -> tuple[Finding, ...]:
    """Look at versions, extras, devices, models and disk; the network is not asked.

    Torch is imported only if it is within its bounds, and no other heavy package is.
    """
    return tuple(_findings(Path(folder)))


def _findings(folder: Path) -> Iterator[Finding]:
    yield (itself := findings.itself())
    found = list(_packages()) if itself.state == "ok" else []
    yield from found
    yield findings.processor()
    yield findings.memory()
    if any(one.name == "torch" and one.state == "ok" for one in found):
        yield from findings.accelerators(
            devices.look(), devices.drivers(), findings.bounds("torch")
        )
    yield findings.disk(folder)
    yield findings.browser()
    yield findings.organisms()
    yield findings.smollm2()
    yield findings.quantised()
    if findings.installed("huggingface_hub"):
        yield findings.hub()


def _packages() -> Iterator[Finding]:
    yield findings.python()
    yield from findings.dependencies()
    yield from findings.extras()
    yield from findings.told()


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
