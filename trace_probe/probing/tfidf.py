"""What the words so far tell: TF-IDF of the text up to a sentence, and of the sentence itself.

The text baseline has the means of a probe: a part for what was said last and a part for all that
was said so far, the same rows to learn from, and a head of the same kind. How words are counted
and weighted is tuned on training tasks as carefully as a probe is.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trace_probe.episode import texts_before
from trace_probe.errors import NotEnoughData
from trace_probe.probing.corpus import Corpus, spread, task_folds
from trace_probe.probing.features import chosen_sentences
from trace_probe.probing.mlp import MLPProbe
from trace_probe.probing.recipe import FOCUSES, Focus, Head, Recipe, Rows
from trace_probe.probing.selection import FOLDS, criterion
from trace_probe.statistics.bootstrap import Index, Values
from trace_probe.statistics.metrics import Scores
from trace_probe.trace import Trace

CUTS = (0.25, 0.5, 0.75, 1.0)
"""Of the sentences that may be learned from: where a row is made."""
LONGEST = 3
"""Words of the longest gram that is counted."""
COMPONENTS = 128
"""Directions of the weighted counts that an MLP reads."""
TRACES = 64
"""Traces whose sentences are scored at once."""
Counts = Any
"""A sparse matrix of scipy, which has no types."""
_WORD = re.compile(r"(?u)\b\w\w+\b")


@dataclass(frozen=True)
class TextRecipe:
    """How a text is read."""

    last: bool = True
    """Whether the last sentence is read by itself, beside the whole text so far."""
    focus: Focus = "all"
    longest: int = 2
    """Words of the longest gram."""
    least: int = 2
    """Texts in which a gram has to stand."""
    sublinear: bool = True
    """Whether n occurrences count as ``1 + log(n)``."""
    C: float = 10.0
    """A smaller one penalises more."""
    head: Head = "linear"


Seen = Literal["thoughts", "prompt", "turns"]
"""What is read: the reasoning; after the prompt; or with all that an agent did and was told between
its sentences as well."""
SEEN: dict[str, Seen] = {
    "tfidf": "thoughts",
    "tfidf-with-prompt": "prompt",
    "tfidf-with-turns": "turns",
}
"""By name of the baseline; the last is of agents' runs only."""
CHOICES: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("last", (True, False)),
    ("focus", ("all", "last")),
    ("longest", (2, 1, 3)),
    ("least", (2, 1)),
    ("sublinear", (True, False)),
    ("C", (10.0, 1.0, 100.0)),
)
"""What is tuned, one after the other; the first value of each is where it starts."""


class Words:
    """Counts of word grams in the parts of texts; a gram belongs to the part it ends in."""

    def __init__(
        self, texts: Sequence[Sequence[str]], vocabulary: dict[str, int] | None = None
    ) -> None:
        """Count the parts of each text; without a vocabulary, every gram of them.

        Raises:
            NotEnoughData: there is no word in them to make a vocabulary of.
        """
        from sklearn.feature_extraction.text import CountVectorizer

        sizes = [len(parts) for parts in texts]
        self.start: Index = np.cumsum([0, *sizes])[:-1].astype(np.intp)
        counter = CountVectorizer(analyzer=list, vocabulary=vocabulary)
        parts = [grams for text in texts for grams in _grams(text)]
        try:
            self.counts: Counts = counter.fit_transform(parts).tocsr()
        except ValueError as error:
            raise NotEnoughData(
                f"no words in the reasoning to learn from ({error}): record traces with reasoning"
            ) from error
        self.vocabulary: dict[str, int] = counter.vocabulary_
        self.length = np.zeros(len(self.vocabulary), dtype=np.intp)
        for gram, column in self.vocabulary.items():
            self.length[column] = 1 + gram.count(" ")

    def until(self, text: Index, part: Index) -> Counts:
        """Return (row, gram) counts of texts up to and with a part of each."""
        from scipy.sparse import csr_matrix

        ends = np.concatenate([[0], np.cumsum(part + 1)])
        columns = np.concatenate(
            [
                np.arange(self.start[t], self.start[t] + p + 1)
                for t, p in zip(text, part, strict=True)
            ]
        )
        shape = (len(text), self.counts.shape[0])
        return csr_matrix((np.ones(len(columns)), columns, ends), shape) @ self.counts

    def of(self, text: Index, part: Index) -> Counts:
        """Return (row, gram) counts of one part of each text."""
        return self.counts[self.start[text] + part]


def _grams(parts: Sequence[str]) -> list[list[str]]:
    """Return for each part of a text the grams that end in it."""
    words: list[str] = []
    found = []
    for part in parts:
        first = len(words)
        words += _WORD.findall(part.lower())
        found.append(
            [
                " ".join(words[end - length : end])
                for end in range(first + 1, len(words) + 1)
                for length in range(1, min(LONGEST, end) + 1)
            ]
        )
    return found


class LearnedRows(NamedTuple):
    """Rows that a text model learns from: texts up to a part of each."""

    text: Index
    part: Index
    y: NDArray[np.bool_]
    weight: Values

    def of(self, chosen: NDArray[np.bool_]) -> "LearnedRows":
        """Return some of the rows."""
        text, part, y, weight = self
        return LearnedRows(text[chosen], part[chosen], y[chosen], weight[chosen])


