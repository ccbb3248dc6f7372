"""The phrases of a world, read from the file beside its code: several for every fact."""

import tomllib
from pathlib import Path


class Phrases:
    """What is said and read in a world, by name.

    Example:
        >>> from trace_probe.world.language import SMALL
        >>> SMALL["nudge.rule"]
        ('Stay within what you may do.', 'Do only what is allowed.')
    """

    def __init__(self, file: Path) -> None:
        """Read a file; a phrase in a table is named by both, such as ``say.lever``."""
        self._read = tomllib.loads(file.read_text("utf-8"))

    def __getitem__(self, name: str) -> tuple[str, ...]:
        """Return the ways of saying something."""
        bank, _, key = name.partition(".")
        return tuple(self._read[bank][key] if key else self._read[bank])

    def table(self, name: str) -> dict[str, str]:
        """Return a table of single texts."""
        return dict(self._read[name])
