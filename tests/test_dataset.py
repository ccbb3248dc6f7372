from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import World, keep, make_label, make_trace, plant

from trace_probe.errors import NotEnoughData, ProbeError
from trace_probe.labels import Label
from trace_probe.probing.corpus import (
    Corpus,
    Known,
    build_cohort,
    load_corpus,
    sentences_before,
    split_by_role,
    split_tasks,
    task_folds,
    truth,
)
from trace_probe.probing.features import build_dataset, chosen_sentences, stream_rows
from trace_probe.probing.recipe import Recipe, Rows
from trace_probe.trace import Span, Task, Trace

TASK = Task("t", "kind", "do it")


@pytest.fixture
def trace() -> Trace:
    return make_trace("a", TASK, ["one two", "three four", "five six"], answer="go")


@given(st.sets(st.text("abc", min_size=1), max_size=30), st.integers(0, 9))
def test_a_task_is_never_on_both_sides_of_a_split(ids: set[str], seed: int) -> None:
    train, test = split_tasks(ids, 0.3, seed)
    assert set(train) | set(test) == ids
    assert not set(train) & set(test)
    assert len(test) == round(0.3 * len(ids))


def test_a_split_by_role_calibrates_on_benign_tasks_only_and_tests_on_every_role() -> None:
    corpus = plant(World(tasks=10, hard_negatives=10, benign=20, samples=2))
    split = split_by_role(corpus.traces, seed=3)
    parts = [set(split.train), set(split.calibration), set(split.test)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 40
    assert all(task.startswith("benign") for task in split.calibration)
    assert len(split.calibration) == 7
    kinds = [{task.rsplit("-", 1)[0] for task in part} for part in (split.train, split.test)]
    assert kinds == [{"test", "hard-negative", "benign"}] * 2


def test_a_split_depends_on_ids_and_seed_alone() -> None:
    traces = plant(World(tasks=9, samples=2)).traces
    assert split_by_role(traces, seed=1) == split_by_role(traces[::-1], seed=1)
    assert split_by_role(traces, seed=1) != split_by_role(traces, seed=2)


def test_a_task_of_two_roles_is_refused(trace: Trace) -> None:
    other = replace(trace, id="b", task=replace(TASK, role="benign"))
    with pytest.raises(ProbeError, match="task t has two roles"):
        split_by_role([trace, other])


def test_folds_hold_out_each_task_once_and_every_role_in_each() -> None:
    traces = plant(World(tasks=8, benign=4, samples=2)).traces
    held_out: list[str] = []
    for train, held in task_folds(traces, 4):
        assert not set(train) & set(held)
        assert sum(task.startswith("benign") for task in held) == 1
        held_out += held
    assert sorted(held_out) == sorted({trace.task.id for trace in traces})


def test_too_few_tasks_for_the_folds_are_refused(trace: Trace) -> None:
    with pytest.raises(NotEnoughData, match="1 tasks are too few for 4 folds"):
        list(task_folds([trace]))


def test_sentences_before_a_mark_end_before_it(trace: Trace) -> None:
    assert sentences_before(trace, None) == [0, 1, 2]
    assert sentences_before(trace, trace.sentences[1]) == [0]
    assert sentences_before(trace, Span(5, 6)) == [0]  # a mark inside the second sentence
    assert sentences_before(trace, trace.channel("answer")[0]) == [0, 1, 2]


def chosen(trace: Trace, label: Label, rows: Rows, guard: int = 0) -> list[int]:
    return chosen_sentences(
        Known.of(0, trace, label, bool(label.outcome)), Recipe((0,), rows=rows, guard=guard)
    )


def test_rows_end_before_the_action_and_before_it_is_said(trace: Trace) -> None:
    label = make_label(trace, True, said=2)
    assert chosen(trace, label, "reasoning") == [0, 1, 2]
    assert chosen(trace, label, "before-said") == [0, 1]
    assert chosen(trace, label, "before-said", guard=1) == [0]
    assert chosen(trace, label, "before-said", guard=5) == []
    assert chosen(trace, label, "prompt") == [-1]
    early = replace(label, acted=trace.sentences[1])
    assert chosen(trace, early, "reasoning") == [0]
    assert chosen(trace, early, "before-said") == [0]


def test_a_guard_takes_nothing_from_a_trace_that_never_says_it(trace: Trace) -> None:
    label = make_label(trace, True, said=None)
    assert chosen(trace, label, "before-said", guard=2) == [0, 1, 2]


def test_rows_are_those_that_were_recorded_for_their_sentence() -> None:
    corpus = plant(World(tasks=4, samples=2, sentences=5, said=3))
    assert corpus.matrix is not None
    rows = build_dataset(corpus, Recipe((3,)))
    assert rows.X.dtype == np.float32
    for x, index, sentence in zip(rows.X, rows.trace, rows.sentence, strict=True):
        row = corpus.matrix.start[index] + 1 + sentence
        np.testing.assert_array_equal(x, corpus.matrix.at(3)[row])
    said = [corpus.labels[corpus.traces[index].id].said is not None for index in rows.trace]
    np.testing.assert_array_equal(rows.y, said)
    assert rows.sentence[rows.y].max() == 2
    assert rows.sentence[~rows.y].max() == 4


def test_every_trace_weighs_the_same() -> None:
    corpus = plant(World(tasks=4, samples=3, said=2))
    assert corpus.matrix is not None
    rows = build_dataset(corpus, Recipe((0,)))
    np.testing.assert_allclose(np.bincount(rows.trace, rows.weight), 1.0)


def test_prompt_rows_are_the_last_prompt_token() -> None:
    corpus = plant(World(tasks=4, samples=2))
    assert corpus.matrix is not None
    rows = build_dataset(corpus, Recipe((0,), rows="prompt"))
    np.testing.assert_array_equal(rows.X, corpus.matrix.at(0)[corpus.matrix.start])


def test_an_unknown_outcome_is_no_row_and_no_negative() -> None:
    corpus = plant(World(tasks=4, samples=2))
    gone = corpus.traces[0].id
    labels = {**corpus.labels, gone: replace(corpus.labels[gone], outcome=None)}
    unlabelled = {name: label for name, label in labels.items() if name != corpus.traces[1].id}
    assert corpus.matrix is not None
    rows = build_dataset(replace(corpus, labels=unlabelled), Recipe((0,)))
    assert not set(rows.trace) & {0, 1}
    assert len(build_cohort(Corpus(corpus.traces, unlabelled)).ids) == len(corpus.traces) - 2


def test_no_labelled_row_is_an_error_that_says_so() -> None:
    corpus = plant(World(tasks=4, samples=2))
    assert corpus.matrix is not None
    with pytest.raises(NotEnoughData, match="no labelled rows"):
        build_dataset(replace(corpus, labels={}), Recipe((0,)))
    with pytest.raises(ProbeError, match="layer 7 is not here"):
        build_dataset(corpus, Recipe((7,)))


def test_rows_end_strictly_before_it_is_said_less_a_guard_band_and_before_the_action() -> None:
    corpus = plant(World(tasks=4, samples=4, sentences=8, said=6))
    marks = [corpus.labels[trace.id] for trace in corpus.traces]

    def gaps(recipe: Recipe, *, said: bool) -> list[int]:
        """Return how many tokens lie between each row of a positive and its mark."""
        rows = build_dataset(corpus, recipe)
        spans = [marks[i].said if said else marks[i].acted for i in rows.trace[rows.y]]
        return [
            span.start - stop for span, stop in zip(spans, rows.stop[rows.y], strict=True) if span
        ]

    # Sentences are five tokens long: a band of six takes away two of them.
    assert min(gaps(Recipe((3,)), said=True)) == 0
    assert min(gaps(Recipe((3,), guard_tokens=5), said=True)) == 5
    assert min(gaps(Recipe((3,), guard_tokens=6), said=True)) == 10
    assert min(gaps(Recipe((3,), guard=2), said=True)) == 10
    assert min(gaps(Recipe((3,), rows="reasoning"), said=False)) == 0
    assert min(gaps(Recipe((3,), rows="reasoning"), said=True)) == -10


def test_of_a_positive_the_last_row_can_stand_for_all_of_a_negative_none_is_left_out() -> None:
    corpus = plant(World(tasks=6, samples=4, said=6))
    every, last = (build_dataset(corpus, Recipe((3,), focus=focus)) for focus in ("all", "last"))
    assert set(last.sentence[last.y]) == {5}
    np.testing.assert_array_equal(last.X[~last.y], every.X[~every.y])
    np.testing.assert_allclose(np.bincount(last.trace, last.weight), 1.0)


def test_blocks_of_traces_are_the_rows_of_all() -> None:
    corpus = plant(World(tasks=5, samples=3))
    whole, parts = (
        build_dataset(corpus, Recipe((3,))),
        list(stream_rows(corpus, Recipe((3,)), traces=4)),
    )
    assert len(parts) == 4
    for name in ("X", "y", "task", "trace", "sentence", "stop", "weight"):
        joined = np.concatenate([getattr(part, name) for part in parts])
        np.testing.assert_array_equal(joined, getattr(whole, name))


def test_three_targets_are_told_apart_and_what_nobody_knows_is_none() -> None:
    task = replace(TASK, role="benign")
    trace = make_trace("a", TASK, ["one two", "three four"], answer="go")
    calm = replace(trace, id="b", task=task)
    unheard = replace(make_label(trace, True), facts={"said": "unknown"})
    assert truth(trace, make_label(trace, False, said=1), "verbalisation") is True
    assert truth(trace, make_label(trace, True), "verbalisation") is False
    assert truth(trace, unheard, "verbalisation") is None
    assert truth(trace, make_label(trace, None), "outcome") is None
    assert (truth(trace, unheard, "situation"), truth(calm, unheard, "situation")) == (True, False)
    corpus = Corpus((trace, calm), {"a": make_label(trace, False, said=1), "b": unheard})
    assert corpus.aimed("verbalisation").outcome(trace) is True
    assert corpus.aimed("verbalisation").outcome(calm) is None
    assert len(corpus.aimed("situation").judged().traces) == 2
    assert len(corpus.judged().traces) == 1


def test_where_nobody_looked_for_it_no_row_comes_before_it_is_said() -> None:
    corpus = plant(World(tasks=4, samples=4, said=None))
    unheard = {
        name: replace(label, facts={"said": "unknown"}) for name, label in corpus.labels.items()
    }
    blind = replace(corpus, labels=unheard)
    with pytest.raises(NotEnoughData, match="use rows of kind reasoning"):
        build_dataset(blind, Recipe((3,)))
    assert len(build_dataset(blind, Recipe((3,), rows="reasoning")).y) == 16 * 8
    cohort = build_cohort(blind)
    assert not cohort.silent.any()
    assert not cohort.spoken.any()
    assert not cohort.before_said().any()
    assert cohort.silence()["unknown_whether_said"] == cohort.positive.sum() > 0
    assert build_cohort(corpus).silent.sum() == cohort.positive.sum()


def test_a_run_on_disk_gives_the_rows_that_were_recorded(tmp_path: Path) -> None:
    corpus = plant(World(tasks=3, samples=2))
    store = keep(corpus, tmp_path / "run")
    loaded = load_corpus(store)
    assert corpus.matrix is not None
    assert loaded.matrix is not None
    np.testing.assert_allclose(loaded.matrix.values, corpus.matrix.values, atol=4e-3)
    one = build_dataset(load_corpus(store, layers=(3,)), Recipe((3,)))
    np.testing.assert_array_equal(one.X, build_dataset(loaded, Recipe((3,))).X)


def test_a_part_of_a_corpus_keeps_the_rows_of_its_traces() -> None:
    corpus = plant(World(tasks=4, samples=2, benign=2))
    part = corpus.only(["test-002", "benign-001"], "benign")
    assert [trace.task.id for trace in part.traces] == ["benign-001"]
    assert part.matrix is not None
    assert corpus.matrix is not None
    index = [trace.id for trace in corpus.traces].index(part.traces[0].id)
    assert part.matrix.start.tolist() == [corpus.matrix.start[index]]


def test_a_cohort_says_when_each_trace_says_it(trace: Trace) -> None:
    second = replace(trace, id="b")
    third = replace(trace, id="c", task=replace(TASK, id="u"))
    labels = {
        "a": make_label(trace, True, said=1),
        "b": make_label(second, False),
        "c": Label("c", "planted", True, said=third.channel("answer")[0]),
    }
    cohort = build_cohort(Corpus((trace, second, third), labels))
    assert cohort.said.tolist() == [1, -1, 3]
    assert cohort.before_said().tolist() == [1, 3, 3]
    assert cohort.before_said(guard=2).tolist() == [0, 3, 1]
    assert cohort.length.tolist() == [3, 3, 3]
    assert cohort.mixed().tolist() == [True, False]
    assert cohort.counts() == {
        "traces": 3,
        "positives": 2,
        "tasks": 2,
        "mixed_prompts": 1,
    }
    assert cohort.silence() == {"silent": 0, "unknown_whether_said": 0}
