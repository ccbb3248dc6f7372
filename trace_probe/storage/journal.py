"""Lines that are committed for good: one file that grows, and files that are written whole.

    <name>.jsonl           grows by appended lines; one writer at a time, on a file system only
    <name>/<part>.jsonl    written whole, by any number of writers, anywhere

Readers see both as one sequence, the growing file first, the others in the order of their
names. What each line says of itself is indexed in ``cache/<name>.parquet``; that file may be
deleted at any time, and is not trusted where it does not fit the lines.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from trace_probe.errors import StoreError
from trace_probe.files import append, cut_torn_line
from trace_probe.storage.place import Place

if TYPE_CHECKING:
    import pyarrow as pa

Row = dict[str, Any]
WORTH_KEEPING = {"lines": 512, "bytes": 1 << 18}
"""How much there is beyond the index on disk when it is written anew: either is enough."""


class Journal:
    """All lines of one kind in a run, such as its traces."""

    def __init__(
        self,
        place: Place,
        name: str,
        about: Callable[[dict[str, Any]], Row],
        columns: Mapping[str, str],
    ) -> None:
        """Open it without reading anything.

        `about` says what is indexed of a line: a row with an ``id``, in `columns` of Arrow types.
        """
        self.name = name
        self.at: dict[str, tuple[str, int, int]] = {}
        """For each id where its first line is: file, first byte, length."""
        self._place, self._about = place, about
        self._columns = {**columns, "file": "string", "start": "int64", "size": "int64"}
        self._main = f"{name}.jsonl"
        self._index = f"cache/{name}.parquet"
        self._forget()

    def _forget(self) -> None:
        self.at.clear()
        self._read: dict[str, int] = {}
        self._base: pa.Table | None = None
        self._rows: list[Row] = []
        self._kept = {"lines": 0, "bytes": 0}
        self._looked = False

    def parts(self) -> list[str]:
        """Return the names of the files that were written whole, in order."""
        names = sorted(self._place.names(self.name))
        return [f"{self.name}/{name}" for name in names if name.endswith(".jsonl")]

    def _files(self) -> list[str]:
        grown = self._place.folder is not None and self._place.size(self._main) is not None
        return [*([self._main] if grown else []), *self.parts()]

    def append(self, lines: Iterable[bytes]) -> None:
        """Commit lines to the growing file, or as a part of their own where nothing grows."""
        folder = self._place.folder
        if folder is None:
            self.put(lines, f"{len(self.parts()):08d}")
        else:
            append(folder / self._main, lines)

    def put(self, lines: Iterable[bytes], order: str) -> None:
        """Commit lines as a part of their own, all at once; repeated, it is the same part.

        Parts come in the order of `order`.
        """
        data = b"".join(lines)
        if data:
            name = f"{self.name}/{order}-{hashlib.sha256(data).hexdigest()[:12]}.jsonl"
            self._place.write(name, [data])

    def fold(self) -> None:
        """Bring parts into the growing file; cut what an interrupted writer left of a line.

        Only for who holds the lock of the run. Interrupted, it leaves lines twice, in the
        growing file and in their part, and the next call goes on behind them.
        """
        folder = self._place.folder
        if folder is None:
            return
        cut_torn_line(folder / self._main)
        parts = self.parts()
        for part in parts:
            data = self._place.read(part)
            append(folder / self._main, [data[self._brought(data) :]])
            self._place.remove(part)
        if parts:
            self._forget()

    def _brought(self, data: bytes) -> int:
        """Return how many bytes of a part, whole lines, the growing file ends with already."""
        size = self._place.size(self._main) or 0
        tail = self._place.read(self._main, max(0, size - len(data)), size) if size else b""
        last = tail[tail[:-1].rfind(b"\n") + 1 :]
        stop = data.rfind(last) + len(last)
        while last and stop >= len(last):
            if tail.endswith(data[:stop]):
                return stop
            stop = data.rfind(last, 0, stop - 1) + len(last)
        return 0

    def raw(self) -> Iterator[dict[str, Any]]:
        """Yield every committed line, in order; a torn last line is not there yet.

        Raises:
            StoreError: a line is not JSON, or a file went away meanwhile.
        """
        for file in self._files():
            where = f"{self._place.url}/{file}"
            try:
                for number, line in enumerate(self._lines(file), start=1):  # noqa: B007
                    yield json.loads(line)
            except ValueError as error:
                raise StoreError(f"{where} is broken at line {number}") from error
            except FileNotFoundError as error:
                raise StoreError(f"{where} was tidied up meanwhile: read it again") from error

    def _lines(self, file: str, start: int = 0) -> Iterator[bytes]:
        for line in self._place.lines(file, start):
            if not line.endswith(b"\n"):
                return
            yield line

    def refresh(self) -> None:
        """Read what was committed since the last look."""
        if not self._looked:
            self._load_index()
            self._looked = True
        try:
            self._read_new()
        except FileNotFoundError:  # parts were brought into the growing file meanwhile
            self._read_new()

    def _read_new(self) -> None:
        files = self._files()
        if not self._read.keys() <= {*files}:
            self._forget()
            self._looked = True
        for file in files:
            size = (self._place.size(file) or 0) if file == self._main else 1
            if size > self._read.get(file, 0):
                self._read_on(file)

    def _read_on(self, file: str) -> None:
        start = self._read.get(file, 0)
        for line in self._lines(file, start):
            try:
                row = self._about(json.loads(line))
            except (ValueError, KeyError) as error:
                raise StoreError(
                    f"{self._place.url}/{file} is broken at byte {start}: "
                    f"restore it or record again"
                ) from error
            place = {"file": file, "start": start, "size": len(line)}
            self._rows.append({**row, **place})
            self.at.setdefault(row["id"], (file, start, len(line)))
            start += len(line)
        self._read[file] = start

    def line(self, key: str) -> dict[str, Any]:
        """Return the first line of an id, which must be known."""
        file, start, size = self.at[key]
        try:
            data = self._place.read(file, start, start + size)
        except FileNotFoundError:  # brought into the growing file since
            self._forget()
            self.refresh()
            file, start, size = self.at[key]
            data = self._place.read(file, start, start + size)
        found: dict[str, Any] = json.loads(data)
        return found

    def table(self) -> "pa.Table":
        """Return what is indexed of all lines, a row each, in order."""
        import pyarrow as pa

        self.refresh()
        if self._rows or self._base is None:
            schema = pa.schema([(key, pa.type_for_alias(of)) for key, of in self._columns.items()])
            known = [] if self._base is None else [self._base]
            new = pa.Table.from_pylist(self._rows, schema=schema)
            self._base = pa.concat_tables([*known, new]).combine_chunks()
            self._rows = []
        return self._base

    def keep_index(self) -> None:
        """Write the index, if many lines are not in the one on disk.

        Raises:
            StoreError: it cannot be written.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = self.table()
        there = {"lines": len(table), "bytes": sum(self._read.values())}
        if all(there[unit] - self._kept[unit] < WORTH_KEEPING[unit] for unit in there):
            return
        covers = {"read": self._read, "last": self._last_line()}
        sink = pa.BufferOutputStream()
        pq.write_table(table.replace_schema_metadata({"covers": json.dumps(covers)}), sink)
        self._place.write(self._index, [sink.getvalue().to_pybytes()])
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
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(
                pa.BufferReader(kept), use_threads=False
            )  # small: waits cost more
            covers = json.loads(table.schema.metadata[b"covers"])
            self._read = dict(covers["read"])
            gone = set(self._read) - set(self._files())
            short = (self._place.size(self._main) or 0) < self._read.get(self._main, 0)
            other = table.column_names != list(self._columns)
            if gone or short or other or covers["last"] != self._last_line():
                raise ValueError("of other lines")
        except (ValueError, KeyError, TypeError, FileNotFoundError):  # it can be made again
            self._read = {}
            return
        self._base = table.replace_schema_metadata(None)
        self._kept = {"lines": len(table), "bytes": sum(self._read.values())}
        places = zip(*(table[key].to_pylist() for key in ("file", "start", "size")), strict=True)
        for key, place in zip(table["id"].to_pylist(), places, strict=True):
            self.at.setdefault(key, place)
