"""Files that are whole or not there: atomic writes, and lines that count once they end.

What may be called what: one pattern for the ids and names that become names of files.
"""

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import tomllib
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, BinaryIO, Literal

from trace_probe.errors import StoreError, TraceProbeError

TEMPORARY = re.compile(r".+\.[0-9a-f]{12}\.tmp")
"""Names under which whole files are written before they are renamed."""
UTF_8 = "convert the file, for example with `iconv -f LATIN1 -t UTF-8 FILE > NEW`"
MOST_NAMED = 5
"""Runs or probes that an error names."""
MOST_NESTED = 100
"""Lists and objects within each other in JSON that is read."""


def read_bytes(path: Path, wrong: type[TraceProbeError]) -> bytes:
    """Return what is in a file.

    Raises:
        TraceProbeError: of the kind `wrong`; it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise wrong(f"cannot read {path}: {error.strerror}") from error


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file so that readers see the old one or the new one, never a part."""
    write_chunks(path, [data])


def write_chunks(path: Path, chunks: Iterable[bytes | memoryview]) -> None:
    """Write a whole file piece by piece; readers see the old one or the new one.

    Its name is on disk, too, when this returns: what is written afterwards may rely on it.
    The temporary file is locked while it is written, so that `sweep` leaves it alone.
    """
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
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


MARKS = {"run": "run.json", "probe": "card.json"}
"""The file that tells the folder of a run, or of a probe, from any other folder."""


def absent(path: Path, kind: Literal["run", "probe"]) -> str:
    """Return what to say where a run or a probe is not: what is there, or near it, instead."""
    said = f"no {kind} at {path}"
    for other, mark in MARKS.items():
        if (path / mark).is_file() and other != kind:
            return f"{said}: it is a {other}; the arguments may be in the wrong order, see --help"
    there = {one.parent.name: one.parent for one in sorted(path.parent.glob(f"*/{MARKS[kind]}"))}
    if there:
        close = get_close_matches(path.name, there, n=1)
        names = ", ".join(map(str, list(there.values())[:MOST_NAMED]))
        return f"{said}: did you mean {there[close[0]]}?" if close else f"{said}; there is {names}"
    where = "" if path.is_absolute() else f" in {Path.cwd()}"
    return f"{said}{where}: go to the folder that holds it, or make one with `trace-probe demo`"


def abandoned(path: Path) -> bool:
    """Return whether a file is a temporary one of ours whose writer is gone."""
    if not TEMPORARY.fullmatch(path.name) or path.is_symlink() or not path.is_file():
        return False
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # it is being written, or is gone already
        return False
    return True


def sweep(folder: Path, stale: Callable[[str], bool] = lambda _: False) -> None:
    """Remove the temporary files that dead writers left in a folder, and those of stale names."""
    for name in file_names(folder):
        if stale(name) or abandoned(folder / name):
            (folder / name).unlink(missing_ok=True)


def discard(file: Path) -> None:
    """Remove a file that was refused, and its folder if nothing else is in it."""
    file.unlink(missing_ok=True)
    if not any(file.parent.iterdir()):
        file.parent.rmdir()


