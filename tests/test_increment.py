import numpy as np
import pytest

from trace_probe.evaluation.details import delta_bits, matched_moments
from trace_probe.statistics.bootstrap import resample
from trace_probe.statistics.metrics import Cohort, Scores


def cohort(tasks: int = 40, samples: int = 8, seed: int = 0) -> Cohort:
    rng = np.random.default_rng(seed)
    n = tasks * samples
    task = np.repeat(np.arange(tasks), samples)
    return Cohort(
        ids=tuple(str(i) for i in range(n)),
        positive=rng.random(n) < 0.5,
        task=task,
        prompt=task,
        sentences=tuple(np.arange(4) for _ in range(n)),
        said=np.full(n, -1),
    )


def constant(values: np.ndarray) -> Scores:
    return {str(i): np.full(4, value) for i, value in enumerate(values)}


def test_what_decides_the_outcome_is_worth_its_entropy() -> None:
    group = cohort()
    noise = np.random.default_rng(1).normal(size=len(group.ids))
    known = {"tfidf": constant(noise)}
    weights = resample(group.n_tasks)
    found = delta_bits(constant(group.positive.astype(float)), known, group, weights)
    assert found is not None
    assert found.estimate == pytest.approx(1.0, abs=0.1)
    assert found.n == len(group.ids)


def test_what_is_known_already_adds_nothing() -> None:
    group = cohort()
    signal = constant(group.positive + np.random.default_rng(2).normal(size=len(group.ids)))
    found = delta_bits(signal, {"tfidf": signal}, group, resample(group.n_tasks))
    assert found is not None
    assert found.estimate == pytest.approx(0.0, abs=0.01)


def test_noise_costs_rather_than_gains() -> None:
    group = cohort()
    rng = np.random.default_rng(3)
    text, noise = (constant(rng.normal(size=len(group.ids))) for _ in range(2))
    found = delta_bits(noise, {"tfidf": text}, group, resample(group.n_tasks))
    assert found is not None
    assert found.lower < 0.01
    assert found.estimate < 0.01


def test_a_negative_is_read_as_far_as_the_median_positive_of_its_prompt() -> None:
    group = Cohort(
        ids=tuple("abcde"),
        positive=np.array([True, True, False, False, True]),
        task=np.array([0, 0, 0, 1, 1]),
        prompt=np.array([0, 0, 0, 1, 2]),
        sentences=tuple(np.arange(n) for n in (9, 9, 9, 2, 9)),
        said=np.array([2, 4, -1, -1, 6]),
    )
    assert matched_moments(group).tolist() == [2, 4, 3, 2, 6]


def test_one_outcome_has_no_increment() -> None:
    group = cohort()
    one = Cohort(
        group.ids,
        np.ones_like(group.positive),
        group.task,
        group.prompt,
        group.sentences,
        group.said,
    )
    scores = constant(np.arange(len(group.ids), dtype=float))
    assert delta_bits(scores, {"tfidf": scores}, one, resample(one.n_tasks)) is None
