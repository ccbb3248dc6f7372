from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import World, make_label, make_trace, plant

from trace_probe.errors import NotEnoughData, ProbeError
from trace_probe.probing.baselines import (
    SHUFFLES,
    baseline_scores,
    category_only,
    length,
    permute_between_tasks,
    position,
    prompt_only,
)
from trace_probe.probing.corpus import Corpus, split_by_role
from trace_probe.probing.features import build_dataset
from trace_probe.probing.probe import Recipe
from trace_probe.probing.selection import criterion
from trace_probe.probing.tfidf import (
    LearnedRows,
    TextModel,
    TextRecipe,
    Words,
    read_texts,
    tfidf,
    training_rows,
    tune,
)
from trace_probe.statistics.metrics import Scores
from trace_probe.trace import Task

RECIPE = Recipe((3,))


def parts(world: World) -> tuple[Corpus, Corpus]:
    corpus = plant(world)
    split = split_by_role(corpus.traces)
    return corpus.only(split.train), corpus.only(split.test)


def same(left: Scores, right: Scores) -> bool:
    return all(np.array_equal(left[name], right[name], equal_nan=True) for name in left)


def test_no_baseline_depends_on_the_labels_it_is_tested_on() -> None:
    train, test = parts(World(tasks=12, samples=4, cue=True, strength=1.0))
    flipped = {
        trace.id: replace(test.labels[trace.id], outcome=not test.outcome(trace), said=None)
        for trace in test.traces
    }
    before = baseline_scores(train, test, RECIPE)
    after = baseline_scores(train, Corpus(test.traces, flipped, test.matrix), RECIPE)
    assert before.keys() == after.keys()
    for name, runs in before.items():
        assert all(same(*pair) for pair in zip(runs, after[name], strict=True)), name


def test_every_baseline_scores_the_reasoning_sentences_and_no_others() -> None:
    train, test = parts(World(tasks=12, samples=4, layers=(2, 3)))
    found = baseline_scores(train, test, RECIPE)
    assert set(found) == {
        "category-only",
        "prompt-only",
        "position",
        "length",
        "tfidf",
        "tfidf-with-prompt",
        "layer 2",
        "shuffled labels",
    }
    for runs in found.values():
        for trace in test.traces:
            finite = np.isfinite(runs[0][trace.id])
            assert finite.tolist() == [span.channel == "reasoning" for span in trace.sentences]


def test_a_category_scores_its_training_base_rate() -> None:
    train, test = parts(World(tasks=12, samples=4))
    scores = category_only(train, test)
    for trace in test.traces:
        outcomes = [
            bool(train.outcome(other))
            for other in train.traces
            if other.task.category == trace.task.category
        ]
        assert np.nanmax(scores[trace.id]) == np.nanmin(scores[trace.id])
        assert scores[trace.id][0] == pytest.approx(np.mean(outcomes))


def test_an_unseen_category_scores_the_base_rate_of_all() -> None:
    train, _ = parts(World(tasks=12, samples=4))
    trace = make_trace("new", Task("new", "unheard-of", "go"), ["a b"])
    every = np.mean([bool(train.outcome(other)) for other in train.traces])
    assert category_only(train, Corpus((trace,), {}))["new"][0] == pytest.approx(every)


def test_the_prompt_baseline_gives_the_traces_of_a_prompt_one_score() -> None:
    train, test = parts(World(tasks=12, samples=4, prompt_strength=4.0))
    assert test.matrix is not None
    noisy = (
        test.matrix.values + np.random.default_rng(0).normal(size=test.matrix.values.shape) / 1e4
    )
    test = replace(test, matrix=replace(test.matrix, values=noisy))
    scores = prompt_only(train, test, RECIPE)
    for task in test.tasks:
        found = {scores[trace.id][0] for trace in test.traces if trace.task.id == task}
        assert len(found) == 1
    assert criterion(test, scores).value == 0.5


