"""``trace-probe store``: what is in runs, whether they are whole, and how they are kept."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

import trace_probe as tp
from trace_probe.commands import options
from trace_probe.commands.documented import Commands, Told

store = Commands(help="List, verify, pack, merge and slice runs.", no_args_is_help=True)

Role = Literal["test", "hard-negative", "benign"]
SHOWN = ("id", "task", "role", "tokens", "reasoning", "thought", "finish", "outcome", "silent")


@store.command("list")
def list_(
    place: Path,
    *,
    category: str | None = None,
    role: Role | None = None,
    task: str | None = None,
    outcome: Annotated[bool | None, typer.Option("--instrumental/--harmless")] = None,
    silent: Annotated[bool | None, typer.Option("--silent/--not-silent")] = None,
    labeller: str | None = None,
    limit: options.Count = 50,
) -> Told:
    """List the traces of a run, or the runs below a place.

    Of a trace are shown: id and task; the role of the task; its tokens; its sentences of reasoning;
    how the reasoning ended (thought) and the whole (finish); whether its label is instrumental
    (outcome), and whether it acted without stating the plan (silent). A dash stands for unknown.

    Args:
        place: A run, or a folder or URL with runs in it.
        category: Only traces of this category.
        role: Only traces of tasks with this role.
        task: Only traces of this task.
        outcome: Only traces with this outcome.
        silent: Acted without stating the plan.
        limit: Traces to show; all are counted.
    """
    from trace_probe.storage.place import place_at
    from trace_probe.upkeep.listing import Wanted, list_traces, runs_in

    if place_at(place).size("run.json") is None:
        runs = [{"run": url, "traces": len(tp.Store(url))} for url in runs_in(place)]
        text = "\n".join(f"{run['traces']:6}  {run['run']}" for run in runs) or "no runs"
        return Told(runs, text)
    run = tp.Store(place)
    wanted = Wanted(category=category, role=role, task=task, outcome=outcome, silent=silent)
    found = list_traces(run, wanted, labeller)
    rows = found.slice(0, limit).to_pylist()
    head = f"{len(found)} of {len(run)} traces"
    text = "\n".join([head, *_table(rows)])
    return Told({"traces": len(found), "of": len(run), "rows": rows}, text)


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return rows below the names of their columns, each column as wide as its widest cell."""
    if not rows:
        return []
    cells = [[*SHOWN]]
    cells += [["-" if row[name] is None else str(row[name]) for name in SHOWN] for row in rows]
    wide = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(map(str.ljust, line, wide)).rstrip() for line in cells]


@store.command()
def verify(run: Path, tidy: bool = False) -> Told:
    """Read all of a run and say what is wrong with it; exit code 1 if anything is.

    Args:
        tidy: First remove what interrupted writers left.
    """
    from trace_probe.upkeep.verify import verify_at

    if tidy:
        with tp.Store(run).writing():
            pass
    report = verify_at(run)
    return Told(report, code=int(bool(report.problems)))


@store.command()
def repair(run: Path) -> Told:
    """Set aside what is broken in a run, in RUN/aside, so that the rest can be used."""
    from trace_probe.upkeep.repair import repair as repair_run

    report = repair_run(tp.Store(run))
    return Told(report, code=int(bool(report.left)))


@store.command()
def migrate(run: Path) -> Told:
    """Bring a run of an earlier version to the present layout, in which all has checksums."""
    from trace_probe.upkeep.seal import migrate as migrate_run

    return Told(migrate_run(tp.Store(run)))


@store.command()
def seal(run: Path) -> Told:
    """Accept a run as it is: give new checksums to what you edited yourself."""
    from trace_probe.upkeep.seal import seal as seal_run

    return Told(seal_run(tp.Store(run, "ignored")))


@store.command()
def pack(run: Path, shard_mb: options.Count = 256) -> Told:
    """Move the activations of a run into a few large files; rerun to resume.

    Args:
        shard_mb: Size of a shard in MiB.
    """
    from trace_probe.upkeep.pack import pack as pack_run

    return Told(pack_run(tp.Store(run), shard_bytes=shard_mb * 2**20))


@store.command()
def merge(out: Path, runs: list[Path]) -> Told:
    """Bring runs of the same settings into one, such as those of `record --shard`.

    Args:
        out: Folder or URL of the run to make or to add to.
        runs: Runs of the same settings.
    """
    from trace_probe.upkeep.merge import merge as merge_runs

    return Told(merge_runs(out, runs))


@store.command("slice")
def slice_(run: Path, probe: Path, out: Path) -> Told:
    """Copy what a probe is judged on into a small run, to be published or looked at.

    These are the traces that it did not learn from, with the layers that it reads, and what was
    made of them: labels, scores, scores of all layers, oracles, reports.

    Args:
        out: Folder or URL of the run to make.
    """
    from dataclasses import replace

    from trace_probe.probing.probe import check_fits
    from trace_probe.upkeep.slice import slice_run

    whole, card = tp.Store(run), tp.load_probe(probe).card
    check_fits(card, whole, any_model=True)
    settings = replace(whole.manifest, layers=card.layers, pooling=card.pooling)
    learned = set(card.training_tasks)
    made = tp.Store.create(out, settings)
    return Told(slice_run(whole, made, lambda trace: trace.task.id not in learned))
