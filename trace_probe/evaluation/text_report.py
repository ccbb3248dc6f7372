"""What the text of finished reasoning tells, for runs without activations."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from trace_probe.errors import NotEnoughData
from trace_probe.evaluation.notes import labels_left_out, traces_left_out
from trace_probe.evaluation.panel import Ranked, rank, summary
from trace_probe.evaluation.report import Report
from trace_probe.probing.baselines import category_rate, length
from trace_probe.probing.corpus import Corpus, build_cohort, thought_scores
from trace_probe.probing.tfidf import (
    CHOICES,
    LearnedRows,
    TextModel,
    TextRecipe,
    Words,
    read_texts,
    text_scores,
    tune,
    unseen_row_scores,
    whole_rows,
)
from trace_probe.statistics.bootstrap import Metric, Values, resample
from trace_probe.statistics.metrics import Cohort, Scores, auroc
from trace_probe.store import Store
from trace_probe.trace import Trace

FOLDS = 5


@dataclass(frozen=True)
class Told:
    """What a text detector says of traces: of each sentence, and of each trace as a whole.

    What it says of the whole does not rest on there being any reasoning.
    """

    scores: dict[str, NDArray[np.floating]] = field(default_factory=dict)
    whole: dict[str, float] = field(default_factory=dict)

    def add(self, other: "Told") -> None:
        """Take in what is told of other traces."""
        self.scores.update(other.scores)
        self.whole.update(other.whole)


def text_report(
    store: Store,
    labeller: str | None = None,
    *,
    seed: int = 0,
    detectors: Iterable[str] = (),
    observer: Store | None = None,
) -> tuple[Report, dict[str, Scores]]:
    """Judge what the text of finished reasoning tells, for runs without activations.

    Every trace is scored by detectors that have not seen its task (five folds), and by those
    named, such as text monitors, whose scores are kept in the run. An `observer` is a run of the
    same traces as another model reads them; a probe of it is one of the detectors. Returns the
    report, whose AUROC is of the whole reasoning, and the scores of each sentence's prefix.

    Raises:
        NotEnoughData: fewer than five labelled tasks, or one outcome only.
        ProbeError: the observer has not read every trace.
    """
    every = Corpus(tuple(store.traces()), store.labels(labeller))
    corpus = every.where(lambda trace: every.outcome(trace) is not None)
    notes = (*labels_left_out(store, every), *traces_left_out(corpus))
    try:
        told = text_detectors(corpus)
        if observer is not None:
            told["observer"] = _observed(corpus, observer)
    except NotEnoughData as error:
        raise NotEnoughData(" ".join([f"{error}.", *notes])) from error
    told |= {name: _kept(store.scores(name), corpus) for name in detectors}
    cohort = build_cohort(corpus)
    weights = resample(cohort.n_tasks, seed=seed)
    ranked = {name: _rank_whole(cohort, each.whole, weights) for name, each in told.items()}
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
            *notes,
        ),
    )
    return report, {name: each.scores for name, each in told.items()}


def _no_alarm(store: Store) -> str:
    if store.manifest.layers:
        return "No probe was named, so no activations were read: name one to be told of alarms."
    return "No activations, so no probe and no alarm."


def _gain_note(gain: Metric | None) -> list[str]:
    if gain is None or gain.above(0):
        return []
    told = "The reasoning is not shown to tell more than the prompt alone"
    return [f"{told}: gain in AUROC {gain:+.3f}."]


def text_detectors(corpus: Corpus) -> dict[str, Told]:
    """Return what the text baselines tell out of fold, learned from whole reasoning.

    Raises:
        NotEnoughData: there are fewer tasks than folds, or one outcome only.
    """
    found: dict[str, Told] = {}
    for learned, read in _folds(corpus):
        for name, told in _text_fold(learned, read).items():
            found.setdefault(name, Told()).add(told)
    return found


def _folds(corpus: Corpus) -> Iterator[tuple[Corpus, Corpus]]:
    """Yield what is learned from and what is judged, five times."""
    from sklearn.model_selection import GroupKFold

    tasks = [trace.task.id for trace in corpus.traces]
    if len(set(tasks)) < FOLDS:
        raise NotEnoughData(f"{len(set(tasks))} labelled tasks, {FOLDS} are needed: label more")
    for _, held in GroupKFold(FOLDS).split(tasks, groups=tasks):
        others = {tasks[index] for index in held}
        yield corpus.only(set(tasks) - others), corpus.only(others)


def _text_fold(learned: Corpus, read: Corpus) -> dict[str, Told]:
    prompts = Words([[trace.channel_text("prompt")] for trace in learned.traces])
    y = np.array([bool(learned.outcome(trace)) for trace in learned.traces])
    first = np.zeros(len(y), dtype=np.intp)
    rows = LearnedRows(np.arange(len(y)), first, y, np.ones(len(y)))
    model = TextModel(TextRecipe(last=False)).fit(prompts, rows)

    others = Words([[trace.channel_text("prompt")] for trace in read.traces], prompts.vocabulary)
    at = np.arange(len(read.traces))
    scores = model.scores(others, at, np.zeros_like(at)).tolist()
    by_prompt = dict(zip((trace.id for trace in read.traces), scores, strict=True))
    lengths = length(read)
    return {
        "tfidf": whole_text(learned, read),
        "category-only": _constant(read, category_rate(learned)),
        "prompt-only-text": _constant(read, lambda trace: by_prompt[trace.id]),
        "length": Told(dict(lengths), {name: _last(row, 0.0) for name, row in lengths.items()}),
    }


def _observed(corpus: Corpus, observer: Store) -> Told:
    """Return what a probe of another model's activations tells out of fold."""
    from trace_probe.evaluation.observer import observer_fold, read_by

    told = Told()
    seen = replace(corpus, matrix=read_by(observer, corpus))
    for learned, read in _folds(seen):
        told.add(Told(*observer_fold(learned, read)))
    return told


