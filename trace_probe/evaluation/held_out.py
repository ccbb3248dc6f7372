"""A probe judged on the tasks of a run that it was not made from, beside every baseline."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from trace_probe.errors import NotEnoughData
from trace_probe.evaluation.evaluate import evaluate, side_by_side
from trace_probe.evaluation.notes import labels_left_out, traces_left_out
from trace_probe.evaluation.observer import Embed, embedding_scores, observer_scores
from trace_probe.evaluation.panel import Panel, build_panel
from trace_probe.evaluation.report import Report
from trace_probe.probing.baselines import OUTPUT_CONFIDENCE, baseline_scores
from trace_probe.probing.dataset import Corpus, load_corpus, split_by_role
from trace_probe.probing.fitting import fit_corpus, probe_scores
from trace_probe.probing.probe import ProbeCard, SavedProbe, check_fits, check_shape
from trace_probe.probing.recipe import Recipe
from trace_probe.statistics.bootstrap import Values
from trace_probe.statistics.metrics import Scores
from trace_probe.statistics.smoothing import CANDIDATES, MAX, parse_smoothing
from trace_probe.store import Store

Aggregation = Callable[[Values], Values]
"""From scores of consecutive sentences to the statistic after each of them."""


def top_mean(scores: Values, k: int) -> Values:
    """Return (sentence,) the mean of the k highest scores so far, of all while there are fewer."""
    ends = range(1, len(scores) + 1)
    return np.array([np.sort(scores[:end])[-k:].mean() for end in ends], dtype=np.float64)


def softmax_mean(scores: Values, temperature: float = 1.0) -> Values:
    """Return (sentence,) the mean so far, each score weighted by ``exp(score / temperature)``."""
    logs = np.logaddexp.accumulate(scores / temperature)
    found = np.empty(len(scores))
    mean = 0.0
    for i, score in enumerate(scores):
        mean += (score - mean) * np.exp(score / temperature - logs[i])
        found[i] = mean
    return found


AGGREGATIONS: Mapping[str, Aggregation] = {
    "top-3 mean": partial(top_mean, k=3),
    "softmax mean": softmax_mean,
}


def aggregate(scores: Scores, aggregation: Aggregation) -> Scores:
    """Return the statistic after each sentence that has a score; nan stays nan."""
    found = {name: np.full(len(row), np.nan) for name, row in scores.items()}
    for name, row in scores.items():
        given = np.isfinite(row)
        found[name][given] = aggregation(row[given].astype(np.float64))
    return found


def ensemble(members: Sequence[Scores], reference: Sequence[Scores]) -> Scores:
    """Return the mean of several detectors, each in deviations of its scores on known traces.

    `members` and `reference` are in the same order.
    """
    scaled = []
    for scores, known in zip(members, reference, strict=True):
        given = np.concatenate([row[np.isfinite(row)] for row in known.values()])
        centre, spread = float(given.mean()), float(given.std()) or 1.0
        scaled.append({name: (row - centre) / spread for name, row in scores.items()})
    return {
        name: np.mean([each[name] for each in scaled], axis=0, dtype=np.float64)
        for name in members[0]
    }


Progress = Callable[[str], None]
NO_CONFIDENCE = (
    "Not compared with output confidence, since the run has traces without it: record with this "
    "version, from a model that is loaded here."
)


@dataclass(frozen=True)
class Beside:
    """What a probe is compared with, beyond the baselines that are always computed."""

    trained_on: Store | None = None
    """The run that the probe and its baselines learned from, where it is not the one judged."""
    observer: Store | None = None
    """The same traces as read by another model."""
    embed: Embed | None = None
    """What turns sentences into vectors, such as a `trace_probe.model.embedder.Embedder`."""
    detectors: tuple[str, ...] = ()
    """Detectors whose scores are kept in the run, such as text monitors."""

    def scores(
        self, store: Store, corpus: Corpus, card: ProbeCard
    ) -> dict[str, tuple[Scores, ...]]:
        """Return the scores of what was asked for, on all traces of a corpus."""
        found: dict[str, Scores] = {name: store.scores(name) for name in self.detectors}
        tasks, recipe = card.training_tasks, card.recipe
        if self.observer is not None:
            found |= observer_scores(self.observer, corpus, tasks, recipe)
        if self.embed is not None:
            found["sentence embeddings"] = embedding_scores(self.embed, corpus, tasks, recipe)
        return {name: (scores,) for name, scores in found.items()}


def evaluate_probe(
    store: Store,
    saved: SavedProbe,
    *,
    labeller: str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    beside: Beside = Beside(),
) -> tuple[Report, dict[str, Scores]]:
    """Judge a probe on the tasks of a run that it was not made from, beside all baselines.

    Returns the report and the scores of every detector on the whole run. The baselines learn
    from the probe's training tasks. A run of another model, of the same width and layers, is
    judged if `beside` names the run that the probe was trained on.

    Raises:
        ProbeError: the probe was trained on another model, or the run lacks what it reads.
        NotEnoughData: there is no training task or no labelled test task of the probe.
    """
    card, tell = saved.card, progress or _silent
    tell("reading activations")
    source = _source(store, card, beside.trained_on)
    layers = sorted(set(store.manifest.layers) & set(source.manifest.layers))
    who, elsewhere = labeller or card.labeller, source is not store
    corpus = load_corpus(store, who, layers, card.target, needed=labeller is not None)
    known = load_corpus(source, who, layers, card.target) if elsewhere else corpus
    learned = _learned(known, card, source)
    tell("scoring the baselines")
    twin = card.linear_twin
    baselines = baseline_scores(learned, corpus, card.recipe, seed, twin=twin)
    if beside.embed is not None:
        tell("embedding sentences")
    baselines |= beside.scores(store, corpus, card)
    tell("resampling")
    scores, panel = saved.scores(corpus), _held_out(corpus, saved, seed)
    rate, at = card.target_false_alarm_rate, card.threshold
    report = evaluate(card.name, scores, baselines, panel, threshold=at, target_rate=rate)
    followed = side_by_side(smoothed(scores), replace(panel, smoothing=MAX, ranked_by=MAX), rate)
    others = followed | side_by_side(all_layers(learned, corpus, twin or card.recipe), panel, rate)
    trained = [f"Trained on {source.manifest.model}."] if elsewhere else []
    lacking = [] if OUTPUT_CONFIDENCE in baselines else [NO_CONFIDENCE]
    left = (*labels_left_out(store, corpus), *traces_left_out(corpus.judged()))
    report = replace(
        report,
        labeller=who,
        layer=card.layer,
        alternatives=others,
        notes=(*trained, *report.notes, *lacking, *left),
    )
    return report, {card.name: scores, **{name: runs[0] for name, runs in baselines.items()}}


def _source(store: Store, card: ProbeCard, trained_on: Store | None) -> Store:
    """Return the run that the baselines learn from."""
    check_fits(card, (trained_on or store).manifest)
    if trained_on is not None:
        check_shape(card, store.manifest)
    return trained_on or store


def smoothed(scores: Scores) -> dict[str, Scores]:
    """Return other statistics that an alarm could follow, by which they are ranked as well."""
    found = {f"smoothing {name}": parse_smoothing(name).apply(scores) for name in CANDIDATES}
    return found | {name: aggregate(scores, mean) for name, mean in AGGREGATIONS.items()}


def all_layers(learned: Corpus, corpus: Corpus, recipe: Recipe) -> dict[str, Scores]:
    """Return the scores of an ensemble of all layers' probes; nothing where there is one layer."""
    layers = corpus.matrix.layers if corpus.matrix else ()
    if len(layers) < 2:
        return {}
    every = [replace(recipe, layers=(layer,)) for layer in layers]
    probes = [fit_corpus(learned, each) for each in every]
    pairs = list(zip(probes, every, strict=True))
    seen = [probe_scores(probe, learned, each) for probe, each in pairs]
    read = [probe_scores(probe, corpus, each) for probe, each in pairs]
    return {"ensemble of layers": ensemble(read, seen)}