def test_position_counts_sentences_and_length_counts_generated_tokens() -> None:
    trace = make_trace("a", Task("t", "kind", "four words are here"), ["one two", "three"])
    corpus = Corpus((trace,), {})
    np.testing.assert_array_equal(position(corpus)["a"], [0, 1, np.nan])
    np.testing.assert_array_equal(length(corpus)["a"], [2, 3, np.nan])


words = st.lists(
    st.lists(st.sampled_from(["plan", "stop", "hide", "now", "zebra", "xx"]), max_size=6),
    min_size=1,
    max_size=6,
)


@settings(deadline=None)
@given(words, st.booleans())
def test_the_text_so_far_is_weighted_as_scikit_learn_does(
    sentences: list[list[str]], sublinear: bool
) -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    texts = ["plan now hide", "stop now plan", "hide hide plan", "stop plan now now"]
    y = np.array([True, False, True, False])
    how = TextRecipe(last=False, least=1, sublinear=sublinear, C=5.0)
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=sublinear)
    theirs = LogisticRegression(C=5.0, solver="liblinear").fit(vectorizer.fit_transform(texts), y)
    parts = [" ".join(sentence) + ". " for sentence in sentences]
    prefixes = ["".join(parts[: k + 1]) for k in range(len(parts))]
    expected = theirs.decision_function(vectorizer.transform(prefixes))
    learned = Words([[text] for text in texts])
    zero = np.zeros(4, dtype=np.intp)
    model = TextModel(how).fit(learned, LearnedRows(np.arange(4), zero, y, np.ones(4)))
    read = Words([parts], learned.vocabulary)
    ends = np.arange(len(parts))
    found = model.scores(read, np.zeros(len(parts), dtype=np.intp), ends)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_last_sentence_is_read_by_itself_beside_the_text_so_far() -> None:
    read = Words([["we plan", "now stop", "hide"]])
    text, part = np.zeros(3, dtype=np.intp), np.arange(3)
    grams = {column: gram for gram, column in read.vocabulary.items()}
    alone = read.of(text, part).toarray()
    assert {grams[i] for i in np.flatnonzero(alone[1]).tolist()} == {
        "now", "stop", "plan now", "now stop", "we plan now", "plan now stop",
    }  # fmt: skip
    np.testing.assert_array_equal(read.until(text, part).toarray(), np.cumsum(alone, axis=0))


def test_text_is_read_as_soon_as_it_is_written_and_not_before() -> None:
    train, test = parts(World(tasks=16, cue=True, onset=3, said=None))
    scores = tfidf(train, test, RECIPE)["tfidf"]
    found = criterion(test, scores)
    assert (found.name, found.value > 0.95) == ("within_prompt_auroc", True)
    positives = [trace.id for trace in test.traces if test.outcome(trace)]
    rise = np.mean([np.diff(scores[name][:8]) for name in positives], axis=0)
    assert rise.argmax() == 2  # from the third sentence to the fourth


def test_a_cue_after_it_is_said_helps_no_text_baseline() -> None:
    train, test = parts(World(tasks=16, cue=True, onset=5, said=5))
    assert abs(criterion(test, tfidf(train, test, RECIPE)["tfidf"]).value - 0.5) < 0.2


def test_text_learns_from_cuts_of_what_comes_before_it_is_said() -> None:
    task = Task("t", "kind", "go")
    trace = make_trace("a", task, ["one", "two", "three", "four", "five", "six", "seven"])
    read = read_texts(Corpus((trace,), {"a": make_label(trace, True, said=5)}))
    text, part, y, weight = training_rows(read, RECIPE, "all")
    assert part.tolist() == [2, 3, 4, 5]  # the first part is the prompt, or nothing
    assert (y.tolist(), weight.tolist()) == ([True] * 4, [0.25] * 4)
    assert read.words.until(text[-1:], part[-1:]).sum() == 5 + 4 + 3
    prompted = read_texts(read.corpus, "prompt")
    assert {"go", "go one", "go one two"} <= prompted.words.vocabulary.keys()


