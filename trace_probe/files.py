"""Files that are whole or not there: atomic writes, and lines that count once they end."""

import contextlib
import errno
import json
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from trace_probe.errors import StoreError, TraceProbeError

Plain = TypeVar("Plain")


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file so that readers see the old one or the new one, never a part."""
    write_chunks(path, [data])


def write_chunks(path: Path, chunks: Iterable[bytes | memoryview]) -> None:
    """Write a whole file piece by piece; readers see the old one or the new one.

    Its name is on disk, too, when this returns: what is written afterwards may rely on it.
    """
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):  # the folder may be why it failed
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise StoreError(f"cannot write {path}: {error.strerror}") from error
        raise


def _sync_folder(folder: Path) -> None:
    """Force the names in a folder to disk, where the file system can."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def write_json(path: Path, value: object) -> None:
    """Write a JSON file atomically; a nan is refused."""
    write_bytes(path, json_bytes(value))


def json_bytes(value: object) -> bytes:
    """Return a value as an indented JSON file; a nan is refused."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def without_nan(value: Plain) -> Plain:
    """Return plain values with None in place of each nan, which JSON does not know."""
    found: Any = value
    if isinstance(value, float) and value != value:
        found = None
    elif isinstance(value, Mapping):
        found = {key: without_nan(each) for key, each in value.items()}
    elif isinstance(value, list | tuple):
        found = [without_nan(each) for each in value]
    return cast(Plain, found)


def append(path: Path, lines: Iterable[bytes]) -> None:
    """Append whole lines with one fsync; a write that fails leaves the file as it was."""
    data = memoryview(b"".join(lines))
    try:
        with open(path, "ab", buffering=0) as file:
            start = file.tell()
            try:
                while data:
                    data = data[file.write(data) :]
                os.fsync(file.fileno())
            except OSError:
                file.truncate(start)
                raise
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}") from error


def cut_torn_line(path: Path, block: int = 1 << 16) -> None:
    """Cut a last line that has no newline: its writer was killed before it was committed."""
    if not path.is_file():
        return
    with open(path, "r+b") as file:
        start = stop = file.seek(0, os.SEEK_END)
        while start > 0:
            start = max(0, start - block)
            file.seek(start)
            newline = file.read(block).rfind(b"\n")
            if newline >= 0:
                start += newline + 1
                break
        if start < stop:
            file.truncate(start)


def file_names(folder: Path) -> list[str]:
    """Return the names of the files in a folder, none if it is not there."""
    return [entry.name for entry in os.scandir(folder)] if folder.is_dir() else []


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the committed JSON lines of a file; a torn last line is not there yet."""
    if not path.is_file():
        return
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                yield json.loads(line)
            except ValueError as error:
                raise StoreError(f"{path} is broken at line {number}") from error


def load_json(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file holds.

    Raises:
        StoreError: it is not JSON, or not an object.
    """
    return json_object(path.read_bytes(), str(path))


def json_object(
    data: bytes | str, name: str, wrong: type[TraceProbeError] = StoreError
) -> dict[str, Any]:
    """Return the object that the JSON in a file (or on a line) of that name says.

    Raises:
        TraceProbeError: of the kind `wrong`; it is not JSON, not an object, or holds half a
            surrogate pair, which is no text.
    """
    try:
        value = json.loads(data)
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise wrong(f"{name} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise wrong(f"{name} is not a JSON object")
    return value
