"""Whether a saved probe is as it was written, and how to accept one that you edited."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trace_probe.errors import ProbeError
from trace_probe.files import abandoned, file_names
from trace_probe.monitor.calibrated import FILE, load_calibrations, write_calibrations
from trace_probe.monitor.recheck import FILE as RECHECKS
from trace_probe.monitor.recheck import load_rechecks, write_rechecks
from trace_probe.probing.kept import CARD, WEIGHTS, read_json, read_weights
from trace_probe.probing.probe import load_probe, save_probe
from trace_probe.storage.seals import HEADER, JSON, state


@dataclass(frozen=True)
class ProbeReport:
    """What was found in the folder of a probe."""

    probe: str
    problems: tuple[str, ...]
    unchecked: tuple[str, ...]
    """Files of an earlier version, which carry no checksum."""
    leftovers: tuple[str, ...]
    """Files that an interrupted writer left; the next one removes them."""


def verify_probe(path: Path | str) -> ProbeReport:
    """Read every file of a probe and report on all of them, whatever the first one holds.

    Raises:
        ProbeError: there is no probe.
    """
    folder = Path(path)
    if not (folder / CARD).is_file() and not (folder / WEIGHTS).is_file():
        raise ProbeError(f"no probe at {folder}: train one with `trace-probe train`")
    looks: tuple[Callable[[], object], ...] = (
        lambda: read_json(folder / CARD),
        lambda: read_weights(folder, "compared"),
        lambda: load_probe(folder),
        lambda: load_calibrations(folder),
        lambda: load_rechecks(folder),
    )
    complaints = (_complaint(look) for look in looks)
    marks = {CARD: JSON, WEIGHTS: HEADER, FILE: JSON, RECHECKS: JSON}
    return ProbeReport(
        str(folder),
        tuple(dict.fromkeys(filter(None, complaints))),
        tuple(name for name, mark in marks.items() if _unsealed(folder / name, mark)),
        tuple(name for name in file_names(folder) if abandoned(folder / name)),
    )


def _complaint(look: Callable[[], object]) -> str:
    try:
        look()
    except ProbeError as error:
        return str(error)
    return ""


def _unsealed(file: Path, mark: bytes) -> bool:
    return file.is_file() and state(file.read_bytes(), mark) == "unsealed"


def seal_probe(path: Path | str) -> None:
    """Accept a probe as it is: give new checksums to what you edited yourself.

    Raises:
        ProbeError: it cannot be read at all.
    """
    folder = Path(path)
    calibrations = load_calibrations(folder, "ignored")
    rechecks = load_rechecks(folder, "ignored")
    save_probe(folder, load_probe(folder, "ignored"))
    if calibrations:
        write_calibrations(folder, calibrations)
    if rechecks:
        write_rechecks(folder, rechecks)


def format_probe_report(report: ProbeReport) -> str:
    """Return a report as text."""
    head = f"{len(report.problems)} problems" if report.problems else "clean"
    lines = [f"{report.probe}: {head}", *report.problems]
    if report.unchecked:
        names = ", ".join(report.unchecked)
        lines.append(f"{names}: without checksum: `trace-probe probe seal` gives one")
    if report.leftovers:
        lines.append(f"{len(report.leftovers)} leftover files, removed by the next writer")
    return "\n".join(lines)
