"""What is made of a run and kept in it: scores, reports, maps, layers, experiments, verdicts.

Calls are those of episodes that are not finished yet; they go away once their episodes are traces.

    <run>/<kind>/<name>.json       a whole object
    <run>/<kind>/<name>.parquet    a whole table
    <run>/<kind>/<name>.jsonl      lines that only grow: see `trace_probe.storage.lines`

All of it lies where the run lies, in a folder or behind a URL, and carries checksums.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from trace_probe.errors import StoreError
from trace_probe.files import checked_name
from trace_probe.storage.lines import Lines
from trace_probe.storage.place import Place, found
from trace_probe.storage.seals import (
    ADVICE,
    JSON,
    PARQUET,
    Seals,
    Wanted,
    opened_json,
    opened_table,
    sealed_json,
    sealed_table,
    state,
)

if TYPE_CHECKING:
    import pyarrow as pa

ROUNDING = 1e-5
"""How far scores may lie apart, absolutely or as a share, that differ only by rounding."""
Kind = Literal[
    "scores",
    "reports",
    "layers",
    "maps",
    "oracle",
    "experiments",
    "annotations",
    "calls",
    "left_out",
]
FORMS: Mapping[Kind, str] = {
    "scores": ".parquet",
    "reports": ".json",
    "layers": ".parquet",
    "maps": ".parquet",
    "oracle": ".jsonl",
    "experiments": ".jsonl",
    "annotations": ".jsonl",
    "calls": ".jsonl",
    "left_out": ".jsonl",
}
"""What the files of each kind end in."""


class Artifacts:
    """The artifacts of one run, by kind and name."""

    def __init__(self, place: Place, *, seals: Seals = "compared") -> None:
        """Open them without reading anything; see `Seals`."""
        self._place, self._seals = place, seals

    def names(self, kind: Kind) -> list[str]:
        """Return the names of all artifacts of a kind, sorted."""
        end = FORMS[kind]
        there = {name.removesuffix(end) for name in self._place.names(kind) if name.endswith(end)}
        if end == ".jsonl":  # where nothing grows, a name is a folder of parts
            others = (".json", ".jsonl", ".tmp")
            there |= {name for name in self._place.names(kind) if not name.endswith(others)}
        return sorted(there)

    def file(self, kind: Kind, name: str, form: str = "") -> str:
        """Return the name of the file of an artifact, in the run.

        Raises:
            StoreError: the name would not be safe in a path.
        """
        return f"{kind}/{checked_name(name, f'a file of {kind}')}{form or FORMS[kind]}"

    def url(self, kind: Kind, name: str) -> str:
        """Return where an artifact is kept."""
        return f"{self._place.url}/{self.file(kind, name)}"

    def write_json(self, kind: Kind, name: str, value: Mapping[str, Any]) -> None:
        """Keep an object."""
        self._write(self.file(kind, name, ".json"), sealed_json(value))

    def read_json(self, kind: Kind, name: str) -> dict[str, Any] | None:
        """Return an object, or None if it is not there.

        Raises:
            StoreError: the file is damaged.
        """
        file = self.file(kind, name, ".json")
        data = found(self._place, file)
        if data is None:
            return None
        return opened_json(data, f"{self._place.url}/{file}", seals=self._seals)

    def write_table(
        self, kind: Kind, name: str, table: "pa.Table", *, group: int | None = None
    ) -> None:
        """Keep a table; `group` rows are read at once where only some are wanted."""
        self._write(self.file(kind, name), sealed_table(table, group))

    def write_scores(self, detector: str, scores: Mapping[str, NDArray[np.floating]]) -> None:
        """Keep the scores of a detector, unless those there are equal up to rounding."""
        import pyarrow as pa

        if self._holds_scores(detector, scores):
            return
        rows = [np.asarray(row, dtype=np.float32) for row in scores.values()]
        kind = pa.list_(pa.float32())
        table = pa.table(
            {"trace_id": pa.array(list(scores), pa.string()), "scores": pa.array(rows, kind)}
        )
        self.write_table("scores", detector, table)

    def _holds_scores(self, detector: str, scores: Mapping[str, NDArray[np.floating]]) -> bool:
        """Return whether these scores are kept, but for what another machine rounds otherwise."""
        try:
            table = self.read_table("scores", detector, "")
            kept = None if table is None else rows_by_trace(table, detector)
        except StoreError:  # it is damaged, and written anew
            return False
        return (
            kept is not None
            and list(kept) == list(scores)
            and all(
                len(kept[name]) == len(row)
                and np.allclose(kept[name], row, rtol=ROUNDING, atol=ROUNDING, equal_nan=True)
                for name, row in scores.items()
            )
        )

    def read_table(
        self, kind: Kind, name: str, again: str = "", wanted: Wanted | None = None
    ) -> "pa.Table | None":
        """Return a table, or None if it is not there; `again` says how it can be made again.

        `wanted` is a column and the value that its rows must have; all rows are read without it.

        Raises:
            StoreError: the file is damaged.
        """
        file = self.file(kind, name)
        data, where = found(self._place, file), f"{self._place.url}/{file}"
        if data is None:
            return None
        return opened_table(data, where, wanted, seals=self._seals, advice=again or ADVICE)

    def unsealed(self, file: str) -> bool:
        """Return whether a file of the run is there and carries no checksum."""
        data, kind = found(self._place, file), PARQUET if file.endswith(".parquet") else JSON
        return data is not None and state(data, kind) == "unsealed"

    def lines(self, kind: Kind, name: str) -> Lines:
        """Return the lines of an artifact; there may be none yet."""
        stem = self.file(kind, name).removesuffix(FORMS[kind])
        return Lines(self._place, stem, seals=self._seals)

    def _write(self, file: str, data: bytes) -> None:
        self._place.sweep(file.partition("/")[0])
        self._place.write(file, [data])


def rows_by_trace(table: "pa.Table", file: str) -> dict[str, NDArray[np.float32]]:
    """Return the scores of a table by trace id, one score a sentence, nan = none.

    Raises:
        StoreError: it holds something else, or an infinite score.
    """
    try:
        rows = table["scores"].combine_chunks()
        flat = rows.values.to_numpy(zero_copy_only=False).astype(np.float32)
        ends = rows.offsets.to_numpy().tolist()
        names = map(str, table["trace_id"].to_pylist())
        scores = {
            name: flat[start:stop]
            for name, start, stop in zip(names, ends[:-1], ends[1:], strict=True)
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{file} holds no scores: score the run again") from error
    if flat.ndim != 1 or np.isinf(flat).any():
        raise StoreError(f"{file} holds a score that is infinite: score the run again")
    return scores
