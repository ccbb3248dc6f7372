"""How much of a foreign file is read: long lines and packed archives are measured first."""

import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from trace_probe.errors import TraceError

LONGEST_LINE = 4 << 20
"""Bytes of one transcript, about a thousand pages; each token of it becomes an object."""
CHUNK = 1 << 20
_LOG_KEYS = ("version", "status", "eval", "run_id")
ALWAYS, RATIO, MOST = 64 << 20, 100, 4 << 30
"""Bytes that any archive may unpack to, what it may beyond that for each byte of its own, and
what none may. Logs of text unpack to 5 to 20 times their size."""


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
                why = f"longer than {longest >> 20} MB: split it, or leave it out"
                if passed is None:
                    raise TraceError(f"{path}, line {number} is {why}")
                passed(number, why)
                while line and not line.endswith(b"\n"):
                    line = file.readline(longest)
    except OSError as error:
        raise TraceError(f"cannot read {path}: {error.strerror}") from error


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
                member.file_size = 1 << 62  # else reading would end where the header says
                with archive.open(member) as file:
                    while read <= most and (chunk := file.read(CHUNK)):
                        read += len(chunk)
    except Exception as error:  # zipfile and the codecs behind it raise nearly anything
        raise TraceError(f"{path} is no whole archive ({error}): copy it again") from error
    if read > most:
        raise TraceError(
            f"{path} unpacks to more than {most >> 20} MB, which no log of its size does: "
            f"leave it out"
        )


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
