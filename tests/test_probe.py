import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from planted import World, make_trace, plant

from trace_probe.errors import NotEnoughData, ProbeError
from trace_probe.probing.fitting import fit_dataset, probe_scores
from trace_probe.probing.probe import (
    LinearProbe,
    ProbeCard,
    Recipe,
    SavedProbe,
    check_fits,
    load_probe,
    save_probe,
)
from trace_probe.probing.recipe import Method
from trace_probe.store import Manifest, Store
from trace_probe.trace import Task

METHODS: tuple[Method, ...] = ("logistic", "difference-of-means", "lda", "ridge")
Rows = tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float64]]


@pytest.fixture
def rows() -> Rows:
    """Return rows, classes and the direction between them; the axes differ in mean and scale."""
    rng = np.random.default_rng(0)
    direction = rng.normal(size=16)
    y = rng.random(4000) < 0.3
    X = rng.normal(size=(4000, 16)) + np.outer(y, 3 * direction) + 5.0
    return X.astype(np.float32), y, direction / np.linalg.norm(direction)


@pytest.mark.parametrize("method", METHODS)
def test_a_planted_direction_is_recovered(method: Method, rows: Rows) -> None:
    X, y, direction = rows
    probe = LinearProbe(method=method).fit(X, y)
    cosine = probe.coef_[0] @ direction / np.linalg.norm(probe.coef_)
    assert cosine >= 0.99
    assert probe.score(X, y) > 0.99


@pytest.mark.parametrize("method", METHODS)
def test_a_score_is_one_dot_product(method: Method, rows: Rows) -> None:
    X, y, _ = rows
    probe = LinearProbe(method=method).fit(X, y)
    np.testing.assert_allclose(
        probe.decision_function(X), X @ probe.coef_[0] + probe.intercept_, rtol=1e-4, atol=1e-3
    )
    assert (probe.predict(X) == (probe.predict_proba(X)[:, 1] > 0.5)).all()


def test_the_logistic_probe_is_that_of_scikit_learn(rows: Rows) -> None:
    from sklearn.linear_model import LogisticRegression

    X, _, _ = rows
    y = np.random.default_rng(1).random(len(X)) < 1 / (1 + np.exp(-(X[:, 0] - 5)))
    within = np.sqrt(sum(np.var(X[y == c], axis=0) * np.mean(y == c) for c in (False, True)))
    scaled = (X - X.mean(axis=0)) / within
    theirs = LogisticRegression(C=0.1).fit(scaled, y)
    ours = LinearProbe(C=0.1, class_weight=None).fit(X, y)
    np.testing.assert_allclose(
        ours.decision_function(X), theirs.decision_function(scaled), atol=0.005
    )


def test_weights_count_as_repetitions_do(rows: Rows) -> None:
    X, y, _ = rows
    X, y = X[:60], y[:60]
    times = np.random.default_rng(2).integers(1, 4, 60)
    for method in METHODS[:2] + METHODS[3:]:
        weighted = LinearProbe(method=method).fit(X, y, sample_weight=times)
        repeated = LinearProbe(method=method).fit(np.repeat(X, times, axis=0), np.repeat(y, times))
        np.testing.assert_allclose(
            weighted.decision_function(X), repeated.decision_function(X), atol=5e-3
        )


def test_balance_moves_the_boundary_to_the_middle(rows: Rows) -> None:
    X, y, _ = rows
    few = np.flatnonzero(y)[:40]
    chosen = np.concatenate([np.flatnonzero(~y), few])
    middle = (X[y].mean(axis=0) + X[~y].mean(axis=0)) / 2
    balanced = LinearProbe(method="ridge").fit(X[chosen], y[chosen])
    plain = LinearProbe(method="ridge", class_weight=None).fit(X[chosen], y[chosen])
    assert abs(balanced.decision_function([middle])[0]) < 0.1
    assert plain.decision_function([middle])[0] < -0.3


def test_one_class_or_an_unknown_method_is_refused(rows: Rows) -> None:
    X, y, _ = rows
    with pytest.raises(NotEnoughData, match="these rows are of one class"):
        LinearProbe().fit(X, np.zeros(len(X)))
    with pytest.raises(ProbeError, match="use logistic, difference-of-means, lda or ridge"):
        LinearProbe(method="magic").fit(X, y)  # type: ignore[arg-type]