def user_cache(*parts: str) -> Path:
    """Return a folder of trace_probe in the user's cache (XDG_CACHE_HOME, or ``~/.cache``)."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base, "trace_probe", *parts)


def remove_cached(folder: Path) -> None:
    """Remove a folder of trace_probe's cache with all that is in it, if it is there.

    Raises:
        StoreError: it lies elsewhere, or is a link.
    """
    inside = folder.resolve().is_relative_to(user_cache().resolve())
    if not inside or folder.is_symlink() or folder.resolve() == user_cache().resolve():
        raise StoreError(f"{folder} is no folder in {user_cache()}: remove it by hand")
    if folder.is_dir():
        shutil.rmtree(folder)


def replace_cached(new: Path, folder: Path) -> None:
    """Give a finished folder of the cache its name, in place of the one that has it.

    Raises:
        StoreError: one of them lies elsewhere, or is a link.
    """
    remove_cached(folder)
    os.replace(new, folder)


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


def plain(value: object) -> Any:  # noqa: ANN401 - JSON
    """Return a result as JSON: dataclasses by their `to_json` or fields, None in place of nan."""
    if hasattr(value, "to_json"):
        return plain(value.to_json())
    if is_dataclass(value):
        return {each.name: plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return None if isinstance(value, float) and value != value else value


def append(
    path: Path,
    lines: Iterable[bytes],
    *,
    whole: Callable[[bytes], bool] = lambda _: False,
    locked: bool = False,
) -> None:
    """Append whole lines with one fsync; a write that fails leaves the file as it was.

    Any number of writers may append at once: each locks the file, unless it is `locked`. A last
    line without its newline is cut first, as its writer was killed before it was committed;
    `whole` says where the newline itself is damaged, so that the line stays.
    """
    data = memoryview(b"".join(lines))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _opened(path, locked=locked) as file:
            start = _end(file, whole)
            try:
                while data:
                    data = data[file.write(data) :]
                os.fsync(file.fileno())
            except OSError:
                file.truncate(start)
                raise
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}") from error


def _opened(path: Path, *, locked: bool) -> BinaryIO:
    """Open a file for appending and lock it, unless its name is a link or it is `locked`."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    while True:
        file = open(os.open(path, flags, 0o666), "r+b", buffering=0)  # noqa: SIM115
        if locked:
            return file
        fcntl.flock(file, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), os.lstat(path)):
                return file
        file.close()  # it was replaced while its lock was waited for


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Keep others from appending to a file while it is replaced."""
    with _opened(path, locked=False):
        yield


def _end(file: BinaryIO, whole: Callable[[bytes], bool], block: int = 1 << 16) -> int:
    """Cut a torn last line, or mend its damaged newline; go to the end and return it."""
    start = stop = file.seek(0, os.SEEK_END)
    tail = b""
    while start > 0 and b"\n" not in tail:
        begin = max(0, start - (block if tail else 1))
        file.seek(begin)
        tail, start = file.read(start - begin) + tail, begin
    torn = tail[tail.rfind(b"\n") + 1 :]
    if torn and whole(torn):
        file.seek(stop - 1)
        file.write(b"\n")
    elif torn:
        stop -= len(torn)
        file.truncate(stop)
    return file.seek(stop)


def file_names(folder: Path) -> list[str]:
    """Return the names of the files in a folder, none if it is not there."""
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []


def load_json(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file holds.

    Raises:
        StoreError: it is not JSON, or not an object.
    """
    return json_object(path.read_bytes(), str(path))


def tables_beside(module: str) -> dict[str, Any]:
    """Return what the TOML file beside a module of ours says: `module` is its ``__file__``."""
    return tomllib.loads(Path(module).with_suffix(".toml").read_text("utf-8"))


def json_object(
    data: bytes | str, name: str, wrong: type[TraceProbeError] = StoreError
) -> dict[str, Any]:
    """Return the object that the JSON in a file (or on a line) of that name says.

    Raises:
        TraceProbeError: of the kind `wrong`; it is not JSON, not an object, nested too deeply, or
            holds half a surrogate pair, which is no text.
    """
    try:
        value = json.loads(data)
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise wrong(
            f"{name} is not text, it holds half of a surrogate pair: write the whole character, "
            f"or U+FFFD in its place"
        ) from error
    except UnicodeDecodeError as error:
        raise wrong(f"{name} is not UTF-8: {UTF_8}") from error
    except (ValueError, RecursionError) as error:
        raise wrong(f"{name} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise wrong(f"{name} is not a JSON object")
    if nested_too_deeply(value):
        raise wrong(
            f"{name} is nested more than {MOST_NESTED} deep, which no file of this kind needs: "
            f"make it flatter, or leave it out"
        )
    return value


def nested_too_deeply(value: object) -> bool:
    """Return whether JSON is nested so deeply that functions that walk it may not end."""
    level: list[Any] = [value]
    for _ in range(MOST_NESTED):
        lists = [each for each in level if type(each) in (list, dict)]
        level = [one for x in lists for one in (x.values() if type(x) is dict else x)]
        if not level:
            return False
    return any(type(each) in (list, dict) for each in level)


NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9 ._+:@=,()%~-]{0,198}[A-Za-z0-9_+:@=)%~-])?")


def checked_name(name: object, what: str, wrong: type[TraceProbeError] = StoreError) -> str:
    """Return a name that is safe in a path; `what` says in an error whose name it is.

    Raises:
        TraceProbeError: of the kind `wrong`; it could lead out of its folder, or is no name.
    """
    if isinstance(name, str) and NAME.fullmatch(name):
        return name
    shown = repr(name) if len(repr(name)) <= 80 else f"{repr(name)[:77]}..."
    raise wrong(
        f"{what} cannot be called {shown}: use up to 200 letters, digits, spaces and "
        f"._+:@=,()%~- that begin with a letter or a digit"
    )
