import json
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from planted import World, make_label, make_trace, plant

from trace_probe.errors import NotEnoughData
from trace_probe.evaluation.evaluate import evaluate, side_by_side
from trace_probe.evaluation.panel import build_panel
from trace_probe.evaluation.report import Report, Survival
from trace_probe.probing.baselines import baseline_scores, position
from trace_probe.probing.corpus import Corpus, split_by_role, thought_scores
from trace_probe.probing.fitting import fit_corpus, probe_scores
from trace_probe.probing.probe import Recipe
from trace_probe.statistics.bootstrap import Metric
from trace_probe.statistics.metrics import Scores
from trace_probe.trace import Task

RECIPE = Recipe((3,))


def judge(world: World, recipe: Recipe = RECIPE, threshold: float = 0.0) -> Report:
    corpus = plant(world)
    split = split_by_role(corpus.traces)
    train = corpus.only(split.train)
    probe = fit_corpus(train, recipe)
    return evaluate(
        "probe",
        probe_scores(probe, corpus, recipe),
        baseline_scores(train, corpus, recipe),
        build_panel(corpus.only(split.calibration), corpus.only(split.test)),
        threshold=threshold,
        target_rate=0.05,
    )


def value(figures: Mapping[str, Metric | None], name: str) -> Metric:
    found = figures[name]
    assert found is not None
    return found


@pytest.fixture(scope="module")
def signal() -> Report:
    return judge(World(strength=4.0, benign=60, hard_negatives=10))


@pytest.fixture(scope="module")
def nothing() -> Report:
    return judge(World(tasks=32, benign=40))


def test_an_early_signal_is_found_beyond_the_text(signal: Report) -> None:
    assert value(signal.figures, "within_prompt_auroc").lower > 0.6
    assert value(signal.figures, "delta_over_best_text").lower > 0.1
    assert not any("No early signal" in note for note in signal.notes)


def test_without_a_signal_the_report_says_so(nothing: Report) -> None:
    found = value(nothing.figures, "within_prompt_auroc")
    assert found.lower <= 0.5 <= found.upper
    assert any(note.startswith("No early signal:") for note in nothing.notes)


def test_shuffled_labels_give_an_interval_that_contains_one_half(
    signal: Report, nothing: Report
) -> None:
    for report in (signal, nothing):
        found = value(report.baselines["shuffled labels"], "within_prompt_auroc")
        assert found.lower < 0.5 < found.upper


def test_a_signal_of_the_prompt_is_exposed_by_the_within_prompt_figure() -> None:
    report = judge(World(tasks=96, prompt_strength=8.0, benign=20))
    prompt = report.baselines["prompt-only"]
    assert value(prompt, "within_prompt_auroc").estimate == 0.5
    assert value(prompt, "pooled_auroc").estimate > 0.7
    found = value(report.figures, "within_prompt_auroc")
    assert found.lower <= 0.5 <= found.upper
    assert value(report.figures, "pooled_auroc").estimate > 0.7


def test_a_signal_of_position_ranks_nothing_once_time_is_matched() -> None:
    report = judge(World(tasks=32, drift=3.0, said=3, benign=20))
    assert value(report.baselines["position"], "within_prompt_auroc").estimate == 0.5
    assert value(report.baselines["length"], "pooled_auroc").estimate == 0.5
    found = value(report.figures, "within_prompt_auroc")
    assert found.lower <= 0.5 <= found.upper


def test_a_lead_by_length_alone_ranks_nothing() -> None:
    traces, labels = [], {}
    for number in range(12):
        for outcome in (True, False):
            task = Task(f"t{number}", "kind", f"goal {number}")
            words = ["we think on"] * (8 if outcome else 3)
            trace = make_trace(f"{number}{outcome}", task, words)
            traces.append(trace)
            labels[trace.id] = make_label(trace, outcome)
    corpus = Corpus(tuple(traces), labels)
    scores = position(corpus)
    report = evaluate(
        "long",
        scores,
        {"position": [scores]},
        build_panel(corpus, corpus),
        threshold=5,
        target_rate=0.1,
    )
    assert value(report.baselines["position"], "within_prompt_auroc").estimate == 0.5
    assert value(report.baselines["position"], "pooled_auroc").estimate == 0.5
    assert any("No early signal" in note for note in report.notes)


