import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planted import World, keep, make_trace, plant

from trace_probe.errors import NotEnoughData, ProbeError, StoreError
from trace_probe.evaluation import held_out
from trace_probe.evaluation.held_out import evaluate_probe
from trace_probe.evaluation.panel import SENTENCES_LEFT
from trace_probe.evaluation.text_report import text_report
from trace_probe.execution.executor import LocalExecutor, Result
from trace_probe.labels import Label
from trace_probe.probing import mlp
from trace_probe.probing.baselines import OUTPUT_CONFIDENCE
from trace_probe.probing.corpus import split_by_role
from trace_probe.probing.probe import SavedProbe, check_fits, load_probe, save_probe
from trace_probe.probing.sweep import Grid, choose_cell
from trace_probe.statistics.metrics import auroc, trace_maxima
from trace_probe.statistics.smoothing import CANDIDATES
from trace_probe.store import Manifest, Store
from trace_probe.trace import Task, Trace
from trace_probe.training import score_run, train

WORLD = World(strength=4.0, benign=60, hard_negatives=6, samples=5)
WITHIN = "within_prompt_auroc"
"""By what is chosen where siblings are too few for the headline."""
REAL = (Path(__file__).parents[1] / ".." / "shared" / "data").resolve()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return keep(plant(WORLD), tmp_path_factory.mktemp("runs") / "planted")


@pytest.fixture(scope="module")
def saved(store: Store) -> SavedProbe:
    return train(store, target_rate=0.05)


def test_training_finds_the_layer_and_the_direction_of_the_signal(saved: SavedProbe) -> None:
    coef = saved.probe.coef_[0]
    assert saved.card.layer == 3
    assert coef @ WORLD.direction / np.linalg.norm(coef) >= 0.95


def test_the_card_says_what_the_probe_is_and_was_made_from(saved: SavedProbe) -> None:
    card = saved.card
    assert (card.name, card.model, card.labeller) == ("planted-layer-3", "planted", "planted")
    assert (card.d_model, card.pooling, card.rows) == (12, "mean", "before-said")
    assert card.target_false_alarm_rate == 0.05
    assert card.guaranteed_false_alarm_rate == pytest.approx(1 / 23)
    assert set(card.calibration_tasks).isdisjoint(card.training_tasks)
    assert (card.head, card.twin, card.target_sibling_rate) == ("linear", None, 0.05)
    assert sum(name.startswith(f"{WITHIN}/layer-") for name in card.figures) == 40
    (drift,) = (name.rpartition(":")[2] for name in card.figures if "cusum" in name)
    assert {name for name in card.figures if "/layer-" not in name} == {
        f"{WITHIN}/linear/mean",
        *(f"{WITHIN}/smoothing-{name}" for name in (*CANDIDATES, f"cusum:{drift}")),
    }
    assert (card.target, card.guarantee) == ("outcome", "conformal")
    assert card.version


def test_neither_layer_strength_nor_threshold_depend_on_the_test_tasks(
    saved: SavedProbe, tmp_path: Path
) -> None:
    corpus = plant(WORLD)
    test = set(split_by_role(corpus.traces).test)
    labels = {
        trace.id: replace(corpus.labels[trace.id], outcome=not corpus.outcome(trace), said=None)
        if trace.task.id in test
        else corpus.labels[trace.id]
        for trace in corpus.traces
    }
    assert corpus.matrix is not None
    values = corpus.matrix.values.copy()
    for trace, first in zip(corpus.traces, corpus.matrix.start, strict=True):
        if trace.task.id in test:
            values[:, first : first + len(trace.sentences) + 1] *= -3
    spoiled = replace(corpus, labels=labels, matrix=replace(corpus.matrix, values=values))
    again = train(keep(spoiled, tmp_path / "planted"), target_rate=0.05)
    assert again.card == saved.card
    np.testing.assert_array_equal(again.probe.coef_, saved.probe.coef_)