class TextModel:
    """A head on TF-IDF, fitted to rows of `Words`."""

    def __init__(self, how: TextRecipe) -> None:
        """Say how texts are read."""
        self.how = how

    def fit(self, words: Words, rows: LearnedRows) -> "TextModel":
        """Fit to texts up to a part of each.

        Raises:
            NotEnoughData: one outcome only, or no gram stands in texts enough.
        """
        text, part, y, weight = rows
        if len(set(y.tolist())) < 2:
            raise NotEnoughData("a text baseline needs both outcomes: label more traces")
        self.part_of = words.vocabulary
        _, first = np.unique(text[::-1], return_index=True)
        longest = len(text) - 1 - first  # of each text the row that reads most
        stands = (words.until(text[longest], part[longest]) > 0).sum(axis=0)
        there = np.asarray(stands).ravel()
        kept = (there >= min(self.how.least, len(longest))) & (words.length <= self.how.longest)
        self.kept: Index = np.flatnonzero(kept)
        if not len(self.kept):
            raise NotEnoughData("no words in the reasoning to learn from: label more traces")
        self.idf: Values = np.log((1 + len(longest)) / (1 + there[self.kept])) + 1
        self._fit_head(self._rows(words, text, part), y, weight)
        return self

    def _fit_head(self, rows: Counts, y: NDArray[np.bool_], weight: Values) -> None:
        from sklearn.decomposition import TruncatedSVD
        from sklearn.linear_model import LogisticRegression

        if self.how.head == "linear":
            model = LogisticRegression(C=self.how.C, solver="liblinear")
            self._score = model.fit(rows, y, sample_weight=weight).decision_function
            return
        reduced = TruncatedSVD(min(COMPONENTS, min(rows.shape) - 1), random_state=0).fit(rows)
        head = MLPProbe().fit(reduced.transform(rows), y, sample_weight=weight)
        self._score = lambda some: head.decision_function(reduced.transform(some))

    def _rows(self, words: Words, text: Index, part: Index) -> Counts:
        from scipy.sparse import hstack

        parts = [self._weighted(words.until(text, part))]
        if self.how.last:
            parts.append(self._weighted(words.of(text, part)))
        return hstack(parts).tocsr()

    def _weighted(self, counts: Counts) -> Counts:
        """Return (row, gram) counts times their weights, each row of length one."""
        from sklearn.preprocessing import normalize

        chosen = counts[:, self.kept].astype(np.float64)
        if self.how.sublinear:
            chosen.data = 1 + np.log(chosen.data)
        return normalize(chosen.multiply(self.idf).tocsr(), copy=False)

    def scores(self, words: Words, text: Index, part: Index) -> Values:
        """Return (row,) scores of texts up to a part of each; the words' vocabulary is ours."""
        found: Values = self._score(self._rows(words, text, part))
        return found


def tune(
    value: Callable[[TextRecipe], float],
    start: TextRecipe = TextRecipe(),
    choices: Sequence[tuple[str, tuple[Any, ...]]] = CHOICES,
) -> TextRecipe:
    """Return the recipe with the highest value, found one choice after the other."""
    best, highest = start, value(start)
    for name, options in choices:
        for option in options:
            other = replace(best, **{name: option})
            if other == best:
                continue
            if (found := value(other)) > highest:
                best, highest = other, found
    return best


@dataclass(frozen=True)
class ReadTexts:
    """The words of a corpus. The first part of a text is the prompt or nothing."""

    corpus: Corpus
    words: Words


def read_texts(
    corpus: Corpus, seen: Seen = "thoughts", *, vocabulary: dict[str, int] | None = None
) -> ReadTexts:
    """Count the words of the reasoning of traces, and those of what else is `seen`."""
    return ReadTexts(corpus, Words([_parts(trace, seen) for trace in corpus.traces], vocabulary))


def _parts(trace: Trace, seen: Seen) -> list[str]:
    """Return the prompt or nothing, then a text for each sentence of reasoning."""
    chosen = trace.thoughts
    before = texts_before(trace) if seen == "turns" else [""] * len(trace.sentences)
    prompt = "" if seen == "thoughts" else trace.channel_text("prompt")
    return [
        prompt,
        *(f"{before[i]}\n{trace.text_of(trace.sentences[i])}".lstrip("\n") for i in chosen),
    ]


def training_rows(read: ReadTexts, recipe: Recipe, focus: Focus) -> LearnedRows:
    """Return the rows that may be learned from.

    The reasoning is read up to several places, that of a positive only to the end if that is the
    focus. All rows of a trace weigh 1 together.
    """
    rows: list[tuple[int, int, bool, float]] = []
    if recipe.rows == "prompt":  # beside a probe of the prompt, the words are of the reasoning
        recipe = replace(recipe, rows="reasoning")
    for one in read.corpus.known:
        order = {index: place for place, index in enumerate(one.trace.thoughts)}
        allowed = chosen_sentences(one, recipe)
        cuts = CUTS[-1:] if one.outcome and focus == "last" else CUTS
        sizes = sorted({int(np.ceil(cut * len(allowed))) for cut in cuts} - {0})
        rows += [
            (one.place, 1 + order[allowed[size - 1]], one.outcome, 1 / len(sizes)) for size in sizes
        ]
    return _as_learned(rows)


