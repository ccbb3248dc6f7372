"""Continuations on disk: a line each, kept the moment it is drawn, never drawn twice.

Readouts of an experiment on disk, a condition a line, so that none is run twice.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from trace_probe.emergence.curve import Drawn, read_drawn
from trace_probe.emergence.readout import Readout
from trace_probe.errors import StoreError
from trace_probe.storage.artifacts import Artifacts
from trace_probe.storage.typed import from_plain
from trace_probe.trace import Trace

Key = tuple[str, int, int]
"""Trace, sentence, and which of the continuations."""


class Ledger:
    """The continuations of one oracle of a run; hold the run's write lock while adding."""

    def __init__(self, artifacts: Artifacts, name: str, settings: Mapping[str, object]) -> None:
        """Open what an oracle has drawn so far.

        Raises:
            StoreError: what is there was drawn under other settings.
        """
        keep_settings(artifacts, "oracle", name, settings)
        self._lines = artifacts.lines("oracle", name)
        self.drawn: dict[Key, Drawn] = {key_of(one): one for one in read_drawn(artifacts, name)}

    def add(self, drawn: Iterable[Drawn]) -> None:
        """Keep continuations; one that is there already is left alone."""
        new = {key_of(one): one for one in drawn if key_of(one) not in self.drawn}
        if new:
            self._lines.append(_line(one) for one in new.values())
            self.drawn |= new

    def of(self, traces: Iterable[Trace]) -> dict[str, list[Drawn]]:
        """Return the continuations of some traces, by trace."""
        found: dict[str, list[Drawn]] = {trace.id: [] for trace in traces}
        for one in self.drawn.values():
            if one.trace in found:
                found[one.trace].append(one)
        return found


def key_of(one: Drawn) -> Key:
    """Return what sets a continuation apart from all others of its run."""
    return one.trace, one.sentence, one.k


def _line(one: Drawn) -> bytes:
    return (json.dumps(one._asdict()) + "\n").encode()


def keep_settings(
    artifacts: Artifacts,
    kind: Literal["oracle", "experiments"],
    name: str,
    settings: Mapping[str, object],
) -> None:
    """Keep the settings of what is drawn; refuse to mix what was drawn under different ones.

    Raises:
        StoreError: what is there was drawn under others.
    """
    there = artifacts.read_json(kind, name)
    if there is None:
        artifacts.write_json(kind, name, dict(settings))
        return
    differing = [key for key, value in settings.items() if there.get(key) != value]
    if differing:
        was = ", ".join(f"{key} {there.get(key)!r}" for key in differing)
        raise StoreError(
            f"{artifacts.url(kind, name)} was made with {was}: repeat these settings to resume "
            f"it, or give another --name"
        )


class _Cell(NamedTuple):
    """A line: a condition, and what became of its continuations."""

    cell: str
    readouts: tuple[Readout, ...]


class Cells:
    """The conditions of one experiment on a run; hold the run's write lock meanwhile."""

    def __init__(self, artifacts: Artifacts, name: str, settings: Mapping[str, object]) -> None:
        """Open what has been run so far.

        Raises:
            StoreError: it was run under other settings.
        """
        keep_settings(artifacts, "experiments", name, settings)
        self._lines = artifacts.lines("experiments", name)
        done = self._lines.values(lambda line: from_plain(_Cell, line, "it holds no readouts"))
        self._done = {one.cell: list(one.readouts) for one in done}

    def run(self, name: str, make: Callable[[], Sequence[Readout]]) -> list[Readout]:
        """Return the readouts of a condition, of an earlier call if there was one."""
        if name not in self._done:
            made = list(make())
            self._lines.append([(json.dumps({"cell": name, "readouts": made}) + "\n").encode()])
            self._done[name] = made
        return self._done[name]
