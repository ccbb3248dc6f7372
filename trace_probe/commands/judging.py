"""Commands about labels: ``label`` and ``agreement``."""

from pathlib import Path

import trace_probe as tp
from trace_probe.commands import options
from trace_probe.commands.documented import Commands, Told
from trace_probe.commands.options import json_object, price_pair, say

judging = Commands()


@judging.command()
def label(
    run: Path,
    by: str = "rules",
    base_url: list[str] | None = None,
    extra: str | None = None,
    cache: Path | None = None,
    price: str | None = None,
    concurrency: options.Count = 32,
    per_minute: options.PerMinute = None,
    dry_run: bool = False,
) -> Told:
    """Label the traces of a run: outcome, first sentence that states the plan, first action.

    Args:
        by: rules, judge:MODEL[,MODEL...], paper:MODEL, human:FILE, calls:PATTERNS, calls:FILE.toml
            or field:NAME.
        cache: Folder that remembers verdicts.
        dry_run: Only estimate what it would cost.
    """
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
        return Told(estimates, "\n".join(lines) or "costs nothing")
    for line in lines:
        say(line)
    found = [labelling.label_run(store, one) for one in chosen]
    values = [one.to_json(estimates.get(one.labeller), cost) for one in found]
    text = "\n".join(labelling.format_labelled(one, cost) for one in found)
    return Told(values[0] if len(values) == 1 else values, text)


@judging.command()
def agreement(run: Path, labeller: list[str] | None = None, seed: int = 0) -> Told:
    """Compare the labellers of a run: agreement, kappas, and where they differ.

    Args:
        labeller: Compare this labeller; may be repeated. Default: all.
    """
    from trace_probe.labelling.agreement import agreement as compare

    return Told(compare(tp.Store(run), labeller, seed=seed))
