"""A run as one file of JSON lines, for others to read and for `import` to read back unchanged.

The first line holds the manifest. Each trace has a line, with its prompt, reasoning, answer and
tool calls beside it as plain text; then each label. Activations and scores stay in the run.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trace_probe.errors import TraceError, TraceProbeError
from trace_probe.files import write_bytes
from trace_probe.interop.bounds import lines
from trace_probe.labels import Label
from trace_probe.storage.records import manifest_fields
from trace_probe.store import Store, to_label, to_manifest, to_trace
from trace_probe.trace import Channel

MARK = "trace_probe_export"
PARTS: tuple[Channel, ...] = ("prompt", "reasoning", "answer", "action")
"""What stands beside a trace as plain text."""
VERSION = 1
LONGEST_LINE = 64 << 20
"""Bytes of a line, which holds a text, its parts once more, and where each token starts."""


def export_run(store: Store, file: Path | str) -> int:
    """Write a run to a file, whole or not at all; return the number of traces."""
    lines = [*_lines(store)]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_bytes(Path(file), text.encode(errors="surrogatepass"))
    return sum("trace" in line for line in lines)


def _lines(store: Store) -> Iterator[dict[str, Any]]:
    yield {MARK: VERSION, "manifest": manifest_fields(store.manifest)}
    for trace in store.traces():
        parts = {name: trace.channel_text(name) for name in PARTS}
        yield {"trace": asdict(trace), **{k: v for k, v in parts.items() if v or k != "action"}}
    for label in store.every_label():
        yield {"label": asdict(label)}


def is_export(file: Path | str) -> bool:
    """Return whether a file is a run that was exported."""
    try:
        with open(file, "rb") as handle:
            first = json.loads(handle.readline(LONGEST_LINE))
    except (OSError, ValueError, RecursionError):
        return False  # whoever reads the file in earnest says what is wrong with it
    return isinstance(first, dict) and MARK in first


def import_export(file: Path | str, run: Path | str) -> int:
    """Bring an exported run back; return how many of its traces were not there.

    Raises:
        TraceError: a line is malformed, or the file is of another version.
        StoreError: another run is at `run`.
    """
    path = Path(file)
    header, *lines = _read(path)
    if header.get(MARK) != VERSION:
        raise TraceError(f"{path} has version {header.get(MARK)}, this one reads {VERSION}")
    try:
        manifest = to_manifest(header["manifest"], path)
        traces = [to_trace(line["trace"]) for line in lines if "trace" in line]
        labels = [to_label(line["label"]) for line in lines if "label" in line]
    except (KeyError, AttributeError, TraceProbeError) as error:
        raise TraceError(f"{path} is no whole export: {error}") from error
    store = Store.create(run, manifest)
    with store.writing():
        known = store.ids()
        for trace in traces:
            store.add(trace)
        store.add_labels(_new(labels, store))
    return len({trace.id for trace in traces} - known)


def _new(labels: list[Label], store: Store) -> list[Label]:
    """Return the labels that the run does not hold."""
    held = list(store.every_label())
    return [label for label in labels if label not in held] if held else labels


def _read(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    try:
        for number, line in lines(path, LONGEST_LINE):
            found.append(json.loads(line.decode(errors="surrogatepass")))
            if not isinstance(found[-1], dict):
                raise TraceError(f"{path}, line {number} is not a JSON object")
    except (ValueError, RecursionError) as error:
        raise TraceError(f"{path}, line {len(found) + 1} cannot be read: {error}") from error
    if not found:
        raise TraceError(f"{path} is empty: export the run again")
    return found