def whole_rows(read: ReadTexts) -> LearnedRows:
    """Return one row for each trace of known outcome: its whole reasoning."""
    return _as_learned(
        [(one.place, len(one.trace.thoughts), one.outcome, 1.0) for one in read.corpus.known]
    )


def _as_learned(rows: Sequence[tuple[int, int, bool, float]]) -> LearnedRows:
    if not rows:
        raise NotEnoughData("no sentence that a text baseline may learn from: label more traces")
    kinds = (np.intp, np.intp, np.bool_, np.float64)
    columns = zip(zip(*rows, strict=True), kinds, strict=True)
    return LearnedRows(*(np.array(column, kind) for column, kind in columns))


def text_scores(model: TextModel, read: ReadTexts, traces: Sequence[int]) -> Scores:
    """Return the scores of a text model at the end of each reasoning sentence of some traces."""
    found: dict[str, Values] = {}
    for first in range(0, len(traces), TRACES):
        some = traces[first : first + TRACES]
        counts = [len(read.corpus.traces[number].thoughts) for number in some]
        text = np.repeat(np.array(some, dtype=np.intp), counts)
        part = np.concatenate([1 + np.arange(count, dtype=np.intp) for count in counts])
        scores = model.scores(read.words, text, part) if len(text) else np.zeros(0)
        for number, its in zip(some, np.split(scores, np.cumsum(counts)[:-1]), strict=True):
            trace = read.corpus.traces[number]
            found[trace.id] = spread(trace, its)
    return found


def unseen_text_scores(read: ReadTexts, rows: LearnedRows, how: TextRecipe) -> Scores:
    """Return scores of every trace by a text model that did not learn from its task."""
    found: dict[str, NDArray[np.floating]] = {}
    for outside, model in _of_folds(read, rows, how):
        found.update(text_scores(model, read, np.flatnonzero(outside).tolist()))
    return found


def unseen_row_scores(read: ReadTexts, rows: LearnedRows, how: TextRecipe) -> Values:
    """Return (row,) scores of rows to learn from, likewise."""
    found = np.empty(len(rows.text))
    for outside, model in _of_folds(read, rows, how):
        held = outside[rows.text]
        if held.any():
            found[held] = model.scores(read.words, rows.text[held], rows.part[held])
    return found


def _of_folds(
    read: ReadTexts, rows: LearnedRows, how: TextRecipe
) -> Iterator[tuple[NDArray[np.bool_], TextModel]]:
    """Yield which texts a fold holds out, and the model that learned from the others."""
    tasks = np.array([trace.task.id for trace in read.corpus.traces])
    for _, held in task_folds(read.corpus.traces, FOLDS):
        outside = np.isin(tasks, held)
        yield outside, TextModel(how).fit(read.words, rows.of(~outside[rows.text]))


def _tuned(
    read: ReadTexts,
    rows: Mapping[Focus, LearnedRows],
    kind: Rows,
    start: TextRecipe,
    choices: Sequence[tuple[str, Any]],
) -> TextRecipe:
    """Return how the words are read best, as of `selection.criterion`, out of fold."""

    def value(how: TextRecipe) -> float:
        scores = unseen_text_scores(read, rows[how.focus], how)
        return float(np.nan_to_num(criterion(read.corpus, scores, kind).value))

    return tune(value, start, choices)


def tfidf(train: Corpus, every: Corpus, recipe: Recipe, head: Head = "linear") -> dict[str, Scores]:
    """Score by the words so far, tuned on the training tasks, without and with the prompt's.

    Of agents' runs also with those of answers, calls and results between the sentences. With
    more to read than the reasoning only the strength is tuned anew. Where the probe has another
    head than a linear one, so have the words: it reads a few directions of what was tuned for the
    linear one.
    """
    found: dict[str, Scores] = {}
    how = TextRecipe()
    acts = any(trace.calls or trace.actions for trace in train.traces)
    for name, seen in SEEN.items():
        if seen == "turns" and not acts:
            continue
        read = read_texts(train, seen)
        rows = {focus: training_rows(read, recipe, focus) for focus in FOCUSES}
        choices = CHOICES if seen == "thoughts" else CHOICES[-1:]
        how = _tuned(read, rows, recipe.rows, how, choices)
        others = read_texts(every, seen, vocabulary=read.words.vocabulary)
        found[name] = fitted_scores(read, rows[how.focus], how, others)
        if head != "linear":
            with_head = replace(how, head=head)
            found[f"{name}-{head}"] = fitted_scores(read, rows[how.focus], with_head, others)
    return found


def fitted_scores(read: ReadTexts, rows: LearnedRows, how: TextRecipe, others: ReadTexts) -> Scores:
    """Return the scores of other traces, counted with the same vocabulary."""
    model = TextModel(how).fit(read.words, rows)
    return text_scores(model, others, range(len(others.corpus.traces)))
