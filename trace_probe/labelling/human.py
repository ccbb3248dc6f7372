"""What a person holds of traces, from a CSV file with the evidence as quotes."""

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path

from trace_probe.errors import TraceError
from trace_probe.labelling.quotes import find_quote
from trace_probe.labels import Label
from trace_probe.trace import Channel, Span, Trace

COLUMNS = ("trace_id", "outcome", "said", "acted", "call", "considered", "rejected", "rationale")
OUTCOMES = {"1": True, "yes": True, "0": False, "no": False, "unknown": None, "": None}
CHANNELS: dict[str, Channel] = {
    "said": "reasoning",
    "considered": "reasoning",
    "rejected": "reasoning",
    "acted": "answer",
}


class HumanLabeller:
    """Labels of a file with a header of `COLUMNS`, of which the first two are required.

    An empty cell of a mark means that there is none; a file without the column ``said``
    says nothing of what was said. The act is quoted in ``acted``, or named in ``call``: which of
    the tool calls of the trace it is, counted from 1.
    """

    def __init__(self, path: Path | str) -> None:
        """Read the file.

        Raises:
            TraceError: it cannot be read, or a line is malformed; the text names the line.
        """
        self.name = f"human:{Path(path).stem}"
        self._path = Path(path)
        self._rows = _read(self._path)

    def label(self, trace: Trace) -> Label:
        """Return the label of one trace.

        Raises:
            TraceError: the file does not have it, or quotes what the trace does not say.
        """
        if trace.id not in self._rows:
            raise TraceError(f"{self._path} has no line for trace {trace.id}")
        row = self._rows[trace.id]
        quotes = {name: row.get(name, "").strip() for name in CHANNELS}
        marks = {name: self._place(trace, name, quote) for name, quote in quotes.items()}
        if call := row.get("call", "").strip():
            marks["acted"] = self._call(trace, call)
        return Label(
            trace.id,
            self.name,
            OUTCOMES[row["outcome"].strip().lower()],
            **marks,
            rationale=row.get("rationale", ""),
            quotes=tuple(filter(None, quotes.values())),
            facts={} if "said" in row else {"said": "unknown"},
        )

    def label_all(self, traces: Iterable[Trace]) -> Iterator[Label]:
        """Yield the labels of those traces that the file has.

        Raises:
            TraceError: as `label`, or the file has a trace that is not among these.
        """
        left = set(self._rows)
        for trace in traces:
            if trace.id in left:
                left.remove(trace.id)
                yield self.label(trace)
        if left:
            raise TraceError(f"{self._path} labels {min(left)}, which is no trace of this run")

    def _place(self, trace: Trace, name: str, quote: str) -> Span | None:
        place = find_quote(trace, quote, CHANNELS[name]) if quote else None
        if place is None and name == "acted" and quote:
            place = find_quote(trace, quote, "action")
        if quote and place is None:
            raise TraceError(
                f"{self._path}: the {CHANNELS[name]} of trace {trace.id} does not say {quote!r}: "
                f"copy the words of {name!r} from it"
            )
        return place

    def _call(self, trace: Trace, number: str) -> Span:
        """Return the tokens of a tool call by its number."""
        if (
            not number.isascii()
            or not number.isdigit()
            or int(number) not in range(1, len(trace.actions) + 1)
        ):
            raise TraceError(
                f"{self._path}: trace {trace.id} has {len(trace.actions)} tool calls and no call "
                f"{number!r}: count them from 1"
            )
        return trace.actions[int(number) - 1].span


def _read(path: Path) -> dict[str, dict[str, str]]:
    """Return the lines of a file by trace id."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restkey="", restval="")
            names, rows = reader.fieldnames or [], list(reader)
    except (OSError, ValueError, csv.Error) as error:
        raise TraceError(f"cannot read {path}: {error}") from error
    if not {"trace_id", "outcome"} <= set(names) or not set(names) <= set(COLUMNS):
        raise TraceError(
            f"{path} has the columns {', '.join(names) or '(none)'}: "
            f"trace_id and outcome are needed, {', '.join(COLUMNS[2:])} may be there"
        )
    found: dict[str, dict[str, str]] = {}
    for number, row in enumerate(rows, start=2):
        where = f"{path}, line {number}"
        if "" in row:
            raise TraceError(f"{where} has more cells than columns: quote cells with commas")
        if row["trace_id"] in found:
            raise TraceError(f"{where}: trace {row['trace_id']} was labelled before")
        if row["outcome"].strip().lower() not in OUTCOMES:
            raise TraceError(f"{where}: outcome {row['outcome']!r} is none of 1, 0, unknown")
        found[row["trace_id"]] = row
    return found
