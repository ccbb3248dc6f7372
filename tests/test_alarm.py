"""The statistic of an alarm: chosen on training tasks, the same everywhere."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from planted import World, keep, plant
from test_flagging import probe as planted_probe

from trace_probe.evaluation.evaluate import CONTROL, evaluate
from trace_probe.evaluation.held_out import evaluate_probe
from trace_probe.evaluation.held_out import keep as keep_report
from trace_probe.evaluation.panel import build_panel
from trace_probe.explorer.loading import load_run
from trace_probe.monitor.detector import as_detector, load_detector
from trace_probe.monitor.flagging import flag, read_trace
from trace_probe.probing.alarm import Way, best_alarm, rule_to_rank_by
from trace_probe.probing.dataset import Corpus, build_cohort
from trace_probe.probing.probe import SavedProbe, load_probe, save_probe
from trace_probe.probing.recipe import Recipe
from trace_probe.statistics.calibration import conformal_threshold
from trace_probe.statistics.metrics import Scores, first_alarm, trace_maxima
from trace_probe.statistics.smoothing import CANDIDATES, parse_smoothing
from trace_probe.store import Store
from trace_probe.training import score_run

WORLD = World(tasks=24, samples=6, strength=6.0, benign=60, said=None)


def chosen(corpus: Corpus, scores: Scores) -> tuple[str, Mapping[str, float]]:
    ways = {(1.0, name): parse_smoothing(name).apply(scores) for name in CANDIDATES}
    (_, rule), figures = alarm(corpus, ways)
    return rule, {name: share for (_, name), share in figures.items()}


def alarm(corpus: Corpus, ways: Mapping[Way, Scores]) -> tuple[Way, Mapping[Way, float]]:
    cohort = build_cohort(corpus.judged())
    harmless = [trace.id for trace in corpus.traces if trace.task.role == "benign"]
    return best_alarm(cohort, ways, cohort.before_said(), harmless, 0.05)


def planted_scores(corpus: Corpus, *, spikes: float, sustained: bool) -> Scores:
    """Return scores that rise in instrumental traces, once or for good; odd ones in all others."""
    rng = np.random.default_rng(0)
    found = {}
    for trace in corpus.traces:
        row = rng.normal(size=len(trace.sentences))
        if corpus.outcome(trace):
            row[2 : None if sustained else 3] += 4.0
        elif rng.random() < 0.2:
            row[rng.integers(1, len(row) - 1)] += spikes
        found[trace.id] = row
    return found


def test_where_harmless_thoughts_have_odd_sentences_the_alarm_follows_a_mean() -> None:
    corpus = plant(WORLD)
    name, figures = chosen(corpus, planted_scores(corpus, spikes=7.0, sustained=True))
    assert name.startswith(("mean:", "ema:"))
    assert figures[name] > figures["max"] + 0.3
    assert tuple(figures) == CANDIDATES


def test_where_one_sentence_tells_the_alarm_follows_it() -> None:
    corpus = plant(WORLD)
    name, figures = chosen(corpus, planted_scores(corpus, spikes=0.0, sustained=False))
    assert name == "max"
    assert figures["max"] == max(figures.values())


def test_a_rule_that_catches_more_by_telling_the_situation_alone_is_not_chosen() -> None:
    """All traces of a task share its level; the odd sentence is of the traces that act."""
    corpus = plant(WORLD)
    rng = np.random.default_rng(0)
    scores = {}
    for trace in corpus.traces:
        row = rng.normal(size=len(trace.sentences))
        if trace.task.role == "benign":
            row[rng.integers(len(row))] += 7.0 if rng.random() < 0.2 else 0.0
        else:
            row += 4.0
            row[3] += 5.0 if corpus.outcome(trace) else 0.0
        scores[trace.id] = row
    name, figures = chosen(corpus, scores)
    assert figures["mean:5"] > figures["max"]
    assert name == "max"


@pytest.mark.parametrize(("forgets", "expected"), [(False, 3.0), (True, 1.0)])
def test_a_heavier_weight_of_benign_traces_is_taken_unless_the_probe_then_forgets_who_acts(
    forgets: bool, expected: float
) -> None:
    """Benign traces are quieter by it; what rises in a trace that acts stays, or is lost."""
    corpus = plant(WORLD)
    light = planted_scores(corpus, spikes=3.0, sustained=False)
    rng = np.random.default_rng(3)
    heavy = {}
    for trace in corpus.traces:
        benign = trace.task.role == "benign"
        row = light[trace.id].copy()
        if forgets and not benign:
            row = rng.normal(size=len(row)) + 4.0
        heavy[trace.id] = row - 1.5 * benign
    (weight, rule), figures = alarm(corpus, {(1.0, "max"): light, (3.0, "max"): heavy})
    assert figures[3.0, "max"] > figures[1.0, "max"] + 0.2
    assert (weight, rule) == (expected, "max")


def test_of_ways_that_catch_alike_the_first_stands() -> None:
    corpus = plant(WORLD)
    scores = planted_scores(corpus, spikes=0.0, sustained=True)
    way, figures = alarm(corpus, {(w, "max"): scores for w in (1.0, 3.0)})
    assert len(set(figures.values())) == 1
    assert way == (1.0, "max")


@pytest.mark.parametrize(("noise", "expected"), [(2.0, "mean:"), (0.0, "max")])
def test_scores_are_ranked_by_a_mean_where_single_ones_swing(noise: float, expected: str) -> None:
    corpus = plant(WORLD)
    rng = np.random.default_rng(4)
    scores = {
        trace.id: rng.normal(size=len(trace.sentences)) * noise
        + (1.0 if corpus.outcome(trace) else 0.0)
        for trace in corpus.traces
    }
    rule, figures = rule_to_rank_by(corpus, scores, Recipe((0,)))
    assert rule.name.startswith(expected)
    assert set(figures) == {f"within_prompt_auroc/ranked-by-{name}" for name in CANDIDATES}
    assert figures[f"within_prompt_auroc/ranked-by-{rule.name}"] > 0.6


def test_where_rules_are_alike_the_plain_maximum_stands() -> None:
    corpus = plant(WORLD)
    rng = np.random.default_rng(1)
    level = {trace.id: float(rng.integers(9)) for trace in corpus.traces}
    scores = {trace.id: np.full(len(trace.sentences), level[trace.id]) for trace in corpus.traces}
    name, figures = chosen(corpus, scores)
    assert name == "max"
    assert len(set(figures.values())) == 1


def test_the_figure_of_a_rule_is_what_it_catches_at_its_own_threshold() -> None:
    corpus = plant(WORLD)
    scores = planted_scores(corpus, spikes=7.0, sustained=True)
    _, figures = chosen(corpus, scores)
    harmless = [trace.id for trace in corpus.traces if trace.task.role == "benign"]
    acted = [trace.id for trace in corpus.judged().traces if corpus.outcome(trace)]
    for name in CANDIDATES:
        values = parse_smoothing(name).apply(scores)
        before = {i: row[:-1] for i, row in values.items()}  # the answer, where it is done
        limit = conformal_threshold(trace_maxima(values, harmless), 0.05).value
        assert figures[name] == pytest.approx((trace_maxima(before, acted) >= limit).mean())


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return keep(plant(WORLD), tmp_path_factory.mktemp("alarm") / "run")


@pytest.fixture
def saved() -> SavedProbe:
    probe = planted_probe(3.0)
    train = tuple(f"test-{number:03d}" for number in range(12))
    card = replace(probe.card, smoothing="mean:3", training_tasks=train)
    return SavedProbe(card, probe.probe)


def alarms(store: Store, saved: SavedProbe) -> dict[str, int]:
    """Return where each trace alarms, worked out here."""
    found = {}
    for name, row in score_run(store, saved).items():
        given = row[np.isfinite(row)].astype(float)
        means = [given[max(0, i - 2) : i + 1].mean() for i in range(len(given))]
        first = first_alarm(np.array(means), saved.card.threshold)
        if first is not None:
            found[name] = first
    return found


def test_every_reader_of_a_card_alarms_at_the_same_sentence(
    store: Store, saved: SavedProbe
) -> None:
    expected = alarms(store, saved)
    acted = {name for name, label in store.labels().items() if label.outcome}
    assert acted & set(expected)
    assert {one.trace_id: one.sentence for one in flag(store, saved).alarms} == expected
    report, scores = evaluate_probe(store, saved)
    keep_report(store, report, scores)
    assert report.rule == "mean:3"
    benign = [trace.id for trace in store.traces() if trace.task.role == "benign"]
    rate = report.figures["false_alarm_rate"]
    assert rate is not None
    assert rate.n < len(benign)
    run = load_run(store.path)
    rows = run.rows(run.detector(saved.card.name))
    assert {row.facts.id: row.alarm for row in rows if row.alarm is not None} == expected
    name, sentence = next(iter(expected.items()))
    shown = [line for line in read_trace(store, name, "truth").lines if "alarm" in line.marks]
    assert [line.sentence for line in shown] == [sentence]


def test_ranking_follows_its_own_rule_and_baselines_the_better_of_two(
    saved: SavedProbe, tmp_path: Path
) -> None:
    store = keep(plant(replace(WORLD, strength=1.0)), tmp_path / "faint")
    smooth = SavedProbe(replace(saved.card, ranked_by="mean:5"), saved.probe)
    plain, ranked = (evaluate_probe(store, one)[0] for one in (saved, smooth))
    assert ranked.ranked_by == "mean:5"
    alike = plain.alternatives["rule mean:5"]["within_prompt_auroc"]
    assert ranked.figures["within_prompt_auroc"] == alike != plain.figures["within_prompt_auroc"]
    assert ranked.useful_warning == plain.useful_warning
    for name in ("tfidf", "layer 0", "length"):
        better, own = (one.baselines[name]["within_prompt_auroc"] for one in (ranked, plain))
        assert better is not None
        assert own is not None
        assert better.estimate >= own.estimate


def test_a_text_is_ranked_as_is_better_for_it_and_the_control_as_the_probe_is() -> None:
    """Only the last score tells, so a mean is the worse way to rank."""
    corpus = plant(WORLD)
    rng = np.random.default_rng(5)
    scores = {}
    for trace in corpus.traces:
        row = 9.0 * rng.normal(size=len(trace.sentences))
        row[-2] = 1.0 if corpus.outcome(trace) else 0.0  # the answer comes after it
        scores[trace.id] = row
    panel = replace(build_panel(corpus, corpus), ranked_by=parse_smoothing("mean:5"))
    several = {"tfidf": [scores], CONTROL: [scores]}
    report = evaluate("eye", scores, several, panel, threshold=1.0, target_rate=0.05)
    text, control = (report.baselines[name]["within_prompt_auroc"] for name in several)
    assert text is not None
    assert control is not None
    assert text.estimate == 1.0 > 0.7 > control.estimate
    assert control == report.figures["within_prompt_auroc"]


def test_a_rule_changes_alarms_but_not_how_scores_rank(store: Store, saved: SavedProbe) -> None:
    plain = SavedProbe(replace(saved.card, smoothing="max"), saved.probe)
    smooth, sharp = (evaluate_probe(store, one)[0].to_json() for one in (saved, plain))
    assert smooth["within_prompt_auroc"] == sharp["within_prompt_auroc"]
    assert smooth["prefix"] != sharp["prefix"]
    assert "rule max" in smooth["alternatives"]
    assert "rule mean:3" in sharp["alternatives"]


def test_a_card_of_an_earlier_version_says_rule_or_nothing(
    saved: SavedProbe, tmp_path: Path
) -> None:
    save_probe(tmp_path, saved)
    assert load_detector(tmp_path).smoothing.name == "mean:3"
    raw = json.loads((tmp_path / "card.json").read_text("utf-8"))
    (tmp_path / "card.json").write_text(json.dumps(raw | {"rule": raw.pop("smoothing")}), "utf-8")
    assert load_detector(tmp_path).smoothing.name == "mean:3"
    (tmp_path / "card.json").write_text(json.dumps(raw), "utf-8")
    old = load_probe(tmp_path)
    assert old.smoothing.name == as_detector(old).smoothing.name == "max"
    row = np.array([1.0, np.nan])
    assert old.smoothing.follow(row) is row
