"""A probe judged on the tasks of a run that it was not made from, beside every baseline."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from trace_probe.errors import NotEnoughData
from trace_probe.evaluation.alternatives import all_layers, smoothed
from trace_probe.evaluation.evaluate import evaluate, side_by_side
from trace_probe.evaluation.notes import labels_left_out, traces_left_out
from trace_probe.evaluation.observer import Embed, embedding_scores, observer_scores
from trace_probe.evaluation.panel import Panel, build_panel
from trace_probe.evaluation.report import Report
from trace_probe.probing.baselines import OUTPUT_CONFIDENCE, baseline_scores
from trace_probe.probing.corpus import Corpus, load_corpus, split_by_role
from trace_probe.probing.probe import ProbeCard, SavedProbe, check_fits
from trace_probe.statistics.metrics import Scores
from trace_probe.statistics.smoothing import MAX
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
    card, tell = saved.card, progress or (lambda _: None)
    tell("reading activations")
    corpus, learned = _corpora(store, card, labeller, beside.trained_on)
    panel = _held_out(corpus, saved, seed)
    tell("scoring the baselines")
    twin = card.linear_twin
    baselines = baseline_scores(learned, corpus, card.recipe, seed, twin=twin)
    if beside.embed is not None:
        tell("embedding sentences")
    baselines |= beside.scores(store, corpus, card)
    scores = saved.scores(corpus)
    ways, ensemble = smoothed(scores), all_layers(learned, corpus, twin or card.recipe)
    tell("resampling")
    rate, at = card.target_false_alarm_rate, card.threshold
    report = evaluate(card.name, scores, baselines, panel, threshold=at, target_rate=rate)
    plain = replace(panel, smoothing=MAX, ranked_by=MAX)
    others = side_by_side(ways, plain, rate) | side_by_side(ensemble, panel, rate)
    trained = [f"Trained on {one.manifest.model}." for one in (beside.trained_on,) if one]
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


def _corpora(
    store: Store, card: ProbeCard, labeller: str | None, trained_on: Store | None
) -> tuple[Corpus, Corpus]:
    """Return the run that is judged, and of the run that was learned from the training tasks."""
    source = trained_on or store
    check_fits(card, source)
    if trained_on is not None:
        check_fits(card, store, any_model=True)
    who = labeller or card.labeller
    layers = sorted(set(store.manifest.layers) & set(source.manifest.layers))
    corpus = load_corpus(store, who, layers, card.target, needed=labeller is not None)
    known = corpus if trained_on is None else load_corpus(source, who, layers, card.target)
    learned = known.only(card.training_tasks)
    if not learned.traces:
        raise NotEnoughData(
            f"{source.path} has none of the training tasks of {card.name}, from which its "
            f"baselines learn: add --trained-on RUN, the run that the probe was trained on"
        )
    return corpus, learned


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
    calm = corpus.only(calibration - set(card.training_tasks))
    return replace(
        build_panel(calm, test, seed), smoothing=saved.smoothing, ranked_by=saved.ranked_by
    )


def keep(store: Store, report: Report, scores: Mapping[str, Scores]) -> None:
    """Keep a report and the scores of its detector and baselines in the run."""
    for detector, each in scores.items():
        store.write_scores(detector, each)
    store.write_report(report.detector, report.to_json())
