"""Where the truth is planted, a report says it: in its words, not in its figures alone."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from planted import World, plant

from trace_probe.evaluation.evaluate import evaluate
from trace_probe.evaluation.panel import build_panel
from trace_probe.evaluation.report import Report, at_rate
from trace_probe.probing.baselines import (
    OUTPUT_CONFIDENCE,
    category_only,
    confidence_scores,
    length,
    position,
    prompt_only,
)
from trace_probe.probing.corpus import Corpus, split_by_role
from trace_probe.probing.fitting import fit_corpus, probe_scores
from trace_probe.probing.probe import Recipe
from trace_probe.statistics.bootstrap import Metric
from trace_probe.statistics.metrics import Scores

RECIPE = Recipe((3,))
MANY = World(tasks=60, samples=8, benign=40, said=None)


def reported(world: World, *, ideal: bool = False) -> Report:
    """Return the report of a probe trained on a world, or of the best direction there is."""
    corpus = plant(world)
    split = split_by_role(corpus.traces)
    train = corpus.only(split.train)
    if ideal:
        scores = along(corpus, world)
    else:
        scores = probe_scores(fit_corpus(train, RECIPE), corpus, RECIPE)
    baselines = {
        "category-only": (category_only(train, corpus),),
        "prompt-only": (prompt_only(train, corpus, RECIPE),),
        "position": (position(corpus),),
        "length": (length(corpus),),
    }
    panel = build_panel(corpus.only(split.calibration), corpus.only(split.test))
    return evaluate("probe", scores, baselines, panel, threshold=0.0, target_rate=0.05)


def along(corpus: Corpus, world: World) -> Scores:
    """Return how far each sentence lies along the planted direction, which nobody can beat."""
    matrix = corpus.activations
    values = matrix.at(3) @ world.direction
    return {
        trace.id: np.append(values[first + 1 : first + len(trace.sentences)], np.nan)
        for trace, first in zip(corpus.traces, matrix.start, strict=True)
    }


def caught(report: Report, rate: str = "0.05") -> Metric:
    found = report.figures[at_rate(rate)]
    assert found is not None
    return found


def refusals(report: Report) -> list[str]:
    return [note for note in report.notes if note.startswith("No early signal")]


NOTHING: Mapping[str, World] = {
    "null": MANY,
    "the prompt alone": replace(MANY, prompt_strength=8.0),
    "after it is said": replace(MANY, strength=4.0, onset=6, said=6),
    "position": replace(MANY, drift=2.0),
    "category": replace(MANY, category_strength=4.0),
    "noise in many dimensions": replace(MANY, d_model=200),
}


@pytest.mark.parametrize("name", NOTHING)
def test_where_there_is_no_early_signal_the_report_claims_none(name: str) -> None:
    report = reported(NOTHING[name])
    assert any("scores permuted within prompts" in note for note in refusals(report))
    assert caught(report).lower < 0.05
    over = report.more.headline["0.05"].over_chance
    assert over is not None
    assert over.lower <= 0


def test_a_signal_of_one_layer_is_claimed_and_nine_tenths_of_it_are_got() -> None:
    world = replace(MANY, strength=1.8)
    report, best = reported(world), reported(world, ideal=True)
    assert not refusals(report)
    for rate in ("0.05", "0.1"):
        assert 0.5 < caught(best, rate).estimate < 1.0  # not so strong that anything would do
        assert caught(report, rate).estimate >= 0.9 * caught(best, rate).estimate
    line = str(report).splitlines()[0]
    assert line.startswith("caught before it is said, 5% of siblings alarm: 0.")
    assert "; chance 0." in line


def test_the_length_of_traces_is_no_signal() -> None:
    """The state holds how many sentences are left and nothing else; instrumental traces end
    sooner. So they rank higher at every moment, and no figure of it may be called a warning."""
    report = reported(replace(MANY, tasks=90, left=1.0, shorter=3))
    within = report.figures["within_prompt_auroc"]
    assert within is not None
    assert within.lower > 0.6  # what was claimed for a signal
    left = report.baselines["sentences left"]["within_prompt_auroc"]
    assert left is not None
    assert left.estimate >= within.estimate - 0.02
    matched = report.figures["length_matched_auroc"]
    assert matched is None or not matched.above(0.5)
    assert refusals(report)
    assert any("beyond length" in note for note in report.notes)


def test_of_few_tasks_nothing_is_claimed_and_the_report_says_how_many_are_needed() -> None:
    report = reported(replace(MANY, tasks=12, strength=4.0))
    assert report.figures[at_rate("0.05")] is None
    assert report.to_json()["caught_before_said_at_sibling_rate"] == {"0.05": None, "0.1": None}
    assert any(
        note.startswith("No early warning can be claimed") and "at least 40 siblings in 10" in note
        for note in report.notes
    )


def test_two_facts_met_at_different_times_are_joined_by_memory_alone() -> None:
    """Instrumental traces meet both facts, each for one sentence; their siblings one of them."""
    corpus = plant(MANY)
    matrix, rng = corpus.activations, np.random.default_rng(5)
    values = matrix.values.copy()
    for trace, first in zip(corpus.traces, matrix.start, strict=True):
        both, one = bool(corpus.outcome(trace)), int(rng.integers(2))
        for fact, sentence in enumerate((1, 4)):
            if both or (fact == one and trace.task.role == "test"):
                values[-1, first + 1 + sentence, 5 + fact] += 8.0
    three = np.concatenate([values] * 3, axis=2)  # as if each sentence were one token
    corpus = replace(corpus, matrix=replace(matrix, values=three, pooling="last+mean+max"))
    split = split_by_role(corpus.traces)
    train = corpus.only(split.train)
    panel = build_panel(corpus.only(split.calibration), corpus.only(split.test))
    found = {}
    for features in (("last",), ("last", "running-max")):
        recipe = replace(RECIPE, features=features)
        probe = fit_corpus(train, recipe)
        baselines = {"position": (position(corpus),)}
        found[features[-1]] = evaluate(
            "probe",
            probe_scores(probe, corpus, recipe),
            baselines,
            panel,
            threshold=0.0,
            target_rate=0.05,
        )
    assert caught(found["last"]).estimate < 0.3
    assert caught(found["running-max"]).estimate > 0.5
    assert not refusals(found["running-max"])


@pytest.mark.parametrize("same", [True, False])
def test_what_output_confidence_tells_as_well_is_no_early_signal_of_the_state(same: bool) -> None:
    """The state holds how unsure the model is, or else something that this does not show."""
    world = replace(MANY, strength=4.0)
    corpus, rng = plant(world), np.random.default_rng(6)
    read = along(corpus, world)
    traces = []
    for trace in corpus.traces:
        noise = rng.normal(size=(len(trace.sentences), 9))
        if same:
            noise[:, 4] = np.nan_to_num(read[trace.id])  # the mean entropy of the sentence
        rows = tuple(map(tuple, noise.astype(np.float32).tolist()))
        traces.append(replace(trace, uncertainty=rows))
    corpus = replace(corpus, traces=tuple(traces))
    split = split_by_role(corpus.traces)
    train = corpus.only(split.train)
    baselines = {
        "position": (position(corpus),),
        OUTPUT_CONFIDENCE: (confidence_scores(train, corpus, RECIPE),),
    }
    scores = probe_scores(fit_corpus(train, RECIPE), corpus, RECIPE)
    panel = build_panel(corpus.only(split.calibration), corpus.only(split.test))
    report = evaluate("probe", scores, baselines, panel, threshold=0.0, target_rate=0.05)
    assert caught(report).lower > 0.5
    said = [note for note in refusals(report) if "beyond output confidence: where" in note]
    assert bool(said) == same
    assert any(f"{OUTPUT_CONFIDENCE} " in line for line in str(report).splitlines()[:1])
