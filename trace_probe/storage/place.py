"""Where a run lies: a folder of this machine, or one behind a URL such as ``s3://bucket/run``.

Both keep the same promise: a file that can be seen is whole. A folder keeps it by temporary
names, object stores by their nature: an object is there once all of it has arrived.
"""

import contextlib
import errno
import io
import mmap
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO

from trace_probe.errors import StoreError
from trace_probe.files import abandoned, append, file_names, held, sweep, write_chunks

LINK = "is a link, and links inside a run are not followed: put the file itself there"
Stamp = tuple[int, int, int]
URL = re.compile(r"([a-z][a-z0-9+.-]+):/+(.*)", re.DOTALL)


def never(_: bytes) -> bool:
    """Return False."""
    return False


class Folder:
    """A folder of this machine, or of a network file system."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def url(self) -> str:
        """Return the path."""
        return str(self.folder)

    def _at(self, name: str) -> str:
        """Return the path of a file, if no link below the folder leads to it.

        Raises:
            StoreError: its folder is a link, or its name would lead out of this one.
        """
        path = f"{self.folder}/{name}"  # as `Path` does it, in a tenth of the time
        if ".." in name and ".." in name.split("/"):
            raise StoreError(f"{path} may lead out of {self.folder}: it is not touched")
        end = name.rfind("/")
        while end > 0:
            if os.path.islink(f"{self.folder}/{name[:end]}"):
                raise StoreError(f"{self.folder}/{name[:end]} {LINK}")
            end = name.rfind("/", 0, end)
        return path

    def _open(self, name: str) -> BinaryIO:
        """Open a file for reading, without following a link or waiting for a pipe."""
        path = self._at(name)
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise StoreError(f"{path} {LINK}") from error
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                raise
            raise StoreError(f"cannot read {path}: {error.strerror}") from error
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise StoreError(f"{path} is not a file: remove it from the run")
        return open(handle, "rb", buffering=0)

    def size(self, name: str) -> int | None:
        """Return the size of a file, None if it is not there."""
        found = self._stat(name)
        return None if found is None else found.st_size

    def stamp(self, name: str) -> Stamp | None:
        """Return its inode, size and time; None if it is not there."""
        found = self._stat(name)
        return None if found is None else (found.st_ino, found.st_size, found.st_mtime_ns)

    def _stat(self, name: str) -> os.stat_result | None:
        path = self._at(name)
        try:
            found = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if stat.S_ISLNK(found.st_mode):
            raise StoreError(f"{path} {LINK}")
        return found

    def names(self, folder: str = "") -> list[str]:
        """Return the names of all that is in a folder, none if it is not there."""
        return file_names(Path(self._at(f"{folder}/" if folder else "")))

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """Return bytes ``[start, stop)`` of a file, fewer where it ends before; None is its end.

        Raises:
            FileNotFoundError: it is not there.
            StoreError: it cannot be reached.
        """
        with self._open(name) as file:
            file.seek(start)
            return file.read(-1 if stop is None else stop - start)

    def read_into(self, name: str, start: int, buffer: memoryview) -> None:
        """Fill a buffer of bytes from a file.

        Raises:
            FileNotFoundError: it is not there.
            StoreError: it ends too early.
        """
        with self._open(name) as file:
            file.seek(start)
            while buffer:
                count = file.readinto(buffer)  # type: ignore[attr-defined]
                if not count:
                    raise StoreError(f"{self._at(name)} ends too early: it is damaged")
                buffer = buffer[count:]

    def mapped(self, name: str) -> memoryview | None:
        """Return a file as memory that is read on first touch; None where there is no such way.

        Raises:
            FileNotFoundError: it is not there.
        """
        with self._open(name) as file:
            if not os.fstat(file.fileno()).st_size:  # which cannot be mapped
                return memoryview(b"")
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def lines(self, name: str, start: int = 0) -> Iterator[bytes]:
        """Yield the lines of a file from a byte on."""
        with io.BufferedReader(self._open(name)) as file:  # type: ignore[type-var]
            file.seek(start)
            yield from file

    def write(self, name: str, chunks: Iterable[bytes | memoryview]) -> None:
        """Write a whole file; readers see the old one or the new one.

        Raises:
            StoreError: it cannot be written.
        """
        write_chunks(Path(self._at(name)), chunks)

    def append(
        self, name: str, lines: Iterable[bytes], whole: Callable[[bytes], bool] = never
    ) -> None:
        """Append whole lines to a file; see `trace_probe.files.append`.

        Raises:
            StoreError: it cannot be written, or files cannot grow here.
        """
        path = Path(self._at(name))
        if path.is_symlink():
            raise StoreError(f"{path} {LINK}")
        append(path, lines, whole=whole)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there.

        Raises:
            StoreError: it cannot be removed.
        """
        path = Path(self._at(name))
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"cannot remove {path}: {error.strerror}") from error

    def held(self, name: str) -> AbstractContextManager[None]:
        """Keep others from appending to a file that is about to be replaced."""
        return held(Path(self._at(name)))

    def abandoned(self, folder: str) -> list[str]:
        """Return the names of temporary files that dead writers left in a folder."""
        at = Path(self._at(f"{folder}/" if folder else ""))
        return [name for name in file_names(at) if abandoned(at / name)]

    def sweep(self, folder: str) -> None:
        """Remove the temporary files that dead writers left in a folder."""
        sweep(Path(self._at(f"{folder}/" if folder else "")))


