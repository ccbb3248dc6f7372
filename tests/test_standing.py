"""Where probes stand: the figures of their reports, beside the oracle where there is one."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from made_probes import planted_probe
from planted import World, keep, plant

from trace_probe.emergence.curve import Drawn, prefixes
from trace_probe.emergence.ledger import Ledger
from trace_probe.emergence.standing import beside_oracle, format_standings, standing
from trace_probe.errors import NotEnoughData
from trace_probe.evaluation.evaluate import evaluate
from trace_probe.evaluation.held_out import evaluate_probe
from trace_probe.evaluation.held_out import keep as keep_report
from trace_probe.evaluation.panel import build_panel
from trace_probe.probing.baselines import position
from trace_probe.probing.corpus import thought_scores
from trace_probe.probing.probe import load_probe
from trace_probe.storage.seals import sealed_json
from trace_probe.store import Store

DEMO = Path(__file__).parents[1]


def test_a_probe_without_an_oracle_stands_beside_the_text_alone(tmp_path: Path) -> None:
    store = keep(plant(World(strength=6.0, benign=60)), tmp_path / "run")
    probe = planted_probe(3.0)
    tasks = tuple(f"test-{number:03d}" for number in range(12))
    probe = replace(probe, card=replace(probe.card, training_tasks=tasks))
    with pytest.raises(NotEnoughData, match="trace-probe evaluate"):
        standing(store, probe.card)
    report, scores = evaluate_probe(store, probe)
    keep_report(store, report, scores)
    found = standing(store, probe.card)
    assert found.caught_before_said == report.figures["caught_before_said"]
    assert found.caught_before_act == report.useful_warning["0"]
    assert found.within_prompt_auroc == report.figures["within_prompt_auroc"]
    assert found.best_text == report.more.best_text
    assert (found.oracle, found.of_oracle, found.oracle_traces) == (None, None, 0)


def test_the_smoothing_is_that_of_the_report_as_all_its_figures_are(tmp_path: Path) -> None:
    shutil.copytree(DEMO / "traces" / "demo" / "reports", tmp_path / "reports")
    shutil.copy(DEMO / "traces" / "demo" / "run.json", tmp_path)
    card = replace(load_probe(DEMO / "probes" / "demo").card, smoothing="mean:3")
    assert standing(Store(tmp_path), card).smoothing == "max"
    file = tmp_path / "reports" / "demo.json"
    report = json.loads(file.read_text("utf-8"))
    for later in ("schema", "smoothing", "seal"):
        del report[later]
    file.write_bytes(sealed_json({**report, "rule": "mean:5"}))  # as schema 1 calls it
    assert standing(Store(tmp_path), card).smoothing == "mean:5"


def test_beside_an_oracle_its_share_is_that_of_the_same_traces() -> None:
    card = load_probe(DEMO / "probes" / "demo").card
    found = standing(Store(DEMO / "traces" / "demo"), card)
    assert found.oracle_traces > 0
    assert found.oracle
    assert found.beside_oracle
    assert found.of_oracle
    share = found.beside_oracle.estimate / found.oracle.estimate
    assert found.of_oracle.estimate == pytest.approx(share)
    text = format_standings([found, found])
    assert text.count(f"{share:.3f}") == 2
    assert "caught before it is said, of those that say it" in text


def test_an_oracle_of_every_sentence_stands_beside_the_headline(tmp_path: Path) -> None:
    """It knows each outcome from the first sentence on; the probe knows nothing."""
    corpus = plant(World(tasks=16, samples=8, said=None))
    store, card = (
        keep(corpus, tmp_path / "run"),
        replace(planted_probe(0.0).card, labeller="planted"),
    )
    scores = thought_scores(corpus, lambda _: 0.0)
    panel = build_panel(corpus.only(()), corpus)
    baselines = {"position": (position(corpus),)}
    report = evaluate(card.name, scores, baselines, panel, threshold=1.0, target_rate=0.05)
    report = replace(report, labeller="planted")
    assert beside_oracle(report, store, card, scores) is report
    with store.writing():
        Ledger(store.artifacts, "oracle", {}).add(
            Drawn(trace.id, sentence, token, k, k, sentence >= 0 and corpus.outcome(trace), None, 1)
            for trace in corpus.traces
            for sentence, token in prefixes(trace)
            for k in range(4)
        )
    found = beside_oracle(report, store, card, scores).more.headline["0.05"]
    assert found.oracle
    assert found.beside_oracle
    assert (found.oracle.estimate, found.beside_oracle.estimate) == (1.0, 0.0)
    assert found.oracle_traces == 128
    assert found.chance == report.more.headline["0.05"].chance
    text = str(beside_oracle(report, store, card, scores))
    assert "on 128 traces the oracle 1.00" in text