def test_the_threshold_keeps_its_promise_on_the_calibration_traces(
    store: Store, saved: SavedProbe
) -> None:
    scores = score_run(store, saved)
    benign = [trace for trace in store.traces() if trace.task.id in saved.card.calibration_tasks]
    alarms = trace_maxima(scores, [trace.id for trace in benign]) >= saved.card.threshold
    assert len(benign) == 22
    assert alarms.mean() <= saved.card.guaranteed_false_alarm_rate


def test_an_evaluation_uses_no_task_that_the_probe_was_made_from(
    store: Store, saved: SavedProbe
) -> None:
    report, scores = evaluate_probe(store, saved)
    assert report.n == {
        "traces": 35,
        "positives": report.n["positives"],
        "tasks": 7,
        "mixed_prompts": report.n["mixed_prompts"],
        "siblings": report.n["siblings"],
        "silent": 0,
        "unknown_whether_said": 0,
        "benign": 14,
    }
    assert (report.detector, report.labeller, report.layer) == ("planted-layer-3", "planted", 3)
    within = report.figures["within_prompt_auroc"]
    assert within is not None
    assert within.estimate > 0.85
    assert report.baselines.keys() - {SENTENCES_LEFT} | {"planted-layer-3"} == scores.keys()
    every = {trace.id for trace in store.traces()}
    assert all(rows.keys() == every for rows in scores.values())
    json.dumps(report.to_json(), allow_nan=False)


def test_a_probe_stands_beside_output_confidence_or_the_report_says_why_not(
    store: Store, saved: SavedProbe, tmp_path: Path
) -> None:
    report, _ = evaluate_probe(store, saved)
    assert OUTPUT_CONFIDENCE not in report.baselines
    assert any(note.startswith("Not compared with output confidence") for note in report.notes)
    corpus, rng = plant(WORLD), np.random.default_rng(0)
    traces = tuple(
        replace(trace, uncertainty=tuple(map(tuple, rng.random((len(trace.sentences), 9)))))
        for trace in corpus.traces
    )
    noted = keep(replace(corpus, traces=traces), tmp_path / "planted")
    report, scores = evaluate_probe(noted, saved)
    assert OUTPUT_CONFIDENCE in report.baselines.keys() & scores.keys()
    assert not any(note.startswith("Not compared") for note in report.notes)
    situation = train(noted, target="situation", target_rate=0.05, rows="prompt")
    assert OUTPUT_CONFIDENCE in evaluate_probe(noted, situation)[0].baselines


def test_a_saved_probe_gives_the_same_report(
    store: Store, saved: SavedProbe, tmp_path: Path
) -> None:
    save_probe(tmp_path / "p", saved)
    before, _ = evaluate_probe(store, saved)
    after, _ = evaluate_probe(store, load_probe(tmp_path / "p"))
    assert after.to_json() == before.to_json()


def test_a_kept_report_comes_back_with_the_scores_of_every_detector(
    saved: SavedProbe, tmp_path: Path
) -> None:
    own = keep(plant(WORLD), tmp_path / "planted")
    report, scores = evaluate_probe(own, saved)
    held_out.keep(own, report, scores)
    assert own.report("planted-layer-3") == json.loads(json.dumps(report.to_json()))
    assert own.detectors() == sorted(scores)
    name = next(own.traces()).id
    np.testing.assert_allclose(own.scores("tfidf")[name], scores["tfidf"][name], rtol=1e-5)


def test_kept_scores_alarm_as_the_fresh_ones_do(store: Store, saved: SavedProbe) -> None:
    scores = score_run(store, saved)
    store.write_scores("planted-layer-3", scores)
    kept = store.scores("planted-layer-3")
    for name, row in scores.items():
        np.testing.assert_array_equal(
            kept[name] >= saved.card.threshold, row >= saved.card.threshold
        )


def test_progress_is_told_in_order(store: Store) -> None:
    told: list[str] = []
    train(store, target_rate=0.05, progress=told.append)
    assert told[0] == "reading labels"
    assert told[-2] == "fitting a linear probe of mean of layer 3"
    assert told[-1] == "linear head, the alarm follows max"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Return a run on which networks learn in a second."""
    world = replace(WORLD, tasks=12, samples=4, sentences=4, said=3, benign=24, hard_negatives=0)
    return keep(plant(world), tmp_path_factory.mktemp("runs") / "small")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let networks learn for a few steps only."""
    monkeypatch.setattr(mlp, "STEPS", (60, 60))


