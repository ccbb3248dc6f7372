"""``trace-probe probe``: whether a saved probe is whole; to and from a hub.

``trace-probe recheck``: whether a threshold still holds after a change of the model.
"""

from pathlib import Path
from typing import Annotated

import typer

import trace_probe as tp
from trace_probe.commands.options import AsJson, Labeller, Probe, show_result

probe = typer.Typer(help="Verify, seal, push and pull saved probes.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(help="Folder of a saved probe.")]
Address = Annotated[str, typer.Argument(help="org/name on the hub, or org/name@revision.")]
Endpoint = Annotated[
    str | None,
    typer.Option(
        help="Another hub than huggingface.co: the URL of a server that speaks its protocol, or a "
        "folder."
    ),
]


@probe.command()
def verify(folder: Folder, as_json: AsJson = False) -> None:
    """Compare every file of a probe with its checksum; exit with 1 if anything is wrong."""
    from trace_probe.monitor.sharing import format_probe_report, verify_probe

    report = verify_probe(folder)
    show_result(report, format_probe_report(report), as_json=as_json)
    if report.problems:
        raise typer.Exit(1)


@probe.command()
def seal(folder: Folder, as_json: AsJson = False) -> None:
    """Accept a probe as it is: give new checksums to what you edited yourself."""
    from trace_probe.monitor.sharing import seal_probe

    seal_probe(folder)
    show_result({"probe": str(folder)}, f"{folder}: sealed", as_json=as_json)


@probe.command()
def push(
    folder: Folder,
    address: Address,
    run: Annotated[
        Path | None,
        typer.Option(help="Run on which it was evaluated, for its figures beside the baselines."),
    ] = None,
    endpoint: Endpoint = None,
    as_json: AsJson = False,
) -> None:
    """Put a probe on a hub, with a page that says what it guarantees and what its limits are.

    A token is read from where `hf auth login` keeps it, or from the environment (HF_TOKEN).
    """
    from trace_probe.monitor.sharing import push_probe

    commit = push_probe(
        folder, address, run=None if run is None else tp.Store(run), endpoint=endpoint
    )
    show_result({"commit": commit}, f"{folder} is {address} at {commit}", as_json=as_json)


@probe.command()
def pull(
    address: Address, folder: Folder, endpoint: Endpoint = None, as_json: AsJson = False
) -> None:
    """Fetch a probe from a hub into a new folder, once everything in it was checked."""
    from trace_probe.monitor.sharing import pull_probe

    commit = pull_probe(address, folder, endpoint=endpoint)
    text = f"{folder} is {address} at {commit}"
    show_result({"commit": commit, "probe": str(folder)}, text, as_json=as_json)


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
