"""One trace of a run as a page in a file, as the explorer would show it."""

from pathlib import Path

from trace_probe.explorer.chosen import look
from trace_probe.explorer.loading import load_run
from trace_probe.explorer.payload import payload
from trace_probe.explorer.reader.page import page
from trace_probe.files import write_bytes


def save_page(run: Path, trace_id: str, file: Path, detector: str | None = None) -> int:
    """Write a trace as one page that reaches nothing; return its size in bytes.

    Raises:
        TraceProbeError: the run cannot be read.
    """
    loaded = load_run(run)
    name = detector or next(iter(loaded.detectors), None)
    eye = None if name is None else loaded.detector(name)
    chosen = look(loaded, loaded.row(trace_id, eye), eye)
    content = payload(chosen.trace, chosen.row, chosen.detector, beside=chosen.beside)
    data = page([content]).encode()
    write_bytes(file, data)
    return len(data)