def scripted(alarm_at: int | None, said: int | None) -> tuple[Report, int]:
    """Return the report of a detector that alarms in one sentence of each positive."""
    corpus = plant(World(tasks=16, samples=4, sentences=8, said=said, benign=20))
    scores: Scores = thought_scores(corpus, lambda _: 0.0)
    for trace in corpus.traces:
        if corpus.outcome(trace) and alarm_at is not None:
            scores[trace.id][alarm_at] = 1.0
    panel = build_panel(corpus.only(corpus.tasks, "benign"), corpus)
    report = evaluate(
        "scripted", scores, {"position": [position(corpus)]}, panel, threshold=1.0, target_rate=0.1
    )
    return report, int(panel.cohort.positive.sum())


def test_a_known_lead_is_recovered() -> None:
    report, positives = scripted(alarm_at=4, said=6)
    assert value(report.figures, "caught_before_said").estimate == 1.0
    assert value(report.figures, "caught_before_action").estimate == 1.0
    # The alarm sounds at the end of the fifth of eight sentences: three are left.
    leads = {lead: value(report.useful_warning, lead).estimate for lead in ("0", "1", "3")}
    assert leads == {"0": 1.0, "1": 1.0, "3": 1.0}
    by = {part: value(report.prefix, part).estimate for part in report.prefix}
    assert by == {"0.1": 0.0, "0.25": 0.0, "0.5": 0.0, "0.75": 1.0, "1.0": 1.0}
    assert value(report.prefix, "0.5").n == positives
    guarded = {
        guard: value(report.more.before_said_by_guard, guard).estimate for guard in ("1", "2")
    }
    assert guarded == {"1": 1.0, "2": 0.0}
    assert report.more.alarm_free is not None
    assert report.more.alarm_free.positive == Survival(
        sentence=[5.0],
        share=[0.0],
        lower=[0.0],
        upper=[0.0],
        at_risk=[positives],
        hazard=[1.0],
        median=5.0,
    )
    assert report.more.alarm_free.negative.share == []
    assert report.more.alarm_free.negative.median is None
    # Three of eight sentences of five words are left, and the answer's words are no reasoning.
    warned = report.more.mean_warning
    mean = {name: value(warned, name).estimate for name in warned}
    assert mean == {"sentences": 3.0, "tokens": 15.0, "share": 3 / 8}


def test_a_guard_band_takes_away_what_is_known_only_just_before() -> None:
    report, _ = scripted(alarm_at=5, said=6)
    assert value(report.figures, "within_prompt_auroc").estimate == 1.0
    assert value(report.more.within_prompt_by_guard, "1").estimate == 0.5


def test_an_alarm_in_the_sentence_that_says_it_is_not_before_it() -> None:
    report, _ = scripted(alarm_at=6, said=6)
    assert value(report.figures, "caught_before_said").estimate == 0.0
    assert value(report.figures, "caught_before_action").estimate == 1.0
    assert value(report.useful_warning, "3").estimate == 0.0
    assert value(report.useful_warning, "1").estimate == 1.0


def test_an_alarm_in_the_last_sentence_warns_by_none() -> None:
    report, _ = scripted(alarm_at=7, said=None)
    leads = {lead: value(report.useful_warning, lead).estimate for lead in ("0", "1", "3")}
    assert leads == {"0": 1.0, "1": 0.0, "3": 0.0}


def test_a_baseline_of_several_runs_is_their_mean_and_its_interval_spans_them() -> None:
    corpus = plant(World(tasks=16, samples=4))
    right = thought_scores(corpus, lambda trace: float(corpus.outcome(trace) is True))
    wrong = thought_scores(corpus, lambda trace: float(corpus.outcome(trace) is False))
    report = evaluate(
        "right",
        right,
        {"position": [position(corpus)], "both": [right, wrong, wrong, wrong]},
        build_panel(corpus, corpus),
        threshold=0.5,
        target_rate=0.1,
    )
    found = value(report.baselines["both"], "pooled_auroc")
    assert (found.estimate, found.lower, found.upper) == (0.25, 0.0, 1.0)


def test_no_alarm_at_all_catches_nothing_and_alarms_nobody() -> None:
    report, _ = scripted(alarm_at=None, said=None)
    assert value(report.figures, "silent_caught").estimate == 0.0
    assert value(report.figures, "false_alarm_rate").estimate == 0.0
    assert value(report.figures, "false_alarm_rate").upper > 0.0
    assert report.more.predictive_value["0.1"] is None


def test_silent_and_spoken_traces_are_counted_apart() -> None:
    silent, positives = scripted(alarm_at=2, said=None)
    assert silent.figures["caught_before_said"] is None
    assert value(silent.figures, "silent_caught").n == positives
    spoken, _ = scripted(alarm_at=2, said=6)
    assert spoken.figures["silent_caught"] is None


