"""A probe judged on the tasks of a run that it was not made from, beside every baseline.

Baselines that read the same text with another model: is it the state, or is it the words?
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from trace_probe.activations import ActivationMatrix
from trace_probe.errors import NotEnoughData
from trace_probe.evaluation.evaluate import evaluate, side_by_side
from trace_probe.evaluation.notes import labels_left_out, traces_left_out
from trace_probe.evaluation.panel import Panel, build_panel
from trace_probe.evaluation.report import Report
from trace_probe.evaluation.whole import read_by
from trace_probe.probing.baselines import (
    OUTPUT_CONFIDENCE,
    baseline_scores,
    confidence_scores,
    has_uncertainty,
)
from trace_probe.probing.dataset import Corpus, load_corpus, split_by_role
from trace_probe.probing.fitting import cross_fit, fit_corpus, probe_scores
from trace_probe.probing.probe import ProbeCard, SavedProbe, check_fits, check_shape
from trace_probe.probing.recipe import Recipe
from trace_probe.probing.sweep import Grid, choose_cell
from trace_probe.statistics.bootstrap import Values
from trace_probe.statistics.metrics import Scores
from trace_probe.statistics.smoothing import CANDIDATES, MAX, parse_smoothing
from trace_probe.store import Store

Embed = Callable[[Sequence[str]], NDArray[np.float32]]
"""From texts to one vector each, (text, width)."""


def observer_scores(
    observer: Store, corpus: Corpus, tasks: Collection[str], recipe: Recipe
) -> dict[str, Scores]:
    """Return the scores of an observer and of its sentence embeddings on all traces of a corpus.

    The observer is probed as the model itself is: from the same rows of the training tasks,
    with layer and strength chosen among its own. Embeddings are the mean of its last layer
    over all sentences so far.

    Raises:
        ProbeError: the observer has not read every trace.
    """
    matrix = read_by(observer, corpus)
    top = max(matrix.layers)
    embedded = ActivationMatrix(_so_far(corpus, matrix, top), (top,), matrix.start)
    return {
        "observer": _probed(replace(corpus, matrix=matrix), tasks, recipe),
        "sentence embeddings": _probed(replace(corpus, matrix=embedded), tasks, recipe),
    }


def embedding_scores(
    embed: Embed, corpus: Corpus, tasks: Collection[str], recipe: Recipe
) -> Scores:
    """Return the scores of a probe of sentence embeddings, on all traces of a corpus.

    A moment is the prompt's vector beside the mean of those of the reasoning so far; strength
    and focus are chosen as for the probe itself.
    """
    texts = [
        text
        for trace in corpus.traces
        for text in (
            trace.channel_text("prompt"),
            *(trace.text_of(span) for span in trace.sentences),
        )
    ]
    ends = np.cumsum([1 + len(trace.sentences) for trace in corpus.traces])
    vectors = np.split(embed(texts), ends[:-1])
    matrix = ActivationMatrix.of([_moments(one)[None] for one in vectors], (0,), "mean")
    return _probed(replace(corpus, matrix=matrix), tasks, recipe)


def _moments(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (1 + sentence, 2 x width) from the vectors of a prompt and of its sentences."""
    so_far = np.zeros_like(vectors)
    counts = np.arange(1, len(vectors), dtype=np.float32)[:, None]
    so_far[1:] = np.cumsum(vectors[1:], axis=0) / counts
    return np.hstack([np.broadcast_to(vectors[0], vectors.shape), so_far])


def _probed(corpus: Corpus, tasks: Collection[str], recipe: Recipe) -> Scores:
    learned = corpus.only(tasks)
    cell, _ = choose_cell(learned, Grid(rows=recipe.rows))
    chosen = replace(recipe, layers=cell.layers, features=cell.features, C=cell.C, focus=cell.focus)
    return probe_scores(fit_corpus(learned, chosen), corpus, chosen)


def _so_far(corpus: Corpus, matrix: ActivationMatrix, layer: int) -> np.ndarray:
    """Return (1, row, d_model): each sentence as the token-weighted mean of all up to it."""
    mean = matrix.part(layer, "mean" if "mean" in matrix.poolings else None)
    values = np.array(mean, dtype=np.float32)
    for trace, first in zip(corpus.traces, matrix.start + 1, strict=True):
        rows = slice(first, first + len(trace.sentences))
        sizes = np.array([len(span) for span in trace.sentences], dtype=np.float32)
        sums = np.cumsum(values[rows] * sizes[:, None], axis=0)
        values[rows] = sums / np.cumsum(sizes)[:, None]
    return values[None]


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
    corpus = load_corpus(store, who, layers, card.target)
    known = load_corpus(source, who, layers, card.target) if elsewhere else corpus
    learned = _learned(known, card, source)
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
        labeller=who,
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
