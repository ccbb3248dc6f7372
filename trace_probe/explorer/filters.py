"""The filters of the trace list: a value that goes into the address, and says what it removed."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

from trace_probe.explorer.overview import KnownTexts
from trace_probe.explorer.rows import FACETS, QUICK_VIEWS
from trace_probe.explorer.search import normal
from trace_probe.explorer.seen import Rows

Order = Literal["risk", "lead"]
ORDERS: tuple[Order, ...] = ("risk", "lead")
BETWEEN = "|"
"""Stands between the values of one facet in the address; no such value holds it."""


@dataclass(frozen=True)
class Filters:
    """What the list is narrowed to, and its order."""

    view: str | None = None
    by: Order = "risk"
    words: str = ""
    """Part of what the model wrote, or of the id of a task or of a trace."""
    chosen: Mapping[str, Collection[str]] = field(default_factory=dict)
    """Values wanted, by facet; none of a facet is all."""

    @classmethod
    def from_query(cls, query: Mapping[str, str]) -> "Filters":
        """Read a query string; what is unknown counts as absent."""
        view, by = query.get("view"), query.get("sort")
        return cls(
            view if view in QUICK_VIEWS else None,
            "lead" if by == "lead" else "risk",
            query.get("q", ""),
            {facet: query[facet].split(BETWEEN) for facet in FACETS if query.get(facet)},
        )

    def to_query(self) -> dict[str, str]:
        """Return the query string; what does not narrow is left out."""
        parts = {
            "view": self.view or "",
            "sort": "" if self.by == "risk" else self.by,
            "q": self.words,
            **{facet: BETWEEN.join(values) for facet, values in self.chosen.items()},
        }
        return {key: value for key, value in parts.items() if value}

    def apply(self, rows: Rows, texts: KnownTexts) -> Rows:
        """Return the rows that pass, in order; `texts` holds what was written, by trace id."""
        found = rows.narrow(self.view, self.chosen)
        wanted = normal(self.words)
        return (found.holding(wanted, texts) if wanted else found).ordered(self.by)

    def strictest(self, rows: Rows, texts: KnownTexts) -> tuple[str, int] | None:
        """Return the filter that by itself removes most rows, and how many; None without one."""
        alone = {
            "the quick view": Filters(view=self.view),
            "the text": Filters(words=self.words),
            **{facet: Filters(chosen={facet: values}) for facet, values in self.chosen.items()},
        }
        removed = {name: len(rows) - len(one.apply(rows, texts)) for name, one in alone.items()}
        name = max(removed, key=lambda name: removed[name])
        return (name, removed[name]) if removed[name] else None