class Bucket:
    """A folder behind a URL that fsspec knows, such as one of an S3 bucket."""

    folder: Path | None = None

    def __init__(self, url: str) -> None:
        """Open it; nothing need be there.

        Raises:
            StoreError: nothing is installed for such URLs.
        """
        import fsspec

        self.url = url.rstrip("/")
        try:
            self._files: Any
            self._files, self._root = fsspec.url_to_fs(self.url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            extra = ": pip install 'trace-probe[s3]'" if url.startswith("s3") else ""
            raise StoreError(f"cannot open {url} ({error}){extra}") from error

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}".rstrip("/")

    @contextlib.contextmanager
    def _reaching(self, name: str) -> Iterator[None]:
        """Say which file could not be reached; a file that is not there is no such error."""
        try:
            yield
        except (FileNotFoundError, StoreError):
            raise
        except Exception as error:  # each kind of store has its own
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise StoreError(f"cannot reach {self.url}/{name}: {reason}") from error

    def size(self, name: str) -> int | None:
        """Return the size of a file, None if it is not there."""
        try:
            with self._reaching(name):
                return int(self._files.info(self._at(name))["size"])
        except FileNotFoundError:
            return None

    def names(self, folder: str = "") -> list[str]:
        """Return the names of all that is in a folder, none if it is not there."""
        try:
            with self._reaching(folder):
                found = self._files.ls(self._at(folder), detail=False)
        except FileNotFoundError:
            return []
        return [path.rstrip("/").rsplit("/", 1)[-1] for path in found]

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """Return the bytes of a file, or a range of them."""
        if stop is not None and stop <= start:
            return b""  # S3 would send the whole file
        with self._reaching(name):
            try:
                return bytes(self._files.cat_file(self._at(name), start=start, end=stop))
            except OSError as error:
                if error.errno == errno.EINVAL:  # how S3 says that the range lies behind the end
                    return b""
                raise

    def read_into(self, name: str, start: int, buffer: memoryview) -> None:
        """Fill a buffer of bytes from a file."""
        data = self.read(name, start, start + len(buffer))
        if len(data) < len(buffer):
            raise StoreError(f"{self.url}/{name} ends too early: it is damaged")
        buffer[:] = data

    def stamp(self, name: str) -> Stamp | None:  # noqa: ARG002
        """Return None: to ask costs as much as to read."""
        return None

    def mapped(self, name: str) -> memoryview | None:  # noqa: ARG002
        """Return None: what is elsewhere has to be fetched."""
        return None

    def lines(self, name: str, start: int = 0) -> Iterator[bytes]:
        """Yield the lines of a file from a byte on."""
        return iter(io.BytesIO(self.read(name, start)))

    def write(self, name: str, chunks: Iterable[bytes | memoryview]) -> None:
        """Write a whole file in one piece."""
        try:
            with self._reaching(name):
                self._files.pipe_file(self._at(name), b"".join(chunks))
        except FileNotFoundError as error:
            raise StoreError(f"cannot write {self.url}/{name}: {error}") from error

    def append(
        self,
        name: str,
        lines: Iterable[bytes],  # noqa: ARG002
        whole: Callable[[bytes], bool] = never,  # noqa: ARG002
    ) -> None:
        """Refuse: an object is written whole."""
        raise StoreError(f"{self.url}/{name} cannot grow where it lies: copy the run to a disk")

    def held(self, name: str) -> AbstractContextManager[None]:  # noqa: ARG002
        """Do nothing: no object grows."""
        return contextlib.nullcontext()

    def abandoned(self, folder: str) -> list[str]:  # noqa: ARG002
        """Return none: an object is there once all of it has arrived."""
        return []

    def sweep(self, folder: str) -> None:
        """Do nothing: an object is there once all of it has arrived."""

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        with contextlib.suppress(FileNotFoundError), self._reaching(name):
            self._files.rm_file(self._at(name))


Place = Folder | Bucket
"""Files by their names below one root; a name may hold slashes."""


def found(place: Place, name: str) -> bytes | None:
    """Return the bytes of a file, None if it is not there.

    Raises:
        StoreError: it cannot be reached.
    """
    try:
        return place.read(name)
    except (FileNotFoundError, NotADirectoryError):
        return None


def place_at(path: Path | str) -> Place:
    """Return the place that a path or a URL means.

    A URL may have gone through `Path`, which leaves one slash of two.
    """
    url = URL.fullmatch(str(path))
    if url is None:
        return Folder(Path(path))
    if url[1] == "file":
        return Folder(Path("/" + url[2]))
    return Bucket(f"{url[1]}://{url[2]}")