@pytest.mark.usefixtures("quick")
def test_what_is_asked_for_is_taken(small: Store) -> None:
    asked = train(
        small, target_rate=0.05, smoothing="mean:5", features=("running-mean",), head="mlp"
    )
    assert (asked.card.smoothing, asked.card.features) == ("mean:5", ("running-mean",))
    assert asked.card.head == "mlp"
    names = {name.partition("/")[2] for name in asked.card.figures}
    assert {"mlp/running-mean", "smoothing-mean:5"} <= names
    learned = train(small, target_rate=0.05, smoothing="cusum").card.smoothing
    assert np.isfinite(float(learned.removeprefix("cusum:")))
    with pytest.raises(ProbeError, match="running-max cannot be made"):
        train(small, features=("running-max",))
    with pytest.raises(ProbeError, match="no smoothing 'loud'"):
        train(small, smoothing="loud")


@pytest.mark.usefixtures("quick")
def test_another_head_never_comes_without_its_linear_twin(small: Store, tmp_path: Path) -> None:
    saved = train(small, target_rate=0.05, features=("mean",), head="mlp")
    save_probe(tmp_path / "p", saved)
    loaded = load_probe(tmp_path / "p")
    assert loaded.card == saved.card
    linear = train(small, target_rate=0.05, features=("mean",))
    assert loaded.card.linear_twin == linear.card.recipe
    report, scores = evaluate_probe(small, loaded)
    assert {"linear twin", "tfidf-mlp"} <= report.baselines.keys()
    for name, row in score_run(small, linear).items():
        np.testing.assert_allclose(scores["linear twin"][name], row, atol=1e-4)


@pytest.mark.usefixtures("quick")
def test_an_mlp_is_taken_by_itself_only_where_it_is_clearly_better(
    small: Store, tmp_path: Path
) -> None:
    asked = partial(train, target_rate=0.05, head="auto", layers=[3], features=("mean",))
    assert asked(small).card.head == "linear"
    corpus = plant(replace(WORLD, d_model=8, strength=0.0, onset=0, samples=8))
    assert corpus.matrix is not None
    values, rng = corpus.matrix.values.copy(), np.random.default_rng(1)
    for trace, first in zip(corpus.traces, corpus.matrix.start + 1, strict=True):
        signs = rng.choice([-1.0, 1.0], size=len(trace.sentences))
        rows = slice(first, first + len(trace.sentences))
        acts = 1.0 if corpus.outcome(trace) else -1.0
        values[-1, rows, 2] += 4 * signs
        values[-1, rows, 3] += 4 * signs * acts  # whether two facts agree, which no line tells
    agree = replace(corpus, matrix=replace(corpus.matrix, values=values))
    assert asked(keep(agree, tmp_path / "agree")).card.head == "mlp"


def test_too_few_benign_traces_are_a_limit_on_the_card(store: Store) -> None:
    card = train(store, target_rate=0.001).card
    assert card.guaranteed_false_alarm_rate == pytest.approx(1 / 23)
    assert any("needs 999" in limit for limit in card.limits)


class Backwards(LocalExecutor):
    """An executor whose results come in another order, as those of a cluster may."""

    def run(
        self,
        factory: Callable[..., Callable[[Any], Any]],
        args: Sequence[Any],
        items: Iterable[Any],
    ) -> Iterator[Result[Any, Any]]:
        return super().run(factory, args, reversed(list(items)))


def test_where_layers_are_swept_changes_nothing(store: Store, saved: SavedProbe) -> None:
    again = train(store, target_rate=0.05, executor=Backwards())
    assert again.card == saved.card
    np.testing.assert_array_equal(again.probe.coef_, saved.probe.coef_)


