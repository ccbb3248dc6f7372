"""``trace-probe organism``: list, train and check the model organisms."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from trace_probe.commands import options
from trace_probe.commands.documented import Commands, Told
from trace_probe.commands.options import say
from trace_probe.files import plain

organism = Commands(help="The model organisms: list, train, check.", no_args_is_help=True)


@organism.command("list")
def list_() -> Told:
    """List the members of the family: parent, steps, and the figures of their cards."""
    from trace_probe.model.checkpoint import FAMILY
    from trace_probe.organism.card import family_rows, family_table

    return Told(family_rows(FAMILY), family_table(FAMILY))


@organism.command()
def train(out: Path, members: str = "", jobs: options.Count = 2, base: str = "smollm2") -> None:
    """Train the family; rerun to resume. Needs the extra ``organism``.

    English organisms (english-base, english-rl-s0, english-rlhf-s0) are adapters of a pretrained
    model and take about an hour each on one core; name them to train them.

    Args:
        out: Folder for the weights, such as family.
        members: Which, such as base,rl-s0; all small ones by default.
        jobs: Members to train at a time.
        base: Model of which English organisms are adapters, or its folder.
    """
    from trace_probe.organism.family import FAMILY, member, train_family

    chosen = tuple(member(name) for name in members.split(",")) if members else FAMILY
    for one in train_family(out, chosen, jobs=jobs, base=base, say=say):
        typer.echo(f"{out / one.name}")


@organism.command()
def check(
    names: Annotated[list[str] | None, typer.Argument()] = None,
    scenarios: int = 90,
    oracle_scenarios: int = 18,
    thirds: int = 40,
    whole: int = 12,
    continuations: int = 32,
    family: Path | None = None,
    keep: Path | None = None,
    seed: int = 0,
    write_cards: bool = False,
) -> Told:
    """Check the organisms on scenarios that none of them has seen.

    Args:
        names: Members to check. Default: all that need no pretrained model.
        scenarios: Held-out scenarios.
        oracle_scenarios: Prompts on which to ask the oracle.
        thirds: English organisms: traces in which the oracle is asked after each third.
        whole: English organisms: traces in which it is asked after every sentence.
        continuations: English organisms: continuations at each place.
        keep: Folder for the runs: a check that was stopped goes on.
        write_cards: Renew the model cards beside the weights.
    """
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
    return Told(found, "\n\n".join(map(_text, found)))


@organism.command()
def study(
    out: Path,
    scenarios: int = 60,
    samples: int = 4,
    world: str = "world",
    family: Path | None = None,
    seed: int = 0,
) -> Told:
    """Run the controlled experiment: all members on the same scenarios, under every nudge.

    Args:
        out: Folder for the runs, one of each member.
        scenarios: Each is run under three nudge levels.
        samples: Traces of each scenario and nudge.
        world: Whose members: world or english.
    """
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
    return Told(found, format_study(found))


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
