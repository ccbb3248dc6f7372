"""The files of a saved probe: read and written with the checksums that they carry.

    card.json            what it is
    probe.safetensors    its weights
    alarms.json          thresholds of its alarms, where it was calibrated
    rechecks.json        whether they still held, where it was rechecked

Checksums find accidents, not strangers; see `trace_probe.storage.seals`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from trace_probe.errors import ProbeError
from trace_probe.files import absent, checked_name, discard, sweep, write_bytes
from trace_probe.storage.locks import in_turn
from trace_probe.storage.seals import (
    BLANK,
    HEADER,
    JSON,
    KEY,
    Seals,
    check,
    opened_json,
    sealed,
    sealed_json,
)
from trace_probe.storage.typed import from_plain, renamed, to_plain

T = TypeVar("T")
CARD, WEIGHTS = "card.json", "probe.safetensors"
ALARMS, RECHECKS = "alarms.json", "rechecks.json"
SCHEMA = 2
"""Of files that carry checksums; those of schema 1 may do without."""
AGAIN = (
    "train it again, or, if you changed the file yourself, accept it as it is with "
    "`trace-probe probe seal`"
)
MEND = "train it again, or put a right value there and accept that with `trace-probe probe seal`"

Tensors = Mapping[str, NDArray[Any]]


def write_probe(folder: Path, card: Mapping[str, Any], tensors: Tensors) -> None:
    """Write weights and then the card into a folder, each atomically.

    Temporary files that an interrupted writer left there are removed, and what was measured of
    other weights that lay there.

    Raises:
        ProbeError: the name on the card could lead out of a folder.
        StoreError: they cannot be written.
    """
    from safetensors.numpy import save

    checked_name(card["name"], "a probe", ProbeError)
    sweep(folder)
    if (folder / WEIGHTS).is_file() and not _holds(folder, tensors):
        for measured in (ALARMS, RECHECKS):
            discard(folder / measured)
    weights = save(dict(tensors), {KEY: BLANK})
    write_bytes(folder / WEIGHTS, sealed(weights, HEADER))
    write_json(folder / CARD, card)


def _holds(folder: Path, tensors: Tensors) -> bool:
    """Return whether the weights in a folder are these."""
    try:
        there = read_weights(folder, "compared")
    except ProbeError:  # damaged: whatever was measured of it, nobody can tell of what
        return False
    return there.keys() == tensors.keys() and all(
        np.array_equal(there[name], values) for name, values in tensors.items()
    )


def write_json(file: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file of a probe."""
    sweep(file.parent)
    write_bytes(file, sealed_json({"schema": SCHEMA, **value}))


def read_json(file: Path, seals: Seals | None = None) -> tuple[dict[str, Any], Seals]:
    """Return what a JSON file of a probe says, and whether checksums must be there.

    They must in files of schema 2, unless `seals` says otherwise.

    Raises:
        ProbeError: it is not there, is damaged, or is of a later version.
    """
    data = _read(file)
    how: dict[str, Any] = {"wrong": ProbeError, "advice": AGAIN}
    raw = opened_json(data, str(file), seals=seals or "compared", **how)
    schema = raw.pop("schema", 1)
    if schema not in (1, SCHEMA):
        raise ProbeError(f"{file} has schema {schema!r:.40}: update trace_probe, or {AGAIN}")
    seals = seals or ("required" if schema == SCHEMA else "compared")
    check(data, JSON, str(file), seals=seals, **how)
    return raw, seals


@dataclass(frozen=True)
class Beside(Generic[T]):
    """A file beside a probe that holds several values, one of each key."""

    file: str
    name: str
    """What the file calls them."""
    kind: type[T]
    key: Callable[[T], object]
    earlier: Mapping[str, str]
    """Names that earlier files have for fields of today."""
    advice: str

    def load(self, folder: Path, seals: Seals | None = None) -> tuple[T, ...]:
        """Return those that are kept beside a probe; none without the file. See `read_json`.

        Raises:
            ProbeError: the file is damaged, or holds something else.
        """
        file = folder / self.file
        if not file.is_file():
            return ()
        raw, _ = read_json(file, seals)
        several: Any = tuple[self.kind, ...]  # type: ignore[name-defined]  # a type of a value
        known = renamed(raw.get(self.name), self.earlier)
        made: tuple[T, ...] = from_plain(several, known, file, wrong=ProbeError, advice=self.advice)
        return made

    def write(self, folder: Path, values: Sequence[T]) -> None:
        """Keep values beside a probe, in place of all that are there."""
        write_json(folder / self.file, {self.name: [to_plain(each) for each in values]})

    def keep(self, folder: Path, value: T) -> None:
        """Keep a value beside a probe, in place of one of the same key.

        Several processes may do so at once: each waits for its turn, so that none is lost.

        Raises:
            ProbeError: what is there is damaged.
            StoreError: the folder cannot be written.
        """
        with in_turn(folder):
            others = [one for one in self.load(folder) if self.key(one) != self.key(value)]
            self.write(folder, [*others, value])


def read_weights(folder: Path, seals: Seals) -> dict[str, NDArray[Any]]:
    """Return the tensors of a probe.

    Raises:
        ProbeError: they are not there, are damaged, or hold inf or nan.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    file = folder / WEIGHTS
    data = _read(file)
    check(data, HEADER, str(file), seals=seals, wrong=ProbeError, advice=AGAIN)
    try:
        tensors: dict[str, NDArray[Any]] = load(data)
        finite = all(np.isfinite(values).all() for values in tensors.values())
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ProbeError(f"{file} does not hold a whole probe ({error}): {AGAIN}") from error
    if not finite:
        raise ProbeError(f"{file} holds a weight that is inf or nan: train the probe again")
    return tensors


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ProbeError(absent(file.parent, "probe")) from error
    except OSError as error:
        raise ProbeError(f"cannot read {file}: {error.strerror}") from error
