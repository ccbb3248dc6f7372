"""What a probe reads of a sentence, from what was recorded of it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from planted import World, keep, make_label, make_trace, plant

from trace_probe.activations import ActivationMatrix, parse_poolings
from trace_probe.errors import ProbeError
from trace_probe.monitor.sharing import seal_probe
from trace_probe.probing.corpus import Corpus
from trace_probe.probing.features import build_dataset, feature_rows
from trace_probe.probing.fitting import fit_corpus, probe_scores
from trace_probe.probing.probe import load_probe, save_probe
from trace_probe.probing.recipe import (
    FEATURES,
    Feature,
    Recipe,
    candidate_features,
    check_features,
    features_from,
    parse_features,
    pooling_for,
)
from trace_probe.trace import Span, Task, Trace

LAYERS, WIDTH = (1, 4), 3
SENTENCES = ("we read the list", "then", "we check each line with care", "done now")


def thinking_trace(name: str = "t") -> Trace:
    return make_trace(name, Task("task", "kind", "goal of it"), SENTENCES, "an answer here")


def tokens_of(trace: Trace, seed: int = 0) -> np.ndarray:
    """Return (layer, token, d_model)."""
    return np.random.default_rng(seed).normal(size=(len(LAYERS), len(trace), WIDTH))


def matrix_of(traces: list[Trace], pooling: str = "last+mean+max") -> ActivationMatrix:
    """Return what would be recorded of traces, the tokens of each drawn with its number."""
    rows, start = [], [0]
    for number, trace in enumerate(traces):
        tokens = tokens_of(trace, number)
        spans = [Span(trace.prompt_stop - 1, trace.prompt_stop, "prompt"), *trace.sentences]
        pools = {
            "last": [tokens[:, span.stop - 1] for span in spans],
            "mean": [tokens[:, span.start : span.stop].mean(axis=1) for span in spans],
            "max": [tokens[:, span.start : span.stop].max(axis=1) for span in spans],
        }
        parts = [np.stack(pools[name], axis=1) for name in parse_poolings(pooling)]
        rows.append(np.concatenate(parts, axis=2))
        start.append(start[-1] + len(spans))
    values = np.concatenate(rows, axis=1).astype(np.float32)
    return ActivationMatrix(values, LAYERS, np.array(start[:-1]), pooling)


def by_hand(trace: Trace, tokens: np.ndarray, feature: str, sentence: int) -> np.ndarray:
    """Return (layer, d_model) of one feature, straight from the tokens."""
    prompt = tokens[:, trace.prompt_stop - 1]
    if feature == "prompt" or sentence < 0:
        return np.asarray(prompt)
    span = trace.sentences[sentence]
    thought = [s for s in trace.sentences[: sentence + 1] if s.channel == "reasoning"]
    so_far = tokens[:, thought[0].start : thought[-1].stop]
    own = tokens[:, span.start : span.stop]
    found: dict[str, np.ndarray] = {
        "last": own[:, -1],
        "mean": own.mean(axis=1),
        "max": own.max(axis=1),
        "running-mean": so_far.mean(axis=1),
        "running-max": so_far.max(axis=1),
    }
    return found[feature]


def test_every_feature_is_what_its_tokens_give() -> None:
    traces = [thinking_trace(f"t{number}") for number in range(3)]
    where = [(i, s) for i, t in enumerate(traces) for s in range(-1, len(t.sentences))]
    index, sentence = (np.array(column) for column in zip(*where, strict=True))
    found = feature_rows(matrix_of(traces), traces, (4, 1), FEATURES, index, sentence)
    assert found.dtype == np.float32
    for row, (number, which) in zip(found, where, strict=True):
        tokens = tokens_of(traces[number], number)[[1, 0]]
        each = [by_hand(traces[number], tokens, feature, which) for feature in FEATURES]
        expected = np.stack(each, axis=1).reshape(-1)  # layer after layer, features inside
        np.testing.assert_allclose(row, expected, atol=1e-6)


def test_running_features_leave_the_answer_out() -> None:
    trace = thinking_trace()
    matrix, answer = matrix_of([trace]), len(trace.sentences) - 1
    where = np.zeros(2, dtype=int), np.array([answer - 1, answer])
    running = feature_rows(matrix, [trace], (1,), ("running-mean", "running-max"), *where)
    np.testing.assert_array_equal(running[0], running[1])
    last = feature_rows(matrix, [trace], (1,), ("last",), *where)
    assert np.any(last[0] != last[1])


def test_before_any_reasoning_a_feature_is_the_row_of_the_prompt() -> None:
    trace = thinking_trace()
    answer = Span(trace.prompt_stop, trace.sentences[0].stop, "answer")
    prompt_span, thought, end = trace.spans
    spans = prompt_span, answer, Span(answer.stop, thought.stop, "reasoning"), end
    first = replace(trace, spans=spans, sentences=(answer, *trace.sentences[1:]))
    zero = np.zeros(1, dtype=int)
    running: tuple[Feature, ...] = ("running-mean", "running-max")
    rows = feature_rows(matrix_of([first]), [first], (1,), running, zero, zero)
    prompt = tokens_of(first)[0, first.prompt_stop - 1]
    np.testing.assert_allclose(rows[0], np.concatenate([prompt, prompt]), atol=1e-6)


@pytest.mark.parametrize(
    ("pooling", "given"),
    [
        ("last", ("last", "prompt")),
        ("mean", ("mean", "running-mean", "prompt")),
        ("max+mean", ("mean", "max", "running-mean", "running-max", "prompt")),
        ("last+mean+max", FEATURES),
    ],
)
def test_recorded_poolings_say_which_features_there_are(
    pooling: str, given: tuple[str, ...]
) -> None:
    assert features_from(pooling) == given
    choices = candidate_features(pooling)
    assert choices[0] == given[:1]
    assert choices[-1] == tuple(feature for feature in given if feature != "prompt")
    assert sorted(choices, key=len) == list(choices)
    check_features(features_from(pooling), pooling)
    for feature in set(FEATURES) - set(given):
        with pytest.raises(ProbeError, match="--recapture"):
            check_features((feature,), pooling)


def test_a_feature_that_was_not_recorded_is_refused_where_rows_are_made() -> None:
    corpus = plant(World(tasks=4, samples=2))
    with pytest.raises(ProbeError, match=r"last was not recorded; there is mean"):
        build_dataset(corpus, Recipe((3,), ("last",)))


@pytest.mark.parametrize("names", [(), ("mean", "mean"), ("median",)])
def test_what_is_no_choice_of_features_is_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(ProbeError, match="running-max"):
        parse_features(names)


@pytest.mark.parametrize("text", ["", "mean+mean", "mean+min", "last mean"])
def test_what_is_no_pooling_is_refused(text: str) -> None:
    with pytest.raises(ProbeError, match="is not a pooling"):
        parse_poolings(text)


def test_the_pooling_to_record_is_the_least_that_gives_the_features() -> None:
    assert pooling_for(("running-max", "last")) == "last+max"
    assert pooling_for(("prompt",)) == "last"
    for feature in FEATURES:
        assert feature in features_from(pooling_for((feature,)))


def remembering(onset: int = 3) -> Corpus:
    """Return traces in which what a positive is shows in one sentence only, then never again."""
    corpus = plant(World(tasks=16, samples=6, said=None, sentences=7))
    assert corpus.matrix is not None
    values = corpus.matrix.values.copy()
    for trace, first in zip(corpus.traces, corpus.matrix.start, strict=True):
        if corpus.outcome(trace):
            values[-1, first + 1 + onset] += 9.0 * World().direction
    labels = {trace.id: make_label(trace, corpus.outcome(trace), None) for trace in corpus.traces}
    return replace(corpus, matrix=replace(corpus.matrix, values=values), labels=labels)


def last_margin(corpus: Corpus, recipe: Recipe) -> float:
    """Return how far positives lie above negatives at the last sentence, in deviations."""
    probe = fit_corpus(corpus, recipe)
    scores = probe_scores(probe, corpus, recipe)
    last = np.array([scores[trace.id][6] for trace in corpus.traces])
    acted = np.array([bool(corpus.outcome(trace)) for trace in corpus.traces])
    apart = last[acted].mean() - last[~acted].mean()
    return float(apart / np.sqrt((last[acted].var() + last[~acted].var()) / 2))


def test_a_running_feature_still_knows_what_a_sentence_has_forgotten() -> None:
    corpus = remembering()
    plain, memory = Recipe((3,), focus="last"), Recipe((3,), ("running-mean",), focus="last")
    assert last_margin(corpus, plain) < 1.5
    assert last_margin(corpus, memory) > 2.5


def test_a_probe_of_several_layers_and_features_is_saved_whole(tmp_path: Path) -> None:
    from trace_probe.probing.probe import SavedProbe
    from trace_probe.training import train

    corpus = plant(World(benign=30, strength=2.0))
    saved = train(keep(corpus, tmp_path / "run"), layers=(3,))
    recipe = replace(saved.card.recipe, layers=(0, 3), features=("running-mean", "mean"))
    card = replace(saved.card, layers=recipe.layers, features=recipe.features)
    wide = SavedProbe(card, fit_corpus(corpus, recipe))
    save_probe(tmp_path / "probe", wide)
    loaded = load_probe(tmp_path / "probe")
    assert (loaded.card, loaded.card.layer, loaded.card.recipe) == (wide.card, 3, recipe)
    for name, row in wide.scores(corpus).items():
        np.testing.assert_allclose(loaded.scores(corpus)[name], row, atol=1e-5)


def test_a_probe_of_before_there_were_features_scores_as_it_did(tmp_path: Path) -> None:
    from trace_probe.training import train

    corpus = plant(World(benign=30, strength=2.0))
    saved = train(keep(corpus, tmp_path / "run"), layers=(3,))
    save_probe(tmp_path / "probe", saved)
    file = tmp_path / "probe" / "card.json"
    card = json.loads(file.read_text())
    del card["layers"], card["features"], card["head"]
    file.write_text(json.dumps({**card, "layer": 3, "pooling": "mean"}))
    seal_probe(tmp_path / "probe")
    old = load_probe(tmp_path / "probe")
    assert (old.card.layers, old.card.features, old.card.head) == ((3,), ("mean",), "linear")
    for trace in corpus.traces[:5]:
        first = corpus.matrix.start[corpus.traces.index(trace)] + 1  # type: ignore[union-attr]
        rows = corpus.matrix.at(3)[first : first + 8]  # type: ignore[union-attr]
        expected = rows @ saved.probe.coef_[0] + saved.probe.intercept_
        np.testing.assert_allclose(old.scores(corpus)[trace.id][:8], expected, atol=1e-4)


def test_the_direction_of_a_probe_is_how_its_score_grows_when_the_thought_moves() -> None:
    from trace_probe.probing.probe import LinearProbe, ProbeCard, SavedProbe

    trace, rng = thinking_trace(), np.random.default_rng(3)
    probe = LinearProbe()
    probe.coef_, probe.intercept_ = rng.normal(size=(1, len(FEATURES) * WIDTH)), np.zeros(1)
    card = ProbeCard(
        name="p", model="m", tokenizer="t", layers=(1,), d_model=WIDTH, features=FEATURES,
        rows="before-said", guard=0, labeller="rule", method="logistic", C=0.01,
        training_tasks=(), calibration_tasks=(), threshold=0.0, target_false_alarm_rate=0.01,
        guaranteed_false_alarm_rate=0.01,
    )  # fmt: skip
    saved = SavedProbe(card, probe)
    matrix, move = matrix_of([trace]), rng.normal(size=WIDTH)
    moved = matrix.values.copy()
    moved[0, 1:] += np.tile(move, 3).astype(np.float32)  # every token but the prompt's
    corpus = Corpus((trace,), {}, matrix)
    before = saved.scores(corpus)["t"][:4]
    after = saved.scores(replace(corpus, matrix=replace(matrix, values=moved)))["t"][:4]
    np.testing.assert_allclose(after - before, saved.direction(1) @ move, atol=1e-4)
