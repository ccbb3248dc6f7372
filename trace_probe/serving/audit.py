"""The audit log of alarms: a JSON line each, appended, on disk before a client hears of it."""

import fcntl
import json
import os
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trace_probe.errors import StoreError
from trace_probe.files import append


class AuditLog:
    """Appends entries to a file that one server at a time may write and only its owner may read.

    A line counts once its newline is on disk. A line that was torn by a kill had told nobody
    anything; it is cut off by the next server, and nothing else is ever changed. If the file is
    moved away, as when logs are rotated, the next entry begins a new one, just as private.
    """

    def __init__(self, path: Path) -> None:
        """Open a log, a new one if there is none.

        Raises:
            StoreError: another server writes to it, or the place cannot be written.
        """
        self.path = path
        self._lock = threading.Lock()
        self._file = self._open()

    def _open(self) -> int:
        """Open and lock the file that is at the path now."""
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(self.path, flags, 0o600)
            os.fchmod(file, 0o600)
        except OSError as error:
            raise StoreError(f"cannot write the audit log {self.path}: {error.strerror}") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(file)
            raise StoreError(
                f"another server writes to {self.path}: name another file with --audit"
            ) from error
        append(self.path, [], locked=True)
        return file

    def write(self, entry: Mapping[str, Any]) -> None:
        """Append an entry with the time; it is on disk when this returns.

        Raises:
            StoreError: it cannot be written.
        """
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **entry}
        data = json.dumps(line, ensure_ascii=True).encode() + b"\n"
        with self._lock:
            if self._moved():
                moved, self._file = self._file, self._open()
                os.close(moved)
            append(self.path, [data], locked=True)

    def _moved(self) -> bool:
        """Return whether the path no longer leads to the file that is open."""
        try:
            return not os.path.samestat(os.lstat(self.path), os.fstat(self._file))
        except FileNotFoundError:
            return True

    def close(self) -> None:
        """Let another server have it."""
        os.close(self._file)
