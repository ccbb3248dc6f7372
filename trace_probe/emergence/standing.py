"""Where probes stand, a row for each: beside the best text, and beside what there is to know.

Everything is on tasks that the probe has not seen. The oracle's figure, and the share of it that
the probe gets, are of the traces that the oracle was asked of.

The oracle on the line of the headline: what there was to know, at the same siblings' rate.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from trace_probe.emergence.curve import NAME, drawn_of
from trace_probe.emergence.efficiency import BEFORE_ACT, BEFORE_SAID, efficiency
from trace_probe.errors import NotEnoughData
from trace_probe.evaluation.report import RATES as HEADLINE_RATES
from trace_probe.evaluation.report import Report, at_rate, read_report
from trace_probe.files import without_nan
from trace_probe.probing.probe import ProbeCard
from trace_probe.statistics.bootstrap import Metric, shown
from trace_probe.statistics.metrics import Scores
from trace_probe.store import Store
from trace_probe.visible import aligned

MOMENTS = {"headline": BEFORE_SAID, "headline_act": BEFORE_ACT}
"""Up to where each headline reads."""


def beside_oracle(
    report: Report,
    store: Store,
    card: ProbeCard,
    scores: Scores,
    *,
    name: str = NAME,
    seed: int = 0,
) -> Report:
    """Return a report with the oracle beside its headline, if the run has one.

    The oracle stops at the traces that it was asked of: the detector's figure on these very
    traces stands beside it, and how many they are. Ask it with ``trace-probe oracle
    --every-sentence``, since an oracle that was asked seldom knows late.
    """
    headlines = {key: its for key in MOMENTS if (its := getattr(report.more, key))}
    asked = card.target == "outcome" and name in store.artifacts.names("oracle")
    if not headlines or not asked:
        return report
    seen = card.seen
    traces = [trace for trace in store.traces() if trace.task.id not in seen]
    drawn, labels = drawn_of(store, name), store.labels(report.labeller)
    own = {card.name: scores}
    for rate in HEADLINE_RATES:
        try:
            compared = efficiency(
                traces, labels, drawn, own, card=card, sibling_rate=float(rate), seed=seed
            )
        except NotEnoughData as error:
            return replace(
                report, notes=(*report.notes, f"No oracle beside the headline: {error}.")
            )
        for key, its in headlines.items():
            if at := compared.caught.get(MOMENTS[key]):
                headlines[key] = {
                    **headlines[key],
                    rate: replace(
                        its[rate],
                        oracle=at["oracle"].value,
                        beside_oracle=at[card.name].value,
                        oracle_traces=compared.traces,
                    ),
                }
    return replace(report, more=replace(report.more, **headlines))


RATES = ("0.01", "0.05")


@dataclass(frozen=True)
class Standing:
    """The figures of one probe by which it is judged; None where there is nothing to say."""

    model: str
    probe: str
    smoothing: str
    """What the alarms of the report follow."""
    caught: dict[str, Metric | None]
    """Of all instrumental traces of mixed prompts, caught before they say it, by sibling rate."""
    by_chance: dict[str, Metric | None]
    """The same with scores permuted within prompts."""
    sibling_alarm_rate: Metric | None
    """At the shipped threshold, as all that follows but the AUROC."""
    false_alarm_rate: Metric | None
    within_prompt_auroc: Metric | None
    """Before it is said."""
    caught_before_said: Metric | None
    """Of the instrumental traces that say it, the share flagged before."""
    caught_before_act: Metric | None
    """Of all instrumental traces, the share flagged before the act."""
    caught_over_chance: Metric | None
    """Less what it is with scores permuted within tasks: what alarms owe to the trace."""
    silent: dict[str, Metric | None]
    """Share of silent instrumental traces flagged, by rate of false alarms."""
    best_text: str
    gain_over_text: Metric | None
    """Of the AUROC, over the text baseline that ranks best."""
    oracle_caught: Metric | None = None
    """What P(act | prefix) catches where 5 % of siblings alarm, on the traces of the oracle."""
    oracle: Metric | None = None
    """Within-prompt AUROC of P(act | prefix) at the same moment."""
    beside_oracle: Metric | None = None
    """The probe's on the traces of the oracle."""
    of_oracle: Metric | None = None
    """The second over the first."""
    eta: Metric | None = None
    """The same of what each has beyond the prompt: see `efficiency`."""
    oracle_traces: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the figures by name."""
        return without_nan(asdict(self))


def standing(store: Store, card: ProbeCard, *, name: str = NAME, seed: int = 0) -> Standing:
    """Return where an evaluated probe stands; beside the oracle if the run has one.

    Raises:
        NotEnoughData: the probe was not evaluated on the run.
    """
    report = read_report(store, card.name)
    if report is None:
        raise NotEnoughData(f"{card.name} has no report in {store.path}: run trace-probe evaluate")
    more, figures = report.more, report.figures
    limits = {rate: more.by_rate.get(rate, {}).get("conformal") for rate in RATES}
    found = Standing(
        model=store.manifest.model,
        probe=card.name,
        smoothing=report.smoothing,
        caught={rate: figures.get(at_rate(rate)) for rate in HEADLINE_RATES},
        by_chance={
            rate: its.chance if (its := more.headline.get(rate)) else None
            for rate in HEADLINE_RATES
        },
        sibling_alarm_rate=figures.get("sibling_alarm_rate"),
        false_alarm_rate=figures.get("false_alarm_rate"),
        within_prompt_auroc=figures.get("within_prompt_auroc"),
        caught_before_said=figures.get("caught_before_said"),
        caught_before_act=report.useful_warning.get("0"),
        caught_over_chance=more.useful_warning_over_chance,
        silent={rate: its.silent_caught if its else None for rate, its in limits.items()},
        best_text=more.best_text,
        gain_over_text=figures.get("delta_over_best_text"),
    )
    return _beside_oracle(found, store, card, name, seed)


def _beside_oracle(
    found: Standing, store: Store, card: ProbeCard, name: str, seed: int
) -> Standing:
    if name not in store.artifacts.names("oracle"):
        return found
    seen = card.seen
    traces = [trace for trace in store.traces() if trace.task.id not in seen]
    scores = {card.name: store.scores(card.name)}
    compared = efficiency(
        traces, store.labels(card.labeller), drawn_of(store, name), scores, card=card, seed=seed
    )
    at = compared.auroc[BEFORE_SAID]
    own = at[card.name]
    return replace(
        found,
        oracle_caught=compared.caught[BEFORE_SAID]["oracle"].value if compared.caught else None,
        oracle=at["oracle"].value,
        beside_oracle=own.value,
        of_oracle=own.of_oracle,
        eta=own.eta,
        oracle_traces=compared.traces,
    )


def format_standings(found: Sequence[Standing]) -> str:
    """Return a row for each figure, a column for each probe."""
    columns = [_column(one) for one in found]
    rows = ([name, *(column[name] for column in columns)] for name in columns[0])
    return "\n".join(aligned(rows))


def _column(one: Standing) -> dict[str, str]:
    return {
        "": one.model.partition("@")[0],
        **{
            f"{what}, {float(rate):.0%} of siblings alarm": shown(its[rate])
            for what, its in (("caught before said", one.caught), ("by chance", one.by_chance))
            for rate in HEADLINE_RATES
        },
        "oracle, 5% of siblings alarm": shown(one.oracle_caught),
        "benign traces that alarm": shown(one.false_alarm_rate),
        "siblings that alarm": shown(one.sibling_alarm_rate),
        "within prompts, before it is said": shown(one.within_prompt_auroc),
        "gain over the best text": f"{shown(one.gain_over_text)} {one.best_text}",
        "oracle, at the same moment": shown(one.oracle),
        "probe, on the oracle's traces": shown(one.beside_oracle),
        "as a part of the oracle's": shown(one.of_oracle),
        "eta, the same beyond the prompt": shown(one.eta),
        "alarm follows": one.smoothing,
        "caught before it is said, of those that say it": shown(one.caught_before_said),
        "caught before the act, of all": shown(one.caught_before_act),
        "the same beyond scores permuted within tasks": shown(one.caught_over_chance),
        **{f"silent, at {float(r):.0%} false alarms": shown(one.silent[r]) for r in RATES},
    }
