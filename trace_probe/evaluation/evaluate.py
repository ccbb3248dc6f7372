"""One evaluation for every detector: how early, how often wrongly, and against what."""

from collections.abc import Mapping, Sequence

import numpy as np

from trace_probe.errors import NotEnoughData
from trace_probe.evaluation.details import details
from trace_probe.evaluation.increment import delta_bits
from trace_probe.evaluation.panel import (
    Panel,
    alarm_rate,
    alarms_of,
    best_ranking,
    caught_at,
    ranking,
    summary,
)
from trace_probe.evaluation.report import Figures, Report, is_text
from trace_probe.statistics.metrics import (
    Cohort,
    Metric,
    Scores,
    Values,
    metric,
    pairs_within,
    resample,
)

CONTROL = "shuffled labels"
OBSERVER = "observer"


def evaluate(
    detector: str,
    scores: Scores,
    baselines: Mapping[str, Sequence[Scores]],
    panel: Panel,
    *,
    threshold: float,
    target_rate: float,
) -> Report:
    """Judge a detector and its baselines on the same traces, resamples and promise.

    AUROC is time-matched: both traces of a pair are read for as many sentences as come before
    the positive one says it. The detector is ranked by the rule of the panel, a baseline by
    that or by its plain scores, whichever ranks it better here; shuffled labels by the rule
    alone, since the better of two chances is above chance. Alarms of all follow one rule. Layer
    and labeller are for the caller to fill in.
    """
    read, followed = panel.ranked_by.apply(scores), panel.rule.apply(scores)
    cohort = panel.cohort
    weights = resample(cohort.n_tasks, seed=panel.seed)
    ranked = {
        name: (ranking if name == CONTROL else best_ranking)(runs, panel, weights)
        for name, runs in baselines.items()
    }
    best, its = best_text(ranked)
    own = ranking([scores], panel, weights)
    alarms = alarms_of(followed, threshold, panel, weights)
    figures: dict[str, Metric | None] = {
        "false_alarm_rate": alarm_rate(followed, threshold, panel.benign),
        "hard_negative_alarm_rate": alarm_rate(followed, threshold, panel.hard_negative),
        **summary(own, cohort),
        **alarms.figures(),
        "delta_over_best_text": _gain(own, its, cohort),
        "delta_bits": delta_bits(read, _known(baselines), cohort, weights, seed=panel.seed),
        "selectivity": _gain(own, ranked.get(CONTROL), cohort),
        "observer_gap": _gain(own, ranked.get(OBSERVER), cohort),
    }
    more = {"best_text": best, **details(read, followed, threshold, panel, alarms)}
    return Report(
        detector=detector,
        labeller="",
        layer=None,
        n={**cohort.counts(), **cohort.heard(), "benign": len(panel.benign)},
        threshold=threshold,
        target_false_alarm_rate=target_rate,
        rule=panel.rule.name,
        ranked_by=panel.ranked_by.name,
        figures=figures,
        baselines=beside(baselines, ranked, panel, weights, target_rate, own),
        useful_warning=alarms.useful_warning(),
        prefix=alarms.by_prefix(),
        more=more,
        notes=(*_notes(figures, cohort, best), *_about_alarms(more["useful_warning_over_chance"])),
    )


def _gain(
    own: Mapping[str, Values], its: Mapping[str, Values] | None, cohort: Cohort
) -> Metric | None:
    """Return the difference of two within-prompt AUROCs."""
    if its is None:
        return None
    return metric(own["within"] - its["within"], int(cohort.mixed().sum()))


def _known(baselines: Mapping[str, Sequence[Scores]]) -> dict[str, Scores]:
    """Return what is known without the model's activations during its reasoning."""
    return {
        name: runs[0] for name, runs in baselines.items() if is_text(name) or name == "prompt-only"
    }


def side_by_side(
    runs: Mapping[str, Scores], panel: Panel, target_rate: float
) -> dict[str, Figures]:
    """Judge detectors as baselines are judged, each at a threshold of the same target rate."""
    weights = resample(panel.cohort.n_tasks, seed=panel.seed)
    several = {name: (scores,) for name, scores in runs.items()}
    ranked = {name: ranking(each, panel, weights) for name, each in several.items()}
    return beside(several, ranked, panel, weights, target_rate)


def beside(
    runs: Mapping[str, Sequence[Scores]],
    ranked: Mapping[str, Mapping[str, Values]],
    panel: Panel,
    weights: Values,
    target_rate: float,
    own: Mapping[str, Values] | None = None,
) -> dict[str, Figures]:
    """Return how several detectors rank, what they catch, and by how much they are beaten."""
    return {
        name: {
            **summary(ranked[name], panel.cohort),
            **caught_at(each, panel, weights, target_rate),
            **({} if own is None else {"gain_over_it": _gain(own, ranked[name], panel.cohort)}),
        }
        for name, each in runs.items()
    }


def best_text(ranked: Mapping[str, Mapping[str, Values]]) -> tuple[str, Mapping[str, Values]]:
    """Return the text baseline that ranks best on these very traces: the hardest to beat.

    Raises:
        NotEnoughData: there is none.
    """
    text = [name for name in ranked if is_text(name)]
    if not text:
        raise NotEnoughData("a detector cannot be reported without a text baseline")
    best = max(text, key=lambda name: np.nan_to_num(ranked[name]["within"][0], nan=-1.0))
    return best, ranked[best]


def _notes(figures: Figures, cohort: Cohort, best: str) -> list[str]:
    """Return what a reader must be told about the headline."""
    notes = []
    at = cohort.before_said()
    left_out = pairs_within(cohort, at).excluded
    if left_out:
        notes.append(
            f"{left_out} pairs within prompts were left out: one says it at once, or it is not "
            f"known whether it does."
        )
    unknown = cohort.heard()["unknown_whether_said"]
    if unknown:
        notes.append(
            f"{unknown} positives count neither as silent nor as said: nobody looked, or nobody "
            f"could tell. Label with a judge that looks for where it is said."
        )
    within, delta = figures["within_prompt_auroc"], figures["delta_over_best_text"]
    if within is None:
        notes.append(
            "No within-prompt figure: no prompt has both outcomes before it is said. "
            "Record more samples of each prompt."
        )
    elif within.lower <= 0.5:
        notes.append(
            f"No early signal: the within-prompt interval contains 0.5 or lies below it, "
            f"on {within.n} mixed prompts."
        )
    elif delta is not None and delta.lower <= 0:
        notes.append(f"No early signal beyond the text: the detector does not clearly beat {best}.")
    return notes


def _about_alarms(over_chance: Mapping[str, float] | None) -> list[str]:
    """Return what is to be said where alarms know the task alone."""
    if over_chance is None or over_chance["lower"] > 0:
        return []
    return [
        "The alarms are not shown to know which trace of a task acts: with scores dealt anew "
        "within tasks as many would be warned. At this threshold they tell of the situation."
    ]
