"""Readouts of an experiment on disk, a condition a line, so that none is run twice."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from trace_probe.emergence.ledger import keep_settings
from trace_probe.emergence.readout import Readout
from trace_probe.storage.artifacts import Artifacts
from trace_probe.storage.typed import from_plain


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