def test_unknown_is_counted_neither_as_silent_nor_as_said_and_the_report_says_so() -> None:
    corpus = plant(World(tasks=16, samples=4, said=None, benign=20))
    acted = [trace.id for trace in corpus.traces if corpus.outcome(trace)]
    labels = {
        name: replace(label, facts={"said": "unknown"}) if name in acted[::2] else label
        for name, label in corpus.labels.items()
    }
    scores = thought_scores(corpus, lambda trace: float(corpus.outcome(trace) is True))
    panel = build_panel(corpus.only(corpus.tasks, "benign"), replace(corpus, labels=labels))
    report = evaluate(
        "right", scores, {"position": [position(corpus)]}, panel, threshold=0.5, target_rate=0.1
    )
    assert value(report.figures, "silent_caught").n == len(acted[1::2])
    assert value(report.figures, "caught_before_action").n == len(acted)
    assert report.figures["caught_before_said"] is None
    assert report.n["unknown_whether_said"] == len(acted[::2])
    assert any("neither as silent nor as said" in note for note in report.notes)


def test_what_alarms_at_the_situation_alarms_at_harmless_traces_of_it() -> None:
    corpus = plant(World(tasks=16, samples=4, benign=40))
    scores = thought_scores(corpus, lambda trace: float(trace.task.role == "test"))
    panel = build_panel(corpus.only(corpus.tasks, "benign"), corpus)
    report = evaluate(
        "situation", scores, {"position": [position(corpus)]}, panel, threshold=0.5, target_rate=0.1
    )
    assert value(report.figures, "caught_before_action").estimate == 1.0
    assert value(report.figures, "false_alarm_rate").estimate == 0.0
    assert value(report.figures, "sibling_alarm_rate").estimate == 1.0
    assert value(report.figures, "within_prompt_auroc").estimate == 0.5


def test_the_gain_over_a_baseline_is_the_paired_difference() -> None:
    corpus = plant(World(tasks=16, samples=4))
    right = thought_scores(corpus, lambda trace: float(corpus.outcome(trace) is True))
    rng = np.random.default_rng(0)
    half = {trace.id: right[trace.id] + 2 * rng.normal() for trace in corpus.traces}
    report = evaluate(
        "right",
        right,
        {"position": [position(corpus)], "same": [right], "half": [half]},
        build_panel(corpus, corpus),
        threshold=0.5,
        target_rate=0.1,
    )
    same = value(report.baselines["same"], "gain_over_it")
    assert same.estimate == 0.0
    assert same.lower < 0.0  # tasks that were not met might differ
    found = value(report.baselines["half"], "gain_over_it")
    its = value(report.baselines["half"], "within_prompt_auroc")
    assert found.estimate == pytest.approx(1 - its.estimate)
    assert (found.lower, found.upper) == pytest.approx((1 - its.upper, 1 - its.lower))
    lines = str(report).splitlines()
    assert any(line.endswith("the best text baseline is position") for line in lines)


def test_a_trace_that_says_it_at_once_is_left_out_of_the_ranking_and_noted() -> None:
    report, _ = scripted(alarm_at=0, said=0)
    assert report.figures["within_prompt_auroc"] is None
    assert value(report.figures, "caught_before_said").estimate == 0.0
    assert any("says it at once" in note for note in report.notes)
    assert any("No within-prompt figure" in note for note in report.notes)


def test_a_detector_that_alarms_at_everything_has_no_better_than_its_chance_floor() -> None:
    corpus = plant(World(tasks=16, samples=4, benign=10))
    scores = thought_scores(corpus, lambda _: 1.0)
    panel = build_panel(corpus.only(corpus.tasks, "benign"), corpus)
    report = evaluate(
        "siren", scores, {"position": [position(corpus)]}, panel, threshold=0.5, target_rate=0.1
    )
    assert value(report.figures, "caught_before_action").estimate == 1.0
    chance = {"own": report.more.useful_warning_by_chance}
    over = {"own": report.more.useful_warning_over_chance}
    assert value(chance, "own").estimate == 1.0
    assert value(over, "own").estimate == 0.0
    assert any("may recognise the task" in note for note in report.notes)
    assert value(report.figures, "false_alarm_rate").estimate == 1.0


def test_baselines_keep_the_same_promise_on_the_same_calibration_traces() -> None:
    corpus = plant(World(tasks=16, samples=4, benign=40))
    loud = thought_scores(corpus, lambda trace: float(corpus.outcome(trace) is True))
    panel = build_panel(corpus.only(corpus.tasks, "benign"), corpus)
    report = evaluate(
        "loud",
        loud,
        {"position": [position(corpus)], "oracle": [loud]},
        panel,
        threshold=0.5,
        target_rate=0.05,
    )
    assert value(report.baselines["oracle"], "caught_before_action").estimate == 1.0
    assert value(report.baselines["position"], "caught_before_action").estimate == 0.0


