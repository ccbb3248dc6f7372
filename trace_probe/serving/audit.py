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
    """Appends entries to a file that one server at a time may write.

    A line counts once its newline is on disk. A line that was torn by a kill had told nobody
    anything; it is cut off by the next server, and nothing else is ever changed.
    """

    def __init__(self, path: Path) -> None:
        """Open a log, a new one if there is none; only its owner may read it.

        Raises:
            StoreError: another server writes to it, or the place cannot be written.
        """
        self.path = path
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as error:
            raise StoreError(f"cannot write the audit log {path}: {error.strerror}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            raise StoreError(
                f"another server writes to {path}: name another file with --audit"
            ) from error
        append(path, [], locked=True)

    def write(self, entry: Mapping[str, Any]) -> None:
        """Append an entry with the time; it is on disk when this returns.

        Raises:
            StoreError: it cannot be written.
        """
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **entry}
        with self._lock:
            append(self.path, [json.dumps(line, ensure_ascii=True).encode() + b"\n"], locked=True)

    def close(self) -> None:
        """Let another server have it."""
        os.close(self._file)
