"""Readouts of an experiment on disk, a condition a line, so that none is run twice."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from trace_probe.emergence.ledger import check_settings
from trace_probe.emergence.readout import Readout
from trace_probe.errors import StoreError
from trace_probe.files import append, cut_torn_line, read_lines, write_json


class Cells:
    """The conditions of one experiment on a run; hold the run's write lock meanwhile."""

    def __init__(self, file: Path, settings: Mapping[str, object]) -> None:
        """Open what has been run so far.

        Raises:
            StoreError: it was run under other settings.
        """
        self._file = file
        card = file.with_suffix(".json")
        if card.is_file():
            check_settings(card, settings)
        else:
            write_json(card, dict(settings))
        cut_torn_line(file)
        try:
            self._done = {
                line["cell"]: [Readout(*row) for row in line["readouts"]]
                for line in read_lines(file)
            }
        except (KeyError, TypeError) as error:
            raise StoreError(f"{file} holds something else: {error}") from error

    def run(self, name: str, make: Callable[[], Sequence[Readout]]) -> list[Readout]:
        """Return the readouts of a condition, of an earlier call if there was one."""
        if name not in self._done:
            made = list(make())
            append(self._file, [(json.dumps({"cell": name, "readouts": made}) + "\n").encode()])
            self._done[name] = made
        return self._done[name]
