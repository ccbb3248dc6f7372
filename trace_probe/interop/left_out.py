"""What an import could not take: rows that it left out, and what it changed in those it took."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

from trace_probe.store import Store

IN_WORDS = (
    "Left in words, which `observe` alone reads: the chat template does not take the prompt, or "
    "the tokens do not write the text back"
)
"""What a row is told of that could not be had in the tokens that were asked for."""
SHOWN = 3
LONGEST = 1 << 16
"""Characters of a row that are kept."""


@dataclass(frozen=True)
class LeftOutRow:
    """A row of a file that is no transcript."""

    where: str
    """Such as ``line 3``."""
    why: str
    text: str = ""
    """The row as it is in the file."""


@dataclass
class LeftOut:
    """Collects what is left out while a file is read."""

    rows: list[LeftOutRow] = field(default_factory=list)
    noted: dict[str, list[str]] = field(default_factory=dict)
    """For each change the rows in which it was made."""

    def row(self, where: str, why: str, text: str = "") -> None:
        """Leave a row out."""
        self.rows.append(LeftOutRow(where, why, text[:LONGEST]))

    def note(self, what: str, where: str) -> None:
        """Say that something was changed in a row that is taken."""
        self.noted.setdefault(what, []).append(where)

    def told(self, kept: str = "") -> tuple[str, ...]:
        """Return a sentence for the rows, which are kept at `kept`, and one for each change."""
        notes = [f"{what}: {_places(places)}." for what, places in self.noted.items()]
        if self.rows:
            few = "; ".join(f"{row.where}: {row.why}" for row in self.rows[:SHOWN])
            more = "; ..." if len(self.rows) > SHOWN else ""
            cut = sum(not row.text or len(row.text) == LONGEST for row in self.rows)
            where = f" They are kept in {kept}." if kept else ""
            if kept and cut:
                where = f" They are named in {kept}, {cut:,} of them without the whole row."
            notes.insert(0, f"Left out, {_count(len(self.rows))}: {few}{more}.{where}")
        return tuple(notes)

    def keep(self, store: Store, name: str) -> str:
        """Put the rows into a run, each once; return where they are."""
        lines = store.artifacts.lines("left_out", name)
        held = (
            set(lines.values(lambda raw: (raw.get("where"), raw.get("text")))) if self.rows else ()
        )
        new = [row for row in self.rows if (row.where, row.text) not in held]
        if new:
            texts = (json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in new)
            lines.append(text.encode(errors="surrogatepass") for text in texts)
        return lines.url


def _count(rows: int) -> str:
    return "1 row" if rows == 1 else f"{rows:,} rows"


def _places(places: Iterable[str]) -> str:
    """Return how many rows there are, and the first of them by name."""
    every = list(dict.fromkeys(places))
    few = ", ".join(every[:SHOWN])
    return f"{_count(len(every))} ({few}{', ...' if len(every) > SHOWN else ''})"
