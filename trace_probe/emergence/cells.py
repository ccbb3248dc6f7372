"""Readouts of an experiment on disk, a condition a line, so that none is run twice."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trace_probe.emergence.ledger import keep_settings
from trace_probe.emergence.readout import Readout
from trace_probe.errors import StoreError
from trace_probe.storage.artifacts import Artifacts


class Cells:
    """The conditions of one experiment on a run; hold the run's write lock meanwhile."""

    def __init__(self, artifacts: Artifacts, name: str, settings: Mapping[str, object]) -> None:
        """Open what has been run so far.

        Raises:
            StoreError: it was run under other settings.
        """
        keep_settings(artifacts, "experiments", name, settings)
        self._lines = artifacts.lines("experiments", name)
        self._done = dict(self._lines.values(_cell))

    def run(self, name: str, make: Callable[[], Sequence[Readout]]) -> list[Readout]:
        """Return the readouts of a condition, of an earlier call if there was one."""
        if name not in self._done:
            made = list(make())
            self._lines.append([(json.dumps({"cell": name, "readouts": made}) + "\n").encode()])
            self._done[name] = made
        return self._done[name]


def _cell(line: dict[str, Any]) -> tuple[str, list[Readout]]:
    try:
        return str(line["cell"]), [Readout(*row) for row in line["readouts"]]
    except (KeyError, TypeError) as error:
        raise StoreError(f"it holds no readouts: {error}") from error
