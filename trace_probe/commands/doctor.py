"""``trace-probe doctor``: what is here, what is missing, and how to get it."""

from pathlib import Path
from typing import Annotated

import typer

from trace_probe.commands import options
from trace_probe.commands.documented import Commands, Told
from trace_probe.commands.options import say

doctor = Commands()


@doctor.command(name="doctor")
def check(
    rehearse: Annotated[str | None, typer.Option(metavar="MODEL")] = None,
    traces: options.Count = 1000,
    tokens: options.Count = 2048,
    layers: options.Limit = None,
    blocks: options.Limit = None,
    batch_size: options.Count = 32,
    dtype: str | None = None,
    device: str | None = None,
) -> Told:
    """Look at versions, extras, devices, models and disk; exit code 1 if something is broken.

    With --rehearse every step is tried on random weights of a model's shape, before
    hours are spent on the real ones.

    Args:
        rehearse: Forecast time, memory and disk of a run of this model: a folder with its
            config.json, a hub id, or a built-in shape such as Qwen3-1.7B. No weights needed.
        traces: With --rehearse: traces of the run.
        tokens: With --rehearse: tokens of a trace.
        layers: With --rehearse: how many blocks are recorded.
        blocks: With --rehearse: build only this many, and scale up. Default: all that fit.
        batch_size: With --rehearse: traces written at once.
        device: cpu, cuda, cuda:1, mps.
    """
    if rehearse is not None:
        from trace_probe.doctor.rates import RehearsalPlan
        from trace_probe.doctor.rehearsal import rehearse as walk

        plan = RehearsalPlan(rehearse, traces, tokens, layers, dtype, blocks, batch_size, device)
        return Told(walk(plan, say))
    from trace_probe.doctor.findings import broken, checkup, format_checkup, to_json

    found = checkup(Path.cwd())
    return Told(to_json(found), format_checkup(found), code=int(broken(found)))