def test_a_probe_can_be_trained_for_each_target(store: Store) -> None:
    told = train(store, target="verbalisation", target_rate=0.05)
    assert told.card.target == "verbalisation"
    # What is planted acts and says so: the two targets are one here.
    assert told.probe.coef_[0] == pytest.approx(train(store, target_rate=0.05).probe.coef_[0])
    report, _ = evaluate_probe(store, told)
    assert report.n["positives"] > 0
    where = train(store, target="situation", target_rate=0.05, rows="prompt")
    report, _ = evaluate_probe(store, where)
    assert report.n["traces"] > report.n["positives"] > 35
    assert report.figures["within_prompt_auroc"] is None


def test_a_pac_threshold_is_promised_as_such(store: Store) -> None:
    card = train(store, target_rate=0.05, guarantee="pac").card
    assert card.guarantee == "pac"
    assert card.guaranteed_false_alarm_rate == pytest.approx(1 - 0.1 ** (1 / 22))
    assert any("needs 45" in limit for limit in card.limits)


def test_chosen_layers_can_be_named(store: Store) -> None:
    card = train(store, name="mine", layers=[0], target_rate=0.05).card
    assert (card.name, card.layer) == ("mine", 0)
    with pytest.raises(StoreError, match="layer 9 was not recorded"):
        train(store, layers=[9])


def test_of_equal_layers_the_lowest_is_chosen() -> None:
    corpus = plant(World(tasks=8, samples=1))
    assert corpus.matrix is not None
    same = replace(corpus.matrix, values=np.repeat(corpus.matrix.values[:1], 2, axis=0))
    recipe, figures = choose_cell(replace(corpus, matrix=same), Grid(strengths=(0.1,)))
    assert recipe.layer == 0
    assert all(name.startswith("pooled_auroc") for name in figures)


def test_what_cannot_be_trained_is_refused_with_the_reason(tmp_path: Path) -> None:
    no_benign = keep(plant(World(tasks=8, samples=3)), tmp_path / "no-benign")
    with pytest.raises(NotEnoughData, match="role `benign`"):
        train(no_benign)
    with pytest.raises(NotEnoughData, match="no labels by 'nobody'; there are labels by"):
        train(no_benign, labeller="nobody")
    imported = Store.create(tmp_path / "imported", Manifest(model="m", source="imported"))
    with pytest.raises(NotEnoughData, match="no activations"):
        train(imported)


def test_a_probe_is_not_used_on_another_model_or_on_foreign_tasks(
    store: Store, saved: SavedProbe
) -> None:
    stranger = SavedProbe(replace(saved.card, model="other"), saved.probe)
    with pytest.raises(ProbeError, match="does not fit"):
        score_run(store, stranger)
    with pytest.raises(ProbeError, match="does not fit"):
        evaluate_probe(store, stranger)
    foreign = SavedProbe(replace(saved.card, training_tasks=("elsewhere",)), saved.probe)
    with pytest.raises(NotEnoughData, match="none of the training tasks"):
        evaluate_probe(store, foreign)


def test_a_copy_of_the_model_in_another_folder_is_the_same_model(
    store: Store, saved: SavedProbe
) -> None:
    card = replace(saved.card, model="organism:rl-s0@20da8b17")
    check_fits(card, replace(store.manifest, model="a-copy@20da8b17"))
    with pytest.raises(ProbeError, match="does not fit: the run has model 'a-copy@20da8b18'"):
        check_fits(card, replace(store.manifest, model="a-copy@20da8b18"))


def transcripts(path: Path, rows: Iterator[tuple[Trace, bool]]) -> Store:
    store = Store.create(path, Manifest(model="m", source="imported", tokenizer="words"))
    with store.writing():
        for trace, outcome in rows:
            store.add(trace)
            store.add_labels([Label(trace.id, "theirs", outcome)])
    return store


