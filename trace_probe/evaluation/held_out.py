"""A probe judged on the tasks of a run that it was not made from, beside every baseline."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from trace_probe.errors import NotEnoughData
from trace_probe.evaluation.evaluate import evaluate, side_by_side
from trace_probe.evaluation.left_out import labels_left_out, traces_left_out
from trace_probe.evaluation.observer import Embed, embedding_scores, observer_scores
from trace_probe.evaluation.panel import Panel, build_panel
from trace_probe.evaluation.report import Report
from trace_probe.probing.aggregation import AGGREGATIONS, aggregate, ensemble
from trace_probe.probing.baselines import baseline_scores
from trace_probe.probing.crossfit import cross_fit
from trace_probe.probing.dataset import Corpus, build_dataset, load_corpus, split_by_role
from trace_probe.probing.probe import (
    ProbeCard,
    SavedProbe,
    check_fits,
    check_shape,
    fit_dataset,
    probe_scores,
)
from trace_probe.probing.recipe import Recipe
from trace_probe.probing.uncertainty import OUTPUT_CONFIDENCE, confidence_scores, has_uncertainty
from trace_probe.statistics.metrics import Scores
from trace_probe.statistics.smoothing import CANDIDATES, MAX, parse_smoothing
from trace_probe.store import Store

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
    corpus = load_corpus(store, labeller or card.labeller, layers).aimed(card.target)
    elsewhere = source is not store
    known = load_corpus(source, labeller or card.labeller, layers) if elsewhere else corpus
    learned = _learned(known.aimed(card.target), card, source)
    tell("scoring the baselines")
    linear = card.linear_twin or card.recipe
    baselines = baseline_scores(learned, corpus, linear, seed, head=card.head)
    baselines |= _twin(learned, corpus, card, seed)
    baselines |= _confidence(learned, corpus, card, seed)
    baselines |= _beside(store, corpus, card, beside)
    if beside.embed is not None:
        tell("embedding sentences")
        embedded = embedding_scores(beside.embed, corpus, card.training_tasks, card.recipe)
        baselines["sentence embeddings"] = (embedded,)
    tell("resampling")
    scores, panel = saved.scores(corpus), _held_out(corpus, saved, seed)
    rate, at = card.target_false_alarm_rate, card.threshold
    report = evaluate(card.name, scores, baselines, panel, threshold=at, target_rate=rate)
    followed = side_by_side(smoothed(scores), replace(panel, smoothing=MAX, ranked_by=MAX), rate)
    others = followed | side_by_side(all_layers(learned, corpus, linear), panel, rate)
    trained = [f"Trained on {source.manifest.model}."] if elsewhere else []
    lacking = [] if OUTPUT_CONFIDENCE in baselines else [NO_CONFIDENCE]
    left = (*labels_left_out(store, corpus), *traces_left_out(corpus.judged()))
    report = replace(
        report,
        labeller=labeller or card.labeller,
        layer=card.layer,
        alternatives=others,
        notes=(*trained, *report.notes, *lacking, *left),
    )
    return report, {card.name: scores, **{name: runs[0] for name, runs in baselines.items()}}


def _twin(
    learned: Corpus, corpus: Corpus, card: ProbeCard, seed: int
) -> dict[str, tuple[Scores, ...]]:
    """Return the scores of the linear probe to be shown beside another head; else nothing."""
    linear = card.linear_twin
    if linear is None:
        return {}
    probe = cross_fit(learned, linear, seed=seed).mean()
    return {"linear twin": (probe_scores(probe, corpus, linear),)}


def _confidence(
    learned: Corpus, corpus: Corpus, card: ProbeCard, seed: int
) -> dict[str, tuple[Scores, ...]]:
    """Return the scores of output confidence; nothing where it was not recorded."""
    if not all(map(has_uncertainty, (*learned.traces, *corpus.traces))):
        return {}
    return {OUTPUT_CONFIDENCE: (confidence_scores(learned, corpus, card.recipe, seed),)}


def _source(store: Store, card: ProbeCard, trained_on: Store | None) -> Store:
    """Return the run that the baselines learn from."""
    check_fits(card, (trained_on or store).manifest)
    if trained_on is not None:
        check_shape(card, store.manifest)
    return trained_on or store


def _beside(
    store: Store, corpus: Corpus, card: ProbeCard, beside: Beside
) -> dict[str, tuple[Scores, ...]]:
    """Return the scores of the detectors that were asked for."""
    found: dict[str, tuple[Scores, ...]] = {
        name: (store.scores(name),) for name in beside.detectors
    }
    if beside.observer is not None:
        learned = card.training_tasks
        read = observer_scores(beside.observer, corpus, learned, card.recipe)
        found |= {name: (scores,) for name, scores in read.items()}
    return found


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
    probes = [fit_dataset(build_dataset(learned, each), each) for each in every]
    pairs = list(zip(probes, every, strict=True))
    seen = [probe_scores(probe, learned, each) for probe, each in pairs]
    read = [probe_scores(probe, corpus, each) for probe, each in pairs]
    return {"ensemble of layers": ensemble(read, seen)}


def _learned(corpus: Corpus, card: ProbeCard, store: Store) -> Corpus:
    learned = corpus.only(card.training_tasks)
    if not learned.traces:
        raise NotEnoughData(
            f"{store.path} has none of the training tasks of {card.name}, from which its "
            f"baselines learn: name the run that it was trained on"
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
