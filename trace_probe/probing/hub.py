"""Probes of a hub: which files they have, how they get there, and what is refused.

A hub is the Hugging Face hub, a server that speaks its protocol, or a plain folder. An address is
``org/name``, or ``org/name@revision``; ``hub:org/name@revision`` stands wherever the folder of a
probe may stand. Only JSON and safetensors are ever fetched; a repository that holds anything else
is refused as a whole. In a folder a revision is named by what it holds:

    <hub>/<org>/<name>/main            the newest revision
    <hub>/<org>/<name>/<revision>/     its files
"""

import hashlib
import os
import re
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from trace_probe.errors import ProbeError
from trace_probe.files import json_object, user_cache, write_bytes
from trace_probe.probing.kept import ALARMS, CARD, WEIGHTS, read_json, read_weights

PREFIX = "hub:"
PAGE = "README.md"
MOST: Mapping[str, int] = {CARD: 16 << 20, WEIGHTS: 1 << 28, ALARMS: 64 << 20, PAGE: 1 << 20}
"""The files of a probe on a hub, and the most bytes that each may have."""
FETCHED = (CARD, WEIGHTS, ALARMS)
NEEDED = (CARD, WEIGHTS)
BESIDE = frozenset({PAGE, ".gitattributes", "LICENSE"})
"""What may lie there as well; it is never read."""
LISTING = 4 << 20
"""The most bytes of a list of files."""
PATIENCE = 30.0
"""Seconds without a byte after which a hub is given up."""
MAIN = "main"
_PART = r"[A-Za-z0-9](?:[A-Za-z0-9_-]|\.(?!\.)){0,95}"
_ADDRESS = re.compile(rf"({_PART}/{_PART})(?:@({_PART}(?:/{_PART})*))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Address:
    """Where a probe lies on a hub.

    Example:
        >>> Address.of("hub:lab/probe@v1")
        Address(repo='lab/probe', revision='v1')
    """

    repo: str
    revision: str = MAIN

    @classmethod
    def of(cls, text: str) -> "Address":
        """Return what a text says.

        Raises:
            ProbeError: it is no address.
        """
        found = _ADDRESS.fullmatch(text.removeprefix(PREFIX))
        if found is None:
            raise ProbeError(f"{text!r:.80} is no probe of a hub: write org/name or org/name@rev")
        return cls(found[1], found[2] or MAIN)

    def __str__(self) -> str:
        """Return it as it is written."""
        return f"{self.repo}@{self.revision}"


def local_folder(path: Path | str, endpoint: str | None = None) -> Path:
    """Return the folder of a probe; one of a hub is fetched into the user's cache first.

    A commit that was fetched before is not asked for again, unless its files were damaged since.

    Raises:
        ProbeError: it is not there, or is refused.
    """
    if not str(path).startswith(PREFIX):
        return Path(path)
    address = Address.of(str(path))
    hub = hashlib.sha256((endpoint or "").encode()).hexdigest()[:8]
    kept = user_cache("probes", hub, address.repo.replace("/", "--"))
    if _COMMIT.fullmatch(address.revision) and _is_whole(kept / address.revision):
        return kept / address.revision
    commit, files = fetch(address, endpoint)
    put(kept / commit, files)
    return kept / commit


def _is_whole(folder: Path) -> bool:
    """Return whether the files of a probe in the cache are there and as they were sealed."""
    try:
        _, seals = read_json(folder / CARD, "required")
        read_weights(folder, seals)
        if (folder / ALARMS).exists():
            read_json(folder / ALARMS, "required")
    except ProbeError:
        return False
    return True


def put(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write the files of a probe, the card last: it marks that the others are there."""
    for name in sorted(files, key=lambda name: name == CARD):
        write_bytes(folder / name, files[name])


def fetch(address: Address, endpoint: str | None = None) -> tuple[str, dict[str, bytes]]:
    """Return the commit of a probe on a hub and its files, of which nothing was kept.

    Raises:
        ProbeError: it is not there; or it holds a file that no probe has, a link, or one that is
            too large.
    """
    folder = hub_folder(endpoint)
    if folder is not None:
        return _from_folder(folder, address)
    with _asked(address):
        commit, sizes = _listing(address, endpoint)
        check_listing(address, sizes)
        if not _COMMIT.fullmatch(commit):
            raise ProbeError(f"{address} has no commit: ask whoever runs the hub")
        found = {
            name: _bytes(_file_url(address, name, commit, endpoint), f"{name} of {address}", most)
            for name, most in MOST.items()
            if name in FETCHED and name in sizes
        }
    return commit, found


def publish(address: Address, files: Mapping[str, bytes], endpoint: str | None = None) -> str:
    """Put files on a hub as one commit and return its name.

    Raises:
        ProbeError: the hub refuses, or cannot be reached.
    """
    folder = hub_folder(endpoint)
    if folder is not None:
        commit = _digest(files)
        put(folder / address.repo / commit, files)
        write_bytes(folder / address.repo / MAIN, commit.encode())
        return commit
    with _asked(address) as api, tempfile.TemporaryDirectory() as room:
        put(Path(room), files)
        client = api(endpoint)
        client.create_repo(address.repo, exist_ok=True)
        done = client.upload_folder(
            repo_id=address.repo,
            folder_path=room,
            revision=address.revision,
            allow_patterns=list(MOST),
            commit_message=f"Probe of trace_probe: {', '.join(sorted(files))}",
        )
        return str(done.oid)


def hub_folder(endpoint: str | None) -> Path | None:
    """Return the folder that is a hub; None if the hub is a server."""
    return None if endpoint is None or "://" in endpoint else Path(endpoint)


def check_listing(address: Address, sizes: Mapping[str, object]) -> None:
    """Refuse a repository by what it says that it holds, before anything is fetched.

    Raises:
        ProbeError: a file is none of a probe's, too large, or lacking.
    """
    strange = sorted(set(sizes) - set(MOST) - BESIDE)
    if strange:
        raise ProbeError(
            f"{address} holds {strange[0]!r:.80}, which no probe has: only JSON and safetensors "
            f"are taken from a hub ({', '.join(FETCHED)}); ask its owner to remove it"
        )
    for name in FETCHED:
        _check_size(address, name, sizes.get(name, 0))
    lacking = [name for name in NEEDED if name not in sizes]
    if lacking:
        raise ProbeError(f"{address} has no {lacking[0]}, so it is no probe: look at its name")


def _listing(address: Address, endpoint: str | None) -> tuple[str, dict[str, object]]:
    """Return the commit of a repository, and what a hub says of the sizes of its files.

    Raises:
        ProbeError: the hub's answer is of another form.
    """
    from urllib.parse import quote

    from huggingface_hub import constants

    what = f"what the hub answers about {address}"
    url = f"{endpoint or constants.ENDPOINT}/api/models/{address.repo}"
    url += f"/revision/{quote(address.revision, safe='')}?blobs=true"
    info = json_object(_bytes(url, what, LISTING), what, ProbeError)
    try:
        files = {str(one["rfilename"]): one.get("size") for one in info["siblings"]}
        return str(info["sha"]), files
    except (TypeError, LookupError, AttributeError) as error:
        raise ProbeError(
            f"{what} is no list of files ({type(error).__name__}): look at its address, or ask "
            f"whoever runs it"
        ) from error


def _file_url(address: Address, name: str, commit: str, endpoint: str | None) -> str:
    from huggingface_hub import hf_hub_url

    return hf_hub_url(address.repo, name, revision=commit, endpoint=endpoint)


def _bytes(url: str, what: str, most: int) -> bytes:
    """Return what a hub sends, which is given up once it is more than its kind can be.

    A hub may send more than it said, or never end.

    Raises:
        ProbeError: it is too large.
    """
    from huggingface_hub import get_session
    from huggingface_hub.utils import (  # type: ignore[attr-defined]  # they have no __all__
        build_hf_headers,
        hf_raise_for_status,
    )

    headers = build_hf_headers(library_name="trace_probe") | {"Accept-Encoding": "identity"}
    data = bytearray()
    with get_session().stream("GET", url, headers=headers, timeout=PATIENCE) as reply:
        for part in reply.iter_bytes(1 << 16):
            data += part
            if len(data) > most:
                raise ProbeError(
                    f"{what} does not end after {most:,} bytes, the most that it can have: "
                    f"nothing is kept; ask whoever runs the hub"
                )
        said = {name: text for name, text in reply.headers.items() if name.startswith("x-")}
        status, asked = reply.status_code, reply.request
        hf_raise_for_status(type(reply)(status, headers=said, content=bytes(data), request=asked))
    return bytes(data)


def _check_size(address: Address, name: str, size: object) -> None:
    if type(size) is not int or size < 0:
        raise ProbeError(f"the hub does not say how large {name} of {address} is: fetch it by hand")
    if size > MOST[name]:
        raise ProbeError(
            f"{name} of {address} has {size:,} bytes, a probe's has at most {MOST[name]:,}: it is "
            f"not fetched; ask its owner what it is"
        )


def _from_folder(hub: Path, address: Address) -> tuple[str, dict[str, bytes]]:
    """Return the commit of a probe in a folder and its files."""
    home = hub / address.repo
    _refuse_links(home.parent, home)
    try:
        newest = _plain_file(home / MAIN, 1024).decode("ascii").strip()
        commit = newest if address.revision == MAIN else address.revision
        files = list((home / commit).iterdir()) if _COMMIT.fullmatch(commit) else []
    except (OSError, ValueError) as error:
        raise ProbeError(f"no probe {address} in {hub}: look at the name") from error
    if not files:
        raise ProbeError(f"no probe {address} in {hub}: the newest revision is {newest!r:.50}")
    _refuse_links(home / commit, *files)
    check_listing(address, {file.name: file.stat().st_size for file in files})
    found = {
        name: _plain_file(home / commit / name, most)
        for name, most in MOST.items()
        if home / commit / name in files
    }
    if _digest(found) != commit:
        raise ProbeError(f"{address} in {hub} was changed after it was pushed: push it again")
    return commit, {name: data for name, data in found.items() if name in FETCHED}


def _refuse_links(*places: Path) -> None:
    for place in places:
        if place.is_symlink():
            raise ProbeError(f"{place} is a link, which is not followed: put the file itself there")


def _plain_file(file: Path, most: int) -> bytes:
    """Return the bytes of an ordinary file; pipes, devices and folders are not opened to be read.

    Raises:
        ProbeError: it is something else, or larger than its kind can be.
        OSError: it is not there.
    """
    data = b""
    ordinary = stat.S_ISREG(os.lstat(file).st_mode)
    if ordinary:
        with open(os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as opened:
            data = opened.read(most + 1)
    if not ordinary or len(data) > most:
        raise ProbeError(f"{file} is no file of up to {most:,} bytes: push the probe again")
    return data


def _digest(files: Mapping[str, bytes]) -> str:
    """Return the name of a revision: 40 digits of a checksum of its files."""
    whole = hashlib.sha256()
    for name in sorted(files):
        whole.update(f"{name} {len(files[name])}\n".encode() + files[name])
    return whole.hexdigest()[:40]


@contextmanager
def _asked(address: Address) -> Iterator[Any]:
    """Give the client of a hub; what goes wrong there is said without what was sent.

    The client reads its token itself, from where `hf auth login` keeps it or from the environment.
    """
    from huggingface_hub import HfApi, errors

    unreachable = cast(type[Exception], errors.HfHubHTTPError.__mro__[1])  # httpx of any version
    try:
        yield lambda endpoint: HfApi(endpoint=endpoint, library_name="trace_probe")
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise ProbeError(
            f"no {address} on the hub, or you may not see it: look at the name, or log in with "
            f"`hf auth login`"
        ) from error
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "unknown")
        raise ProbeError(
            f"the hub refuses {address} (status {status}): log in with `hf auth login`, or try "
            f"again later"
        ) from None
    except (
        errors.LocalEntryNotFoundError,
        errors.HFValidationError,
        unreachable,
        OSError,
    ) as error:
        raise ProbeError(
            f"cannot get {address} from the hub ({type(error).__name__}): is there a network?"
        ) from None
