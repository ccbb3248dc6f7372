"""Detectors that a probe must beat: what the task, the position and the text already tell.

Each learns from the training tasks only and gives one causal score a sentence, as a probe
does, so that one evaluation serves all.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from trace_probe.errors import NotEnoughData, ProbeError
from trace_probe.probing.dataset import (
    ActivationMatrix,
    Corpus,
    Dataset,
    build_cohort,
    build_dataset,
    chosen_sentences,
    task_folds,
)
from trace_probe.probing.probe import Recipe, fit_dataset, probe_scores
from trace_probe.statistics.metrics import (
    Index,
    Scores,
    concordance,
    pairs_across,
    pairs_within,
    resample,
    running_maxima,
    score_rows,
    within_prompt,
)
from trace_probe.statistics.metrics import pooled as pooled_auroc
from trace_probe.trace import Trace

CUTS = (0.25, 0.5, 0.75, 1.0)
SHUFFLES = 8


def baseline_scores(
    train: Corpus, every: Corpus, recipe: Recipe, seed: int = 0
) -> dict[str, tuple[Scores, ...]]:
    """Return the scores of each baseline on `every`, learned from `train` by the same recipe.

    A baseline whose training is itself a matter of chance comes as several scores.
    """
    found: dict[str, tuple[Scores, ...]] = {
        "category-only": (category_only(train, every),),
        "prompt-only": (prompt_only(train, every, recipe),),
        "position": (position(every),),
        "length": (length(every),),
        "tfidf": (tfidf(train, every, recipe),),
        "tfidf-with-prompt": (tfidf(train, every, recipe, with_prompt=True),),
    }
    lowest = min(_matrix(train).layers)
    bottom = replace(recipe, layer=lowest)
    found[f"layer {lowest}"] = (
        probe_scores(fit_dataset(rows_of(train, bottom), bottom), every, lowest),
    )
    found["shuffled labels"] = shuffled_labels(train, every, recipe, seed)
    return found


def rows_of(corpus: Corpus, recipe: Recipe) -> Dataset:
    """Return the rows that a recipe learns from."""
    return build_dataset(
        corpus.traces,
        corpus.labels,
        _matrix(corpus),
        layer=recipe.layer,
        rows=recipe.rows,
        guard=recipe.guard,
    )


def category_only(train: Corpus, every: Corpus) -> Scores:
    """Score every sentence by the training base rate of its category.

    A category not seen in training gets the base rate of all.
    """
    known = train.known()
    outcomes = np.array([bool(train.outcome(trace)) for trace in known], dtype=float)
    if not len(known):
        raise NotEnoughData("no training trace has a known outcome: label the run")
    category = np.array([trace.task.category for trace in known])
    base = {name: float(outcomes[category == name].mean()) for name in np.unique(category)}
    overall = float(outcomes.mean())
    return constant_scores(every, lambda trace: base.get(trace.task.category, overall))


def prompt_only(train: Corpus, every: Corpus, recipe: Recipe) -> Scores:
    """Score every sentence by a probe of the last prompt token, before any reasoning.

    Averaged over the traces of a prompt, which read the same: rounding must not rank them.
    """
    before = replace(recipe, rows="prompt")
    probe = fit_dataset(rows_of(train, before), before)
    matrix = _matrix(every)
    values = probe.decision_function(matrix.at(recipe.layer)[matrix.start].astype(np.float32))
    keys = np.array([trace.task.prompt_key for trace in every.traces])
    _, code = np.unique(keys, return_inverse=True)
    mean = (np.bincount(code, values) / np.bincount(code))[code]
    by_trace = {trace.id: float(value) for trace, value in zip(every.traces, mean, strict=True)}
    return constant_scores(every, lambda trace: by_trace[trace.id])


def position(every: Corpus) -> Scores:
    """Score a sentence by how many reasoning sentences came before it."""
    return {
        trace.id: _spread(trace, np.arange(len(_reasoning(trace)), dtype=float))
        for trace in every.traces
    }


def length(every: Corpus) -> Scores:
    """Score a sentence by the number of tokens generated up to its end."""
    return {
        trace.id: _spread(
            trace,
            np.array(
                [trace.sentences[i].stop - trace.prompt_stop for i in _reasoning(trace)], float
            ),
        )
        for trace in every.traces
    }


def shuffled_labels(
    train: Corpus, every: Corpus, recipe: Recipe, seed: int = 0
) -> tuple[Scores, ...]:
    """Score by probes that learned the labels of other tasks: what capacity alone gives."""
    rows = rows_of(train, recipe)
    rng = np.random.default_rng(seed)
    runs = []
    for _ in range(SHUFFLES):
        mixed = replace(rows, y=permute_between_tasks(rows, rng))
        runs.append(probe_scores(fit_dataset(mixed, recipe), every, recipe.layer))
    return tuple(runs)


def permute_between_tasks(rows: Dataset, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return labels in which each task has those of another, dealt anew to its traces.

    All rows of a trace keep one label, and tasks stay as one-sided as tasks are.
    """
    _, first = np.unique(rows.trace, return_index=True)
    outcome, task = rows.y[first], rows.task[first]
    tasks = np.unique(task)
    dealt = np.zeros(len(first), dtype=bool)
    for here, there in zip(tasks, rng.permutation(tasks), strict=True):
        mine = task == here
        dealt[mine] = np.resize(rng.permutation(outcome[task == there]), int(mine.sum()))
    if dealt.all() or not dealt.any():
        raise NotEnoughData("too few tasks to shuffle labels between: record more tasks")
    labels: NDArray[np.bool_] = dealt[np.searchsorted(rows.trace[first], rows.trace)]
    return labels