def test_a_text_report_reads_every_task_by_detectors_that_have_not_seen_it(tmp_path: Path) -> None:
    def rows() -> Iterator[tuple[Trace, bool]]:
        for number in range(15):
            for outcome in (True, False):
                # The word of a task tells its outcomes apart; no other task has that word.
                odd = f"word{number} " * 3 if outcome else f"other{number} " * 3
                cue = "secretly" if outcome and number < 10 else "openly"
                task = Task(f"t{number}", "kind", f"goal {number}")
                yield make_trace(f"{number}-{outcome}", task, [odd, f"we act {cue}"]), outcome

    store = transcripts(tmp_path / "run", rows())
    report, scores = text_report(store)
    pooled = report.figures["pooled_auroc"]
    assert pooled is not None
    # Two thirds of the positives bear the cue; the others are as the negatives.
    assert 0.7 < pooled.estimate < 0.95
    assert set(report.baselines) == {"category-only", "prompt-only-text", "length"}
    assert all(len(row) == 3 and np.isnan(row[2]) for row in scores["tfidf"].values())
    assert "do not say how early" in report.notes[0]
    assert report.notes[1] == "No activations, so no probe and no alarm."
    assert not any("prompt alone" in note for note in report.notes)
    assert "tfidf" in str(report)
    json.dumps(report.to_json(), allow_nan=False)


def test_a_text_report_says_when_the_prompt_tells_as_much(tmp_path: Path) -> None:
    def rows() -> Iterator[tuple[Trace, bool]]:
        for number in range(10):
            for outcome in (True, False):
                asked = "at all costs" if outcome else "within the rules"
                task = Task(f"t{number}", "kind", f"reach the goal {asked}")
                words = ["we do that", "secretly" if outcome and number else "openly"]
                yield make_trace(f"{number}-{outcome}", task, words), outcome

    report, _ = text_report(transcripts(tmp_path / "run", rows()))
    assert any("tell more than the prompt alone" in note for note in report.notes)


def test_a_text_report_needs_five_labelled_tasks(tmp_path: Path) -> None:
    task = Task("t", "kind", "go")
    store = transcripts(tmp_path / "run", iter([(make_trace("a", task, ["b c"]), True)]))
    with pytest.raises(NotEnoughData, match="1 labelled tasks, 5 are needed"):
        text_report(store)


def real_rows(records: list[dict[str, Any]]) -> Iterator[tuple[Trace, bool]]:
    for raw in records:
        task = Task(
            id=f"{raw['category']}-{raw['task_index']}",
            category=raw["category"],
            prompt=raw["prompt_sent"],
            condition={"mode": raw["mode"]},
        )
        trace = make_trace(raw["id"].replace("/", "-"), task, raw["cot"].split("\n"), raw["answer"])
        yield trace, raw["label"] == 1


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the real transcripts are not at {REAL}")
def test_tfidf_on_the_real_transcripts_is_no_weaker_than_a_careful_one(tmp_path: Path) -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline

    file = REAL / "qwen3_4b_thinking_traces.jsonl"
    records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    report, _ = text_report(transcripts(tmp_path / "real", real_rows(records)))
    y = np.array([raw["label"] == 1 for raw in records])
    theirs = cross_val_predict(
        make_pipeline(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2),
            LogisticRegression(C=10, max_iter=1000),
        ),
        [raw["cot"] for raw in records],
        y,
        groups=[f"{raw['category']}-{raw['task_index']}" for raw in records],
        cv=GroupKFold(5),
        method="decision_function",
    )
    ours = report.figures["pooled_auroc"]
    assert ours is not None
    assert report.n["traces"] == 213
    assert report.n["positives"] == 97
    assert auroc(theirs, y) > 0.91
    assert ours.estimate > auroc(theirs, y) - 0.01
    assert ours.lower < ours.estimate < ours.upper


@pytest.mark.parametrize("rates", [{"target_rate": 7.0}, {"sibling_rate": float("nan")}])
def test_an_impossible_rate_is_refused_before_anything_is_read(
    tmp_path: Path, rates: dict[str, Any]
) -> None:
    told: list[str] = []
    with pytest.raises(NotEnoughData, match="use 0 < rate < 1"):
        train(transcripts(tmp_path / "run", iter(())), progress=told.append, **rates)
    assert not told
