"""The oracle on the line of the headline: what there was to know, at the same siblings' rate."""

from dataclasses import replace

from trace_probe.emergence.curve import NAME, drawn_of
from trace_probe.emergence.efficiency import BEFORE_ACT, BEFORE_SAID, efficiency
from trace_probe.errors import NotEnoughData
from trace_probe.evaluation.report import RATES, Report
from trace_probe.probing.probe import ProbeCard
from trace_probe.statistics.metrics import Scores
from trace_probe.store import Store

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
    for rate in RATES:
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