@dataclass(frozen=True)
class TextModel:
    """TF-IDF of word 1- and 2-grams with a logistic regression, made to read prefixes."""

    vocabulary: dict[str, int]
    idf: NDArray[np.float64]
    """One weight a gram, and a last 0 for grams that are not in the vocabulary."""
    coef: NDArray[np.float64]
    """Likewise."""
    intercept: float
    tokens: Callable[[str], list[str]]

    def prefix_scores(self, sentences: Sequence[str]) -> NDArray[np.float64]:
        """Return the score of the text up to the end of each sentence.

        The same as to transform every prefix, in one pass: an n-th occurrence adds
        ``2 n - 1`` times its squared weight to the squared norm.
        """
        grams, ends = self._grams(sentences)
        ids = np.array(grams, dtype=np.intp)
        growth = self.idf[ids] ** 2 * (2 * _occurrence(ids) + 1)
        norm = np.sqrt(np.concatenate([[0.0], np.cumsum(growth)]))[ends]
        product = np.concatenate([[0.0], np.cumsum(self.idf[ids] * self.coef[ids])])[ends]
        scores: NDArray[np.float64] = product / np.where(norm > 0, norm, 1.0) + self.intercept
        return scores

    def _grams(self, sentences: Sequence[str]) -> tuple[list[int], list[int]]:
        """Return gram numbers in reading order and how many there are after each sentence."""
        grams: list[int] = []
        ends = []
        previous = None
        for sentence in sentences:
            for token in self.tokens(sentence.lower()):
                grams.append(self.vocabulary.get(token, -1))
                if previous is not None:
                    grams.append(self.vocabulary.get(f"{previous} {token}", -1))
                previous = token
            ends.append(len(grams))
        return grams, ends


