"""``trace-probe store``: what is in runs, whether they are whole, and how they are kept."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

import trace_probe as tp
from trace_probe.commands.options import AsJson, Labeller, Probe, Run, show_result

store = typer.Typer(help="List, verify, pack, merge and slice runs.", no_args_is_help=True)

Role = Literal["test", "hard-negative", "benign"]
SHOWN = ("id", "task", "role", "tokens", "reasoning", "thought", "finish", "outcome", "silent")


@store.command("list")
def list_(
    place: Annotated[Path, typer.Argument(help="A run, or a folder or URL with runs in it.")],
    *,
    category: Annotated[str | None, typer.Option(help="Only traces of this category.")] = None,
    role: Annotated[Role | None, typer.Option(help="Only traces of tasks with this role.")] = None,
    task: Annotated[str | None, typer.Option(help="Only traces of this task.")] = None,
    outcome: Annotated[
        bool | None,
        typer.Option("--instrumental/--harmless", help="Only traces with this outcome."),
    ] = None,
    silent: Annotated[
        bool | None, typer.Option("--silent/--not-silent", help="Acted without stating the plan.")
    ] = None,
    labeller: Labeller = None,
    limit: Annotated[int, typer.Option(min=1, help="Traces to show; all are counted.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List the traces of a run, or the runs below a place."""
    from trace_probe.storage.place import place_at
    from trace_probe.upkeep.listing import Wanted, list_traces, runs_in

    if place_at(place).size("run.json") is None:
        runs = [{"run": url, "traces": len(tp.Store(url))} for url in runs_in(place)]
        text = "\n".join(f"{run['traces']:6}  {run['run']}" for run in runs) or "no runs"
        show_result(runs, text, as_json=as_json)
        return
    run = tp.Store(place)
    wanted = Wanted(category=category, role=role, task=task, outcome=outcome, silent=silent)
    found = list_traces(run, wanted, labeller)
    rows = found.slice(0, limit).to_pylist()
    head = f"{len(found)} of {len(run)} traces"
    text = "\n".join([head, *(_line(row) for row in rows)])
    show_result({"traces": len(found), "of": len(run), "rows": rows}, text, as_json=as_json)


def _line(row: dict[str, Any]) -> str:
    cells = ("-" if row[name] is None else str(row[name]) for name in SHOWN)
    return "  ".join(cells)


@store.command()
def verify(
    run: Run,
    tidy: Annotated[
        bool, typer.Option("--tidy", help="First remove what interrupted writers left.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Read all of a run and say what is wrong with it; exit code 1 if anything is."""
    from trace_probe.upkeep.verify import format_verify, verify_at

    if tidy:
        with tp.Store(run).writing():
            pass
    report = verify_at(run)
    show_result(report, format_verify(report), as_json=as_json)
    if report.problems:
        raise typer.Exit(1)


@store.command()
def repair(run: Run, as_json: AsJson = False) -> None:
    """Set aside what is broken in a run, in RUN/aside, so that the rest can be used."""
    from trace_probe.upkeep.repair import format_repair
    from trace_probe.upkeep.repair import repair as repair_run

    report = repair_run(tp.Store(run))
    show_result(report, format_repair(report), as_json=as_json)
    if report.left:
        raise typer.Exit(1)


@store.command()
def migrate(run: Run, as_json: AsJson = False) -> None:
    """Bring a run of an earlier version to the present layout, in which all has checksums."""
    from trace_probe.upkeep.seal import format_seal
    from trace_probe.upkeep.seal import migrate as migrate_run

    report = migrate_run(tp.Store(run))
    show_result(report, format_seal(report), as_json=as_json)


@store.command()
def seal(run: Run, as_json: AsJson = False) -> None:
    """Accept a run as it is: give new checksums to what you edited yourself."""
    from trace_probe.upkeep.seal import format_seal
    from trace_probe.upkeep.seal import seal as seal_run

    report = seal_run(tp.Store(run, "ignored"))
    show_result(report, format_seal(report), as_json=as_json)


@store.command()
def pack(
    run: Run,
    shard_mb: Annotated[int, typer.Option(min=1, help="Size of a shard in MiB.")] = 256,
    as_json: AsJson = False,
) -> None:
    """Move the activations of a run into a few large files; rerun to resume."""
    from trace_probe.upkeep.pack import format_pack
    from trace_probe.upkeep.pack import pack as pack_run

    report = pack_run(tp.Store(run), shard_bytes=shard_mb * 2**20)
    show_result(report, format_pack(report), as_json=as_json)


@store.command()
def merge(
    out: Annotated[Path, typer.Argument(help="Folder or URL of the run to make or to add to.")],
    runs: Annotated[list[Path], typer.Argument(help="Runs of the same settings.")],
    as_json: AsJson = False,
) -> None:
    """Bring runs of the same settings into one, such as those of `record --shard`."""
    from trace_probe.upkeep.merge import format_merge
    from trace_probe.upkeep.merge import merge as merge_runs

    report = merge_runs(out, runs)
    show_result(report, format_merge(report), as_json=as_json)


@store.command("slice")
def slice_(
    run: Run,
    probe: Probe,
    out: Annotated[Path, typer.Argument(help="Folder or URL of the run to make.")],
    as_json: AsJson = False,
) -> None:
    """Copy what a probe is judged on into a small run, to be published or looked at.

    These are the traces that it did not learn from, with the layers that it reads, and what was
    made of them: labels, scores, scores of all layers, oracles, reports.
    """
    from dataclasses import replace

    from trace_probe.upkeep.slice import format_slice, slice_run

    whole, card = tp.Store(run), tp.load_probe(probe).card
    settings = replace(whole.manifest, layers=card.layers, pooling=card.pooling)
    learned = set(card.training_tasks)
    report = slice_run(
        whole, tp.Store.create(out, settings), lambda trace: trace.task.id not in learned
    )
    show_result(report, format_slice(report), as_json=as_json)
