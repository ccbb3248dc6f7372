"""What the words so far tell: TF-IDF with a logistic regression, made to read prefixes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from trace_probe.errors import NotEnoughData
from trace_probe.probing.dataset import Corpus, chosen_sentences
from trace_probe.probing.reading import reasoning_sentences, spread
from trace_probe.probing.recipe import FOCUSES, Recipe, Rows
from trace_probe.probing.selection import criterion, out_of_fold
from trace_probe.statistics.bootstrap import Index
from trace_probe.statistics.metrics import Scores
from trace_probe.trace import Trace

CUTS = (0.25, 0.5, 0.75, 1.0)
STRENGTHS = (10.0, 1.0, 100.0)
"""The first serves to choose the rest."""


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
        """Return (sentence,) the score of the text up to the end of each.

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
    """Fit to whole texts and their outcomes, both (text,).

    Raises:
        NotEnoughData: one outcome only, or no text has a word.
    """
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
    """Score by the words so far; focus, then penalty, cross-validated on the training tasks."""

    def score(recipe: Recipe) -> Callable[[Corpus, Corpus], Scores]:
        return lambda some, others: text_scores(some, others, recipe, with_prompt=with_prompt)

    def best(recipes: Sequence[Recipe]) -> Recipe:
        found = [criterion(train, out_of_fold(train, score(one)), recipe.rows) for one in recipes]
        return recipes[int(np.argmax(np.nan_to_num([one.value for one in found])))]

    chosen = best([replace(recipe, C=STRENGTHS[0], focus=focus) for focus in FOCUSES])
    chosen = best([replace(chosen, C=C) for C in STRENGTHS])
    return score(chosen)(train, every)


def text_scores(
    train: Corpus, every: Corpus, recipe: Recipe, *, with_prompt: bool = False
) -> Scores:
    """Score by a text model that learned from prefixes of what a probe may see."""
    texts, y, weight = training_prefixes(train, recipe, with_prompt=with_prompt)
    return read_text(fit_text(texts, y, weight=weight, C=recipe.C), every, with_prompt=with_prompt)


def training_prefixes(
    train: Corpus, recipe: Recipe, *, with_prompt: bool = False
) -> tuple[list[str], list[bool], list[float]]:
    """Return prefixes, outcomes and weights under which every trace counts as the recipe says.

    Prefixes are cut at several places, those of positives only at the end if that is the focus.
    """
    texts: list[str] = []
    y: list[bool] = []
    weight: list[float] = []
    for trace in train.known():
        positive = bool(train.outcome(trace))
        allowed = _allowed(trace, train, recipe)
        cuts = CUTS[-1:] if positive and recipe.focus == "last" else CUTS
        sizes = sorted({int(np.ceil(cut * len(allowed))) for cut in cuts} - {0})
        words = [trace.text_of(trace.sentences[index]) for index in allowed]
        lead = prompt_text(trace) if with_prompt else ""
        texts += [lead + "".join(words[:size]) for size in sizes]
        y += [positive] * len(sizes)
        weight += [recipe.weight_of(trace, positive=positive) / len(sizes) for _ in sizes]
    return texts, y, weight


def _allowed(trace: Trace, train: Corpus, recipe: Recipe) -> list[int]:
    """Return the sentences that a probe may see; beside one of the prompt, all of the reasoning."""
    rows: Rows = "reasoning" if recipe.rows == "prompt" else recipe.rows
    label = train.labels[trace.id]
    return chosen_sentences(trace, label, rows, recipe.guard, recipe.guard_tokens)


def read_text(model: TextModel, every: Corpus, *, with_prompt: bool = False) -> Scores:
    """Return the scores of a text model at the end of each reasoning sentence."""
    scores = {}
    for trace in every.traces:
        lead = [prompt_text(trace)] if with_prompt else []
        words = [trace.text_of(trace.sentences[index]) for index in reasoning_sentences(trace)]
        scores[trace.id] = spread(trace, model.prefix_scores(lead + words)[len(lead) :])
    return scores


def prompt_text(trace: Trace) -> str:
    """Return the prompt as it is put before the reasoning."""
    return trace.channel_text("prompt") + "\n"


def _occurrence(ids: Index) -> Index:
    """Return for each element how many equal ones came before it."""
    order = np.argsort(ids, kind="stable")
    ordered = ids[order]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))[: len(ids)]
    sizes = np.diff(np.append(starts, len(ids)))
    rank = np.empty(len(ids), dtype=np.intp)
    rank[order] = np.arange(len(ids)) - np.repeat(starts, sizes)
    return rank
