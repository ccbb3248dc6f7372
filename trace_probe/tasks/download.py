"""Published tasks from where they are published, verified before they are kept."""

import hashlib
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from trace_probe.errors import TaskError
from trace_probe.files import write_bytes
from trace_probe.tasks.published import PUBLISHED, PinnedFile
from trace_probe.tasks.sources import COMMIT, PREFIX, REPOSITORY, SHA256

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
    where, files = _pinned(name)
    missing = [file for file in files if not file.is_whole(Path(folder))]
    for file in missing:
        url = f"{source}/{where}/{urllib.parse.quote(file.path)}"
        content = _fetch(url, timeout_s)
        found = hashlib.sha256(content).hexdigest()
        if found != file.sha256:
            raise TaskError(
                f"{url} is not the pinned file: its SHA-256 is {found}, expected {file.sha256}. "
                f"Try again, without a proxy that changes what it passes on"
            )
        write_bytes(Path(folder) / file.name, content)
    return len(missing)


def _pinned(name: str) -> tuple[str, tuple[PinnedFile, ...]]:
    """Return repository and commit of a set, as they stand in an address, and its files."""
    if name == "instrumentaleval":
        names = {f"{PREFIX}{title}.csv": sha for title, sha in SHA256.items()}
        files = tuple(PinnedFile(f"benchmark/{file}", file, sha) for file, sha in names.items())
        return f"{REPOSITORY}/{COMMIT}", files
    if name not in PUBLISHED:
        raise TaskError(
            f"no published set {name!r}: choose instrumentaleval, {', '.join(PUBLISHED)}"
        )
    return f"{PUBLISHED[name].repository}/{PUBLISHED[name].commit}", PUBLISHED[name].files


def _fetch(url: str, timeout_s: float) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as response:
            return bytes(response.read(MOST_BYTES))
    except urllib.error.HTTPError as error:
        error.close()
        raise TaskError(f"cannot get {url}: status {error.code}") from error
    except (OSError, ValueError) as error:
        raise TaskError(f"cannot get {url} ({error}): is there a network?") from error
