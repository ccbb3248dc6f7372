"""JSON lines that only grow: one file that is appended to, and parts that are written whole.

    <name>.jsonl           grows by appended lines, on a file system only
    <name>/<part>.jsonl    written whole, by any number of writers, anywhere

Readers see all of them as one sequence: the growing file first, then the parts in the order of
their names. A line counts once its newline is on disk. Each line carries a checksum (see
`trace_probe.storage.seals`), so one that was damaged is found when it is read; it is named and
passed over, and all others stay readable.
"""

import hashlib
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

from trace_probe.errors import StoreError, TraceProbeError
from trace_probe.storage.place import Place
from trace_probe.storage.seals import Seals, opened_line, sealed_line, state

T = TypeVar("T")
Fields = dict[str, Any]
SEAL_END = re.compile(rb'"seal": "[0-9a-f]{8}"\}')

log = logging.getLogger("trace_probe.store")


class Line(NamedTuple):
    """One committed line, or what is wrong with it."""

    file: str
    start: int
    """Its first byte in the file."""
    size: int
    value: Fields | None
    """What it says; None where it is broken."""
    why: str = ""
    """What is wrong with it; one whose newline alone is damaged can be read."""


class BrokenLine(StoreError):
    """A line cannot be read; the others can."""

    def __init__(self, text: str, line: Line) -> None:
        """Keep which line it is."""
        super().__init__(text)
        self.line = line


class Lines:
    """All lines of one kind, such as the verdicts of one person on a run."""

    def __init__(self, place: Place, name: str, *, seals: Seals = "compared") -> None:
        """Open them without reading anything; see `Seals`."""
        self.name = name
        self._place, self._seals = place, seals
        self._main = f"{name}.jsonl"
        self.broken: dict[tuple[str, int], str] = {}
        """What is wrong with lines that were met so far, by file and first byte."""

    @property
    def url(self) -> str:
        """Return where the growing file is, or would be."""
        return f"{self._place.url}/{self._main}"

    def parts(self) -> list[str]:
        """Return the names of the files that were written whole, in order."""
        names = sorted(self._place.names(self.name))
        return [f"{self.name}/{name}" for name in names if name.endswith(".jsonl")]

    def files(self) -> list[str]:
        """Return the names of all files, in order."""
        grown = self._place.size(self._main) is not None
        return [*([self._main] if grown else []), *self.parts()]

    def append(self, lines: Iterable[bytes]) -> None:
        """Commit lines to the growing file, or as a part of their own where nothing grows."""
        if self._place.folder is None:
            self.put(lines, self._next())
        else:
            self._place.append(self._main, map(sealed_line, lines), whole_but_newline)

    def _next(self) -> str:
        """Return the order of a part that comes after all that are there."""
        last = self.parts()[-1:]
        order = last[0].removeprefix(f"{self.name}/").partition("-")[0] if last else ""
        if not order:
            return f"{0:08d}"
        return f"{int(order) + 1:08d}" if order.isdecimal() else f"{order}~"

    def put(self, lines: Iterable[bytes], order: str) -> None:
        """Commit lines as a part of their own, all at once; repeated, it is the same part.

        Parts come in the order of `order`.
        """
        data = b"".join(map(sealed_line, lines))
        if data:
            name = f"{self.name}/{order}-{hashlib.sha256(data).hexdigest()[:12]}.jsonl"
            self._place.write(name, [data])

    def fold(self) -> bool:
        """Bring parts into the growing file; return whether there were any.

        Only for who holds the lock of the run. Interrupted, it leaves lines twice, in the
        growing file and in their part, and the next call goes on behind them. What an
        interrupted writer left of a line is cut.
        """
        if self._place.size(self._main) is not None:
            self._place.append(self._main, [], whole_but_newline)
        parts = self.parts()
        for part in parts:
            data = self._place.read(part)
            self._place.append(self._main, [data[self._brought(data) :]], whole_but_newline)
            self._place.remove(part)
        return bool(parts)

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

    def raw(self) -> Iterator[Fields]:
        """Yield what each line says, in order; broken ones are named and passed over.

        Raises:
            StoreError: a file went away meanwhile.
        """
        return self.values(lambda value: value)

    def values(self, make: Callable[[Fields], T]) -> Iterator[T]:
        """Yield what `make` makes of each line; those that it refuses are passed over as well."""
        for line in self.walk():
            if line.value is None:
                self.tell(line)
                continue
            try:
                made = make(line.value)
            except TraceProbeError as error:
                self.tell(line._replace(why=str(error)))
            else:
                yield made

    def walk(self) -> Iterator[Line]:
        """Yield every committed line, broken ones too; a torn last line is not there yet.

        Raises:
            StoreError: a file went away meanwhile.
        """
        for file in self.files():
            try:
                yield from self.walk_file(file)
            except FileNotFoundError as error:
                raise StoreError(
                    f"{self._place.url}/{file} was tidied up meanwhile: read it again"
                ) from error

    def walk_file(self, file: str, start: int = 0) -> Iterator[Line]:
        """Yield the lines of one file from a byte on."""
        for data in self._place.lines(file, start):
            if not data.endswith(b"\n") and not whole_but_newline(data):
                return
            line = self._line(file, start, data)
            if line.value is not None:
                yield line
            else:
                yield from self._pieces(file, start, data)
            start += len(data)

    def _pieces(self, file: str, start: int, data: bytes) -> Iterator[Line]:
        """Yield a broken line as the lines that it was made of, if a newline in it is damaged."""
        first = SEAL_END.search(data)
        while first and first.end() + 1 < len(data):
            yield self._line(file, start, data[: first.end() + 1])
            start, data = start + first.end() + 1, data[first.end() + 1 :]
            first = SEAL_END.search(data)
        yield self._line(file, start, data)

    def _line(self, file: str, start: int, data: bytes) -> Line:
        why = "" if data.endswith(b"\n") else "its newline is damaged"
        try:
            return Line(file, start, len(data), opened_line(data[:-1], seals=self._seals), why)
        except ValueError as error:
            return Line(file, start, len(data), None, str(error))

    def rewrite(self, change: Callable[[Line], bytes | None]) -> None:
        """Replace each line by what `change` makes of it; None drops it.

        Files in which nothing changes stay as they are. For who holds the lock of the run.
        """
        for file in self.files():
            lines = list(self.walk_file(file))
            made = [change(line) for line in lines]
            data = b"".join(line for line in made if line is not None)
            with self._place.held(file):
                if data != self._place.read(file):
                    self._place.write(file, [data])

    def bytes_of(self, line: Line) -> bytes:
        """Return a line as it stands in its file, with its newline."""
        return self._place.read(line.file, line.start, line.start + line.size - 1) + b"\n"

    def tell(self, line: Line) -> None:
        """Name a broken line, once."""
        if (line.file, line.start) not in self.broken:
            complaint = self.broken[line.file, line.start] = self.complaint(line)
            log.warning("%s; the others are read", complaint)

    def complaint(self, line: Line) -> str:
        """Return in words what is wrong with a line."""
        number = self._place.read(line.file, 0, line.start).count(b"\n") + 1
        return (
            f"{self._place.url}/{line.file} is broken at line {number}: {line.why}: "
            f"`trace-probe store repair` sets it aside"
        )


def whole_but_newline(data: bytes) -> bool:
    """Return whether a last line is whole but for its newline, which some accident changed."""
    return state(data) == "unsealed" and state(data[:-1]) == "whole"
