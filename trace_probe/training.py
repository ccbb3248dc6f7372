"""From a labelled run to a probe with a threshold, and from a probe to its report.

Layer, strength and threshold never see a test task: the split comes first.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray

from trace_probe.errors import NotEnoughData
from trace_probe.evaluation.evaluate import evaluate, side_by_side
from trace_probe.evaluation.observer import observer_scores
from trace_probe.evaluation.panel import Panel, build_panel, rank, summary
from trace_probe.evaluation.report import Report
from trace_probe.probing.aggregation import AGGREGATIONS, aggregate, ensemble, plain
from trace_probe.probing.baselines import (
    baseline_scores,
    category_only,
    constant_scores,
    fit_text,
    length,
    read_text,
    rows_of,
)
from trace_probe.probing.dataset import (
    Corpus,
    Rows,
    Split,
    build_cohort,
    load_corpus,
    load_matrix,
    split_by_role,
)
from trace_probe.probing.probe import (
    ProbeCard,
    Recipe,
    SavedProbe,
    check_fits,
    check_shape,
    fit_dataset,
    probe_scores,
)
from trace_probe.probing.sweep import choose_cell
from trace_probe.statistics.calibration import Threshold, conformal_threshold
from trace_probe.statistics.metrics import (
    Cohort,
    Metric,
    Scores,
    Values,
    metric,
    resample,
    trace_maxima,
)
from trace_probe.store import Store

FOLDS = 5
Progress = Callable[[str], None]


def train(  # noqa: PLR0913 - these are the options of the command
    store: Store,
    *,
    name: str | None = None,
    labeller: str | None = None,
    layers: Iterable[int] | None = None,
    target_rate: float = 0.01,
    seed: int = 0,
    rows: Rows = "before-said",
    progress: Progress | None = None,
) -> SavedProbe:
    """Train a probe on a labelled run and set its threshold on the benign traces held out.

    Without a name it is called after the run and the layer.

    Raises:
        NotEnoughData: too few tasks, one outcome only, or no benign trace.
        StoreError: the run has no activations of a layer.
    """
    tell = progress or _silent
    tell("reading activations")
    corpus = load_corpus(store, labeller, layers)
    split = split_by_role(corpus.traces, seed=seed)
    learned = corpus.only(split.train)
    recipe, figures = choose_cell(learned, rows=rows, seed=seed, progress=tell)
    tell(f"fitting layer {recipe.layer}, C = {recipe.C:g}")
    probe = fit_dataset(rows_of(learned, recipe), recipe)
    calibration = build_panel(corpus.only(split.calibration), learned).calibration
    scores = probe_scores(probe, corpus.only(split.calibration), recipe.layer)
    ids = [trace.id for trace in calibration]
    threshold = conformal_threshold(trace_maxima(scores, ids), target_rate)
    card = _card(store, corpus, split, recipe, threshold, figures)
    return SavedProbe(replace(card, name=name or card.name), probe)


def _card(
    store: Store,
    corpus: Corpus,
    split: Split,
    recipe: Recipe,
    threshold: Threshold,
    figures: dict[str, float],
) -> ProbeCard:
    manifest = store.manifest
    return ProbeCard(
        name=f"{store.name}-layer-{recipe.layer}",
        model=manifest.model,
        tokenizer=manifest.tokenizer,
        layer=recipe.layer,
        d_model=manifest.d_model,
        pooling=manifest.pooling,
        rows=recipe.rows,
        guard=recipe.guard,
        labeller=next(iter(corpus.labels.values())).labeller,
        method=recipe.method,
        C=recipe.C,
        training_tasks=split.train,
        calibration_tasks=split.calibration,
        threshold=threshold.value,
        target_false_alarm_rate=threshold.target_rate,
        honest_false_alarm_rate=threshold.honest_rate,
        figures=figures,
        limits=tuple(_limits(store, threshold, figures)),
        version=version("trace-probe"),
    )


def _limits(store: Store, threshold: Threshold, figures: dict[str, float]) -> Iterator[str]:
    """Yield what a user of the probe must know."""
    yield f"Reads the reasoning of {store.manifest.model} only, sampled as in run {store.name}."
    yield f"The false-alarm rate holds for tasks like the {threshold.n} benign ones it was set on."
    if threshold.note:
        yield f"{threshold.note[0].upper()}{threshold.note[1:]}."
    if any(name.startswith("pooled") for name in figures):
        yield (
            "No training prompt has both outcomes: layer and strength were chosen by pooled "
            "AUROC, which also rewards telling tasks apart."
        )


def score_run(store: Store, saved: SavedProbe) -> Scores:
    """Return the score of each reasoning sentence of every trace of a run.

    Raises:
        ProbeError: the probe was trained on another model, layer or pooling.
    """
    check_fits(saved.card, store.manifest)
    traces = tuple(store.traces())
    matrix = load_matrix(store, traces, (saved.card.layer,))
    return saved.scores(Corpus(traces, {}, matrix))


@dataclass(frozen=True)
class Beside:
    """What a probe is compared with, beyond the baselines that are always computed."""

    trained_on: Store | None = None
    """The run that the probe and its baselines learned from, where it is not the one judged."""
    observer: Store | None = None
    """The same traces as read by another model."""
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
        ProbeError: the probe was trained on another model, layer or pooling.
        NotEnoughData: there is no training task or no labelled test task of the probe.
    """
    card, tell = saved.card, progress or _silent
    tell("reading activations")
    source = _source(store, card, beside.trained_on)
    layers = sorted(set(store.manifest.layers) & set(source.manifest.layers))
    corpus = load_corpus(store, labeller or card.labeller, layers)
    elsewhere = source is not store
    known = load_corpus(source, labeller or card.labeller, layers) if elsewhere else corpus
    learned = _learned(known, card, source)
    tell("scoring the baselines")
    baselines = baseline_scores(learned, corpus, card.recipe, seed)
    baselines |= _beside(store, corpus, card, beside)
    tell("resampling")
    scores, panel = saved.scores(corpus), _held_out(corpus, card, seed)
    report = evaluate(
        card.name,
        scores,
        baselines,
        panel,
        threshold=card.threshold,
        target_rate=card.target_false_alarm_rate,
    )
    others = side_by_side(
        alternatives(scores, learned, corpus, card.recipe), panel, card.target_false_alarm_rate
    )
    notes = (f"Trained on {source.manifest.model}.", *report.notes) if elsewhere else report.notes
    report = replace(
        report,
        labeller=labeller or card.labeller,
        layer=card.layer,
        alternatives=others,
        notes=notes,
    )
    return report, {card.name: scores, **{name: runs[0] for name, runs in baselines.items()}}


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


