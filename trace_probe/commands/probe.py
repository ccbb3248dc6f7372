"""``trace-probe probe``: whether a saved probe is whole; to and from a hub.

``trace-probe recheck``: whether a threshold still holds after a change of the model.
"""

from pathlib import Path
from typing import Annotated

import typer

import trace_probe as tp
from trace_probe.commands.documented import Commands, Told

probe = Commands(help="Verify, seal, push and pull saved probes.", no_args_is_help=True)


@probe.command()
def verify(folder: Path) -> Told:
    """Compare every file of a probe with its checksum; exit with 1 if anything is wrong."""
    from trace_probe.monitor.sharing import verify_probe

    report = verify_probe(folder)
    return Told(report, code=int(bool(report.problems)))


@probe.command()
def seal(folder: Path) -> Told:
    """Accept a probe as it is: give new checksums to what you edited yourself."""
    from trace_probe.monitor.sharing import seal_probe

    seal_probe(folder)
    return Told({"probe": str(folder)}, f"{folder}: sealed")


@probe.command()
def push(folder: Path, address: str, run: Path | None = None, endpoint: str | None = None) -> Told:
    """Put a probe on a hub, with a page that says what it guarantees and what its limits are.

    A token is read from where `hf auth login` keeps it, or from the environment (HF_TOKEN).

    Args:
        run: Run on which it was evaluated, for its figures beside the baselines.
    """
    from trace_probe.monitor.sharing import push_probe

    commit = push_probe(
        folder, address, run=None if run is None else tp.Store(run), endpoint=endpoint
    )
    return Told({"commit": commit}, f"{folder} is {address} at {commit}")


@probe.command()
def pull(address: str, folder: Path, endpoint: str | None = None) -> Told:
    """Fetch a probe from a hub into a new folder, once everything in it was checked."""
    from trace_probe.monitor.sharing import pull_probe

    commit = pull_probe(address, folder, endpoint=endpoint)
    text = f"{folder} is {address} at {commit}"
    return Told({"commit": commit, "probe": str(folder)}, text)


rechecking = Commands()

EXITS = {"holds": 0, "stale": 3, "degraded": 4, "cannot tell": 5}


@rechecking.command()
def recheck(
    probe: Path,
    before: Path,
    after: Path,
    labeller: str | None = None,
    margin: Annotated[float, typer.Option(min=0)] = 0.05,
    loss: Annotated[float, typer.Option(min=0)] = 0.1,
    keep: bool = True,
) -> Told:
    """Say whether a threshold still holds after a change of engine, precision, template or weights.

    Exit codes: 0 holds, 3 stale (calibrate again), 4 degraded (train again), 5 cannot tell. What
    each means, and by which rule, stands in docs/metrics.md.

    Args:
        before: Labelled run from before the change.
        after: The same traces read by the changed model (`observe`), or the same tasks recorded by
            it.
        margin: How far a rate may rise, or a score may move as a share of the spread of scores.
        loss: How far the ranking and the share caught may fall.
        keep: Keep the verdict beside the probe, where watch and serve see it.
    """
    from trace_probe.monitor.recheck import recheck as recheck_on
    from trace_probe.monitor.recheck import save_recheck
    from trace_probe.probing.hub import local_folder

    was, now = tp.Store(before), tp.Store(after)
    detector = tp.load_detector(probe, decoding=was.manifest.sampling)
    found = recheck_on(was, now, detector, labeller=labeller, margin=margin, loss=loss)
    if keep:
        save_recheck(local_folder(probe), found)
    return Told(found, code=EXITS[found.verdict])
