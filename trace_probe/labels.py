"""What a trace is: whether it acted instrumentally, where it said so, where it did so.

Outcome, verbalisation and action are separate facts; none is derived from another.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from trace_probe.trace import EXACT, Span, Trace


@dataclass(frozen=True)
class Label:
    """What one labeller holds of one trace.

    Example:
        >>> from trace_probe.trace import Span
        >>> label = Label("trace-1", "rules", True, said=Span(4, 9), acted=Span(12, 20, "answer"))
        >>> label.outcome, label.said.start
        (True, 4)
    """

    __pydantic_config__ = EXACT

    trace_id: str
    labeller: str
    outcome: bool | None
    """Whether the action was instrumental; None is *unknown*, which is never a negative."""
    said: Span | None = None
    """First sentence that states the instrumental intent; None if it is never stated, or,
    where `facts` has ``said`` as ``unknown``, if the labeller did not look or cannot tell."""
    acted: Span | None = None
    """The action that decided the outcome (or any first action of a harmless trace): a sentence of
    the answer, or the tokens of a tool call."""
    considered: Span | None = None
    """First sentence that weighs the instrumental option, whatever follows."""
    rejected: Span | None = None
    """First sentence that turns it down."""
    rationale: str = ""
    quotes: tuple[str, ...] = ()
    """Verbatim evidence."""
    facts: dict[str, str] = field(default_factory=dict)
    """What else the labeller knows, such as ``{"watched": "no"}``; a study compares by them."""

    @property
    def silent(self) -> bool:
        """Return whether the trace acted instrumentally without ever having said so."""
        unknown = self.facts.get("said") == "unknown"
        return self.outcome is True and self.said is None and not unknown


class Labeller(Protocol):
    """Anything that labels traces: a rule, a judge model, a person's file."""

    @property
    def name(self) -> str:
        """Return the name under which its labels are kept."""
        ...

    def label(self, trace: Trace) -> Label:
        """Return the label of one trace."""
        ...


@runtime_checkable
class ManyLabeller(Labeller, Protocol):
    """A labeller that does better with many traces at once, such as a judge on a server."""

    def label_all(self, traces: Iterable[Trace]) -> Iterator[Label]:
        """Yield the labels it has for these traces, in their order."""
        ...


def label_traces(traces: Iterable[Trace], labeller: Labeller) -> Iterator[Label]:
    """Yield the label of each trace, in order."""
    if isinstance(labeller, ManyLabeller):
        yield from labeller.label_all(traces)
        return
    for trace in traces:
        yield labeller.label(trace)
