"""How much of a foreign file is read: long lines and packed archives are measured first."""

import re
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from trace_probe.errors import TraceError

LONGEST_LINE = 512 << 20
"""Bytes of one transcript, such as 1,000 screens of 300 kB. Reading a line takes about five times
its bytes in memory; pictures in it are dropped then."""
MOST_WORDS = 2 << 20
"""Words of one transcript, about ten thousand pages: each becomes an object, 1 kB with its text."""
_WORD = re.compile(r"\S+")
CHUNK = 1 << 20
_LOG_KEYS = ("version", "status", "eval", "run_id")
ALWAYS, RATIO, MOST = 64 << 20, 100, 4 << 30
"""Bytes that any archive may unpack to, what it may beyond that for each byte of its own, and
what none may. Logs of text unpack to 5 to 20 times their size."""
ZSTANDARD = 93
"""The kind in which Inspect packs; `zipfile` has no name for it before Python 3.14."""
WINDOW = 1 << 26
"""Bytes that unpacking may look back on, all of them in memory."""


def lines(
    path: Path, longest: int = LONGEST_LINE, passed: Callable[[int, str], None] | None = None
) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a file with their numbers.

    A line that is too long to be a transcript is told to `passed` and passed over.

    Raises:
        TraceError: the file cannot be read, or a line is too long and there is no `passed`.
    """
    try:
        with open(path, "rb") as file:
            number = 0
            while line := file.readline(longest + 1):
                number += 1
                if len(line) <= longest:
                    yield number, line
                    continue
                why = f"longer than {longest >> 20} MB: take pictures out of it, or leave it out"
                if passed is None:
                    raise TraceError(f"{path}, line {number} is {why}")
                passed(number, why)
                while line and not line.endswith(b"\n"):
                    line = file.readline(longest)
    except OSError as error:
        raise TraceError(f"cannot read {path}: {error.strerror}") from error


def check_words(texts: Iterable[str]) -> None:
    """Refuse a transcript that takes too much memory, measured by the texts that are kept of it.

    Raises:
        TraceError: it has too many words.
    """
    every = list(texts)
    if sum(map(len, every)) <= 2 * MOST_WORDS:  # a word has a character, and a blank behind it
        return
    if sum(1 for text in every for _ in _WORD.finditer(text)) > MOST_WORDS:
        raise TraceError(
            f"has more than {MOST_WORDS >> 20} million words, each of which becomes an object: "
            f"leave it out"
        )


def check_archive(path: Path) -> None:
    """Unpack an archive into nothing, to see how large it is; what it says of itself may be false.

    Raises:
        TraceError: it is broken, or unpacks to more than a log can have.
    """
    most = min(MOST, max(ALWAYS, RATIO * path.stat().st_size))
    read = 0
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                with _opened(archive, member) as file:
                    while read <= most and (chunk := file.read(CHUNK)):
                        read += len(chunk)
    except Exception as error:  # zipfile and the codecs behind it raise nearly anything
        raise TraceError(f"{path} is no whole archive ({error}): copy it again") from error
    if read > most:
        raise TraceError(
            f"{path} unpacks to more than {most >> 20} MB, which no log of its size does: "
            f"leave it out"
        )


@contextmanager
def _opened(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Iterator[IO[bytes]]:
    """Open a member so that a piece of it takes no more memory than the piece has bytes.

    zipfile itself unpacks a megabyte at once, whatever comes of it, in every kind but deflate.
    """
    kind = member.compress_type
    member.file_size = 1 << 62  # else reading would end where the header says
    if kind == ZSTANDARD:
        from zstandard import ZstdDecompressor

        member.compress_type, member.file_size = zipfile.ZIP_STORED, member.compress_size
        member.CRC = None  # type: ignore[assignment]  # of what comes out; this reads what is in
        unpack = ZstdDecompressor(max_window_size=WINDOW).stream_reader
        with archive.open(member) as packed, unpack(packed, read_across_frames=True) as file:
            yield file
    elif kind in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with archive.open(member) as file:
            yield file
    else:
        raise ValueError(f"Inspect does not pack in the kind {kind}, as {member.filename:.40} is")


def is_inspect_log(path: Path) -> bool:
    """Return whether a file looks like a log of Inspect, by its name or the JSON it begins with."""
    if path.suffix == ".eval":
        return True
    try:
        with open(path, "rb") as file:
            head = file.read(1 << 12)
    except OSError:
        return False  # whoever reads the file in earnest says what is wrong with it
    return head.lstrip()[:1] == b"{" and all(f'"{k}":'.encode() in head for k in _LOG_KEYS)
