"""Commands about labels: ``label`` and ``agreement``."""

from pathlib import Path
from typing import Annotated

import typer

import trace_probe as tp
from trace_probe.commands import options
from trace_probe.commands.options import json_object, price_pair, say, show_result

judging = typer.Typer()


@judging.command()
def label(
    run: options.Run,
    by: Annotated[
        str,
        typer.Option(
            help="rules, judge:MODEL[,MODEL...], paper:MODEL, human:FILE, calls:PATTERNS, "
            "calls:FILE.toml or field:NAME."
        ),
    ] = "rules",
    base_url: options.BaseUrls = None,
    extra: options.Extra = None,
    cache: Annotated[Path | None, typer.Option(help="Folder that remembers verdicts.")] = None,
    price: options.Price = None,
    concurrency: options.Concurrency = 32,
    per_minute: options.PerMinute = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only estimate what it would cost.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Label the traces of a run: outcome, first sentence that states the plan, first action."""
    from trace_probe.labelling import runs as labelling
    from trace_probe.labelling.judge import Judge, JudgeServers
    from trace_probe.labelling.runs import labellers
    from trace_probe.model.endpoint import Patience

    store, cost = tp.Store(run), price_pair(price)
    where = JudgeServers(
        tuple(base_url or ()),
        cache or labelling.default_cache(),
        json_object(extra),
        Patience(concurrency=concurrency, per_minute=per_minute),
    )
    chosen = labellers(by, where)
    about = {one.name: one.estimate(store.traces()) for one in chosen if isinstance(one, Judge)}
    lines = [f"{n}: about {labelling.format_cost(c, cost)}" for n, c in about.items()]
    estimates = {name: one.to_json(cost) for name, one in about.items()}
    if dry_run:
        return show_result(estimates, "\n".join(lines) or "costs nothing", as_json=as_json)
    for line in lines:
        say(line)
    found = [labelling.label_run(store, one) for one in chosen]
    values = [one.to_json(estimates.get(one.labeller), cost) for one in found]
    text = "\n".join(labelling.format_labelled(one, cost) for one in found)
    return show_result(values[0] if len(values) == 1 else values, text, as_json=as_json)


@judging.command()
def agreement(
    run: options.Run,
    labeller: Annotated[
        list[str] | None, typer.Option(help="Compare this labeller; may be repeated. Default: all.")
    ] = None,
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
) -> None:
    """Compare the labellers of a run: agreement, kappas, and where they differ."""
    from trace_probe.labelling.agreement import agreement as compare
    from trace_probe.labelling.agreement import format_agreement

    found = compare(tp.Store(run), labeller, seed=seed)
    show_result(found, format_agreement(found), as_json=as_json)