def test_a_constant_axis_is_ignored(rows: Rows) -> None:
    X, y, _ = rows
    X = X.copy()
    X[:, 3] = 7.0
    for method in METHODS:
        probe = LinearProbe(method=method).fit(X, y)
        assert np.isfinite(probe.coef_).all()
        assert abs(probe.coef_[0, 3]) < 1e-3


def test_scores_are_of_reasoning_sentences_and_nan_elsewhere() -> None:
    corpus = plant(World(tasks=4, samples=4, strength=4.0))
    assert corpus.matrix is not None
    probe = LinearProbe().fit(corpus.matrix.at(3)[:50], np.arange(50) % 2)
    scores = probe_scores(probe, corpus, Recipe((3,)))
    trace = corpus.traces[5]
    first = corpus.matrix.start[5] + 1
    rows = corpus.matrix.at(3)[first : first + 8]
    np.testing.assert_allclose(scores[trace.id][:8], probe.decision_function(rows), atol=1e-4)
    assert np.isnan(scores[trace.id][8:]).all()
    assert len(scores[trace.id]) == len(trace.sentences)
    with pytest.raises(ProbeError, match="no activations"):
        probe_scores(probe, replace(corpus, matrix=None), Recipe((3,)))


@pytest.fixture
def saved(rows: Rows) -> SavedProbe:
    X, y, _ = rows
    card = ProbeCard(
        name="p",
        model="m@1",
        tokenizer="tok",
        layers=(3,),
        d_model=16,
        features=("mean",),
        rows="before-said",
        guard=0,
        labeller="rule",
        method="logistic",
        C=0.01,
        training_tasks=("a", "b"),
        calibration_tasks=("c",),
        threshold=0.25,
        target_false_alarm_rate=0.01,
        guaranteed_false_alarm_rate=0.02,
        figures={"within_prompt_auroc": 0.9},
        limits=("one",),
    )
    return SavedProbe(card, LinearProbe().fit(X, y))


def test_a_saved_probe_comes_back_with_the_same_scores(
    saved: SavedProbe, rows: Rows, tmp_path: Path
) -> None:
    save_probe(tmp_path / "p", saved)
    loaded = load_probe(tmp_path / "p")
    assert loaded.card == saved.card
    assert loaded.card.recipe == Recipe((3,), ("mean",), C=0.01)
    np.testing.assert_allclose(
        loaded.probe.decision_function(rows[0]), saved.probe.decision_function(rows[0]), atol=1e-5
    )
    assert sorted(file.name for file in (tmp_path / "p").iterdir()) == [
        "card.json",
        "probe.safetensors",
    ]


@pytest.mark.parametrize("damage", ["missing", "card", "field", "width", "weights", "tensor"])
def test_a_damaged_probe_is_refused(saved: SavedProbe, tmp_path: Path, damage: str) -> None:
    from safetensors.numpy import save_file

    save_probe(tmp_path, saved)
    card, weights = tmp_path / "card.json", tmp_path / "probe.safetensors"
    raw = json.loads(card.read_text())
    if damage == "missing":
        weights.unlink()
    elif damage == "card":
        card.write_text("{")
    elif damage == "field":
        card.write_text(json.dumps({**raw, "colour": "red"}))
    elif damage == "width":
        card.write_text(json.dumps({**raw, "d_model": 17}))
    elif damage == "weights":
        weights.write_bytes(weights.read_bytes()[:-5])
    else:
        save_file({"intercept": np.zeros(1)}, weights)
    with pytest.raises(ProbeError, match=str(tmp_path)):
        load_probe(tmp_path)


@pytest.mark.parametrize(
    ("fact", "value", "text"),
    [
        ("model", "m@2", "model 'm@2', not 'm@1'"),
        ("tokenizer", "other", "tokenizer 'other', not 'tok'"),
        ("d_model", 32, "d_model 32, not 16"),
        ("pooling", "last", "pooling 'last', which cannot give mean"),
        ("layers", (0, 1), r"layers \[0, 1\], without \[3\]"),
    ],
)
def test_a_probe_of_another_model_is_refused_by_name(
    saved: SavedProbe, fact: str, value: Any, text: str
) -> None:
    manifest = Manifest(model="m@1", tokenizer="tok", layers=(0, 3), d_model=16)
    check_fits(saved.card, manifest)
    with pytest.raises(ProbeError, match=text):
        check_fits(saved.card, replace(manifest, **{fact: value}))