def test_text_may_learn_of_a_positive_from_its_last_prefix_alone() -> None:
    task = Task("t", "kind", "go")
    traces = [make_trace(name, task, ["one", "two", "three", "four"]) for name in "ab"]
    labels = {"a": make_label(traces[0], True), "b": make_label(traces[1], False)}
    text, part, y, weight = training_rows(read_texts(Corpus(tuple(traces), labels)), RECIPE, "last")
    assert (text.tolist(), part.tolist()) == ([0, 1, 1, 1, 1], [4, 1, 2, 3, 4])
    assert (y.tolist(), weight.tolist()) == ([True, *[False] * 4], [1.0, *[0.25] * 4])


def test_text_is_tuned_on_the_training_tasks() -> None:
    def value(how: TextRecipe) -> float:
        return how.longest - 2 * how.least + (how.C == 100.0)

    assert tune(value) == TextRecipe(longest=3, least=1, C=100.0)


def test_another_head_reads_words_too() -> None:
    train, test = parts(World(tasks=16, cue=True, onset=3, said=None))
    found = tfidf(train, test, RECIPE, "mlp")
    assert set(found) == {"tfidf", "tfidf-mlp", "tfidf-with-prompt", "tfidf-with-prompt-mlp"}
    assert criterion(test, found["tfidf-mlp"]).value > 0.8


def test_a_trace_that_says_it_at_once_gives_text_nothing_to_learn_from() -> None:
    train, test = parts(World(tasks=16, samples=4, said=0))
    silent = {name: replace(label, said=None) for name, label in train.labels.items()}
    some = {name: label for name, label in train.labels.items() if name.endswith("s0")}
    scores = tfidf(replace(train, labels={**silent, **some}), test, RECIPE)["tfidf"]
    assert all(np.isfinite(row[:8]).all() for row in scores.values())


def test_shuffled_labels_stay_together_within_a_trace_and_are_dealt_between_tasks() -> None:
    train, _ = parts(World(tasks=16, samples=6))
    rows = build_dataset(train, RECIPE)
    mixed = permute_between_tasks(rows, np.random.default_rng(0))
    assert all(len(set(mixed[rows.trace == trace])) == 1 for trace in set(rows.trace))
    _, first = np.unique(rows.trace, return_index=True)

    def shares(y: np.ndarray) -> list[int]:
        tasks = np.unique(rows.task)
        return [int(y[first][rows.task[first] == task].sum()) for task in tasks]

    assert sorted(shares(mixed)) == sorted(shares(rows.y))
    assert shares(mixed) != shares(rows.y)


def test_shuffled_labels_are_several_runs() -> None:
    train, test = parts(World(tasks=12, samples=4))
    runs = baseline_scores(train, test, RECIPE)["shuffled labels"]
    assert len(runs) == SHUFFLES
    assert not same(runs[0], runs[1])


def test_without_mixed_prompts_the_criterion_is_pooled_and_says_so() -> None:
    corpus = plant(World(tasks=12, samples=1))
    found = criterion(corpus, position(corpus))
    assert (found.name, found.value) == ("pooled_auroc", 0.5)


def test_what_cannot_be_learned_is_refused_with_the_reason() -> None:
    corpus = plant(World(tasks=12, samples=2))
    with pytest.raises(ProbeError, match="no activations"):
        baseline_scores(replace(corpus, matrix=None), corpus, RECIPE)
    with pytest.raises(NotEnoughData, match="no training trace has a known outcome"):
        category_only(Corpus(corpus.traces, {}), corpus)
    one = np.array([0, 1])
    rows = LearnedRows(one, 0 * one, one >= 0, np.ones(2))
    with pytest.raises(NotEnoughData, match="both outcomes"):
        TextModel(TextRecipe()).fit(Words([["aa"], ["bb"]]), rows)
    with pytest.raises(NotEnoughData, match="no words"):
        Words([[""], ["."]])
    with pytest.raises(NotEnoughData, match="no labelled trace of a test task"):
        criterion(Corpus(corpus.traces, {}), position(corpus))
