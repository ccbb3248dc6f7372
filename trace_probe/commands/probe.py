"""``trace-probe probe``: whether a saved probe is whole; to and from a hub."""

from pathlib import Path
from typing import Annotated

import typer

import trace_probe as tp
from trace_probe.commands.options import AsJson, show_result

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
    from trace_probe.monitor.integrity import format_probe_report, verify_probe

    report = verify_probe(folder)
    show_result(report, format_probe_report(report), as_json=as_json)
    if report.problems:
        raise typer.Exit(1)


@probe.command()
def seal(folder: Folder, as_json: AsJson = False) -> None:
    """Accept a probe as it is: give new checksums to what you edited yourself."""
    from trace_probe.monitor.integrity import seal_probe

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
