"""Who may write to a run: one writer alone, or many that commit parts of their own.

Locks belong to a file system; behind a URL there are none, and every writer commits parts.
"""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from trace_probe.errors import StoreError

ALONE = ".lock"
JOINED = ".joined"


@contextlib.contextmanager
def alone(folder: Path | None) -> Iterator[None]:
    """Be the one that appends to the files of a run.

    Raises:
        StoreError: another process is, or the folder is read-only.
    """
    if folder is None:
        yield
        return
    with _opened(folder / ALONE) as lock:
        _take(lock, fcntl.LOCK_EX, f"another process is writing to {folder}")
        yield


@contextlib.contextmanager
def joined(folder: Path | None) -> Iterator[None]:
    """Be one of many that commit parts; while any is there, nothing is tidied up.

    Raises:
        StoreError: a writer is tidying up, or the folder is read-only.
    """
    if folder is None:
        yield
        return
    with _opened(folder / JOINED) as lock:
        _take(lock, fcntl.LOCK_SH, f"{folder} is being tidied up: try again")
        yield


@contextlib.contextmanager
def tidying(folder: Path | None) -> Iterator[None]:
    """Be sure that no joined writer is there.

    Raises:
        StoreError: one is.
    """
    if folder is None:
        yield
        return
    with _opened(folder / JOINED) as lock:
        _take(lock, fcntl.LOCK_EX, f"workers are still writing to {folder}: wait until they end")
        yield


def _opened(file: Path) -> IO[str]:
    try:
        return open(file, "w", encoding="utf-8")
    except OSError as error:
        raise StoreError(f"cannot write to {file.parent}: {error.strerror}") from error


def _take(lock: IO[str], kind: int, complaint: str) -> None:
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except OSError as error:
        raise StoreError(complaint) from error