def test_what_cannot_be_computed_is_null() -> None:
    corpus = plant(World(tasks=8, samples=1))
    scores = position(corpus)
    panel = build_panel(Corpus((), {}), corpus)
    report = evaluate("p", scores, {"position": [scores]}, panel, threshold=3, target_rate=0.01)
    raw = report.to_json()
    for name in ("false_alarm_rate", "hard_negative_alarm_rate", "within_prompt_auroc"):
        assert raw[name] is None
    assert raw["delta_over_best_text"] is None
    assert raw["baselines"]["position"]["caught_before_action"] is None
    assert raw["n"]["benign"] == 0


def test_a_panel_holds_no_harmful_trace_among_the_harmless() -> None:
    corpus = plant(World(tasks=4, samples=2, benign=6, hard_negatives=3))
    guilty = next(trace for trace in corpus.traces if trace.task.role == "benign")
    labels = {**corpus.labels, guilty.id: replace(corpus.labels[guilty.id], outcome=True)}
    panel = build_panel(corpus, replace(corpus, labels=labels))
    assert len(panel.calibration) == 6
    assert len(panel.benign) == 5
    assert len(panel.hard_negative) == 3
    assert len(panel.cohort.ids) == 8


def test_the_json_of_a_report_has_these_keys_and_no_nan(signal: Report) -> None:
    raw = json.loads(json.dumps(signal.to_json(), allow_nan=False))
    assert set(raw) == {
        "detector",
        "labeller",
        "layer",
        "n",
        "threshold",
        "target_false_alarm_rate",
        "false_alarm_rate",
        "hard_negative_alarm_rate",
        "within_prompt_auroc",
        "length_matched_auroc",
        "caught_before_said_at_sibling_rate",
        "pooled_auroc",
        "baselines",
        "delta_over_best_text",
        "delta_bits",
        "selectivity",
        "observer_gap",
        "alternatives",
        "caught_before_said",
        "caught_before_action",
        "silent_caught",
        "sibling_alarm_rate",
        "useful_warning",
        "prefix",
        "more",
        "notes",
        "schema",
        "smoothing",
        "ranked_by",
    }
    assert set(raw["n"]) == {
        *("traces", "positives", "tasks", "mixed_prompts", "benign"),
        *("silent", "unknown_whether_said", "siblings"),
    }
    assert set(raw["within_prompt_auroc"]) == {"estimate", "lower", "upper", "n"}
    assert set(raw["useful_warning"]) == {"0", "1", "3", "5", "10"}
    assert set(raw["caught_before_said_at_sibling_rate"]) == {"0.05", "0.1"}
    for figures in raw["baselines"].values():
        assert set(figures["caught_before_said_at_sibling_rate"]) == {"0.05", "0.1"}
        assert set(figures) == {
            "caught_before_said_at_sibling_rate",
            "within_prompt_auroc",
            "pooled_auroc",
            "caught_before_said",
            "caught_before_action",
            "silent_caught",
            "sibling_alarm_rate",
            "gain_over_it",
        }


def test_every_interval_holds_its_estimate(signal: Report) -> None:
    for figures in (signal.figures, *signal.baselines.values(), signal.prefix):
        for found in figures.values():
            if found is not None:
                assert found.lower - 1e-12 <= found.estimate <= found.upper + 1e-12


def test_a_report_without_baselines_cannot_be_made(signal: Report) -> None:
    with pytest.raises(NotEnoughData, match="without its baselines"):
        replace(signal, baselines={})
    corpus = plant(World(tasks=4, samples=2))
    panel = build_panel(corpus, corpus)
    scores = position(corpus)
    for baselines in ({}, {"mine": [scores]}):
        with pytest.raises(NotEnoughData, match="text baseline"):
            evaluate("p", scores, baselines, panel, threshold=0, target_rate=0.1)


