"""Commands that compare models: ``study`` and ``pairs``."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from trace_probe.commands.options import AsJson, Labeller, show_result

studying = typer.Typer()


@studying.command()
def study(
    runs: Annotated[list[Path], typer.Argument(help="Runs of the same tasks.")],
    by: Annotated[
        str, typer.Option(help="Break rates down by these conditions or facts: nudge,watched.")
    ] = "",
    labeller: Labeller = None,
    seed: int = 0,
    as_json: AsJson = False,
) -> None:
    """Compare runs on the tasks they share: rates, paired differences, what the nudge adds."""
    from trace_probe.store import Store
    from trace_probe.study.study import study as compare
    from trace_probe.study.tables import format_study

    factors = tuple(filter(None, (name.strip() for name in by.split(","))))
    found = compare([Store(run) for run in runs], labeller=labeller, by=factors, seed=seed)
    show_result(asdict(found), format_study(found), as_json=as_json)


@studying.command()
def pairs(as_json: AsJson = False) -> None:
    """List the pairs of open models with one known difference, and those that only look so."""
    from trace_probe.study.pairs import COUSINS, PAIRS, SWITCHES, format_registry

    value = {
        "pairs": [asdict(one) for one in PAIRS],
        "switches": [asdict(one) for one in SWITCHES],
        "cousins": [asdict(one) for one in COUSINS],
    }
    show_result(value, format_registry(), as_json=as_json)
