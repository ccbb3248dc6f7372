"""The heads of probes are scikit-learn estimators: its own checks, and its own tools."""

import time
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from trace_probe.errors import NotEnoughData, ProbeError
from trace_probe.probing.binary import BinaryProbe
from trace_probe.probing.linear import LinearProbe
from trace_probe.probing.mlp import MLPProbe
from trace_probe.probing.recipe import Method

METHODS: tuple[Method, ...] = ("logistic", "ridge", "lda", "difference-of-means")
HEADS: tuple[BinaryProbe, ...] = (*(LinearProbe(method=name) for name in METHODS), MLPProbe())
Rows = tuple[NDArray[np.float32], NDArray[np.bool_]]


def expected_failures(probe: BinaryProbe) -> dict[str, str]:
    """Return which checks a head cannot pass, each with the reason."""
    weights = "check_sample_weight_equivalence_on_dense_data"
    if isinstance(probe, MLPProbe):
        return {weights: "a batch draws a row once, whatever it weighs, and two copies apart"}
    if getattr(probe, "method", "") == "lda":
        return {weights: "the shrinkage of Ledoit and Wolf counts rows, not what they weigh"}
    if getattr(probe, "method", "") == "difference-of-means":
        means = "the boundary lies halfway between the two means, whatever the classes weigh"
        return {"check_class_weight_classifiers": means}
    return {}


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train an MLP for a third of the steps, where how well it learns is not the point."""
    monkeypatch.setattr("trace_probe.probing.mlp.STEPS", (100, 200))


@pytest.mark.usefixtures("brief")
@parametrize_with_checks(list(HEADS), expected_failed_checks=expected_failures)  # type: ignore[untyped-decorator]
def test_a_head_keeps_the_conventions_of_scikit_learn(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.fixture(scope="module")
def rows() -> Rows:
    """Return rows of noise and two facts, and whether both facts hold."""
    rng = np.random.default_rng(0)
    facts = rng.random((900, 2)) < 0.6
    y = np.asarray(facts.all(axis=1))
    X = 0.4 * rng.normal(size=(900, 12))
    X[:, :2] += 3 * facts
    return (X + 5.0).astype(np.float32), y


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize("probe", HEADS, ids=str)
def test_a_head_works_in_the_tools_of_scikit_learn(probe: BinaryProbe, rows: Rows) -> None:
    X, y = rows
    groups = np.arange(len(X)) // 10
    piped = make_pipeline(PCA(8), clone(probe))
    scores = cross_val_score(piped, X, y, groups=groups, cv=GroupKFold(3), scoring="roc_auc")
    assert scores.min() > 0.85
    name = type(probe).__name__.lower()
    search = GridSearchCV(piped, {f"{name}__class_weight": ["balanced", None]}, cv=2).fit(X, y)
    assert search.best_score_ > 0.8
    calibrated = CalibratedClassifierCV(clone(probe), cv=2).fit(X[:600], y[:600])
    assert roc_auc_score(y[600:], calibrated.predict_proba(X[600:])[:, 1]) > 0.85


def test_an_mlp_tells_that_two_facts_differ_which_a_line_cannot(rows: Rows) -> None:
    X, _ = rows
    y = (X[:, 0] > 6.5) ^ (X[:, 1] > 6.5)
    line, curve = (probe.fit(X[:600], y[:600]) for probe in (LinearProbe(C=1.0), MLPProbe()))
    assert curve.score(X[600:], y[600:]) > 0.97
    assert line.score(X[600:], y[600:]) < 0.8


@pytest.mark.parametrize("probe", [LinearProbe(), MLPProbe()], ids=["linear", "mlp"])
def test_weights_come_back_from_tensors_with_the_same_scores(
    probe: BinaryProbe, rows: Rows
) -> None:
    X, y = rows
    fitted = clone(probe).fit(X, y)
    tensors = fitted.to_tensors()
    assert {tensor.dtype for tensor in tensors.values()} == {np.dtype(np.float32)}
    back = type(probe).from_tensors(tensors)
    np.testing.assert_allclose(back.raw_scores(X), fitted.raw_scores(X), atol=1e-5)
    np.testing.assert_allclose(back.decision_function(X), fitted.decision_function(X), atol=1e-5)
    assert (back.predict(X) == fitted.predict(X)).all()
    assert fitted.raw_scores(X).dtype == np.float32
    np.testing.assert_allclose(fitted.raw_scores(X), fitted.decision_function(X), atol=1e-5)


@pytest.mark.parametrize("head", [LinearProbe(), MLPProbe()], ids=["linear", "mlp"])
def test_the_score_of_a_mean_probe_is_the_mean_score(head: BinaryProbe, rows: Rows) -> None:
    X, y = rows
    three = [clone(head).fit(X[part::3] * (1 + part), y[part::3]) for part in range(3)]
    whole = type(head).mean_of(three)
    mean = np.mean([probe.decision_function(X) for probe in three], axis=0)
    np.testing.assert_allclose(whole.decision_function(X), mean, rtol=1e-4, atol=1e-4)
    back = type(head).from_tensors(whole.to_tensors(), **whole.get_params())
    np.testing.assert_allclose(back.raw_scores(X), mean, rtol=1e-3, atol=1e-3)


def test_a_row_of_640_is_scored_within_30_microseconds() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 640)).astype(np.float32)
    for head in (LinearProbe(), MLPProbe()):
        probe = head.fit(X, X[:, 0] > 0)
        took = []
        for row in np.repeat(X[:, None], 3, axis=0):
            start = time.perf_counter()
            probe.raw_scores(row)
            took.append(time.perf_counter() - start)
        assert np.percentile(took, 20) < 30e-6


def test_the_same_seed_gives_the_same_mlp_whatever_the_threads(rows: Rows) -> None:
    import torch

    X, y = rows
    first = MLPProbe().fit(X, y)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        again = MLPProbe().fit(X, y)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    other = MLPProbe(random_state=1).fit(X, y)
    np.testing.assert_array_equal(again.hidden_weight_, first.hidden_weight_)
    assert (other.hidden_weight_ != first.hidden_weight_).any()


def test_the_direction_of_a_head_is_the_mean_gradient_of_its_score(rows: Rows) -> None:
    X, y = rows
    for head in (LinearProbe(class_weight=None), MLPProbe(class_weight=None)):
        probe = head.fit(X, y)
        step = 1e-3 * np.eye(12)
        change = [
            (probe.decision_function(X + each) - probe.decision_function(X - each)).mean() / 2e-3
            for each in step
        ]
        np.testing.assert_allclose(probe.direction(), change, rtol=0.02, atol=0.02)


def test_more_decay_makes_an_mlp_flatter(rows: Rows) -> None:
    X, y = rows
    strong, weak = (MLPProbe(C=C).fit(X, y).decision_function(X).std() for C in (1e-3, 10.0))
    assert strong < 0.5 * weak


@pytest.mark.parametrize("head", [LinearProbe(), MLPProbe()])
def test_what_cannot_be_learned_from_is_refused(head: BinaryProbe, rows: Rows) -> None:
    X, y = rows
    with pytest.raises(NotEnoughData, match="one class: record more samples"):
        clone(head).fit(X, np.zeros(len(X)))
    with pytest.raises(NotEnoughData, match="Only binary classification is supported"):
        clone(head).fit(X, np.arange(len(X)) % 3)


def test_a_parameter_that_makes_no_sense_is_refused(rows: Rows) -> None:
    X, y = rows
    with pytest.raises(ProbeError, match="use logistic, difference-of-means, lda or ridge"):
        LinearProbe(method="magic").fit(X, y)  # type: ignore[arg-type]
    with pytest.raises(ProbeError, match="one hidden unit and one member"):
        MLPProbe(hidden=0).fit(X, y)
    with pytest.raises(ProbeError, match="dropout of at least 0 and below 1"):
        MLPProbe(dropout=1.0).fit(X, y)