def alternatives(
    scores: Scores, learned: Corpus, corpus: Corpus, recipe: Recipe
) -> dict[str, Scores]:
    """Return other statistics of a probe's scores, and an ensemble of probes of all layers."""
    found = {
        name: aggregate(scores, rule) for name, rule in AGGREGATIONS.items() if rule is not plain
    }
    layers = corpus.matrix.layers if corpus.matrix else ()
    if len(layers) > 1:
        every = [replace(recipe, layer=layer) for layer in layers]
        probes = [fit_dataset(rows_of(learned, each), each) for each in every]
        pairs = list(zip(probes, layers, strict=True))
        seen = [probe_scores(probe, learned, layer) for probe, layer in pairs]
        read = [probe_scores(probe, corpus, layer) for probe, layer in pairs]
        found["ensemble of layers"] = ensemble(read, seen)
    return found


def _learned(corpus: Corpus, card: ProbeCard, store: Store) -> Corpus:
    learned = corpus.only(card.training_tasks)
    if not learned.traces:
        raise NotEnoughData(
            f"{store.path} has none of the training tasks of {card.name}, from which its "
            f"baselines learn: name the run that it was trained on"
        )
    return learned


def _held_out(corpus: Corpus, card: ProbeCard, seed: int) -> Panel:
    """Return the tasks that the probe has not seen; half of the benign ones may calibrate.

    A run without the probe's calibration tasks gives benign tasks of its own to the baselines.
    """
    calibration = set(corpus.tasks) & set(card.calibration_tasks)
    if not calibration:
        calibration = set(split_by_role(corpus.traces, seed=seed).calibration)
    seen = {*card.training_tasks, *card.calibration_tasks, *calibration}
    test = corpus.only([task for task in corpus.tasks if task not in seen])
    return build_panel(corpus.only(calibration - set(card.training_tasks)), test, seed)


