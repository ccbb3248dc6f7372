import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from planted import World, keep, make_label, plant

from trace_probe.errors import NotEnoughData, ProbeError
from trace_probe.evaluation.compare import (
    Comparison,
    Pair,
    Side,
    compare,
    compare_probes,
)
from trace_probe.evaluation.held_out import evaluate_probe
from trace_probe.evaluation.panel import build_panel
from trace_probe.probing.corpus import Corpus
from trace_probe.probing.probe import SavedProbe
from trace_probe.probing.recipe import Rows, Target
from trace_probe.statistics.bootstrap import Metric
from trace_probe.statistics.metrics import Scores
from trace_probe.store import Store
from trace_probe.training import train

WORLD = World(strength=4.0, benign=60, hard_negatives=6, samples=5)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return keep(plant(WORLD), tmp_path_factory.mktemp("runs") / "planted")


@pytest.fixture(scope="module")
def saved(store: Store) -> SavedProbe:
    return train(store, target_rate=0.05)


def difference(found: Comparison, name: str) -> Metric:
    pair: Pair = found.figures[name]
    assert pair.difference is not None
    return pair.difference


def test_a_probe_differs_from_itself_by_nothing(store: Store, saved: SavedProbe) -> None:
    found = compare_probes((store, saved), (store, saved))
    assert found.same_traces
    for pair in found.figures.values():
        if pair.difference is not None:
            assert pair.difference.estimate == 0.0
            assert not pair.difference.above(0)
            assert not pair.difference.below(0)
    json.dumps(asdict(found))


def test_the_layer_of_the_signal_beats_the_other(store: Store, saved: SavedProbe) -> None:
    blind = train(store, layers=[0], target_rate=0.05)
    found = compare_probes((store, saved), (store, blind))
    assert difference(found, "within_prompt_auroc").lower > 0.1
    assert (found.first, found.second) == ("planted-layer-3", "planted-layer-0")
    rows = str(found).splitlines()
    assert len(rows) == 3 + len(found.figures)
    assert "the same traces" in rows[0]


def test_it_says_by_which_rule_each_side_is_ranked(store: Store, saved: SavedProbe) -> None:
    plain, smooth = (
        replace(saved, card=replace(saved.card, name=name, ranked_by=rule))
        for name, rule in (("plain", "max"), ("smooth", "mean:3"))
    )
    found = compare_probes((store, plain), (store, smooth))
    assert found.ranked_by == ("max", "mean:3")
    last = str(found).splitlines()[-1]
    assert last == "plain is ranked by plain scores, smooth by mean:3"


@pytest.mark.parametrize("target", ["verbalisation", "situation"])
def test_a_probe_is_judged_on_what_it_tells(target: Target, tmp_path: Path) -> None:
    some = plant(replace(WORLD, tasks=16))
    labels = {  # it is said in every other positive, and in every other negative
        trace.id: make_label(trace, some.outcome(trace), 6 if trace.sample % 2 else None)
        for trace in some.traces
    }
    run = keep(replace(some, labels=labels), tmp_path / "half")
    rows: Rows = "prompt" if target == "situation" else "before-said"
    told = train(run, name=target, target=target, target_rate=0.05, rows=rows)
    report, _ = evaluate_probe(run, told)
    found = compare_probes((run, told), (run, told))
    for name in ("within_prompt_auroc", "pooled_auroc", "caught_before_action"):
        pair, alone = found.figures[name].first, report.figures[name]
        assert (pair is None) == (alone is None)
        if pair is not None and alone is not None:
            assert (pair.estimate, pair.n) == (alone.estimate, alone.n), name
    assert found.figures["pooled_auroc"].first is not None


def test_probes_of_two_targets_are_not_compared(store: Store, saved: SavedProbe) -> None:
    told = replace(saved, card=replace(saved.card, name="told", target="verbalisation"))
    with pytest.raises(ProbeError, match=r"outcome and told the verbalisation.*one target"):
        compare_probes((store, saved), (store, told))


def test_an_unlabelled_harmless_task_does_not_keep_situations_from_being_compared(
    tmp_path: Path,
) -> None:
    some = plant(replace(WORLD, tasks=12))
    both = keep(some, tmp_path / "both")
    fewer = {name: label for name, label in some.labels.items() if "benign-00" not in name}
    other = keep(replace(some, labels=fewer), tmp_path / "fewer")
    told = train(both, name="situation", target="situation", target_rate=0.05, rows="prompt")
    found = compare_probes((both, told), (other, told))
    assert found.figures["pooled_auroc"].difference is not None


def test_two_runs_are_compared_on_the_tasks_they_share(
    store: Store, saved: SavedProbe, tmp_path: Path
) -> None:
    other = keep(plant(replace(WORLD, seed=5, tasks=20, samples=4)), tmp_path / "other")
    found = compare_probes((store, saved), (other, saved))
    assert not found.same_traces
    assert (found.first, found.second) == ("planted-layer-3 on planted", "planted-layer-3 on other")
    held = {t.task.id for t in store.traces() if t.task.role == "test"}
    held -= {*saved.card.training_tasks}
    assert found.tasks == len({task for task in held if int(task[-3:]) < 20})
    gap = difference(found, "pooled_auroc")
    assert gap.lower <= 0 <= gap.upper
    assert not difference(found, "within_prompt_auroc").has_interval  # of three tasks


def test_tasks_that_either_probe_learned_from_are_left_out(store: Store, saved: SavedProbe) -> None:
    every = tuple({trace.task.id for trace in store.traces()})
    greedy = SavedProbe(replace(saved.card, training_tasks=every), saved.probe)
    with pytest.raises(NotEnoughData, match="neither probe has seen"):
        compare_probes((store, saved), (store, greedy))


def test_false_alarms_are_those_of_an_evaluation(store: Store, saved: SavedProbe) -> None:
    unsure = {trace.id for trace in store.traces() if trace.task.id.startswith("benign-00")}
    labels = [
        replace(label, labeller="unsure", outcome=None if name in unsure else label.outcome)
        for name, label in store.labels("planted").items()
    ]
    with store.writing():
        store.add_labels(labels)
    report, _ = evaluate_probe(store, saved, labeller="unsure")
    found = compare_probes((store, saved), (store, saved), labeller="unsure")
    pair, alone = found.figures["false_alarm_rate"].first, report.figures["false_alarm_rate"]
    assert pair is not None
    assert alone is not None
    assert (pair.estimate, pair.n) == (alone.estimate, alone.n)


def test_a_paired_interval_is_narrower_than_that_of_unpaired_figures() -> None:
    corpus = plant(World(tasks=24, samples=6, benign=10))
    rng = np.random.default_rng(0)

    def noisy(extra: float) -> Scores:
        return {
            trace.id: base[trace.id] + extra * rng.normal(size=len(trace.sentences))
            for trace in corpus.traces
        }

    base = {
        trace.id: np.full(len(trace.sentences), float(corpus.outcome(trace) is True))
        + 2 * rng.normal()
        for trace in corpus.traces
    }
    sides = [_side(corpus, noisy(0.25), name) for name in ("one", "other")]
    found = compare(*sides)
    pair = found.figures["within_prompt_auroc"]
    assert pair.first is not None
    assert pair.difference is not None
    paired = pair.difference.upper - pair.difference.lower
    assert paired < 0.5 * (pair.first.upper - pair.first.lower)


def _side(corpus: Corpus, scores: Scores, name: str) -> Side:
    return Side(name, build_panel(corpus.only(()), corpus), scores, 1.0)
