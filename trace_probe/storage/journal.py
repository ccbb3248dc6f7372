"""The lines of a run's traces or labels, with an index of what each says of itself.

The index is ``cache/<name>.parquet``. That file may be deleted at any time, and is not trusted
where it is damaged or does not fit the lines.

What is indexed of each line, so that a run is listed and filtered without its texts.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from trace_probe.activations import pooled_spans
from trace_probe.errors import TraceProbeError
from trace_probe.storage.lines import BrokenLine, Fields, Line, Lines
from trace_probe.storage.place import Place
from trace_probe.storage.records import Manifest, to_label, to_trace
from trace_probe.storage.seals import Seals, opened_line, opened_table, sealed_table
from trace_probe.storage.tensors import content_key

if TYPE_CHECKING:
    import pyarrow as pa


TRACES = {
    "id": "string",
    "key": "string",
    "rows": "int64",
    "task": "string",
    "category": "string",
    "role": "string",
    "condition": "string",
    "model": "string",
    "sample": "int64",
    "tokens": "int64",
    "sentences": "int64",
    "reasoning": "int64",
    "thought": "string",
    "finish": "string",
    "source": "string",
}
"""Columns of the index of traces; `reasoning` counts sentences, `condition` is JSON."""

LABELS = {
    "id": "string",
    "labeller": "string",
    "outcome": "bool",
    "said": "int64",
    "said_stop": "int64",
    "acted": "int64",
    "silent": "bool",
}
"""Columns of the index of labels; `said` and `acted` are the tokens at which they start."""


def about_trace(manifest: Manifest) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return what makes an index row of the line of a trace of this run."""

    def about(raw: dict[str, Any]) -> dict[str, Any]:
        trace = to_trace(raw)
        spans = pooled_spans(trace, manifest.row_end)
        return {
            "id": trace.id,
            "key": content_key(manifest, trace, spans),
            "rows": len(spans),
            "task": encodable(trace.task.id),
            "category": encodable(trace.task.category),
            "role": trace.task.role,
            "condition": json.dumps(trace.task.condition, sort_keys=True),
            "model": encodable(trace.model),
            "sample": trace.sample,
            "tokens": len(trace),
            "sentences": len(trace.sentences),
            "reasoning": sum(span.channel == "reasoning" for span in trace.sentences),
            "thought": trace.thought,
            "finish": trace.finish,
            "source": trace.source,
        }

    return about


def about_label(raw: dict[str, Any]) -> dict[str, Any]:
    """Return the index row of the line of a label."""
    label = to_label(raw)
    return {
        "id": label.trace_id,
        "labeller": encodable(label.labeller),
        "outcome": label.outcome,
        "said": label.said and label.said.start,
        "said_stop": label.said and label.said.stop,
        "acted": label.acted and label.acted.start,
        "silent": label.silent,
    }


def encodable(text: str) -> str:
    """Return a text that every encoding takes; foreign transcripts may hold half a surrogate."""
    return text.encode("utf-8", "backslashreplace").decode()


WORTH_KEEPING = {"lines": 512, "bytes": 1 << 18}
"""How much there is beyond the index on disk when it is written anew: either is enough."""


