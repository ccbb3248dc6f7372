"""What a report says in words: what is claimed, and what is not."""

from collections.abc import Iterator, Mapping

from trace_probe.evaluation.panel import SENTENCES_LEFT, Panel
from trace_probe.evaluation.report import RATES, AtSiblingRate, Figures, More
from trace_probe.probing.baselines import OUTPUT_CONFIDENCE
from trace_probe.probing.corpus import Corpus
from trace_probe.statistics.bootstrap import Metric
from trace_probe.statistics.metrics import pairs_within
from trace_probe.store import Store


def labels_left_out(store: Store, corpus: Corpus) -> Iterator[str]:
    """Yield which labels are used of a run's, and how many traces have others only, or none."""
    used = {trace.id for trace in corpus.traces if trace.id in corpus.labels}
    here = {trace.id for trace in corpus.traces}
    chosen = next((label.labeller for label in corpus.labels.values()), "nobody")
    others = {
        name: here & set(store.labels(name)) - used for name in store.labellers() if name != chosen
    }
    missing = set().union(*others.values()) if others else set()
    if missing:
        names = ", ".join(f"{name} ({len(ids)})" for name, ids in others.items() if ids)
        yield (
            f"Labels of {chosen}: {len(used)} of {len(used | missing)} labelled traces. The others "
            f"have labels of {names} only, which are not used: choose with --labeller."
        )
    unknown = sum(corpus.outcome(trace) is None for trace in corpus.traces if trace.id in used)
    if unknown:
        yield (
            f"{unknown} of {len(used)} traces labelled by {chosen} have an unknown outcome and "
            f"count nowhere."
        )


def traces_left_out(corpus: Corpus) -> Iterator[str]:
    """Yield how many traces of known outcome hold nothing that a detector could read in time."""
    known = corpus.known
    silent = [one for one in known if not one.trace.thoughts]
    late = [one for one in known if not one.before_act]
    if silent:
        yield (
            f"{len(silent)} of {len(known)} traces have no reasoning: what is known of the task "
            f"counts for them as for the others, their thoughts cannot."
        )
    if len(late) > len(silent):
        yield f"{len(late) - len(silent)} of {len(known)} traces act before their first thought."


def notes(
    figures: Figures, baselines: Mapping[str, Figures], panel: Panel, more: More
) -> Iterator[str]:
    """Yield what a reader must be told about the figures of a report."""
    yield from _left_out(panel)
    if more.headline:
        yield from _by_headline(more.headline, "they say it")
    elif not more.headline_act:
        yield f"No early warning can be claimed: {panel.mixed.shortage()}."
    yield from _by_headline(more.headline_act, "they act")
    claimed = bool(more.headline or more.headline_act)
    yield from _by_ranking(figures, baselines, more.best_text, claimed=claimed)
    yield from _at_threshold(more.useful_warning_over_chance)


def _left_out(panel: Panel) -> Iterator[str]:
    cohort = panel.cohort
    left_out = pairs_within(cohort, cohort.before_said()).excluded
    if left_out:
        yield (
            f"{left_out} pairs within prompts were left out: one says it at once, or it is not "
            f"known whether it does."
        )
    unknown = cohort.silence()["unknown_whether_said"]
    if unknown:
        yield (
            f"{unknown} positives count neither as silent nor as said: nobody looked, or nobody "
            f"could tell. Label with a judge that looks for where it is said."
        )
    if panel.mixed.unknown:
        yield f"The headline leaves out {panel.mixed.unknown} of them, which have mixed prompts."


def _by_headline(found: Mapping[str, AtSiblingRate], moment: str) -> Iterator[str]:
    """Yield whether more is caught before a moment than chance and simpler detectors would."""
    for rate in RATES if found else ():
        its, share = found[rate], f"{float(rate):.0%} of siblings alarm"
        if not _above(its.over_chance):
            yield (
                f"No early signal: where {share}, the detector is not shown to catch more before "
                f"{moment} than scores permuted within prompts do."
            )
        elif not _above(its.over_text):
            yield (
                f"No early signal beyond the text: where {share}, the detector is not shown to "
                f"catch more before {moment} than {its.best_text}."
            )
        elif its.over_confidence and not its.over_confidence.above(0):
            yield (
                f"No early signal beyond output confidence: where {share}, the detector is not "
                f"shown to catch more than how unsure the model was of its words."
            )
        elif not _above(its.over_sentences_left):
            yield (
                f"No early signal beyond length: where {share}, the number of sentences left "
                f"would catch as much."
            )


def _by_ranking(
    figures: Figures, baselines: Mapping[str, Figures], text: str, *, claimed: bool
) -> Iterator[str]:
    """Yield what the AUROC within prompts cannot show."""
    within = figures["within_prompt_auroc"]
    what = "AUROC within prompts" if claimed else "No early signal"
    if within is None:
        yield (
            "No within-prompt figure: no prompt has both outcomes before it is said. "
            "Record more samples of each prompt."
        )
    elif not within.has_interval:
        yield f"{what}: mixed prompts of fewer than 4 tasks are too few for an interval."
    elif not within.above(0.5):
        yield (
            f"{what}: the within-prompt interval contains 0.5 or lies below it, "
            f"on {within.n} mixed prompts."
        )
    elif _not_beaten(figures["delta_over_best_text"]):
        yield f"{what} beyond the text: the detector does not clearly beat {text}."
    elif _not_beaten(baselines.get(OUTPUT_CONFIDENCE, {}).get("gain_over_it")):
        yield (
            f"{what} beyond output confidence: the detector does not clearly beat how unsure the "
            f"model was of its words."
        )
    elif _not_beaten(baselines[SENTENCES_LEFT]["gain_over_it"]):
        yield (
            f"{what} beyond length: the detector does not clearly beat the number of sentences "
            f"left. Look at pairs of equal length."
        )


def _not_beaten(gain: Metric | None) -> bool:
    return gain is not None and not gain.above(0)


def _above(gain: Metric | None) -> bool:
    return gain is not None and gain.above(0)


def _at_threshold(over_chance: Metric | None) -> Iterator[str]:
    """Yield what is to be said where the shipped threshold's alarms know the task alone."""
    if over_chance is not None and not _above(over_chance):
        yield (
            "At this threshold the alarms may recognise the task, and not which of its traces act: "
            "scores permuted within tasks would warn of about as many in time."
        )
