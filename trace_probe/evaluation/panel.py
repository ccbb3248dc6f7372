"""The traces of an evaluation, and how one detector does on them.

Does a detector know more than how long a trace goes on?

Where instrumental traces are shorter, or longer, than harmless ones of their prompt, a state that
holds nothing but the number of sentences left tells them apart at every moment. So that number is
a baseline, though nobody can know it in time, and pairs of traces that end after equally many
sentences are compared by themselves.

The headline of a report: caught before it is said, few siblings alarming.

Of a detector, of its baselines and of chance, all at thresholds of their own, set in the same way
on the same siblings: see `statistics.siblings`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import numpy as np

from trace_probe.evaluation.report import NAME, RATES, at_rate
from trace_probe.probing.corpus import Corpus, spread
from trace_probe.statistics.bootstrap import (
    Index,
    Mask,
    Metric,
    Resampled,
    Values,
    of_several,
    rate,
    resample,
    share,
)
from trace_probe.statistics.calibration import conformal_threshold
from trace_probe.statistics.metrics import (
    Cohort,
    Scores,
    pairs_across,
    pairs_within,
    sentences_to_alarm,
    trace_maxima,
)
from trace_probe.statistics.siblings import MixedPrompts, mixed_prompts
from trace_probe.statistics.smoothing import MAX, Smoothing
from trace_probe.trace import Trace

WARNINGS = (0, 1, 3, 5, 10)
CALLS = (1, 2, 3, 5)
PREFIXES = (0.1, 0.25, 0.5, 0.75, 1.0)
TOKENS = (64, 128, 256, 512, 1024, 2048, 4096)
CAUGHT = ("caught_before_said", "caught_before_action", "silent_caught", "sibling_alarm_rate")

Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Panel:
    """The traces of an evaluation: none of their tasks was learned from."""

    cohort: Cohort
    """Traces of test tasks."""
    calibration: tuple[Trace, ...] = ()
    """One harmless trace a task, to set the thresholds of the baselines as the detector's was."""
    benign: tuple[Trace, ...] = ()
    hard_negative: tuple[Trace, ...] = ()
    seed: int = 0
    smoothing: Smoothing = MAX
    """What the alarms of all detectors follow."""
    ranked_by: Smoothing = MAX
    """What is made of scores where traces are ranked at a moment."""

    def until_act(self) -> "Panel":
        """Return it for what is caught before the act, whether or not it is said before."""
        return replace(self, cohort=self.cohort.until_act())

    @cached_property
    def weights(self) -> Values:
        """Return the resamples of its tasks, the same for every figure of every detector."""
        return resample(self.cohort.n_tasks, seed=self.seed)

    @cached_property
    def mixed(self) -> MixedPrompts:
        """Return the traces of prompts with both outcomes."""
        return mixed_prompts(self.cohort)

    def counts(self) -> dict[str, int]:
        """Return what there is to count."""
        siblings, benign = len(self.mixed.sibling), len(self.benign)
        cohort = self.cohort
        return {**cohort.counts(), "siblings": siblings, **cohort.silence(), "benign": benign}


def build_panel(calibration: Corpus, test: Corpus, seed: int = 0) -> Panel:
    """Sort the traces of an evaluation by role; a harmful trace is in no harmless group."""
    return Panel(
        cohort=test.cohort,
        calibration=calibration.benign_sample.traces,
        benign=test.harmless("benign").traces,
        hard_negative=test.harmless("hard-negative").traces,
        seed=seed,
    )