def _learned(corpus: Corpus, card: ProbeCard, store: Store) -> Corpus:
    learned = corpus.only(card.training_tasks)
    if not learned.traces:
        raise NotEnoughData(
            f"{store.path} has none of the training tasks of {card.name}, from which its "
            f"baselines learn: add --trained-on RUN, the run that the probe was trained on"
        )
    return learned


def _held_out(corpus: Corpus, saved: SavedProbe, seed: int) -> Panel:
    """Return the tasks that the probe has not seen; half of the benign ones may calibrate.

    A run without the probe's calibration tasks gives benign tasks of its own to the baselines.
    """
    card = saved.card
    calibration = set(corpus.tasks) & set(card.calibration_tasks)
    if not calibration:
        calibration = set(split_by_role(corpus.traces, seed=seed).calibration)
    seen = {*card.seen, *calibration}
    test = corpus.only([task for task in corpus.tasks if task not in seen])
    panel = build_panel(corpus.only(calibration - set(card.training_tasks)), test, seed)
    return replace(panel, smoothing=saved.smoothing, ranked_by=saved.ranked_by)


def keep(store: Store, report: Report, scores: Mapping[str, Scores]) -> None:
    """Keep a report and the scores of its detector and baselines in the run."""
    for detector, each in scores.items():
        store.write_scores(detector, each)
    store.write_report(report.detector, report.to_json())


def _silent(_: str) -> None:
    """Report no progress."""
