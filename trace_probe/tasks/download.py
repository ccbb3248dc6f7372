"""InstrumentalEval's files from where they are published, verified before they are kept."""

import hashlib
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from trace_probe.errors import TaskError
from trace_probe.files import write_bytes
from trace_probe.tasks.sources import COMMIT, PREFIX, SHA256

RAW = f"https://raw.githubusercontent.com/yf-he/InstrumentalEval/{COMMIT}/benchmark"
MOST_BYTES = 1 << 20


def download_tasks(folder: Path | str, *, source: str = RAW, timeout_s: float = 30.0) -> int:
    """Fetch the six files into a folder and return how many were missing there.

    A file that is there and whole is left alone; one whose checksum is wrong is not kept.

    Raises:
        TaskError: a file cannot be fetched, or is not the pinned one.
    """
    wanted = {Path(folder) / f"{PREFIX}{title}.csv": sha for title, sha in SHA256.items()}
    missing = {file: sha for file, sha in wanted.items() if not _is_whole(file, sha)}
    for file, sha in missing.items():
        url = f"{source}/{urllib.parse.quote(file.name)}"
        content = _fetch(url, timeout_s)
        found = hashlib.sha256(content).hexdigest()
        if found != sha:
            raise TaskError(f"{url} is not the pinned file: its SHA-256 is {found}, expected {sha}")
        write_bytes(file, content)
    return len(missing)


def _is_whole(file: Path, sha: str) -> bool:
    return file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == sha


def _fetch(url: str, timeout_s: float) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as response:
            return bytes(response.read(MOST_BYTES))
    except urllib.error.HTTPError as error:
        error.close()
        raise TaskError(f"cannot get {url}: status {error.code}") from error
    except (OSError, ValueError) as error:
        raise TaskError(f"cannot get {url} ({error}): is there a network?") from error
