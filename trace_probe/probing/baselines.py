"""Detectors that a probe must beat: what the task, the position and the text already tell.

Each learns from the training tasks only and gives one causal score a sentence, as a probe
does, so that one evaluation serves all.

How unsure the model was of its own words: a baseline that a probe of activations must beat.

What a probe tells beyond it is not mere confidence.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from trace_probe.activations import ALL_POOLINGS, ActivationMatrix, RowEnd
from trace_probe.errors import NotEnoughData
from trace_probe.probing.corpus import Corpus, thought_scores
from trace_probe.probing.features import Dataset, build_dataset, feature_rows
from trace_probe.probing.fitting import (
    cross_fit,
    fit_corpus,
    fit_dataset,
    probe_scores,
    several_scores,
)
from trace_probe.probing.recipe import Recipe
from trace_probe.probing.selection import criterion
from trace_probe.probing.tfidf import tfidf
from trace_probe.statistics.metrics import Scores
from trace_probe.trace import MEASURES, Trace

SHUFFLES = 8


def baseline_scores(
    train: Corpus, every: Corpus, recipe: Recipe, seed: int = 0, *, twin: Recipe | None = None
) -> dict[str, tuple[Scores, ...]]:
    """Return the scores of each baseline on `every`, learned from `train` as a recipe says.

    Where its head is not linear, `twin` is the recipe of the linear probe to be shown beside it,
    which the baselines follow; words are read with both heads. A baseline whose training is itself
    a matter of chance comes as several scores. A run of a single layer has no lower one to compare
    with, and one without uncertainties no output confidence.
    """
    head, own = recipe.head, recipe
    recipe = twin or recipe
    found: dict[str, tuple[Scores, ...]] = {
        "category-only": (category_only(train, every),),
        "prompt-only": (prompt_only(train, every, recipe),),
        "position": (position(every),),
        "length": (length(every),),
        **{name: (scores,) for name, scores in tfidf(train, every, recipe, head).items()},
    }
    lowest, *others = sorted(train.activations.layers)
    if others:
        bottom = replace(recipe, layers=(lowest,))
        found[f"layer {lowest}"] = (probe_scores(fit_corpus(train, bottom), every, bottom),)
    found["shuffled labels"] = shuffled_labels(train, every, recipe, seed)
    if twin is not None:
        probe = cross_fit(train.folds(seed=seed), twin).mean()
        found["linear twin"] = (probe_scores(probe, every, twin),)
    if all(map(has_uncertainty, (*train.traces, *every.traces))):
        found[OUTPUT_CONFIDENCE] = (confidence_scores(train, every, own, seed),)
    return found


def category_only(train: Corpus, every: Corpus) -> Scores:
    """Score every sentence by the training base rate of its category.

    Raises:
        NotEnoughData: no training trace has a known outcome.
    """
    return thought_scores(every, category_rate(train))


def category_rate(train: Corpus) -> Callable[[Trace], float]:
    """Return what gives a trace the base rate of its category, else the base rate of all.

    Raises:
        NotEnoughData: no training trace has a known outcome.
    """
    known = train.known
    outcomes = np.array([one.outcome for one in known], dtype=float)
    if not len(known):
        raise NotEnoughData("no training trace has a known outcome: label the run")
    category = np.array([one.trace.task.category for one in known])
    base = {name: float(outcomes[category == name].mean()) for name in np.unique(category)}
    overall = float(outcomes.mean())
    return lambda trace: base.get(trace.task.category, overall)


def prompt_only(train: Corpus, every: Corpus, recipe: Recipe) -> Scores:
    """Score every sentence by a probe of the last prompt token, before any reasoning.

    Averaged over the traces of a prompt, which read the same: rounding must not rank them.
    """
    before = replace(recipe, features=("prompt",), rows="prompt", focus="all")
    probe = fit_corpus(train, before)
    index = np.arange(len(every.traces))
    where = index, np.full(len(index), -1)
    X = feature_rows(every.activations, every.traces, before.layers, before.features, *where)
    values = probe.raw_scores(X)
    keys = np.array([trace.task.prompt_key for trace in every.traces])
    _, code = np.unique(keys, return_inverse=True)
    mean = (np.bincount(code, values) / np.bincount(code))[code]
    by_trace = {trace.id: float(value) for trace, value in zip(every.traces, mean, strict=True)}
    return thought_scores(every, lambda trace: by_trace[trace.id])


def position(every: Corpus) -> Scores:
    """Score a sentence by how many reasoning sentences came before it."""
    return thought_scores(every, lambda trace: np.arange(len(trace.thoughts)))


def length(every: Corpus) -> Scores:
    """Score a sentence by the number of tokens generated up to its end."""
    return thought_scores(
        every, lambda one: [one.sentences[i].stop - one.prompt_stop for i in one.thoughts]
    )


def shuffled_labels(
    train: Corpus, every: Corpus, recipe: Recipe, seed: int = 0
) -> tuple[Scores, ...]:
    """Score by probes that learned the labels of other tasks: what capacity alone gives.

    `SHUFFLES` of them. A control task in the sense of Hewitt and Liang (2019, arXiv 1909.03368),
    over which a probe's lead is its selectivity.
    """
    rows = build_dataset(train, recipe)
    rng = np.random.default_rng(seed)
    mixed = [replace(rows, y=permute_between_tasks(rows, rng)) for _ in range(SHUFFLES)]
    probes = [fit_dataset(each, recipe) for each in mixed]
    return tuple(several_scores(probes, every, recipe))


def permute_between_tasks(rows: Dataset, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return (row,) labels in which each task has those of another, permuted among its traces.

    All rows of a trace keep one label, and tasks stay as one-sided as tasks are.

    Raises:
        NotEnoughData: only one outcome is left: there are too few tasks.
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


OUTPUT_CONFIDENCE = "output confidence"
"""The name of the baseline."""
LAYER = 0
"""The only layer of a matrix of uncertainties."""
STRENGTHS = (0.01, 0.1, 1.0)
"""Of the baseline, of which training tasks choose: it has few numbers to learn from."""


def has_uncertainty(trace: Trace) -> bool:
    """Return whether the uncertainty of a trace's tokens was recorded."""
    return len(trace.uncertainty) == len(trace.sentences)


