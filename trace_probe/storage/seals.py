"""Checksums that files carry in themselves, so that accidents are found on reading.

A seal is the CRC-32, in 8 hexadecimal digits, of all other bytes of a file, or of a line. A JSON
object ends with it (``"seal": "..."``), a Parquet file has it in its footer, a tensor file in
its header. As it is part of the file, it is written, copied and replaced with it.

Seals find accidents, not strangers: who changes a file on purpose can seal it anew.
"""

import json
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from trace_probe.errors import StoreError, TraceProbeError
from trace_probe.files import json_bytes, json_object

if TYPE_CHECKING:
    import pyarrow as pa

KEY = "seal"
BLANK = "0" * 8
JSON = b'"seal": "'
HEADER = b'"seal":"'
PARQUET = b"trace_probe.seal\x18\x08"
"""What stands before the digits in each kind of file."""
ADVICE = (
    "`trace-probe store repair` sets aside what is broken; if you changed the file yourself, "
    "`trace-probe store seal` accepts it as it is"
)

State = Literal["whole", "damaged", "unsealed"]
Seals = Literal["required", "compared", "ignored"]
"""Whether what is read must have a seal that fits; may have none; or is taken as it is."""
Wanted = tuple[str, object]
"""A column, and the value that its rows must have."""


def _place(data: bytes, mark: bytes) -> int | None:
    """Return where the digits of a seal begin, or None if there is no seal."""
    at = data.rfind(mark)
    start = at + len(mark)
    if at < 0 or start + len(BLANK) > len(data):
        return None
    if mark is JSON and data[start + len(BLANK) :].translate(None, b" \r\n\t") != b'"}':
        return None  # the seal of a JSON object is the last thing in it
    return start


def _digits(data: bytes, start: int) -> bytes:
    view = memoryview(data)
    return b"%08x" % zlib.crc32(view[start + len(BLANK) :], zlib.crc32(view[:start]))


def state(data: bytes, mark: bytes = JSON) -> State:
    """Return whether data is as it was when it was sealed."""
    start = _place(data, mark)
    if start is None:
        return "unsealed"
    same = data[start : start + len(BLANK)] == _digits(data, start)
    return "whole" if same else "damaged"


def sealed(data: bytes, mark: bytes = JSON) -> bytes:
    """Return data with the digits of its seal, which must have a place for them."""
    start = _place(data, mark)
    if start is None:
        raise ValueError("there is no place for a seal")
    return data[:start] + _digits(data, start) + data[start + len(BLANK) :]


def check(
    data: bytes,
    mark: bytes,
    file: str,
    *,
    seals: Seals,
    wrong: type[TraceProbeError] = StoreError,
    advice: str = ADVICE,
) -> None:
    """Refuse data that does not fit its seal, or that lacks one where it must have one.

    Raises:
        TraceProbeError: of the kind `wrong`.
    """
    if seals == "ignored":
        return
    found = state(data, mark)
    if found == "damaged":
        raise wrong(f"{file} is damaged: its checksum does not fit: {advice}")
    if found == "unsealed" and seals == "required":
        raise wrong(f"{file} is damaged: its checksum is missing: {advice}")


# A JSON object


def sealed_json(value: Mapping[str, Any]) -> bytes:
    """Return a JSON file that carries its seal; a nan is refused."""
    return sealed(json_bytes({**value, KEY: BLANK}))


def opened_json(
    data: bytes,
    file: str,
    *,
    seals: Seals = "compared",
    wrong: type[TraceProbeError] = StoreError,
    advice: str = ADVICE,
) -> dict[str, Any]:
    """Return what a JSON file says, without its seal.

    Raises:
        TraceProbeError: of the kind `wrong`; it is damaged, or is no JSON object.
    """
    value = json_object(data, file, wrong)
    check(data, JSON, file, seals=seals, wrong=wrong, advice=advice)
    value.pop(KEY, None)
    return value


# A line of JSON


def sealed_line(line: bytes) -> bytes:
    """Return a line that holds a JSON object with a seal, a new one if it had one."""
    body = line.rstrip()
    start = _place(body, JSON)
    text = body[:-1] if start is None else body[: start - len(JSON)].rstrip(b", ")
    comma = b", " if text != b"{" else b""
    return sealed(text + comma + JSON + BLANK.encode() + b'"}') + b"\n"


def opened_line(line: bytes, *, seals: Seals = "compared") -> dict[str, Any]:
    """Return what a line says, given without its newline.

    Raises:
        ValueError: it is damaged, or is no JSON object; the text says so.
    """
    found = "whole" if seals == "ignored" else state(line)
    if found == "damaged":
        raise ValueError("its checksum does not fit")
    if found == "unsealed" and seals == "required":
        raise ValueError("its checksum is missing")
    try:
        value = json.loads(line)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except ValueError as error:
        raise ValueError("it is not JSON") from error
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")
    value.pop(KEY, None)
    return value


# A table


def sealed_table(table: "pa.Table", group: int | None = None) -> bytes:
    """Return a Parquet file that carries its seal; `group` rows of it are read at once."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, table.schema) as writer:
        writer.write_table(table, row_group_size=group)
        writer.add_key_value_metadata({"trace_probe.seal": BLANK})
    return sealed(sink.getvalue().to_pybytes(), PARQUET)


def opened_table(
    data: bytes,
    file: str,
    wanted: Wanted | None = None,
    *,
    seals: Seals = "compared",
    advice: str = ADVICE,
) -> "pa.Table":
    """Return the table that a Parquet file holds, all of it or the rows that are wanted.

    Raises:
        StoreError: it is damaged, or is no Parquet file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    check(data, PARQUET, file, seals=seals, advice=advice)
    try:
        filters = [(wanted[0], "=", wanted[1])] if wanted else None
        table = pq.read_table(pa.BufferReader(data), use_threads=False, filters=filters)
        table.validate(full=True)
    except (pa.ArrowException, ValueError, OSError, KeyError, TypeError) as error:
        raise StoreError(f"{file} is damaged: {advice}") from error
    return table
