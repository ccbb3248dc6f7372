"""Who may write to a run: one writer alone, or many that commit parts of their own.

Locks belong to a file system; behind a URL there are none, and every writer commits parts.
"""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO

from trace_probe.errors import StoreError

ALONE = ".lock"
JOINED = ".joined"


def alone(folder: Path | None) -> AbstractContextManager[None]:
    """Be the one that appends to the files of a run, inside a ``with`` block.

    Raises:
        StoreError: another process is, or the folder is read-only; when the block is entered.
    """
    return _held(folder, ALONE, fcntl.LOCK_EX, "another process is writing to {}")


def joined(folder: Path | None) -> AbstractContextManager[None]:
    """Be one of many that commit parts; while any is there, nothing is tidied up.

    Raises:
        StoreError: a writer is tidying up, or the folder is read-only.
    """
    return _held(folder, JOINED, fcntl.LOCK_SH, "{} is being tidied up: try again")


def being_written(folder: Path) -> bool:
    """Return whether a process is writing to a run right now; looking changes nothing."""
    try:
        lock = os.open(folder / ALONE, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False  # nobody has ever written here, or this cannot be known
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False  # a file system without locks
    finally:
        os.close(lock)
    return False


def tidying(folder: Path | None) -> AbstractContextManager[None]:
    """Be sure that no joined writer is there.

    Raises:
        StoreError: one is.
    """
    complaint = "workers are still writing to {}: wait until they end"
    return _held(folder, JOINED, fcntl.LOCK_EX, complaint)


def in_turn(folder: Path) -> AbstractContextManager[None]:
    """Wait until nobody else changes the files of a folder, such as that of a probe.

    Raises:
        StoreError: the folder is read-only, or its file system has no locks.
    """
    complaint = "{} lies where files cannot be locked: copy it to a local disk"
    return _held(folder, ALONE, fcntl.LOCK_EX, complaint, wait=True)


def making(folder: Path) -> AbstractContextManager[None]:
    """Be the one that makes a folder, whose lock lies beside it.

    Raises:
        StoreError: another process is, or the place is read-only; when the block is entered.
    """
    complaint = f"another process is making {{}}/{folder.name}: wait for it and try again"
    return _held(folder.parent, f".{folder.name}.lock", fcntl.LOCK_EX, complaint)


@contextlib.contextmanager
def _held(
    folder: Path | None, name: str, kind: int, complaint: str, *, wait: bool = False
) -> Iterator[None]:
    """Hold the lock of that name in a folder; None is behind a URL, where there are none."""
    if folder is None:
        yield
        return
    with _opened(folder / name) as lock:
        try:
            fcntl.flock(lock, kind if wait else kind | fcntl.LOCK_NB)
        except OSError as error:
            raise StoreError(complaint.format(folder)) from error
        yield


def _opened(file: Path) -> IO[bytes]:
    """Open a lock without following a link and without changing what is in it."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return open(os.open(file, flags, 0o600), "rb", buffering=0)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise StoreError(f"{file} is a link: remove it, a lock is a file of the run") from error
        raise StoreError(f"cannot write to {file.parent}: {error.strerror}") from error
