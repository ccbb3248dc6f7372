"""Published tasks from where they are published, verified before they are kept."""

import hashlib
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from trace_probe.errors import TaskError
from trace_probe.files import write_bytes
from trace_probe.tasks.published import PUBLISHED

HOST = "https://raw.githubusercontent.com"
MOST_BYTES = 1 << 20


def download_tasks(
    folder: Path | str,
    name: str = "instrumentaleval",
    *,
    source: str = HOST,
    timeout_s: float = 30.0,
) -> int:
    """Fetch the files of a published set into a folder and return how many were missing there.

    The set is instrumentaleval, gsm8k, xstest or tau2. A file that is there and whole is left
    alone; one whose checksum is wrong is not kept.

    Raises:
        TaskError: there is no such set, or a file cannot be fetched or is not the pinned one.
    """
    if name not in PUBLISHED:
        raise TaskError(f"no published set {name!r}: choose {', '.join(PUBLISHED)}")
    one, fetched = PUBLISHED[name], 0
    for file in one.files:
        into = Path(folder) / file.name
        if into.is_file() and hashlib.sha256(into.read_bytes()).hexdigest() == file.sha256:
            continue
        url = f"{source}/{one.repository}/{one.commit}/{urllib.parse.quote(file.path)}"
        content = _fetch(url, timeout_s)
        found = hashlib.sha256(content).hexdigest()
        if found != file.sha256:
            raise TaskError(
                f"{url} is not the pinned file: its SHA-256 is {found}, expected {file.sha256}. "
                f"Try again, without a proxy that changes what it passes on"
            )
        write_bytes(into, content)
        fetched += 1
    return fetched


def _fetch(url: str, timeout_s: float) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as response:
            return bytes(response.read(MOST_BYTES))
    except urllib.error.HTTPError as error:
        error.close()
        raise TaskError(f"cannot get {url}: status {error.code}") from error
    except (OSError, ValueError) as error:
        raise TaskError(f"cannot get {url} ({error}): is there a network?") from error
