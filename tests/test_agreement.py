import itertools
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trace_probe.errors import NotEnoughData
from trace_probe.interop.transcripts import read_transcripts
from trace_probe.labelling.agreement import (
    Agreement,
    Verdicts,
    agreement,
    compare_verdicts,
)
from trace_probe.labels import Label
from trace_probe.statistics.bootstrap import Metric
from trace_probe.store import Manifest, Store


def compared(table: Verdicts) -> Agreement:
    """Compare labellers on traces of one category, each of a task of its own."""
    names = [f"labeller {n}" for n in range(table.shape[1])]
    tasks = [f"task {n}" for n in range(len(table))]
    return compare_verdicts(names, table, tasks, ["one"] * len(table))


def same(found: Metric | None, value: float) -> bool:
    """Return whether a figure is a value; one of which no draw can be computed may be missing."""
    return found is None or found.estimate == pytest.approx(value, abs=1e-12)


def tables(raters: int) -> st.SearchStrategy[Verdicts]:
    row = st.lists(st.integers(0, 1), min_size=raters, max_size=raters)
    return st.lists(row, min_size=1, max_size=40).map(lambda t: np.array(t, dtype=np.int8))


@settings(max_examples=200, deadline=None)
@given(table=tables(2))
def test_cohen_s_kappa_is_that_of_scikit_learn(table: Verdicts) -> None:
    from sklearn.metrics import cohen_kappa_score

    found = compared(table).pairs[0].kappa
    if len(set(table.ravel())) == 1:
        assert found is None
        return
    assert found is not None or len(table) < 8
    assert same(found, cohen_kappa_score(*table.T))


@settings(max_examples=200, deadline=None)
@given(table=st.integers(2, 5).flatmap(tables))
def test_fleiss_kappa_is_that_of_statsmodels(table: Verdicts) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own imports warn
        theirs = pytest.importorskip(
            "statsmodels.stats.inter_rater", reason="statsmodels is not installed"
        )
    counts = np.column_stack([(table == 0).sum(axis=1), (table == 1).sum(axis=1)])
    found = compared(table).fleiss
    if len(set(table.ravel())) == 1:
        assert found is None
        return
    assert found is not None or len(table) < 8
    assert same(found, theirs.fleiss_kappa(counts))


@given(table=st.integers(2, 5).flatmap(tables))
def test_the_rate_is_the_share_of_pairs_that_agree(table: Verdicts) -> None:
    raters = range(table.shape[1])
    pairs = [row[i] == row[j] for row in table for i in raters for j in raters if i < j]
    found = compared(table).iar
    assert found is not None
    assert found.estimate == pytest.approx(np.mean(pairs))


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(
        st.tuples(*(st.sampled_from((-1, 0, 1)),) * 3, st.sampled_from("abc")),
        min_size=1,
        max_size=30,
    )
)
def test_all_figures_with_missing_verdicts_are_those_of_others(
    rows: list[tuple[int, int, int, str]],
) -> None:
    """By pair and by category, against scikit-learn on the rows that both have judged."""
    from sklearn.metrics import cohen_kappa_score, confusion_matrix

    verdicts = np.array([row[:3] for row in rows], dtype=np.int8)
    categories = [row[3] for row in rows]
    found = compare_verdicts("xyz", verdicts, [str(i) for i in range(len(rows))], categories)
    assert found.unknown == dict(zip("xyz", (verdicts == -1).sum(axis=0), strict=True))
    for pair, columns in zip(found.pairs, ([0, 1], [0, 2], [1, 2]), strict=True):
        table = verdicts[:, columns]
        cells = confusion_matrix(*table.T, labels=[1, 0, -1])
        words = ("yes", "no", "unknown")
        for (i, one), (j, other) in itertools.product(enumerate(words), repeat=2):
            assert pair.confusion["all"].get(f"{one}/{other}", 0) == cells[i, j]
        groups = {"all": np.ones(len(rows), bool)}
        groups |= {name: np.array(categories) == name for name in set(categories)}
        for name, here in groups.items():
            known = table[here & (table >= 0).all(axis=1)]
            value = pair if name == "all" else pair.categories[name]
            assert value.n == len(known)
            if not len(known):
                assert value.iar is value.kappa is None
                continue
            assert value.iar is not None
            assert value.iar.estimate == pytest.approx((known[:, 0] == known[:, 1]).mean())
            if len(set(known.ravel())) == 1:
                assert value.kappa is None
            elif value.kappa is not None:  # of few traces no draw may define it
                assert value.kappa.estimate == pytest.approx(cohen_kappa_score(*known.T))