class Journal(Lines):
    """All lines of one kind in a run, such as its traces."""

    def __init__(
        self,
        place: Place,
        name: str,
        about: Callable[[Fields], Fields],
        columns: Mapping[str, str],
        *,
        index: str = "",
        seals: Seals = "compared",
    ) -> None:
        """Open it without reading anything.

        `about` says what is indexed of a line: a row with an ``id``, in `columns` of Arrow types,
        of which ``list of int32`` holds several values. `index` is the name under which the index
        is kept, if it is not that of the lines.
        """
        super().__init__(place, name, seals=seals)
        self.at: dict[str, tuple[str, int, int]] = {}
        """For each id where its first line is: file, first byte, length."""
        self._about = about
        self._columns = {**columns, "file": "string", "start": "int64", "size": "int64"}
        self._index = f"cache/{index or name}.parquet"
        self._forget()

    def _forget(self) -> None:
        self.at.clear()
        self._read: dict[str, int] = {}
        self._base: pa.Table | None = None
        self._rows: list[Fields] = []
        self._kept = {"lines": 0, "bytes": 0}
        self._looked = False

    def fold(self) -> bool:
        """Bring parts into the growing file; see `Lines.fold`."""
        brought = super().fold()
        if brought:
            self._forget()
        return brought

    def rewrite(self, change: Callable[[Line], bytes | None]) -> None:
        """Replace lines; see `Lines.rewrite`."""
        super().rewrite(change)
        self._forget()

    def indexed_beside(
        self, index: str, about: Callable[[Fields], Fields], columns: Mapping[str, str]
    ) -> "Journal":
        """Return the same lines with another index; what is broken in them is known to both."""
        twin = Journal(self._place, self.name, about, columns, index=index, seals=self._seals)
        twin.broken = self.broken
        return twin

    def _look(self) -> None:
        if not self._looked:
            self._load_index()
            self._looked = True

    def unread(self) -> int:
        """Return how many bytes of lines the index does not cover as it was last kept."""
        self._look()
        return sum((self._place.size(one) or 0) - self._read.get(one, 0) for one in self.files())

    def refresh(self) -> None:
        """Read what was committed since the last look."""
        self._look()
        try:
            self._read_new()
        except FileNotFoundError:  # parts were brought into the growing file meanwhile
            self._read_new()

    def _read_new(self) -> None:
        files = self.files()
        if not self._read.keys() <= {*files}:
            self._forget()
            self._looked = True
        for file in files:
            size = (self._place.size(file) or 0) if file == self._main else 1
            if size > self._read.get(file, 0):
                self._read_on(file)

    def _read_on(self, file: str) -> None:
        for line in self.walk_file(file, self._read.get(file, 0)):
            row, line = self._row(line)
            if row is None:
                self.tell(line)
            else:
                self._rows.append({**row, "file": file, "start": line.start, "size": line.size})
                self.at.setdefault(row["id"], (file, line.start, line.size))
            self._read[file] = line.start + line.size

    def _row(self, line: Line) -> tuple[Fields | None, Line]:
        """Return what is indexed of a line, or the line with what is wrong with it."""
        if line.value is None:
            return None, line
        try:
            return self._about(line.value), line
        except TraceProbeError as error:
            return None, line._replace(value=None, why=str(error))

    def line(self, key: str) -> Fields:
        """Return the first line of an id, which must be known.

        Raises:
            BrokenLine: it is damaged.
        """
        try:
            return self.line_at(*self.at[key])
        except FileNotFoundError:  # brought into the growing file since
            self._forget()
            self.refresh()
            return self.line_at(*self.at[key])

    def line_at(self, file: str, start: int, size: int) -> Fields:
        """Return the line that stands at a place, as the index tells it.

        Raises:
            FileNotFoundError: the file was brought into the growing one since.
            BrokenLine: it is damaged.
        """
        data = self._place.read(file, start, start + size)
        try:
            return opened_line(data[:-1], seals=self._seals)
        except ValueError as error:
            line = Line(file, start, size, None, str(error))
            raise BrokenLine(self.complaint(line), line) from error

    def table(self) -> "pa.Table":
        """Return what is indexed of all lines, a row each, in order."""
        import pyarrow as pa

        self.refresh()
        if self._rows or self._base is None:
            schema = pa.schema([(key, _kind(of)) for key, of in self._columns.items()])
            known = [] if self._base is None else [self._base]
            new = pa.Table.from_pylist(self._rows, schema=schema)
            self._base = pa.concat_tables([*known, new]).combine_chunks()
            self._rows = []
        return self._base

    def keep_index(self) -> None:
        """Write the index, if many lines are not in the one on disk and none is broken.

        Raises:
            StoreError: it cannot be written.
        """
        table = self.table()
        there = {"lines": len(table), "bytes": sum(self._read.values())}
        if self.broken or all(
            there[unit] - self._kept[unit] < WORTH_KEEPING[unit] for unit in there
        ):
            return
        covers = {"read": self._read, "last": self._last_line()}
        table = table.replace_schema_metadata({"covers": json.dumps(covers)})
        self._place.sweep("cache")
        self._place.write(self._index, [sealed_table(table)])
        self._kept = there

    def _last_line(self) -> str:
        """Return the digest of the last 4 KiB of the growing file, as far as it is indexed."""
        stop = self._read.get(self._main, 0)
        if not stop:
            return ""
        data = self._place.read(self._main, max(0, stop - 4096), stop)
        return hashlib.sha256(data).hexdigest()

    def _load_index(self) -> None:
        """Take over the index on disk, if it is one of these very lines."""
        try:
            kept = self._place.read(self._index)
        except FileNotFoundError:
            return
        try:
            table = opened_table(kept, self._index, seals="required")
            covers = json.loads(table.schema.metadata[b"covers"])
            self._read = dict(covers["read"])
            gone = {*self._read, *table["file"].unique().to_pylist()} - {*self.files()}
            short = (self._place.size(self._main) or 0) < self._read.get(self._main, 0)
            other = table.column_names != list(self._columns)
            if gone or short or other or covers["last"] != self._last_line():
                raise ValueError("of other lines")
        except (TraceProbeError, ValueError, KeyError, TypeError, FileNotFoundError):
            self._read = {}  # it can be made again
            return
        self._base = table.replace_schema_metadata(None)
        self._kept = {"lines": len(table), "bytes": sum(self._read.values())}
        places = zip(*(table[key].to_pylist() for key in ("file", "start", "size")), strict=True)
        for key, place in zip(table["id"].to_pylist(), places, strict=True):
            self.at.setdefault(key, place)


def _kind(alias: str) -> "pa.DataType":
    """Return the Arrow type of a column."""
    import pyarrow as pa

    several = alias.removeprefix("list of ")
    kind = pa.type_for_alias(several)
    return kind if several == alias else pa.list_(kind)


def first_of_each(table: "pa.Table") -> "pa.Table":
    """Return the first row of each id of an index; a line may be there twice."""
    import pyarrow as pa

    first = {name: row for row, name in reversed(list(enumerate(table["id"].to_pylist())))}
    rows = pa.array(sorted(first.values()), pa.int64())
    return table if len(first) == len(table) else table.take(rows)