def test_every_trace_counts_the_same_in_a_fit() -> None:
    corpus = plant(World(tasks=8, samples=4, strength=2.0))
    from trace_probe.probing.features import build_dataset

    assert corpus.matrix is not None
    rows = build_dataset(corpus, Recipe((3,)))
    direct = LinearProbe().fit(rows.X, rows.y, sample_weight=rows.weight)
    np.testing.assert_array_equal(fit_dataset(rows, Recipe((3,))).coef_, direct.coef_)


def test_what_was_measured_of_other_weights_goes_with_them(tmp_path: Path) -> None:
    saved = load_probe("probes/demo")
    save_probe(tmp_path, saved)
    for name in ("alarms.json", "rechecks.json", "notes.txt"):
        (tmp_path / name).write_text("{}")
    save_probe(tmp_path, replace(saved, card=replace(saved.card, threshold=9.0)))
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors", ".txt"}
    assert len(list(tmp_path.iterdir())) == 5
    turned = {name: -values for name, values in saved.probe.to_tensors().items()}
    other = type(saved.probe).from_tensors(turned)
    save_probe(tmp_path, replace(saved, probe=other))
    there = sorted(path.name for path in tmp_path.iterdir())
    assert there == ["card.json", "notes.txt", "probe.safetensors"]


def run_of(folder: Path, ids: bool, **settings: Any) -> Store:
    """Return a run of one trace, with token ids or in words, and with such a manifest."""
    trace = make_trace("a", Task("t", "kind", "Keep it."), ["we look", "act now"])
    tokens = tuple(range(len(trace))) if ids else ()
    store = Store.create(folder, Manifest(**{"model": "m@1", "tokenizer": "tok", **settings}))
    with store.writing():
        store.add(replace(trace, token_ids=tokens, tokenizer="tok"))
    return store


@pytest.mark.parametrize(
    ("ids", "settings", "said"),
    [
        (True, {}, "no activations. Read it again: `trace-probe record m NEW_RUN --recapture RUN"),
        (False, {}, "no activations. Read its text with the model: `trace-probe observe RUN m"),
        (
            True,
            {"layers": (0,), "d_model": 16},
            "without [3]. Read it again: `trace-probe record m NEW_RUN --recapture RUN",
        ),
        (
            False,
            {"layers": (0,), "d_model": 16},
            "without [3]. Read its text with the model: `trace-probe observe RUN m NEW_RUN",
        ),
        (
            False,
            {"layers": (0,), "d_model": 16, "model": "n@1", "source": "imported"},
            "Read it with the probe's model: `trace-probe observe RUN m NEW_RUN",
        ),
    ],
)
def test_a_probe_that_does_not_fit_names_the_command_that_reads_this_run_for_it(
    saved: SavedProbe, tmp_path: Path, ids: bool, settings: dict[str, Any], said: str
) -> None:
    run = run_of(tmp_path / "run", ids, **settings)
    with pytest.raises(ProbeError) as caught:
        check_fits(saved.card, run)
    text = str(caught.value).replace(str(run.path), "RUN")
    assert said in text
    assert "--layers 3 --pooling mean`" in text
    assert ("train a probe on this run" in text) == (
        "layers" in settings and "source" not in settings
    )


def test_the_true_cause_is_named_where_a_run_is_of_another_model(
    saved: SavedProbe, tmp_path: Path
) -> None:
    other = {"model": "n@2", "tokenizer": "tok2", "layers": (5,), "d_model": 32}
    run = run_of(tmp_path / "run", True, row_end="word", **other)
    with pytest.raises(ProbeError) as caught:
        check_fits(saved.card, run)
    text = str(caught.value)
    assert "model 'n@2', not 'm@1'" in text
    assert "The probe is of another model: name a probe of this one, train one" in text
    assert f"`trace-probe train {run.path} NEW_PROBE`" in text
    assert "version" not in text
    assert "layers" not in text  # what another model's run lacks besides does not matter