def fit_text(
    texts: Sequence[str],
    y: Sequence[bool],
    *,
    weight: Sequence[float] | None = None,
    C: float = 1.0,
) -> TextModel:
    """Fit to whole texts."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    if len(set(y)) < 2:
        raise NotEnoughData("a text baseline needs both outcomes: label more traces")
    vectorizer = TfidfVectorizer(ngram_range=(1, 2))
    try:
        matrix = vectorizer.fit_transform(texts)
    except ValueError as error:
        raise NotEnoughData(f"no words in the reasoning to learn from ({error})") from error
    model = LogisticRegression(C=C, max_iter=1000).fit(matrix, y, sample_weight=weight)
    return TextModel(
        vocabulary=vectorizer.vocabulary_,
        idf=np.append(vectorizer.idf_, 0.0),
        coef=np.append(model.coef_[0], 0.0),
        intercept=float(model.intercept_[0]),
        tokens=vectorizer.build_tokenizer(),
    )


def tfidf(train: Corpus, every: Corpus, recipe: Recipe, *, with_prompt: bool = False) -> Scores:
    """Score by the words so far; the penalty is cross-validated on the training tasks."""
    strengths = (1.0, 10.0, 100.0)

    def score(C: float) -> Callable[[Corpus, Corpus], Scores]:
        return lambda some, others: text_scores(some, others, recipe, C, with_prompt=with_prompt)

    values = [criterion(train, out_of_fold(train, score(C)))[0] for C in strengths]
    return score(strengths[int(np.nanargmax(values))])(train, every)


def text_scores(
    train: Corpus, every: Corpus, recipe: Recipe, C: float, *, with_prompt: bool = False
) -> Scores:
    """Score by a text model that learned from prefixes at several cuts of what a probe may see."""
    texts, y, weight = training_prefixes(train, recipe, with_prompt=with_prompt)
    return read_text(fit_text(texts, y, weight=weight, C=C), every, with_prompt=with_prompt)


def training_prefixes(
    train: Corpus, recipe: Recipe, *, with_prompt: bool = False
) -> tuple[list[str], list[bool], list[float]]:
    """Return prefixes, outcomes and weights under which every trace counts the same."""
    texts: list[str] = []
    y: list[bool] = []
    weight: list[float] = []
    for trace in train.known():
        allowed = chosen_sentences(trace, train.labels[trace.id], recipe.rows, recipe.guard)
        sizes = sorted({int(np.ceil(cut * len(allowed))) for cut in CUTS} - {0})
        words = [trace.text_of(trace.sentences[index]) for index in allowed]
        lead = _prompt(trace) if with_prompt else ""
        texts += [lead + "".join(words[:size]) for size in sizes]
        y += [bool(train.outcome(trace))] * len(sizes)
        weight += [1 / len(sizes) for _ in sizes]
    return texts, y, weight


def read_text(model: TextModel, every: Corpus, *, with_prompt: bool = False) -> Scores:
    """Return the scores of a text model at the end of each reasoning sentence."""
    scores = {}
    for trace in every.traces:
        lead = [_prompt(trace)] if with_prompt else []
        words = [trace.text_of(trace.sentences[index]) for index in _reasoning(trace)]
        scores[trace.id] = _spread(trace, model.prefix_scores(lead + words)[len(lead) :])
    return scores


def out_of_fold(
    corpus: Corpus, score: Callable[[Corpus, Corpus], Scores], *, folds: int = 4, seed: int = 0
) -> Scores:
    """Return scores of each trace by a detector that has not seen its task."""
    found: dict[str, NDArray[np.floating]] = {}
    for train, held in task_folds(corpus.traces, folds, seed):
        found.update(score(corpus.only(train), corpus.only(held)))
    return found


def criterion(corpus: Corpus, scores: Scores) -> tuple[float, str]:
    """Return what layers and strengths are chosen by: AUROC before it is said.

    Within prompts; over all test traces if no prompt has both outcomes, which the returned
    name says. nan if there is neither.
    """
    cohort = build_cohort(corpus.only(corpus.tasks, "test"))
    if not cohort.ids:
        raise NotEnoughData("no labelled trace of a test task: record and label some")
    at = cohort.before_said()
    maxima = running_maxima(score_rows(cohort, scores))
    plain = resample(cohort.n_tasks, draws=0)
    pairs = pairs_within(cohort, at)
    if pairs.n:
        wins = concordance(maxima, pairs)
        return float(within_prompt(wins, pairs, cohort, plain)[0]), "within_prompt_auroc"
    pairs = pairs_across(cohort, at)
    wins = concordance(maxima, pairs)
    return float(pooled_auroc(wins, pairs, cohort, plain)[0]), "pooled_auroc"


def _matrix(corpus: Corpus) -> ActivationMatrix:
    if corpus.matrix is None:
        raise ProbeError("these traces have no activations: use the text report for imported runs")
    return corpus.matrix


def _reasoning(trace: Trace) -> list[int]:
    return [index for index, span in enumerate(trace.sentences) if span.channel == "reasoning"]


def _prompt(trace: Trace) -> str:
    return trace.channel_text("prompt") + "\n"


def _spread(trace: Trace, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return one score a sentence from one score a reasoning sentence."""
    scores = np.full(len(trace.sentences), np.nan)
    scores[_reasoning(trace)] = values
    return scores


def constant_scores(every: Corpus, value: Callable[[Trace], float]) -> Scores:
    """Return the same score for every reasoning sentence of a trace."""
    return {
        trace.id: _spread(trace, np.full(len(_reasoning(trace)), value(trace)))
        for trace in every.traces
    }


def _occurrence(ids: Index) -> Index:
    """Return for each element how many equal ones came before it."""
    order = np.argsort(ids, kind="stable")
    ordered = ids[order]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))[: len(ids)]
    sizes = np.diff(np.append(starts, len(ids)))
    rank = np.empty(len(ids), dtype=np.intp)
    rank[order] = np.arange(len(ids)) - np.repeat(starts, sizes)
    return rank
