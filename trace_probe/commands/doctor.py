"""``trace-probe doctor``: what is here, what is missing, and how to get it."""

from pathlib import Path

import typer

from trace_probe.commands.options import AsJson, show_result

doctor = typer.Typer()


@doctor.command(name="doctor")
def check(as_json: AsJson = False) -> None:
    """Look at versions, extras, devices, models and disk; exit code 1 if something is broken."""
    from trace_probe.doctor.checkup import broken, checkup, format_checkup, to_json

    found = checkup(Path.cwd())
    show_result(to_json(found), format_checkup(found), as_json=as_json)
    if broken(found):
        raise typer.Exit(1)
