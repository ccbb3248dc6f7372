"""The statistic of an alarm: chosen on training tasks, the same everywhere."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from made_probes import planted_probe
from planted import World, keep, plant

from trace_probe.evaluation.evaluate import CONTROL, evaluate
from trace_probe.evaluation.held_out import evaluate_probe
from trace_probe.evaluation.held_out import keep as keep_report
from trace_probe.evaluation.panel import build_panel
from trace_probe.explorer.loading import load_run
from trace_probe.monitor.detector import as_detector, load_detector
from trace_probe.monitor.flagging import flag, read_trace
from trace_probe.monitor.sharing import seal_probe
from trace_probe.probing.corpus import Corpus
from trace_probe.probing.probe import SavedProbe, load_probe, save_probe
from trace_probe.probing.selection import HEADLINE, choose_smoothing, set_threshold
from trace_probe.statistics.metrics import Scores, first_alarm
from trace_probe.statistics.smoothing import CANDIDATES, parse_smoothing
from trace_probe.store import Store
from trace_probe.training import score_run

WORLD = World(tasks=24, samples=6, strength=6.0, benign=60, said=None)


def chosen(corpus: Corpus, scores: Scores) -> tuple[str, Mapping[str, float]]:
    smoothing, figures = choose_smoothing(corpus, scores, "before-said")
    assert all(name.startswith(f"{HEADLINE}/smoothing-") for name in figures)
    return smoothing.name, {name.rpartition("smoothing-")[2]: v for name, v in figures.items()}


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
    assert figures[name] > figures["max"] + 0.1
    assert tuple(figures)[:-1] == CANDIDATES
    assert tuple(figures)[-1].startswith("cusum:")


def test_where_a_thought_turns_for_good_but_little_the_alarm_follows_the_sum_of_the_change() -> (
    None
):
    """Scores rise by less than they vary, half-way through, so that no short mean shows it."""
    world = replace(WORLD, tasks=60, sentences=40)
    corpus, rng = plant(world), np.random.default_rng(0)
    scores = {}
    for trace in corpus.traces:
        row = 5.0 + rng.normal(size=len(trace.sentences))
        if corpus.outcome(trace):
            row[15:] += 1.0
        scores[trace.id] = row
    name, figures = chosen(corpus, scores)
    drift = float(name.removeprefix("cusum:"))
    assert 5.3 < drift < 5.7
    assert figures[name] > max(v for other, v in figures.items() if other != name) + 0.1


def test_where_one_sentence_tells_the_alarm_follows_it() -> None:
    corpus = plant(WORLD)
    name, figures = chosen(corpus, planted_scores(corpus, spikes=0.0, sustained=False))
    assert name == "max"
    assert figures["max"] == max(figures.values())


def test_where_rules_are_alike_the_plain_maximum_stands() -> None:
    corpus = plant(WORLD)
    rng = np.random.default_rng(1)
    level = {trace.id: float(rng.integers(9)) for trace in corpus.traces}
    scores = {trace.id: np.full(len(trace.sentences), level[trace.id]) for trace in corpus.traces}
    name, figures = chosen(corpus, scores)
    assert name == "max"
    assert len(set(figures.values())) == 1


def siblings_of(heights: Sequence[float]) -> tuple[Corpus, Scores]:
    """Return mixed prompts whose harmless traces reach certain heights."""
    corpus = plant(World(tasks=24, samples=8))
    left = iter(np.resize(np.array(heights), len(corpus.traces)))
    return corpus, {
        trace.id: np.full(len(trace.sentences), 9.0 if corpus.outcome(trace) else next(left))
        for trace in corpus.traces
    }


def test_a_threshold_keeps_the_promise_that_asks_for_more() -> None:
    benign = {f"b{number}": np.array([0.0, number / 100, np.nan]) for number in range(199)}
    quiet, loud = (siblings_of([top, *[-1.0] * 9]) for top in (-0.5, 5.0))
    guaranteed = partial(set_threshold, benign, rate=0.05, sibling_rate=0.05)
    low = guaranteed(quiet)
    assert low.value == guaranteed(None).value == pytest.approx(1.90, abs=0.011)
    assert low.sibling_alarm_rate == 0.0
    assert low.false_alarm_rate == pytest.approx(0.05, abs=0.006)
    high = guaranteed(loud)
    assert high.value == pytest.approx(5.0)
    assert high.false_alarm_rate == 0.0
    assert high.sibling_alarm_rate == 0.0  # one in ten is as loud as the next
    assert high.siblings == low.siblings > 40


def test_without_siblings_enough_their_rate_is_unknown_and_said_to_be() -> None:
    benign = {f"b{number}": np.array([0.0, number / 100]) for number in range(199)}
    few = plant(World(tasks=6, samples=3))
    scores = {trace.id: np.zeros(len(trace.sentences)) for trace in few.traces}
    for siblings in (None, (few, scores)):
        found = set_threshold(benign, siblings, rate=0.05, sibling_rate=0.05)
        assert found.sibling_alarm_rate is None
        assert (found.target_sibling_rate, found.siblings) == (0.05, 0)
        assert "too few harmless traces share a prompt" in found.note


def test_a_promise_for_this_very_threshold_is_above_one_that_holds_on_average() -> None:
    benign = {f"b{number}": np.array([0.0, -1.0]) for number in range(99)}
    rng = np.random.default_rng(0)
    siblings = siblings_of(rng.normal(size=150).tolist())
    mean, sure = (
        set_threshold(benign, siblings, rate=0.05, sibling_rate=0.1, guarantee=guarantee).value
        for guarantee in ("conformal", "pac")
    )
    assert sure > mean + 0.05


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
    assert report.smoothing == "mean:3"
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
    alike = plain.alternatives["smoothing mean:5"]["within_prompt_auroc"]
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
    assert "smoothing max" in smooth["alternatives"]
    assert "smoothing mean:3" in sharp["alternatives"]


def test_a_card_of_an_earlier_version_says_rule_or_nothing(
    saved: SavedProbe, tmp_path: Path
) -> None:
    save_probe(tmp_path, saved)
    assert load_detector(tmp_path).smoothing.name == "mean:3"
    raw = json.loads((tmp_path / "card.json").read_text("utf-8"))
    (tmp_path / "card.json").write_text(json.dumps(raw | {"rule": raw.pop("smoothing")}), "utf-8")
    seal_probe(tmp_path)
    assert load_detector(tmp_path).smoothing.name == "mean:3"
    (tmp_path / "card.json").write_text(json.dumps(raw), "utf-8")
    seal_probe(tmp_path)
    old = load_probe(tmp_path)
    assert old.smoothing.name == as_detector(old).smoothing.name == "max"
    row = np.array([1.0, np.nan])
    assert old.smoothing.follow(row) is row