def test_nothing_to_compare_is_undefined() -> None:
    found = compared(np.empty((0, 2), dtype=np.int8))
    assert found.iar is found.fleiss is found.pairs[0].kappa is None


def run_of(tmp_path: Path, verdicts: dict[str, list[bool | None]], samples: int = 1) -> Store:
    """Return a run of 2 categories whose n-th trace has each labeller's n-th verdict."""
    count = len(next(iter(verdicts.values())))
    records: list[dict[str, Any]] = [
        {
            "prompt": f"task {n // samples}",
            "reasoning": "Hm.",
            "answer": f"Yes {n}.",
            "category": ("a", "b")[n // samples % 2],
        }
        for n in range(count)
    ]
    tmp_path.mkdir(exist_ok=True)
    file = tmp_path / "t.jsonl"
    file.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    store = Store.create(tmp_path / "run", Manifest("m", source="imported"))
    traces = [trace for trace, _ in read_transcripts(file)]
    with store.writing():
        for trace in traces:
            store.add(trace)
        for name, given_ in verdicts.items():
            pairs = zip(traces, given_, strict=True)
            store.add_labels([Label(trace.id, name, verdict) for trace, verdict in pairs])
    return store


def test_missing_verdicts_count_as_unknown_and_in_no_figure(tmp_path: Path) -> None:
    first = [True, True, False, False, None, True]
    second = [True, False, False, None, True, True]
    found = agreement(run_of(tmp_path, {"x": first, "y": second}))
    (pair,) = found.pairs
    assert (found.traces, pair.n, found.complete) == (6, 4, 4)
    assert found.unknown == {"x": 1, "y": 1}
    assert pair.iar is not None
    assert pair.iar.estimate == pytest.approx(3 / 4)
    assert pair.kappa is not None
    assert pair.kappa.estimate == pytest.approx(0.5)
    assert pair.confusion["all"] == {
        "yes/yes": 2,
        "yes/no": 1,
        "no/no": 1,
        "no/unknown": 1,
        "unknown/yes": 1,
    }
    assert pair.confusion["a"] == {"yes/yes": 1, "no/no": 1, "unknown/yes": 1}
    assert {name: one.n for name, one in pair.categories.items()} == {"a": 2, "b": 2}
    assert pair.categories["a"].iar is not None
    assert pair.categories["a"].iar.estimate == 1.0
    assert "1 without a verdict" in str(found)


def test_intervals_widen_when_the_traces_are_of_few_tasks(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    truth = rng.random(48) < 0.5
    flips = np.repeat(rng.random(6) < 0.4, 8)  # whole tasks differ
    verdicts: dict[str, list[bool | None]] = {
        "x": [bool(v) for v in truth],
        "y": [bool(v) for v in truth ^ flips],
    }
    by_task = agreement(run_of(tmp_path / "few", verdicts, samples=8))
    by_trace = agreement(run_of(tmp_path / "many", verdicts, samples=1))
    few, many = by_task.pairs[0].iar, by_trace.pairs[0].iar
    assert few is not None
    assert many is not None
    assert few.estimate == many.estimate
    assert few.upper - few.lower > 1.5 * (many.upper - many.lower)


def test_all_of_one_class_has_a_rate_and_no_kappa(tmp_path: Path) -> None:
    found = agreement(run_of(tmp_path, {n: [False] * 8 for n in "xyz"}))
    assert found.iar is not None
    assert (found.iar.estimate, found.fleiss) == (1.0, None)
    assert found.iar.lower < 1
    assert all(pair.kappa is None for pair in found.pairs)
    assert len(found.pairs) == 3
    assert "Fleiss' kappa undefined" in str(found)


def test_one_labeller_or_an_unknown_one_is_an_error(tmp_path: Path) -> None:
    store = run_of(tmp_path, {"x": [True]})
    with pytest.raises(NotEnoughData, match="it has x: label it"):
        agreement(store)
    with pytest.raises(NotEnoughData, match="it has x"):
        agreement(store, ["x", "z"])
