"""The files of a saved probe: read and written with the checksums that they carry.

    card.json            what it is
    probe.safetensors    its weights
    alarms.json          thresholds of its alarms, where it was calibrated

Checksums find accidents, not strangers; see `trace_probe.storage.seals`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trace_probe.errors import ProbeError
from trace_probe.files import absent, checked_name, sweep, write_bytes
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

CARD, WEIGHTS = "card.json", "probe.safetensors"
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

    Temporary files that an interrupted writer left there are removed.

    Raises:
        ProbeError: the name on the card could lead out of a folder.
        StoreError: they cannot be written.
    """
    from safetensors.numpy import save

    checked_name(card["name"], "a probe", ProbeError)
    sweep(folder)
    weights = save(dict(tensors), {KEY: BLANK})
    write_bytes(folder / WEIGHTS, sealed(weights, HEADER))
    write_json(folder / CARD, card)


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
