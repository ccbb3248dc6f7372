"""What the text of finished reasoning tells, for runs without activations."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from trace_probe.errors import NotEnoughData
from trace_probe.evaluation.panel import Ranked, rank, summary
from trace_probe.evaluation.report import Report
from trace_probe.probing.baselines import category_only, length
from trace_probe.probing.dataset import Corpus, build_cohort
from trace_probe.probing.reading import constant_scores
from trace_probe.probing.tfidf import (
    CHOICES,
    TextModel,
    TextRecipe,
    Words,
    fitted_scores,
    read_texts,
    tune,
    unseen_row_scores,
    whole_rows,
)
from trace_probe.statistics.bootstrap import Metric, Values, resample
from trace_probe.statistics.metrics import Cohort, Scores, auroc
from trace_probe.store import Store
from trace_probe.trace import Trace

FOLDS = 5


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
    figures = {name: summary(values) for name, values in ranked.items()}
    gain = (ranked["tfidf"]["pooled"] - ranked["prompt-only-text"]["pooled"]).interval()
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
            _no_alarm(store),
            *_gain_note(gain),
        ),
    )
    return report, scores


def _no_alarm(store: Store) -> str:
    if store.manifest.layers:
        return "No probe was named, so no activations were read: name one to be told of alarms."
    return "No activations, so no probe and no alarm."


def _gain_note(gain: Metric | None) -> list[str]:
    if gain is None or gain.above(0):
        return []
    told = "The reasoning is not shown to tell more than the prompt alone"
    return [f"{told}: gain in AUROC {gain:+.3f}."]


def text_detectors(corpus: Corpus) -> dict[str, Scores]:
    """Return out-of-fold scores of the text baselines, learned from whole reasoning.

    Raises:
        NotEnoughData: there are fewer tasks than folds, or one outcome only.
    """
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
    prompts = Words([[trace.channel_text("prompt")] for trace in learned.traces])
    y = np.array([bool(learned.outcome(trace)) for trace in learned.traces])
    first = np.zeros(len(y), dtype=np.intp)
    model = TextModel(TextRecipe(last=False))
    model.fit(prompts, np.arange(len(y)), first, y, np.ones(len(y)))

    def by_prompt(trace: Trace) -> float:
        words = Words([[trace.channel_text("prompt")]], prompts.vocabulary)
        return float(model.scores(words, first[:1], first[:1])[0])

    return {
        "tfidf": whole_text(learned, read),
        "category-only": category_only(learned, read),
        "prompt-only-text": constant_scores(read, by_prompt),
        "length": length(read),
    }


def whole_text(learned: Corpus, read: Corpus) -> Scores:
    """Return the scores of a text model of whole reasoning, tuned on the traces it learns from."""
    texts = read_texts(learned)
    rows = whole_rows(texts)

    def value(how: TextRecipe) -> float:
        return auroc(unseen_row_scores(texts, rows, how), rows[2])

    others = read_texts(read, vocabulary=texts.words.vocabulary)
    return fitted_scores(texts, rows, tune(value, TextRecipe(last=False), CHOICES[1:]), others)


def _rank_whole(cohort: Cohort, scores: Scores, weights: Values) -> Ranked:
    """Return the resampled AUROC of the last score of each trace."""
    final = np.array([[-np.inf, _last(scores[trace_id])] for trace_id in cohort.ids])
    return rank(cohort, final, np.ones(len(final), dtype=np.intp), weights)


def _last(scores: NDArray[np.floating]) -> float:
    given = scores[np.isfinite(scores)]
    return float(given[-1]) if len(given) else -np.inf