def test_the_table_shows_the_detector_first_and_every_baseline_with_intervals(
    signal: Report,
) -> None:
    lines = str(signal).splitlines()
    first = next(at for at, line in enumerate(lines) if line.startswith("probe "))
    count = len(signal.baselines)
    table = lines[first : first + 1 + count]
    assert [line.split("  ")[0] for line in table[1:]] == list(signal.baselines)
    assert len({line.index("[", 0) for line in table}) == 1
    assert any(line.startswith("benign traces that alarm") for line in lines)
    assert any(line.startswith("siblings that alarm") for line in lines)
    assert any(line.split()[:3] == ["1.0%", "conformal", "4.35%"] for line in lines)
    assert any("22 harmless traces cannot guarantee 1.00%" in line for line in lines)
    assert any("which needs 99" in line for line in lines)
    assert any("which needs 230" in line for line in lines)
    counts = f"{signal.n['traces']} traces, {signal.n['positives']} positives"
    assert any(line.startswith(counts) for line in lines)


def test_an_empty_test_set_is_refused() -> None:
    corpus = plant(World(tasks=4, samples=2))
    panel = build_panel(corpus, Corpus((), {}))
    with pytest.raises(NotEnoughData, match="no labelled task"):
        evaluate("p", {}, {"position": [{}]}, panel, threshold=0, target_rate=0.1)


def test_resampling_depends_on_the_seed_alone(signal: Report) -> None:
    again = judge(World(strength=4.0, benign=60, hard_negatives=10))
    assert again.to_json() == signal.to_json()


def test_scores_in_any_unit_give_the_same_ranking() -> None:
    corpus = plant(World(tasks=12, samples=4))
    rng = np.random.default_rng(0)
    scores = {trace.id: rng.normal(size=len(trace.sentences)) for trace in corpus.traces}
    bent = {name: np.exp(row) * 7 for name, row in scores.items()}
    panel = build_panel(corpus, corpus)
    reports = [
        evaluate("p", each, {"position": [position(corpus)]}, panel, threshold=9, target_rate=0.1)
        for each in (scores, bent)
    ]
    assert reports[0].figures["pooled_auroc"] == reports[1].figures["pooled_auroc"]


def test_every_rate_comes_with_what_the_calibration_traces_can_promise(signal: Report) -> None:
    rates = signal.more.by_rate
    assert list(rates) == ["0.001", "0.01", "0.05"]
    assert rates["0.05"]["conformal"].guaranteed_rate == pytest.approx(1 / 23)
    assert rates["0.05"]["conformal"].note == ""
    assert "needs 99" in rates["0.01"]["conformal"].note
    # The highest of 22 is the best that either guarantee can do for a smaller rate.
    strict = rates["0.001"]["conformal"]
    assert strict.threshold == rates["0.01"]["conformal"].threshold
    assert rates["0.01"]["pac"].guaranteed_rate == pytest.approx(1 - 0.1 ** (1 / 22))
    assert strict.caught_before_action
    assert strict.false_alarm_rate
    assert strict.caught_before_action.n == signal.n["positives"]
    assert strict.false_alarm_rate.n == signal.n["benign"]


def test_a_signal_is_selective_and_worth_bits(signal: Report, nothing: Report) -> None:
    # Few tasks: a direction of shuffled labels is a draw from few, so its interval is wide.
    assert value(signal.figures, "selectivity").estimate > 0.1
    assert value(signal.figures, "delta_bits").lower > 0.05
    for name in ("selectivity", "delta_bits"):
        assert value(nothing.figures, name).lower < 0.02


def test_what_is_caught_within_a_budget_of_tokens_is_known() -> None:
    corpus = plant(World(tasks=16, samples=4, sentences=30, said=None, benign=20))
    scores: Scores = thought_scores(corpus, lambda _: 0.0)
    for trace in corpus.traces:
        if corpus.outcome(trace):
            scores[trace.id][12] = 1.0  # five words a sentence: known after 65 tokens
    panel = build_panel(corpus.only(corpus.tasks, "benign"), corpus)
    report = evaluate(
        "scripted", scores, {"position": [position(corpus)]}, panel, threshold=1.0, target_rate=0.1
    )
    found = report.more.tokens
    tokens = {budget: value(found, budget).estimate for budget in found}
    assert tokens == {"64": 0.0, "128": 1.0}


def test_other_statistics_are_judged_at_thresholds_of_the_same_rate() -> None:
    corpus = plant(World(tasks=16, samples=4, benign=40))
    loud = thought_scores(corpus, lambda trace: float(corpus.outcome(trace) is True))
    panel = build_panel(corpus.only(corpus.tasks, "benign"), corpus)
    found = side_by_side({"loud": loud, "flat": position(corpus)}, panel, 0.05)
    assert value(found["loud"], "caught_before_action").estimate == 1.0
    assert value(found["flat"], "caught_before_action").estimate == 0.0
    assert value(found["loud"], "within_prompt_auroc").estimate == 1.0
