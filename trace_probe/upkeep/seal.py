"""Gives checksums to what has none, or takes what a person edited as it is now.

Seals find accidents, not strangers: this accepts everything that can be read.
"""

from dataclasses import dataclass, replace

from tqdm import tqdm

from trace_probe.errors import StoreError
from trace_probe.storage.artifacts import FORMS
from trace_probe.storage.lines import Line
from trace_probe.storage.records import SCHEMA, manifest_fields
from trace_probe.storage.seals import sealed_json, sealed_line, state
from trace_probe.store import Store
from trace_probe.trace import Trace
from trace_probe.upkeep.pack import reseal_shards
from trace_probe.upkeep.verify import every_kind, examine


@dataclass
class SealReport:
    """What a call of `seal` or `migrate` gave checksums."""

    run: str
    schema: int
    lines: int = 0
    files: int = 0
    """Whole files, activations among them."""

    def __str__(self) -> str:
        """Return a report as text."""
        return (
            f"{self.run}: {self.lines} lines and {self.files} files carry checksums now "
            f"(schema {self.schema})"
        )


def migrate(store: Store, *, progress: bool = True) -> SealReport:
    """Bring a run to the schema of this version, in which everything carries a checksum.

    Interrupted anywhere, the run stays readable, and the next call goes on.

    Raises:
        StoreError: another process writes to the run, or something in it is broken.
    """
    problems = examine(store, progress=progress).problems
    if problems:
        raise StoreError(
            f"{problems[0].text} ({len(problems)} problems): repair the run before you migrate it"
        )
    return seal(Store(store.place.url, "ignored"), schema=SCHEMA, progress=progress)


def seal(store: Store, *, schema: int | None = None, progress: bool = True) -> SealReport:
    """Give everything in a run that can be read a checksum that fits.

    `store` must have been opened with checksums "ignored".

    Raises:
        StoreError: another process writes to the run, or something cannot be read at all.
    """
    report = SealReport(store.place.url, schema or store.manifest.schema)
    with store.writing():
        _seal_lines(store, report)
        _seal_artifacts(store, report)
        if store.manifest.layers:
            for trace in tqdm(store.traces(), total=len(store), disable=not progress):
                report.files += _seal_activations(store, trace)
            report.files += reseal_shards(store)
        manifest = replace(store.manifest, schema=report.schema)
        store.place.write("run.json", [sealed_json(manifest_fields(manifest))])
    return report


def _seal_lines(store: Store, report: SealReport) -> None:
    def sealed(line: Line) -> bytes:
        data = lines.bytes_of(line)
        if line.value is None or state(data[:-1]) == "whole":
            return data
        report.lines += 1
        return sealed_line(data)

    for lines, _ in every_kind(store):
        lines.rewrite(sealed)


def _seal_artifacts(store: Store, report: SealReport) -> None:
    for kind, form in FORMS.items():
        for name in store.artifacts.names(kind):
            if form == ".parquet":
                table = store.artifacts.read_table(kind, name)
                if table is not None:
                    store.artifacts.write_table(kind, name, table, group=GROUP)
            else:
                value = store.artifacts.read_json(kind, name)
                if value is not None:
                    store.artifacts.write_json(kind, name, value)
            report.files += 1


GROUP = 4096
"""Rows of a table that are read at once."""


def _seal_activations(store: Store, trace: Trace) -> bool:
    """Write the activations of a trace anew; those in shards are not among them."""
    if store.place.size(store.vault.file(trace.id)) is None:
        return False
    kept = store.kept(trace)
    if kept is not None:
        store.vault.write(trace.id, store.key(trace), kept)
    return kept is not None