def uncertainty_matrix(traces: Sequence[Trace], row_end: RowEnd = "token") -> ActivationMatrix:
    """Return rows of the last, mean and highest uncertainty of each sentence.

    They are laid out as activations are, three numbers wide, so that every feature and head can
    be made of them. The row of the prompt, which the model did not write, is 0. They are of the
    tokens of the rows of the run, of which `row_end` says where they end.

    Raises:
        NotEnoughData: a trace was recorded without.
    """
    blocks = []
    for trace in traces:
        if not has_uncertainty(trace):
            raise NotEnoughData(
                f"trace {trace.id} was recorded without the uncertainty of its tokens: record "
                f"with this version, from a model that is loaded here"
            )
        rows = np.zeros((1, 1 + len(trace.sentences), 3 * len(MEASURES)), dtype=np.float32)
        if trace.uncertainty:
            rows[0, 1:] = trace.uncertainty
        blocks.append(rows)
    return replace(ActivationMatrix.of(blocks, (LAYER,), ALL_POOLINGS), row_end=row_end)


def confidence_scores(train: Corpus, every: Corpus, recipe: Recipe, seed: int = 0) -> Scores:
    """Return scores of output confidence, learned as a probe of a recipe learns.

    It reads the same features with the same head, and is the mean of the probes of four folds.
    Its strength is the one that does best on training tasks, out of fold.

    Raises:
        NotEnoughData: a trace was recorded without, or there are too few tasks.
    """
    row_end = train.activations.row_end
    known = replace(train, matrix=uncertainty_matrix(train.traces, row_end))
    own = replace(recipe, layers=(LAYER,))
    folds = known.folds(seed=seed)
    fitted = [cross_fit(folds, replace(own, C=strength)) for strength in STRENGTHS]
    best = max(fitted, key=lambda one: criterion(known, one.scores, recipe.rows).value)
    read = replace(every, matrix=uncertainty_matrix(every.traces, row_end))
    return probe_scores(best.mean(), read, best.recipe)
