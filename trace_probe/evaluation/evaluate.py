"""One evaluation for every detector: how early, how often wrongly, and against what."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from trace_probe.errors import NotEnoughData
from trace_probe.evaluation.details import delta_bits, details
from trace_probe.evaluation.notes import notes
from trace_probe.evaluation.panel import (
    SENTENCES_LEFT,
    Headline,
    Panel,
    Ranked,
    alarms_of,
    best_ranking,
    by_rate,
    caught_at,
    false_alarms,
    headline,
    interval,
    length_matched,
    most_caught,
    ranking,
    sentences_left,
    summary,
)
from trace_probe.evaluation.report import ACT, AtSiblingRate, Figures, Report, is_text
from trace_probe.probing.baselines import OUTPUT_CONFIDENCE
from trace_probe.statistics.bootstrap import Metric, Resampled
from trace_probe.statistics.metrics import Scores

CONTROL = "shuffled labels"
OBSERVER = "observer"
Caught = Mapping[str, Mapping[str, Resampled]]
"""What each baseline catches, by sibling rate."""
Runs = Mapping[str, Sequence[Scores]]
"""The scores of several detectors; of one whose training is a matter of chance, several."""


@dataclass(frozen=True)
class Rival:
    """What another detector achieves on a panel; of several runs, shares are the first one's."""

    ranked: Ranked
    caught: Mapping[str, Resampled]
    """By sibling rate, before it is said."""
    alarms: Figures
    """At its own threshold of the same target rate."""

    def figures(
        self, own: Ranked | None = None, more: Figures | None = None
    ) -> dict[str, Metric | None]:
        """Return its figures by the names of a report, with what the detector gains over it."""
        over = {} if own is None else {"gain_over_it": gain(own, self.ranked)}
        caught, ranked = by_rate(self.caught), summary(self.ranked)
        return {**caught, **ranked, **self.alarms, **over, **(more or {})}


def rival(
    runs: Sequence[Scores],
    panel: Panel,
    target_rate: float,
    rank: Callable[[Sequence[Scores], Panel], Ranked] = ranking,
) -> Rival:
    """Judge another detector."""
    caught, alarms = most_caught(runs[0], panel), caught_at(runs[0], panel, target_rate)
    return Rival(rank(runs, panel), caught, alarms)


def evaluate(
    detector: str,
    scores: Scores,
    baselines: Runs,
    panel: Panel,
    *,
    threshold: float,
    target_rate: float,
) -> Report:
    """Judge a detector and its baselines on the same traces, resamples and guarantee.

    First by what each catches before it is said at a threshold set on siblings. Then by AUROC
    at one moment of both traces of a pair: after as many sentences as come before the positive
    one says it. The detector is ranked as the panel says, a baseline like that or by its
    plain scores, whichever ranks it better here; shuffled labels like the detector alone, since
    the better of two chances is above chance. How many sentences are left, which nobody can know in
    time, is always among the baselines. Layer and labeller are for the caller to fill in.
    """
    read, followed = panel.ranked_by.apply(scores), panel.smoothing.apply(scores)
    baselines = {**baselines, SENTENCES_LEFT: sentences_left(panel)}
    rank = {name: ranking if name == CONTROL else best_ranking for name in baselines}
    rivals = {n: rival(runs, panel, target_rate, rank[n]) for n, runs in baselines.items()}
    ranked = {name: its.ranked for name, its in rivals.items()}
    own, best, mine = ranking([scores], panel), best_text(ranked), headline(followed, panel)
    alarms, known = alarms_of(followed, threshold, panel), _known(baselines)
    acts = _before_act(followed, baselines, panel)
    figures: dict[str, Metric | None] = {
        **by_rate(mine.caught),
        **false_alarms(followed, threshold, panel),
        **summary(own),
        "length_matched_auroc": length_matched(read, panel),
        **alarms.figures(),
        "delta_over_best_text": gain(own, ranked[best]),
        "delta_bits": delta_bits(read, known, panel.cohort, panel.weights, seed=panel.seed),
        "selectivity": gain(own, ranked.get(CONTROL)),
        "observer_gap": gain(own, ranked.get(OBSERVER)),
    }
    beaten = _beside_headline(mine, {name: its.caught for name, its in rivals.items()})
    more = replace(details(read, followed, threshold, panel, alarms, figures), best_text=best)
    more = replace(more, headline=beaten, headline_act=acts.headline)
    beside = {name: its.figures(own, acts.theirs.get(name)) for name, its in rivals.items()}
    return Report(
        detector=detector,
        labeller="",
        layer=None,
        n=panel.counts(),
        threshold=threshold,
        target_false_alarm_rate=target_rate,
        smoothing=panel.smoothing.name,
        ranked_by=panel.ranked_by.name,
        figures={**figures, **acts.own},
        baselines=beside,
        useful_warning=alarms.useful_warning(),
        prefix=alarms.by_prefix(),
        more=more,
        notes=tuple(notes(figures, beside, panel, more)),
    )


