"""A study as text: tables of shares and differences, and what may not be read into them."""

from trace_probe.statistics.bootstrap import Metric, shown
from trace_probe.study.rates import FIGURES
from trace_probe.study.study import Difference, Study
from trace_probe.visible import aligned


def format_study(found: Study) -> str:
    """Return a study as tables and sentences."""
    parts = [
        [f"{found.tasks} test tasks in all runs; intervals are 95 %, over tasks"],
        _shares(found),
        _task_rates(found),
        _agreement(found),
        _added(found),
        _differences(found),
        _across_seeds(found),
        [*map(str, found.comparisons), *found.notes],
    ]
    return "\n\n".join("\n".join(part) for part in parts if part)


def _shares(found: Study) -> list[str]:
    names = [figure.name for figure in FIGURES]
    cells = {(one.run, one.group, one.figure): one.value for one in found.shares}
    groups = dict.fromkeys((one.run, one.group) for one in found.shares)
    rows = [
        [run if group == "all" else "", group, *(_cell(cells.get((run, group, n))) for n in names)]
        for run, group in groups
    ]
    heads = ["", "", names[0], *(f"{name}, of these" for name in names[1:])]
    facts = [factor.name for factor in found.factors if factor.kind == "fact"]
    warning = f"{', '.join(facts)}: known only after the act, so no cause of it"
    return [*aligned([heads, *rows]), *([warning] if facts else [])]


def _task_rates(found: Study) -> list[str]:
    cells = {(one.run, one.condition, one.category): one.value for one in found.rates}
    categories = [c for c in dict.fromkeys(one.category for one in found.rates) if c != "all"]
    rows = [
        [run, condition]
        + [_percent(cells.get((run, condition, category))) for category in ("all", *categories)]
        for run, condition in dict.fromkeys((one.run, one.condition) for one in found.rates)
    ]
    return aligned([["percent of tasks", "", "IR", *(f"CIR {name}" for name in categories)], *rows])


def _agreement(found: Study) -> list[str]:
    rows = [
        [run, f"{pair.first} / {pair.second}", _cell(pair.iar), _cell(pair.kappa), str(pair.n)]
        for run, agreed in found.agreement.items()
        for pair in agreed.pairs
    ]
    return aligned([["labellers", "", "IAR", "Cohen's kappa", "traces"], *rows]) if rows else []


def _added(found: Study) -> list[str]:
    rows = [
        [
            one.run,
            f"{one.condition}={one.level}",
            *(_cell(value) for value in (one.rate, one.without)),
            shown(one.added, sign="+"),
            _cell(one.explained),
            f"{one.mcnemar.first_only}:{one.mcnemar.second_only}, p {one.mcnemar.p:.2g}",
        ]
        for one in found.added
    ]
    heads = ["what a condition adds", "", "rate under it", "without it", "added"]
    return aligned([[*heads, "share of the rate", "McNemar"], *rows]) if rows else []


def _differences(found: Study) -> list[str]:
    rows = [
        [
            f"{one.first} - {one.second}",
            one.group,
            one.figure,
            shown(one.value, sign="+"),
            "" if one.controlled else "NOT controlled",
            "" if one.mcnemar is None else _mcnemar(one),
        ]
        for one in found.differences
        if one.controlled or (one.group == "all" and one.mcnemar)
    ]
    heads = ["on the same tasks", "", "figure", "difference", "", "McNemar"]
    return aligned([heads, *rows]) if rows else []


def _mcnemar(one: Difference) -> str:
    test = one.mcnemar
    return f"{test.first_only}:{test.second_only}, p {test.p:.2g}" if test else ""


def _across_seeds(found: Study) -> list[str]:
    seeds = list(dict.fromkeys(seed for one in found.across_seeds for seed in one.seeds))
    rows = [
        [
            f"{one.first} - {one.second}",
            one.figure,
            *(shown(one.seeds.get(seed), sign="+") for seed in seeds),
            shown(one.mean, sign="+"),
            "yes" if one.in_every_seed else "no",
        ]
        for one in found.across_seeds
    ]
    heads = ["seed by seed", "figure", *seeds, "all seeds", "excludes 0 in every seed"]
    return aligned([heads, *rows]) if rows else []


def _cell(value: Metric | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f} n={value.n}"


def _percent(value: Metric | None) -> str:
    if value is None:
        return "-"
    if not value.has_interval:
        return f"{100 * value.estimate:.1f} (no interval)"
    return f"{100 * value.estimate:.1f} [{100 * value.lower:.0f}, {100 * value.upper:.0f}]"
