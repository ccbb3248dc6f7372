"""Probes of whole traces and of several layers, in the tools of scikit-learn."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from trace_probe.errors import ProbeError
from trace_probe.probing.aggregation import AGGREGATIONS
from trace_probe.probing.pooled import LayerEnsemble, PooledProbe
from trace_probe.probing.probe import LinearProbe
from trace_probe.statistics.metrics import auroc

Bags = tuple[list[NDArray[np.float32]], NDArray[np.bool_]]


@pytest.fixture(scope="module")
def bags() -> Bags:
    """Return traces of uneven length in which a positive is loud from some moment on."""
    rng = np.random.default_rng(0)
    y = rng.random(160) < 0.4
    rows = []
    for positive in y:
        bag = rng.normal(size=(int(rng.integers(3, 12)), 6))
        if positive:
            bag[int(rng.integers(len(bag))) :, 0] += 4.0
        rows.append(bag.astype(np.float32))
    return rows, y


@pytest.mark.parametrize("rule", AGGREGATIONS)
def test_a_pooled_probe_tells_traces_apart_by_every_rule(bags: Bags, rule: str) -> None:
    X, y = bags
    found = PooledProbe(LinearProbe(C=0.1), rule).fit(X[:100], y[:100])
    assert auroc(found.decision_function(X[100:]), y[100:]) > 0.85
    assert found.predict_proba(X[:2]).sum(axis=1) == pytest.approx(1.0)
    single = found.decision_function([X[0]])
    scores = found.probe_.decision_function(X[0])
    assert single[0] == pytest.approx(AGGREGATIONS[rule](scores.astype(np.float64)).max())


def test_every_trace_counts_the_same_in_a_pooled_fit(bags: Bags) -> None:
    X, y = bags
    stretched = [np.repeat(bag, 1 + number % 3, axis=0) for number, bag in enumerate(X)]
    once, often = (PooledProbe().fit(each, y).probe_.coef_ for each in (X, stretched))
    np.testing.assert_allclose(once, often, rtol=0.02, atol=1e-3)


def test_pooled_probes_are_cloned_piped_and_searched(bags: Bags) -> None:
    X, y = bags
    groups = np.arange(len(X)) // 2
    halved = FunctionTransformer(lambda some: [bag / 2 for bag in some])
    search = GridSearchCV(
        make_pipeline(halved, PooledProbe(LinearProbe())),
        {"pooledprobe__rule": list(AGGREGATIONS), "pooledprobe__probe__C": [0.01, 1.0]},
        cv=GroupKFold(4),
        scoring="roc_auc",
    ).fit(X, y, groups=groups)
    assert search.best_score_ > 0.85
    copy = clone(search.best_estimator_[-1])
    assert not hasattr(copy, "probe_")
    assert copy.rule == search.best_params_["pooledprobe__rule"]


def test_what_is_no_bag_or_no_rule_is_refused(bags: Bags) -> None:
    X, y = bags
    with pytest.raises(ProbeError, match="no rule 'loudest': use one of max, top-3 mean"):
        PooledProbe(rule="loudest").fit(X, y)
    with pytest.raises(ProbeError, match="a row at least"):
        PooledProbe().fit([X[0][:0], *X[1:]], y)
    with pytest.raises(ProbeError, match="one class a trace"):
        PooledProbe().fit(X, y[1:])
    assert PooledProbe().fit(X, y).decision_function([X[0][:0]])[0] == -np.inf


def test_an_ensemble_is_the_mean_of_its_layers_in_their_own_spread() -> None:
    rng = np.random.default_rng(1)
    y = rng.random(500) < 0.5
    layers = [rng.normal(size=(500, 4)) + np.outer(y, [size, 0, 0, 0]) for size in (1.0, 3.0)]
    X = np.hstack([layers[0], 100 * layers[1]]).astype(np.float32)
    found = LayerEnsemble(LinearProbe(), layers=2).fit(X, y)
    alone = [LinearProbe().fit(part, y).decision_function(part) for part in np.split(X, 2, axis=1)]
    mean = np.mean([scores / scores.std() for scores in alone], axis=0)
    np.testing.assert_allclose(found.decision_function(X), mean, rtol=1e-4, atol=1e-4)
    assert (found.predict(X) == (found.predict_proba(X)[:, 1] > 0.5)).all()
    piped = make_pipeline(StandardScaler(), clone(found))
    scores = cross_val_predict(piped, X, y, method="decision_function")
    assert auroc(np.asarray(scores), y) > 0.9
    with pytest.raises(ProbeError, match="7 columns are not 2 layers"):
        clone(found).fit(X[:, :7], y)


def test_the_ensemble_passes_the_checks_of_scikit_learn() -> None:
    from sklearn.utils import estimator_checks

    for name in (
        "check_classifiers_train",
        "check_estimators_dtypes",
        "check_estimators_pickle",
        "check_estimators_unfitted",
        "check_fit_idempotent",
        "check_no_attributes_set_in_init",
        "check_parameters_default_constructible",
        "check_n_features_in",
    ):
        getattr(estimator_checks, name)("LayerEnsemble", LayerEnsemble())
