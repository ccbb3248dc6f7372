"""Does a detector know more than how long a trace goes on?

Where instrumental traces are shorter, or longer, than harmless ones of their prompt, a state that
holds nothing but the number of sentences left tells them apart at every moment. So that number is
a baseline, though nobody can know it in time, and pairs of traces that end after equally many
sentences are compared by themselves.
"""

import numpy as np

from trace_probe.evaluation.panel import Panel
from trace_probe.statistics.bootstrap import Metric, Values
from trace_probe.statistics.metrics import (
    Scores,
    concordance,
    pairs_within,
    score_rows,
    scores_held,
    within_prompt,
)

SENTENCES_LEFT = "sentences left"


def sentences_left(panel: Panel) -> tuple[Scores]:
    """Return the scores of how many sentences come before the action, for all traces of a panel.

    Few or many, whichever tells the outcomes apart here.
    """
    left: dict[str, Values] = {}
    cohort = panel.cohort
    for name, sentences in zip(cohort.ids, cohort.sentences, strict=True):
        left[name] = np.full(int(sentences.max(initial=-1)) + 1, np.nan)
        left[name][sentences] = np.arange(len(sentences))[::-1]
    for trace in (*panel.calibration, *panel.benign, *panel.hard_negative):
        thoughts = [i for i, span in enumerate(trace.sentences) if span.channel == "reasoning"]
        left[trace.id] = np.full(len(trace.sentences), np.nan)
        left[trace.id][thoughts] = np.arange(len(thoughts))[::-1]
    held = scores_held(score_rows(cohort, left))
    pairs = pairs_within(cohort, cohort.before_said())
    wins = concordance(held, pairs)
    fewer = bool(len(wins)) and wins.mean() < 0.5
    return ({name: -row if fewer else row for name, row in left.items()},)


def length_matched(read: Scores, panel: Panel, weights: Values) -> Metric | None:
    """Return the AUROC within prompts of the pairs that may be read equally far.

    None where no prompt has such a pair.
    """
    cohort = panel.cohort
    at = cohort.before_said()
    pairs = pairs_within(cohort, at)
    chosen = pairs.where(at[pairs.positive] == at[pairs.negative])
    if not chosen.n:
        return None
    held = scores_held(score_rows(cohort, read))
    return within_prompt(concordance(held, chosen), chosen, cohort, weights).interval()
