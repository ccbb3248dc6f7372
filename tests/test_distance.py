"""How far a row lies from those that a probe learned from, and what is made of it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_probes import WORLD, planted_probe
from planted import plant
from safetensors.numpy import load_file
from scipy.spatial.distance import mahalanobis
from sklearn.decomposition import PCA

from trace_probe.errors import ProbeError
from trace_probe.monitor.memory import Memory
from trace_probe.probing.distance import AXES, ROWS, TOGETHER, RowDistance
from trace_probe.probing.features import stream_thoughts
from trace_probe.probing.fitting import probe_scores
from trace_probe.probing.probe import check_overwrites, load_probe, save_probe

WIDTH = 24


def correlated(rows: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(WIDTH, WIDTH)) * np.linspace(0.1, 3, WIDTH)
    return (rng.normal(size=(rows, WIDTH)) @ mixed + rng.normal(size=WIDTH)).astype(np.float32)


def test_it_is_the_mahalanobis_distance_of_probabilistic_principal_components() -> None:
    known, others = correlated(400), correlated(50, seed=1)
    found = RowDistance.fit(known)
    assert found.axes.shape == (WIDTH // 2, WIDTH)
    model = PCA(WIDTH // 2).fit(known.astype(np.float64))
    inverse = model.get_precision()
    expected = [mahalanobis(row, model.mean_, inverse) ** 2 / WIDTH for row in others]
    np.testing.assert_allclose(found.raw_scores(others), expected, rtol=1e-3)


def test_rows_like_those_it_knows_lie_near_one_and_others_far() -> None:
    found = RowDistance.fit(correlated(1000))
    own = found.raw_scores(correlated(1000)[::7])
    rest = found.raw_scores(correlated(50)[:, ::-1])  # coordinates that have changed places
    assert 0.9 < own.mean() < 1.1
    assert np.median(rest) > 3 * np.median(own)


@pytest.mark.parametrize("rows", [np.ones((3, 4)), np.zeros((40, 6)), np.eye(2)])
def test_rows_that_are_few_or_all_the_same_give_a_number(rows: np.ndarray) -> None:
    found = RowDistance.fit(rows)
    assert np.isfinite(found.raw_scores(np.vstack([rows, rows + 1]))).all()
    assert (found.raw_scores(rows + 1) > found.raw_scores(rows)).all()


def test_of_many_rows_some_are_taken_and_of_wide_ones_few_axes() -> None:
    rng = np.random.default_rng(0)
    found = RowDistance.fit(rng.normal(size=(2 * ROWS + 5, 4 * AXES)))
    assert found.axes.shape == (AXES, 4 * AXES)


@pytest.mark.parametrize("rows", [5, 40, 300, 900])
def test_the_variance_of_all_directions_is_that_of_the_rows_however_few_there_are(
    rows: int,
) -> None:
    scale = np.append([30.0] * 8, np.ones(592))
    known = np.random.default_rng(0).normal(size=(rows, 600)) * scale
    found = RowDistance.fit(known)
    whole = known.var(axis=0, ddof=1).sum()
    *along, others = found.variance.astype(float)
    assert sum(along) + others * (600 - len(along)) == pytest.approx(whole)
    assert found.raw_scores(known).mean() == pytest.approx((rows - 1) / rows, rel=5e-3)


@pytest.mark.parametrize("size", [1e6, 1e19, 1e30, 3e38])
def test_however_large_activations_are_they_lie_far(size: float) -> None:
    found = RowDistance.fit(correlated(100))
    row = np.full((1, WIDTH), size, np.float32)
    distance = found.raw_scores(row).astype(np.float32)
    assert np.isfinite(distance).all()
    assert distance > 1e4
    assert np.isnan(found.raw_scores(row * np.float32(np.nan))).all()


def test_many_rows_lie_as_far_together_as_each_alone() -> None:
    found, rows = RowDistance.fit(correlated(100)), correlated(2 * TOGETHER + 3, seed=1)
    alone = [float(found.raw_scores(row[None])[0]) for row in rows[:: TOGETHER // 2]]
    np.testing.assert_allclose(found.raw_scores(rows)[:: TOGETHER // 2], alone)


def test_it_is_kept_with_the_probe(tmp_path: Path) -> None:
    bare = planted_probe()
    known = replace(bare, distance=RowDistance.fit(np.eye(bare.card.width)))
    save_probe(tmp_path / "known", known)
    again = load_probe(tmp_path / "known")
    row = np.arange(bare.card.width, dtype=np.float32)[None]
    assert again.distance is not None
    assert known.distance is not None
    assert again.distance.raw_scores(row) == known.distance.raw_scores(row)
    save_probe(tmp_path / "bare", bare)
    assert load_probe(tmp_path / "bare").distance is None
    assert set(load_file(tmp_path / "bare/probe.safetensors")) == {"coef", "intercept"}
    check_overwrites(tmp_path / "known", {}, known)
    with pytest.raises(ProbeError, match="holds another probe"):
        check_overwrites(tmp_path / "known", {}, bare)


@pytest.mark.parametrize(
    "wrong",
    [
        {"mean": np.zeros(3)},
        {"axes": np.zeros((1, 2))},
        {"variance": np.zeros(1)},
        {"variance": -np.ones(9)},
        {"variance": np.ones(())},
    ],
)
def test_parts_that_do_not_fit_are_refused(wrong: dict[str, np.ndarray], tmp_path: Path) -> None:
    bare = planted_probe()
    made = RowDistance.fit(np.eye(bare.card.width))
    parts = {name: part.astype(np.float32) for name, part in wrong.items()}
    save_probe(tmp_path, replace(bare, distance=replace(made, **parts)))
    with pytest.raises(ProbeError, match="train it again"):
        load_probe(tmp_path)


def test_scores_and_distances_are_read_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    corpus, bare = plant(WORLD), planted_probe()
    known = replace(bare, distance=RowDistance.fit(correlated(200)[:, : bare.card.width]))
    assert known.distance is not None
    far = probe_scores(known.distance, corpus, known.card.recipe)
    expected, passes = (known.scores(corpus), far), []

    def counted(*given: Any) -> Any:
        passes.append(given)
        return stream_thoughts(*given)

    monkeypatch.setattr("trace_probe.probing.fitting.stream_thoughts", counted)
    for found, wanted in zip(known.read(corpus), expected, strict=True):
        assert wanted
        assert found.keys() == wanted.keys()
        assert all(np.array_equal(found[one], wanted[one], equal_nan=True) for one in wanted)
    assert len(passes) == 1
    assert bare.read(corpus)[1] == {}


def test_a_sentence_lies_as_far_while_it_is_written_as_in_the_finished_trace() -> None:
    bare = planted_probe()
    known = replace(bare, distance=RowDistance.fit(correlated(200)[:, : bare.card.width]))
    rows = np.random.default_rng(2).normal(size=(9, 1, bare.card.width)).astype(np.float32)
    memory = Memory([known, bare])
    memory.add(rows)
    assert memory.end(0, 5)
    assert known.distance is not None
    near, unknown = memory.distances
    mean = rows[1:6, 0].mean(axis=0, dtype=np.float64).astype(np.float32)
    assert near == pytest.approx(float(known.distance.raw_scores(mean[None])[0]), rel=1e-5)
    assert np.isnan(unknown)
