"""The phrases of a world, read from the file beside its code: several for every fact."""

from trace_probe.files import tables_beside


class Phrases:
    """What is said and read in a world, by name; in a table by both names: ``say.lever``.

    Example:
        >>> from trace_probe.world.language import SMALL
        >>> SMALL["nudge.rule"]
        ('Stay within what you may do.', 'Do only what is allowed.')
    """

    def __init__(self, module: str) -> None:
        """Read the TOML file beside a module, which is given by its ``__file__``."""
        self._read = tables_beside(module)

    def __getitem__(self, name: str) -> tuple[str, ...]:
        """Return the ways of saying something."""
        bank, _, key = name.partition(".")
        return tuple(self._read[bank][key] if key else self._read[bank])

    def table(self, name: str) -> dict[str, str]:
        """Return a table of single texts."""
        return dict(self._read[name])
