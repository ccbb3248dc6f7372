"""Where runs lie, which there are, and whether one has changed since it was last read."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from trace_probe.monitor.detector import probe_beside, probes_beside
from trace_probe.probing.kept import ALARMS as CALIBRATIONS

VARIABLE = "TRACE_PROBE_TRACES"

Stamp = tuple[tuple[str, int, int], ...]


def traces_root(arguments: Sequence[str], environment: Mapping[str, str]) -> Path:
    """Return the folder of runs: ``--traces``, the variable, ``./traces``, or the checkout's."""
    if "--traces" in arguments[:-1]:
        return Path(arguments[arguments.index("--traces") + 1])
    if environment.get(VARIABLE):
        return Path(environment[VARIABLE])
    here = Path("traces")
    checkout = Path(__file__).resolve().parents[2] / "traces"
    return checkout if checkout.is_dir() and not here.is_dir() else here


def list_runs(root: Path) -> list[Path]:
    """Return the runs below a folder; `root` may be a run.

    Those with an evaluation come first, then those with labels; among equals the most recently
    changed first. So a run that is being recorded does not stand before one that can be read.
    """
    if (root / "run.json").is_file():
        return [root]
    runs = [file.parent for file in root.glob("*/run.json")]
    return sorted(runs, key=lambda run: (_unfinished(run), -changed(run), run.name))


def _unfinished(run: Path) -> int:
    """Return how much is missing for a run to be read: its evaluation, or its labels too."""
    if any(run.glob("reports/*.json")):
        return 0
    labels = run / "labels.jsonl"
    return 1 if any(run.glob("labels/*.jsonl")) or _size(labels) else 2


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def changed(run: Path) -> int:
    """Return when a run last changed, in nanoseconds."""
    return max((mtime for _, mtime, _ in _states(_run_files(run))), default=0)


def stamp(run: Path) -> Stamp:
    """Return path, mtime and size of every file the explorer reads: equal means unchanged."""
    probes = probes_beside(run)
    kept = [
        file for name in ("card.json", CALIBRATIONS) for file in sorted(probes.glob(f"*/{name}"))
    ]
    return _states([*_run_files(run), *kept])


def probe_card(run: Path, detector: str) -> Path | None:
    """Return the card of a probe kept beside the runs, in ``probes/<detector>``."""
    folder = probe_beside(run, detector)
    return None if folder is None else folder / "card.json"


def _run_files(run: Path) -> list[Path]:
    files = [run / "run.json", run / "traces.jsonl", run / "labels.jsonl"]
    parts = ("traces/*.jsonl", "labels/*.jsonl")
    kept = ("scores/*.parquet", "reports/*.json", "layers/*.parquet", "oracle/*.jsonl")
    return [*files, *(file for pattern in (*parts, *kept) for file in sorted(run.glob(pattern)))]


def _states(files: Iterable[Path]) -> Stamp:
    found = []
    for file in files:
        if file.is_file():
            state = os.stat(file)
            found.append((str(file), state.st_mtime_ns, state.st_size))
    return tuple(found)
