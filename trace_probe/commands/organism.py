"""``trace-probe organism``: list, train and check the model organisms."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from trace_probe.commands.options import AsJson, Seed, say, show_result
from trace_probe.files import plain

organism = typer.Typer(help="The model organisms: list, train, check.", no_args_is_help=True)


@organism.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the members of the family: parent, steps, and the figures of their cards."""
    from trace_probe.model.checkpoint import FAMILY
    from trace_probe.organism.card import family_rows, family_table

    show_result(family_rows(FAMILY), family_table(FAMILY), as_json=as_json)


@organism.command()
def train(
    out: Annotated[Path, typer.Argument(help="Folder for the weights, such as family.")],
    members: Annotated[
        str, typer.Option(help="Which, such as base,rl-s0; all small ones by default.")
    ] = "",
    jobs: Annotated[int, typer.Option(min=1, help="Members to train at a time.")] = 2,
    base: Annotated[
        str, typer.Option(help="Model of which English organisms are adapters, or its folder.")
    ] = "smollm2",
) -> None:
    """Train the family; rerun to resume. Needs the extra ``organism``.

    English organisms (english-base, english-rl-s0, english-rlhf-s0) are adapters of a pretrained
    model and take about an hour each on one core; name them to train them.
    """
    from trace_probe.organism.family import FAMILY, member, train_family

    chosen = tuple(member(name) for name in members.split(",")) if members else FAMILY
    for one in train_family(out, chosen, jobs=jobs, base=base, say=say):
        typer.echo(f"{out / one.name}")


@organism.command()
def check(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Members to check. Default: all that need no pretrained model."),
    ] = None,
    scenarios: Annotated[int, typer.Option(help="Held-out scenarios.")] = 90,
    oracle_scenarios: Annotated[int, typer.Option(help="Prompts on which to ask the oracle.")] = 18,
    thirds: Annotated[
        int,
        typer.Option(
            help="English organisms: traces in which the oracle is asked after each third."
        ),
    ] = 40,
    whole: Annotated[
        int,
        typer.Option(help="English organisms: traces in which it is asked after every sentence."),
    ] = 12,
    continuations: Annotated[
        int, typer.Option(help="English organisms: continuations at each place.")
    ] = 32,
    family: Annotated[
        Path | None, typer.Option(help="Where they were trained; those of the package by default.")
    ] = None,
    keep: Annotated[
        Path | None, typer.Option(help="Folder for the runs: a check that was stopped goes on.")
    ] = None,
    seed: Seed = 0,
    write_cards: Annotated[
        bool, typer.Option("--write-cards", help="Renew the model cards beside the weights.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check the organisms on scenarios that none of them has seen."""
    from trace_probe.model.checkpoint import organism_path
    from trace_probe.model.local import load_model
    from trace_probe.organism.card import write_card
    from trace_probe.organism.check import CheckPlan
    from trace_probe.organism.check import check as check_organism
    from trace_probe.organism.degrees import DegreesPlan
    from trace_probe.organism.family import FAMILY, loaded_as, member
    from trace_probe.world.worlds import WORLDS

    by_degrees = DegreesPlan(thirds, whole, continuations)
    plan = CheckPlan(scenarios, oracle_scenarios=oracle_scenarios, seed=seed, degrees=by_degrees)
    found = []
    for one in [member(name) for name in names] if names else FAMILY:
        with TemporaryDirectory() as folder:
            model = load_model(loaded_as(one, family))
            run = (keep or Path(folder)) / one.name
            quality = check_organism(model, run, plan, WORLDS[one.world])
        if write_cards:
            write_card(family / one.name if family else organism_path(one.name), one, quality, plan)
        found.append(plain(quality))
    show_result(found, "\n\n".join(map(_text, found)), as_json=as_json)


@organism.command()
def study(
    out: Annotated[Path, typer.Argument(help="Folder for the runs, one of each member.")],
    scenarios: Annotated[int, typer.Option(help="Each is run under three nudge levels.")] = 60,
    samples: Annotated[int, typer.Option(help="Traces of each scenario and nudge.")] = 4,
    world: Annotated[str, typer.Option(help="Whose members: world or english.")] = "world",
    family: Annotated[
        Path | None, typer.Option(help="Where they were trained; those of the package by default.")
    ] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Run the controlled experiment: all members on the same scenarios, under every nudge."""
    from trace_probe.organism.experiment import experiment
    from trace_probe.organism.family import world_named
    from trace_probe.study.study import study as compare
    from trace_probe.study.tables import format_study

    runs = experiment(
        out,
        scenarios=scenarios,
        samples=samples,
        seed=seed,
        world=world_named(world),
        family=family,
    )
    found = compare(runs, seed=seed)
    show_result(found, format_study(found), as_json=as_json)


def _text(quality: Mapping[str, object]) -> str:
    """Return one organism's figures, a line each."""
    return "\n".join(
        f"{name.replace('_', ' '):34} {_cell(value)}" for name, value in _flat(quality)
    )


def _flat(figures: Mapping[str, object], above: str = "") -> Iterator[tuple[str, object]]:
    """Yield figures by name, those of a group under the name of the group."""
    for name, value in figures.items():
        if isinstance(value, dict) and "estimate" not in value:
            yield from _flat(value, "" if name == "degrees" else f"{name} ")
        else:
            yield f"{above}{name}", value


def _cell(value: object) -> str:
    from trace_probe.statistics.bootstrap import Metric

    if isinstance(value, dict):
        return f"{Metric.from_json(value):.3f} n={value['n']}"
    return "-" if value is None else str(value)