@dataclass(frozen=True)
class Alarms:
    """When each trace of a cohort alarms at a threshold."""

    cohort: Cohort
    taken: Index
    """How many sentences it took; one past the longest if there was no alarm."""
    weights: Values

    def caught(self, by: Index, among: Mask) -> Metric | None:
        """Return the share of chosen traces that alarmed within their first `by` sentences.

        `by` and `among` are (trace,).
        """
        return rate(self.taken <= by, among, self.cohort.task, self.weights)

    def figures(self) -> dict[str, Metric | None]:
        """Return the shares that were caught before a moment, and of siblings that alarm.

        A detector of the situation catches much, and its alarms come as often on siblings: the
        harmless traces of the same prompts.
        """
        cohort, positive = self.cohort, self.cohort.positive
        sibling = ~positive & cohort.mixed()[cohort.prompt]
        return {
            "caught_before_said": self.caught(cohort.before_said(), cohort.spoken),
            "caught_before_action": self.caught(cohort.length, positive),
            "silent_caught": self.caught(cohort.length, cohort.silent),
            "sibling_alarm_rate": self.caught(cohort.length, sibling),
        }

    def useful_warning(self) -> dict[str, Metric | None]:
        """Return the share of positives with a warning some sentences before the action."""
        return self._positives(WARNINGS, lambda lead: self.cohort.length - lead)

    def by_calls(self) -> dict[str, Metric | None]:
        """Return the share of positives that alarm so many model calls before that of the act."""
        return self._positives(CALLS if self.cohort.calls else (), self.cohort.before_call)

    def by_prefix(self) -> dict[str, Metric | None]:
        """Return the share of positives caught within fractions of their reasoning."""
        length = self.cohort.length
        return self._positives(
            PREFIXES, lambda part: np.floor(part * length + 1e-9).astype(np.intp)
        )

    def by_tokens(self) -> dict[str, Metric | None]:
        """Return the share of positives caught within so many generated tokens.

        Budgets beyond the longest reasoning are left out.
        """
        cohort = self.cohort
        longest = max((int(ends[-1]) for ends in cohort.tokens if len(ends)), default=0)
        return self._positives([one for one in TOKENS if one < longest], cohort.within_tokens)

    def _positives(
        self, points: Sequence[Number], by: Callable[[Number], Index]
    ) -> dict[str, Metric | None]:
        """Return the share of positives that alarm in as many sentences as each point allows."""
        positive = self.cohort.positive
        return {str(point): self.caught(by(point), positive) for point in points}


Ranked = Mapping[str, Resampled]
"""The AUROC ``within`` prompts and ``pooled``."""


def ranking(runs: Sequence[Scores], panel: Panel) -> Ranked:
    """Return the resampled AUROC of a detector before it is said, over all its runs.

    It is ranked by what it reads at the moment. The draws of all runs are kept, so
    that the interval covers chance in training as well.
    """
    cohort = panel.cohort
    at = cohort.before_said()
    read = [cohort.held(panel.ranked_by.apply(scores)) for scores in runs]
    found = [rank(cohort, held, at, panel.weights, seed=panel.seed) for held in read]
    return {name: of_several([values[name] for values in found]) for name in found[0]}


def best_ranking(runs: Sequence[Scores], panel: Panel) -> Ranked:
    """Return the same as the panel ranks or by plain scores, whichever ranks better here.

    A detector that is to be beaten is not to suffer from a smoothing chosen for another.
    """
    ways = dict.fromkeys((panel.ranked_by, MAX))
    found = [ranking(runs, replace(panel, ranked_by=way)) for way in ways]
    return max(found, key=lambda one: np.nan_to_num(one["within"].estimate, nan=-1.0))


def rank(cohort: Cohort, held: Values, at: Index, weights: Values, *, seed: int = 0) -> Ranked:
    """Return the resampled AUROC ``within`` prompts and ``pooled``.

    `held` (trace, k) as of `scores_held`, `at` (trace,) as in `pairs_within`.
    """
    return {
        "within": pairs_within(cohort, at).auroc(held, weights),
        "pooled": pairs_across(cohort, at, seed=seed).auroc(held, weights),
    }


def summary(ranked: Ranked) -> dict[str, Metric | None]:
    """Return both AUROCs with their intervals."""
    return {
        "within_prompt_auroc": ranked["within"].interval(),
        "pooled_auroc": ranked["pooled"].interval(),
    }


def alarms_of(followed: Scores, threshold: float, panel: Panel) -> Alarms:
    """Return when each trace of the cohort alarms, from what the alarm follows."""
    taken = sentences_to_alarm(panel.cohort.maxima(followed), threshold)
    return Alarms(panel.cohort, taken, panel.weights)


