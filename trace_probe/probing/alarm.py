"""What an alarm follows, and from where on: chosen on training tasks alone, out of fold."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from trace_probe.errors import NotEnoughData
from trace_probe.probing.dataset import Corpus, build_cohort
from trace_probe.probing.recipe import Rows
from trace_probe.probing.selection import criterion, first_of_equals
from trace_probe.statistics.bootstrap import resample
from trace_probe.statistics.calibration import (
    Guarantee,
    Threshold,
    guaranteed_threshold,
    with_siblings,
    without_siblings,
)
from trace_probe.statistics.metrics import Scores, score_rows, scores_held, trace_maxima
from trace_probe.statistics.siblings import mixed_prompts
from trace_probe.statistics.smoothing import CANDIDATES, CUSUM, Smoothing, parse_smoothing


def choose_smoothing(
    learned: Corpus, unseen: Scores, rows: Rows, names: Sequence[str] = (*CANDIDATES, CUSUM)
) -> tuple[Smoothing, dict[str, float]]:
    """Return what the alarm follows, and the figure of each candidate by name.

    The first candidate that is not clearly worse than the best, so plain scores where they will
    do. `unseen` are scores of training tasks by probes that have not seen them; from them the
    drift of a CUSUM is learned, if one is among the `names`.

    Raises:
        NotEnoughData: only a CUSUM is named, and outcomes or scores are too few for its drift.
    """
    if CUSUM in names:
        learnt = _cusum(learned, unseen)
        names = [name for name in names if name != CUSUM] + learnt
    if not names:
        raise NotEnoughData("no scores of both outcomes to learn a drift from: name cusum:DRIFT")
    found = [
        (name, criterion(learned, parse_smoothing(name).apply(unseen), rows)) for name in names
    ]
    figures = {f"{one.name}/smoothing-{name}": one.value for name, one in found}
    known = [(name, one) for name, one in found if np.isfinite(one.value)]
    return parse_smoothing(first_of_equals(known) if known else names[0]), figures


def _cusum(learned: Corpus, unseen: Scores) -> list[str]:
    """Return the name of the CUSUM for some scores; none if they lack an outcome.

    Its drift is the middle between the mean score of harmless traces and that of instrumental
    ones where their time is up, the best there is if both are normal and equally wide.
    """
    cohort = build_cohort(learned.judged())
    scored = score_rows(cohort, unseen)
    calm = scored[~cohort.positive]
    last = scores_held(scored)[np.arange(len(scored)), cohort.before_said()][cohort.positive]
    calm, last = calm[np.isfinite(calm)], last[np.isfinite(last)]
    if not len(calm) or not len(last):
        return []
    return [f"{CUSUM}:{(calm.mean() + last.mean()) / 2:.3g}"]


def set_threshold(
    harmless: Scores,
    siblings: tuple[Corpus, Scores] | None,
    *,
    rate: float,
    sibling_rate: float | None,
    guarantee: Guarantee = "conformal",
) -> Threshold:
    """Return the threshold that keeps two guarantees: the higher of what each of them asks for.

    At most a share `rate` of benign traces alarms, and at most a share `sibling_rate` of siblings.
    Without siblings enough the second is not guaranteed, and its rate stays unknown.

    Args:
        harmless: What the alarm follows in benign traces, one of each task.
        siblings: Traces among which there are mixed prompts, with what the alarm follows in them,
            by probes that have not seen their tasks.
        rate: Share of whole benign traces.
        sibling_rate: Share of siblings; None gives no guarantee for them.
        guarantee: Whether both hold on average or for this very threshold.

    Raises:
        NotEnoughData: there is no benign trace with scores, or a rate is not between 0 and 1.
    """
    maxima = trace_maxima(harmless, list(harmless))
    threshold = guaranteed_threshold(maxima, rate, guarantee)
    if sibling_rate is None:
        return replace(threshold, false_alarm_rate=float((maxima >= threshold.value).mean()))
    if siblings is None:
        return without_siblings(threshold, maxima, sibling_rate)
    corpus, followed = siblings
    cohort = build_cohort(corpus.judged())
    mixed = mixed_prompts(cohort.until_act())  # siblings have no words to be heard before
    if mixed.shortage():
        return without_siblings(threshold, maxima, sibling_rate)
    highest = mixed.peaks(cohort.maxima(followed))
    drawn = mixed.limits(highest, resample(cohort.n_tasks), sibling_rate)
    return with_siblings(threshold, maxima, highest, drawn, sibling_rate)
