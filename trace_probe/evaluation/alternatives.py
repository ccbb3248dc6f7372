"""Other ways to use the scores of a probe, which a report shows beside the one that was chosen.

Other statistics that an alarm could follow, and the probes of all layers together.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from trace_probe.probing.corpus import Corpus
from trace_probe.probing.fitting import fit_corpus, probe_scores
from trace_probe.probing.recipe import Recipe
from trace_probe.statistics.bootstrap import Values
from trace_probe.statistics.metrics import Scores
from trace_probe.statistics.smoothing import CANDIDATES, parse_smoothing

Aggregation = Callable[[Values], Values]
"""From scores of consecutive sentences to the statistic after each of them."""


def top_mean(scores: Values, k: int) -> Values:
    """Return (sentence,) the mean of the k highest scores so far, of all while there are fewer."""
    ends = range(1, len(scores) + 1)
    return np.array([np.sort(scores[:end])[-k:].mean() for end in ends], dtype=np.float64)


def softmax_mean(scores: Values) -> Values:
    """Return (sentence,) the mean so far, each score weighted by its exponential."""
    logs = np.logaddexp.accumulate(scores)
    found = np.empty(len(scores))
    mean = 0.0
    for i, score in enumerate(scores):
        mean += (score - mean) * np.exp(score - logs[i])
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