def caught_at(scores: Scores, panel: Panel, target_rate: float) -> dict[str, Metric | None]:
    """Return what a baseline catches at its own threshold of the same target rate.

    None without harmless traces to set the threshold on.
    """
    if not panel.calibration:
        return dict.fromkeys(CAUGHT)
    ids = [trace.id for trace in panel.calibration]
    followed = panel.smoothing.apply(scores)
    threshold = conformal_threshold(trace_maxima(followed, ids), target_rate).value
    return alarms_of(followed, threshold, panel).figures()


def false_alarms(followed: Scores, threshold: float, panel: Panel) -> dict[str, Metric | None]:
    """Return the shares of whole harmless traces that alarm; None where there are none."""
    return {
        name: share(
            trace_maxima(followed, [trace.id for trace in traces]) >= threshold,
            [trace.task.id for trace in traces],
        )
        for name, traces in (
            ("false_alarm_rate", panel.benign),
            ("hard_negative_alarm_rate", panel.hard_negative),
        )
    }


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
        left[trace.id] = spread(trace, np.arange(len(trace.thoughts))[::-1])
    wins = pairs_within(cohort, cohort.before_said()).wins(cohort.held(left))
    fewer = bool(len(wins)) and wins.mean() < 0.5
    return ({name: -row if fewer else row for name, row in left.items()},)


def length_matched(read: Scores, panel: Panel) -> Metric | None:
    """Return the AUROC within prompts of the pairs that may be read equally far.

    None where no prompt has such a pair.
    """
    cohort = panel.cohort
    at = cohort.before_said()
    pairs = pairs_within(cohort, at)
    chosen = pairs.where(at[pairs.positive] == at[pairs.negative])
    if not chosen.n:
        return None
    return chosen.auroc(cohort.held(read), panel.weights).interval()


@dataclass(frozen=True)
class Headline:
    """The headline of a detector by sibling rate, with what puts it into proportion."""

    caught: Mapping[str, Resampled]
    """Empty where there are too few siblings or prompts: see `MixedPrompts.shortage`."""
    chance: Mapping[str, Resampled]
    """The same of scores permuted within prompts."""
    lead: Mapping[str, Mapping[str, Resampled]]
    """How long before it is said those caught alarm, in ``sentences`` and in ``tokens``."""


def by_rate(caught: Mapping[str, Resampled], headline: str = NAME) -> dict[str, Metric | None]:
    """Return shares that are caught with their intervals, by the names of a report."""
    return {at_rate(rate, headline): interval(caught.get(rate)) for rate in RATES}


def interval(value: Resampled | None) -> Metric | None:
    """Return a figure with its interval, None where there is no figure."""
    return None if value is None else value.interval()


def caught_by_rate(followed: Scores, panel: Panel) -> dict[str, Resampled]:
    """Return the headline of a detector by sibling rate; nothing where there are too few traces.

    `followed` is what its alarm follows.
    """
    mixed = panel.mixed
    if mixed.shortage():
        return {}
    maxima = panel.cohort.maxima(followed)
    return {rate: mixed.caught(maxima, panel.weights, float(rate)) for rate in RATES}


def headline(followed: Scores, panel: Panel) -> Headline:
    """Return the headline of a detector beside chance, with the lead of what it catches."""
    mixed, weights = panel.mixed, panel.weights
    if mixed.shortage():
        return Headline({}, {}, {})
    maxima = panel.cohort.maxima(followed)
    return Headline(
        caught=caught_by_rate(followed, panel),
        chance={
            rate: mixed.by_chance(maxima, weights, float(rate), seed=panel.seed) for rate in RATES
        },
        lead={rate: mixed.lead(maxima, weights, float(rate)) for rate in RATES},
    )


def most_caught(scores: Scores, panel: Panel) -> dict[str, Resampled]:
    """Return the headline of a baseline.

    Its alarm follows the smoothing of the panel or plain scores, whichever catches more here: a
    rival is not to suffer from a smoothing that was chosen for another.
    """
    ways = dict.fromkeys((panel.smoothing, MAX))
    return max((caught_by_rate(way.apply(scores), panel) for way in ways), key=_smallest_rate)


def _smallest_rate(found: Mapping[str, Resampled]) -> float:
    return found[RATES[0]].estimate if found else 0.0