def keep(store: Store, report: Report, scores: Mapping[str, Scores]) -> None:
    """Keep a report and the scores of its detector and baselines in the run."""
    for detector, each in scores.items():
        store.write_scores(detector, each)
    store.write_report(report.detector, report.to_json())


def text_report(
    store: Store,
    labeller: str | None = None,
    *,
    seed: int = 0,
    detectors: Iterable[str] = (),
) -> tuple[Report, dict[str, Scores]]:
    """Judge what the text of finished reasoning tells, for runs without activations.

    Every trace is scored by detectors that have not seen its task (five folds), and by those
    named, such as text monitors, whose scores are kept in the run. Returns the
    report, whose AUROC is of the whole reasoning, and the scores of each sentence's prefix.

    Raises:
        NotEnoughData: fewer than five labelled tasks, or one outcome only.
    """
    corpus = Corpus(tuple(store.traces()), store.labels(labeller))
    corpus = Corpus(corpus.known(), corpus.labels)
    scores = text_detectors(corpus) | {name: store.scores(name) for name in detectors}
    cohort = build_cohort(corpus)
    weights = resample(cohort.n_tasks, seed=seed)
    ranked = {name: _rank_whole(cohort, each, weights) for name, each in scores.items()}
    figures = {name: summary(values, cohort) for name, values in ranked.items()}
    gain = metric(ranked["tfidf"]["pooled"] - ranked["prompt-only-text"]["pooled"], len(cohort.ids))
    report = Report(
        detector="tfidf",
        labeller=corpus.labels[corpus.traces[0].id].labeller,
        layer=None,
        n={**cohort.counts(), "benign": 0},
        threshold=None,
        target_false_alarm_rate=None,
        figures=figures.pop("tfidf"),
        baselines=figures,
        notes=(
            "The whole reasoning was read: these figures do not say how early.",
            "No activations and no benign traces: no probe and no alarm.",
            *_gain_note(gain),
        ),
    )
    return report, scores


def _gain_note(gain: Metric | None) -> list[str]:
    if gain is None or gain.lower > 0:
        return []
    return [
        f"The reasoning is not shown to tell more than the prompt alone: "
        f"AUROC {gain.estimate:+.3f} [{gain.lower:+.3f}, {gain.upper:+.3f}]."
    ]


def text_detectors(corpus: Corpus) -> dict[str, Scores]:
    """Return out-of-fold scores of the text baselines, learned from whole reasoning."""
    from sklearn.model_selection import GroupKFold

    tasks = [trace.task.id for trace in corpus.traces]
    if len(set(tasks)) < FOLDS:
        raise NotEnoughData(f"{len(set(tasks))} labelled tasks, {FOLDS} are needed: label more")
    found: dict[str, dict[str, NDArray[np.floating]]] = {}
    for _, held in GroupKFold(FOLDS).split(tasks, groups=tasks):
        others = {tasks[index] for index in held}
        learned, read = corpus.only(set(tasks) - others), corpus.only(others)
        for name, scores in _text_fold(learned, read).items():
            found.setdefault(name, {}).update(scores)
    return dict(found)


def _text_fold(learned: Corpus, read: Corpus) -> dict[str, Scores]:
    outcomes = [bool(learned.outcome(trace)) for trace in learned.traces]
    reasoning = [trace.channel_text("reasoning") for trace in learned.traces]
    prompts = [trace.channel_text("prompt") for trace in learned.traces]
    by_prompt = fit_text(prompts, outcomes)
    return {
        "tfidf": read_text(fit_text(reasoning, outcomes), read),
        "category-only": category_only(learned, read),
        "prompt-only-text": constant_scores(
            read, lambda trace: by_prompt.prefix_scores([trace.channel_text("prompt")])[0]
        ),
        "length": length(read),
    }


def _rank_whole(cohort: Cohort, scores: Scores, weights: Values) -> dict[str, Values]:
    """Return the resampled AUROC of the last score of each trace."""
    final = np.array([[-np.inf, _last(scores[trace_id])] for trace_id in cohort.ids])
    return rank(cohort, final, np.ones(len(final), dtype=np.intp), weights)


def _last(scores: NDArray[np.floating]) -> float:
    given = scores[np.isfinite(scores)]
    return float(given[-1]) if len(given) else -np.inf


def _silent(_: str) -> None:
    """Report no progress."""
