"""Continuations on disk: a line each, kept the moment it is drawn, never drawn twice."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from trace_probe.emergence.curve import Drawn, ledger_file, read_drawn
from trace_probe.errors import StoreError
from trace_probe.files import append, cut_torn_line, load_json, write_json
from trace_probe.trace import Trace

Key = tuple[str, int, int]
"""Trace, sentence, and which of the continuations."""


class Ledger:
    """The continuations of one oracle of a run; hold the run's write lock while adding."""

    def __init__(self, run: Path, name: str, settings: Mapping[str, object]) -> None:
        """Open what an oracle has drawn so far, and cut off what a killed writer left half done.

        Raises:
            StoreError: what is there was drawn under other settings.
        """
        self.file = ledger_file(run, name)
        card = self.file.with_suffix(".json")
        if card.is_file():
            check_settings(card, settings)
        else:
            write_json(card, dict(settings))
        cut_torn_line(self.file)
        self.drawn: dict[Key, Drawn] = {key_of(one): one for one in read_drawn(self.file)}

    def add(self, drawn: Iterable[Drawn]) -> None:
        """Keep continuations; one that is there already is left alone."""
        new = {key_of(one): one for one in drawn if key_of(one) not in self.drawn}
        if new:
            append(self.file, [_line(one) for one in new.values()])
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


def check_settings(card: Path, settings: Mapping[str, object]) -> None:
    """Refuse to mix what was drawn under different settings.

    Raises:
        StoreError: `card` was written with others.
    """
    there = load_json(card)
    differing = [name for name, value in settings.items() if there.get(name) != value]
    if differing:
        was = ", ".join(f"{name} {there.get(name)!r}" for name in differing)
        raise StoreError(
            f"{card} was made with {was}: repeat these settings to resume it, "
            f"or give another --name"
        )