def _constant(read: Corpus, value: Callable[[Trace], float]) -> Told:
    """Return what a detector tells that knows a trace before its first sentence."""
    return Told(
        dict(thought_scores(read, value)), {trace.id: value(trace) for trace in read.traces}
    )


def _kept(scores: Scores, corpus: Corpus) -> Told:
    """Return what a detector tells whose scores a run keeps: of a whole trace its last score."""
    every = [trace.id for trace in corpus.traces]
    return Told(dict(scores), {name: _last(scores[name], -np.inf) for name in every})


def whole_text(learned: Corpus, read: Corpus) -> Told:
    """Return what a text model of whole reasoning tells, tuned on the traces it learns from."""
    texts = read_texts(learned)
    rows = whole_rows(texts)

    def value(how: TextRecipe) -> float:
        return auroc(unseen_row_scores(texts, rows, how), rows.y)

    others = read_texts(read, vocabulary=texts.words.vocabulary)
    how = tune(value, TextRecipe(last=False), CHOICES[1:])
    model = TextModel(how).fit(texts.words, rows)
    ends = np.array([len(trace.thoughts) for trace in read.traces], dtype=np.intp)
    finals = model.scores(others.words, np.arange(len(ends)), ends)
    whole = {trace.id: float(one) for trace, one in zip(read.traces, finals, strict=True)}
    return Told(dict(text_scores(model, others, range(len(ends)))), whole)


def _rank_whole(cohort: Cohort, whole: Mapping[str, float], weights: Values) -> Ranked:
    """Return the resampled AUROC of what is told of each trace as a whole."""
    final = np.array([[-np.inf, whole[trace_id]] for trace_id in cohort.ids])
    return rank(cohort, final, np.ones(len(final), dtype=np.intp), weights)


def _last(scores: NDArray[np.floating], otherwise: float) -> float:
    given = scores[np.isfinite(scores)]
    return float(given[-1]) if len(given) else otherwise
