"""``trace-probe doctor``: what is here, what is missing, and how to get it."""

from pathlib import Path
from typing import Annotated

import typer

from trace_probe.commands.options import AsJson, Dtype, say, show_result

doctor = typer.Typer()


@doctor.command(name="doctor")
def check(
    rehearse: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Forecast time, memory and disk of a run of this model: a folder with its "
            "config.json, a hub id, or a built-in shape such as Qwen3-1.7B. No weights needed.",
        ),
    ] = None,
    traces: Annotated[int, typer.Option(min=1, help="With --rehearse: traces of the run.")] = 1000,
    tokens: Annotated[int, typer.Option(min=1, help="With --rehearse: tokens of a trace.")] = 2048,
    layers: Annotated[
        int | None, typer.Option(min=1, help="With --rehearse: how many blocks are recorded.")
    ] = None,
    blocks: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="With --rehearse: build only this many, and scale up. Default: all that fit.",
        ),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(min=1, help="With --rehearse: traces written at once.")
    ] = 32,
    dtype: Dtype = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps.")] = None,
    as_json: AsJson = False,
) -> None:
    """Look at versions, extras, devices, models and disk; exit code 1 if something is broken.

    With --rehearse every step is tried on random weights of a model's shape, before
    hours are spent on the real ones.
    """
    if rehearse is not None:
        from trace_probe.doctor.rates import RehearsalPlan
        from trace_probe.doctor.rehearsal import format_rehearsal
        from trace_probe.doctor.rehearsal import rehearse as walk

        plan = RehearsalPlan(rehearse, traces, tokens, layers, dtype, blocks, batch_size, device)
        told = walk(plan, say)
        show_result(told, format_rehearsal(told), as_json=as_json)
        return
    from trace_probe.doctor.findings import broken, checkup, format_checkup, to_json

    found = checkup(Path.cwd())
    show_result(to_json(found), format_checkup(found), as_json=as_json)
    if broken(found):
        raise typer.Exit(1)
