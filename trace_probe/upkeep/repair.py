"""Sets aside what is broken in a run, so that the rest can be used; nothing is thrown away.

<run>/aside/<file>.<checksum>    what was taken out of that file, as it was found
"""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from trace_probe.errors import StoreError, TraceProbeError
from trace_probe.labels import Label
from trace_probe.storage import locks
from trace_probe.storage.lines import Fields, Line, Lines
from trace_probe.storage.place import Place, found
from trace_probe.storage.shards import INDEX, index_of_shards, write_index
from trace_probe.store import Store
from trace_probe.trace import Trace
from trace_probe.upkeep.verify import every_kind, examine


@dataclass
class RepairReport:
    """What a call of `repair` set aside."""

    run: str
    lines: int = 0
    traces: list[str] = field(default_factory=list)
    """Those whose activations were broken."""
    files: list[str] = field(default_factory=list)
    remade: list[str] = field(default_factory=list)
    """Files that were made again from others."""
    left: tuple[str, ...] = ()
    """What is still wrong, and has to be restored from a copy."""

    def __str__(self) -> str:
        """Return a report as text."""
        if not (self.lines or self.files or self.traces or self.remade or self.left):
            return f"{self.run}: nothing was broken"
        text = [
            f"{self.run}: {self.lines} lines, {len(self.files)} files and "
            f"{len(self.traces)} traces with broken activations are now in aside/",
            *(f"{name} was made again" for name in self.remade),
        ]
        if self.left:
            text += [f"{len(self.left)} problems are left: restore these from a copy", *self.left]
        return "\n".join(text)


def repair(store: Store, *, progress: bool = True) -> RepairReport:
    """Set broken lines, broken files and traces with broken activations aside.

    An index of the shards that is damaged or lost is made again from their headers; shards
    whose headers are damaged are set aside.

    Labels of such traces go with them, and so do their scores. Interrupted, call it again.

    Raises:
        StoreError: another process writes to the run, or it lies where nothing can be replaced.
    """
    report = RepairReport(store.place.url)
    _mend_index(store, report)
    with store.writing():
        whole = examine(store, progress=progress)
        bad = list(dict.fromkeys(problem.trace for problem in whole.problems if problem.trace))
        files = dict.fromkeys(problem.file for problem in whole.problems if problem.file)
        for file in files:
            report.files += [file] * _set_aside(store.place, file)
        for lines, make in every_kind(store):
            known = set(whole.traces) - set(bad)
            sieve = _Sieve(store.place, lines, make, known)
            lines.rewrite(sieve)
            report.lines += sieve.aside
        for trace_id in bad:
            for file in (store.vault.file(trace_id), store.vault.raw_file(trace_id)):
                _set_aside(store.place, file)
        report.traces = bad
        _drop_scores(store, {name: t for name, t in whole.traces.items() if name not in bad})
    after = examine(Store(store.place.url), progress=False)
    report.left = tuple(problem.text for problem in after.problems)
    return report


def _mend_index(store: Store, report: RepairReport) -> None:
    """Make the index of the shards again if it is damaged, or does not name all it should."""
    try:
        named, broken = dict(store.vault.packed()), []
    except StoreError:  # the shards say the same
        named, broken = {}, [INDEX]
    if not broken and (not store.vault.unnamed() or store.vault.complete(store.ids())):
        return
    with locks.alone(store.place.folder):  # before anything is tidied up, which needs it
        packed, damaged = index_of_shards(store.place, seals=store.vault.seals)
        report.files += [name for name in (*broken, *damaged) if _set_aside(store.place, name)]
        write_index(store.place, {**packed, **named}.values())
    report.remade.append(INDEX)


@dataclass
class _Sieve:
    """Tells lines that stay from those that are set aside."""

    place: Place
    lines: Lines
    make: Callable[[Fields], object]
    known: set[str]
    """Traces that stay."""
    aside: int = 0

    def __call__(self, line: Line) -> bytes | None:
        data = self.lines.bytes_of(line)
        if self._stays(line):
            return data
        _keep(self.place, line.file, data)
        self.aside += 1
        return None

    def _stays(self, line: Line) -> bool:
        if line.value is None:
            return False
        try:
            made = self.make(line.value)
        except TraceProbeError:  # it says something else than it should
            return False
        if isinstance(made, Trace):
            return made.id in self.known
        return not isinstance(made, Label) or made.trace_id in self.known


def _keep(place: Place, file: str, data: bytes) -> None:
    place.write(f"aside/{file}.{zlib.crc32(data):08x}", [data])


def _set_aside(place: Place, file: str) -> bool:
    """Move a file of the run into ``aside/``; return whether it was there."""
    if (data := found(place, file)) is None:
        return False
    _keep(place, file, data)
    place.remove(file)
    return True


def _drop_scores(store: Store, traces: Mapping[str, Trace]) -> None:
    """Leave out scores of traces that are not there, or that have other sentences."""
    for name in store.artifacts.names("scores"):
        scores = store.scores(name)
        fit = {
            one: row
            for one, row in scores.items()
            if one in traces and len(row) == len(traces[one].sentences)
        }
        if len(fit) < len(scores):
            store.write_scores(name, fit)
