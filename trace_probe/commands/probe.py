"""``trace-probe probe``: whether a saved probe is whole."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from trace_probe.commands.options import AsJson, show_result

probe = typer.Typer(help="Verify and seal saved probes.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(help="Folder of a saved probe.")]


@probe.command()
def verify(folder: Folder, as_json: AsJson = False) -> None:
    """Compare every file of a probe with its checksum; exit with 1 if anything is wrong."""
    from trace_probe.monitor.integrity import format_probe_report, verify_probe

    report = verify_probe(folder)
    show_result(asdict(report), format_probe_report(report), as_json=as_json)
    if report.problems:
        raise typer.Exit(1)


@probe.command()
def seal(folder: Folder, as_json: AsJson = False) -> None:
    """Accept a probe as it is: give new checksums to what you edited yourself."""
    from trace_probe.monitor.integrity import seal_probe

    seal_probe(folder)
    show_result({"probe": str(folder)}, f"{folder}: sealed", as_json=as_json)
