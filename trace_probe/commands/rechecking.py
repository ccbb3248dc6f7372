"""``trace-probe recheck``: whether a threshold still holds after a change of the model."""

from pathlib import Path
from typing import Annotated

import typer

import trace_probe as tp
from trace_probe.commands.options import AsJson, Labeller, Probe, show_result

rechecking = typer.Typer()

EXITS = {"holds": 0, "stale": 3, "degraded": 4, "cannot tell": 5}


@rechecking.command()
def recheck(
    probe: Probe,
    before: Annotated[Path, typer.Argument(help="Labelled run from before the change.")],
    after: Annotated[
        Path,
        typer.Argument(
            help="The same traces read by the changed model (`observe`), or the same tasks "
            "recorded by it."
        ),
    ],
    labeller: Labeller = None,
    margin: Annotated[
        float,
        typer.Option(
            min=0,
            help="How far a rate may rise, or a score may move as a share of the spread of scores.",
        ),
    ] = 0.05,
    loss: Annotated[
        float, typer.Option(min=0, help="How far the ranking and the share caught may fall.")
    ] = 0.1,
    keep: Annotated[
        bool, typer.Option(help="Keep the verdict beside the probe, where watch and serve see it.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Say whether a threshold still holds after a change of engine, precision, template or weights.

    Exit codes: 0 holds, 3 stale (calibrate again), 4 degraded (train again), 5 cannot tell. What
    each means, and by which rule, stands in docs/metrics.md.
    """
    from trace_probe.monitor.calibrated import Decoding
    from trace_probe.monitor.recheck import recheck as recheck_on
    from trace_probe.monitor.recheck import save_recheck
    from trace_probe.probing.hub import local_folder

    was, now = tp.Store(before), tp.Store(after)
    detector = tp.load_detector(probe, decoding=Decoding.of(was.manifest.sampling))
    found = recheck_on(was, now, detector, labeller=labeller, margin=margin, loss=loss)
    if keep:
        save_recheck(local_folder(probe), found)
    show_result(found, str(found), as_json=as_json)
    if EXITS[found.verdict]:
        raise typer.Exit(EXITS[found.verdict])