def gain(own: Ranked, its: Ranked | None) -> Metric | None:
    """Return the difference of two within-prompt AUROCs."""
    return None if its is None else (own["within"] - its["within"]).interval()


@dataclass(frozen=True)
class _Acts:
    """The headline of agents' runs: caught before the act, whether or not it is said before."""

    headline: Mapping[str, AtSiblingRate] = field(default_factory=dict)
    own: Figures = field(default_factory=dict)
    theirs: Mapping[str, Figures] = field(default_factory=dict)
    """Of each baseline."""


def _before_act(followed: Scores, baselines: Runs, panel: Panel) -> _Acts:
    """Return the headline up to the act; nothing without agents' runs, or with too few traces."""
    acts = panel.until_act()
    if not panel.cohort.calls or acts.mixed.shortage():
        return _Acts()
    mine = headline(followed, acts)
    caught = {name: most_caught(runs[0], acts) for name, runs in baselines.items()}
    theirs = {name: by_rate(found, ACT) for name, found in caught.items()}
    return _Acts(_beside_headline(mine, caught), by_rate(mine.caught, ACT), theirs)


def _beside_headline(mine: Headline, caught: Caught) -> dict[str, AtSiblingRate]:
    """Return chance, lead and the best rivals of a headline, by sibling rate."""
    found = {}
    for rate, own in mine.caught.items():
        chance = mine.chance[rate]
        text = max(filter(is_text, caught), key=lambda name: caught[name][rate].estimate)
        unsure = caught.get(OUTPUT_CONFIDENCE, {}).get(rate)
        found[rate] = AtSiblingRate(
            caught=own.interval(),
            chance=chance.interval(),
            over_chance=(own - chance).interval(),
            best_text=text,
            text=caught[text][rate].interval(),
            over_text=(own - caught[text][rate]).interval(),
            over_sentences_left=(own - caught[SENTENCES_LEFT][rate]).interval(),
            lead={unit: value.interval() for unit, value in mine.lead[rate].items()},
            confidence=interval(unsure),
            over_confidence=None if unsure is None else (own - unsure).interval(),
        )
    return found


def _known(baselines: Runs) -> dict[str, Scores]:
    """Return what is known without the model's activations during its reasoning."""
    return {
        name: runs[0] for name, runs in baselines.items() if is_text(name) or name == "prompt-only"
    }


def side_by_side(
    runs: Mapping[str, Scores], panel: Panel, target_rate: float
) -> dict[str, Figures]:
    """Judge detectors like the one on trial, each at a threshold of the same target rate."""
    return {name: rival((scores,), panel, target_rate).figures() for name, scores in runs.items()}


def best_text(ranked: Mapping[str, Ranked]) -> str:
    """Return the text baseline that ranks best on these very traces: the hardest to beat.

    Raises:
        NotEnoughData: there is none.
    """
    text = [name for name in ranked if is_text(name)]
    if not text:
        raise NotEnoughData("a detector cannot be reported without a text baseline")
    return max(text, key=lambda name: np.nan_to_num(ranked[name]["within"].estimate, nan=-1.0))
