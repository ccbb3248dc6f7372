"""What is drawn beside the scores: every layer, the oracle, other detectors; and how it is kept."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from runs import MANIFEST
from typer.testing import CliRunner

from explorer.conftest import make_run
from explorer.pages import open_page
from explorer.planted import DETECTOR, LAYERS, MONITOR, PLANTED, REPORT, THRESHOLD, shown
from trace_probe.commands.main import app
from trace_probe.emergence.curve import OraclePoint
from trace_probe.errors import StoreError
from trace_probe.evaluation.layers import (
    LayerScale,
    at_layer,
    read_layers,
    read_scales,
    strength,
    write_layers,
)
from trace_probe.explorer.chosen import Chosen, look
from trace_probe.explorer.curves import curve, oracle, over, rounded
from trace_probe.explorer.facts import early_signal, facts, sure
from trace_probe.explorer.loading import load_run
from trace_probe.explorer.payload import absent, find_marks, payload
from trace_probe.explorer.reader.component import aligned
from trace_probe.explorer.rows import build_row, facts_of
from trace_probe.probing.probe import SavedProbe, load_probe
from trace_probe.store import Store
from trace_probe.trace import Span

ROOT = Path(__file__).parents[2]
COUNTED = [(8, 8), (16, 0), (4, 2), (0, 0)]
"""Continuations whose outcome is known, and how many of them act."""


def chosen(
    run: Path, trace_id: str, *, layer: int | None = None, other: str | None = None
) -> Chosen:
    loaded = load_run(run)
    eye = loaded.detector(DETECTOR)
    row = next(row for row in loaded.rows(eye) if row.facts.id == trace_id)
    return look(loaded, row, eye, layer=layer, other=other)


def test_layers_come_back_as_they_were_kept_and_only_those_of_the_trace(tmp_path: Path) -> None:
    scales = [LayerScale(0, 0.5, 0.0, 1.0), LayerScale(7, 0.6, -1.0, 2.0)]
    gap = np.array([0.1, np.nan], np.float32)
    ones = np.ones(3, np.float32)
    scores = {layer: {"a": gap + np.float32(layer), "b": ones} for layer in (0, 7)}
    run = Store.create(tmp_path, MANIFEST)
    write_layers(run, "eye", scales, scores)
    assert read_scales(run, "eye") == tuple(scales)
    rows = read_layers(run, "eye", "a")
    assert [(row.layer, row.threshold) for row in rows] == [(0, 0.5), (7, 0.6)]
    np.testing.assert_array_equal(rows[1].scores, gap + 7)
    assert [row.layer for row in read_layers(run, "eye", "b")] == [0, 7]
    assert read_layers(run, "eye", "unknown") == ()
    assert read_layers(run, "another", "a") == ()


def test_a_broken_file_of_layers_says_how_to_make_it_again(tmp_path: Path) -> None:
    run = Store.create(tmp_path, MANIFEST)
    run.place.write("layers/eye.parquet", [b"PAR1 but not really"])
    with pytest.raises(StoreError, match="trace-probe layers"):
        read_scales(run, "eye")


def test_a_layer_is_read_at_its_own_threshold_which_nobody_vouches_for(tmp_path: Path) -> None:
    make_run("rich", tmp_path / "run")
    own, other = chosen(tmp_path / "run", "early"), chosen(tmp_path / "run", "early", layer=2)
    assert own.row.threshold == THRESHOLD
    assert other.row.threshold == 0.5
    assert own.row.scores is not None
    assert other.row.scores is not None
    np.testing.assert_allclose(other.row.scores, own.row.scores * 0.6)
    assert other.detector is not None
    assert not other.detector.measured
    card = sure(other.row, other.detector)
    assert "not known" in card["value"]
    assert "layer 2" in card["detail"]


def test_layers_of_an_older_probe_are_not_shown(tmp_path: Path) -> None:
    make_run("rich", tmp_path / "run")
    run = load_run(tmp_path / "run")
    assert [scale.layer for scale in run.layers(DETECTOR)] == list(LAYERS)
    assert not run.older_layers(DETECTOR)
    report = run.store.report(DETECTOR)
    assert report is not None
    run.store.write_report(DETECTOR, {**report, "threshold": THRESHOLD + 0.1})
    run = load_run(tmp_path / "run")
    assert run.older_layers(DETECTOR)
    assert run.layers(DETECTOR) == ()
    assert run.layer_rows(DETECTOR, PLANTED[0][0].id) == ()


def write_card(run: Path, threshold: float) -> None:
    file = run.parents[1] / "probes" / DETECTOR / "card.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    card = {"training_tasks": [], "calibration_tasks": [], "layer": 4, "threshold": threshold}
    file.write_text(json.dumps(card), "utf-8")


def test_after_training_anew_it_is_the_report_that_is_old_not_the_layers(traces: Path) -> None:
    make_run("rich", traces / "run")
    Store(traces / "run").write_report(DETECTOR, {**REPORT, "threshold": THRESHOLD + 0.1})
    write_card(traces / "run", THRESHOLD)
    run = load_run(traces / "run")
    assert not run.older_layers(DETECTOR)
    assert run.older_report(DETECTOR)
    assert run.layers(DETECTOR) == ()
    told = "\n".join(one.value for one in open_page("trace", t="early").caption)
    assert "trace-probe evaluate" in told
    assert "trace-probe layers" not in told


def test_layers_are_older_than_the_card_even_where_the_report_is_too(traces: Path) -> None:
    make_run("rich", traces / "run")
    write_card(traces / "run", THRESHOLD + 0.1)
    run = load_run(traces / "run")
    assert run.older_layers(DETECTOR)
    assert run.older_report(DETECTOR)
    write_card(traces / "run", THRESHOLD)
    run = load_run(traces / "run")
    assert not run.older_layers(DETECTOR)
    assert not run.older_report(DETECTOR)
    assert [scale.layer for scale in run.layers(DETECTOR)] == list(LAYERS)


def test_the_layer_a_detector_reads_is_the_detector(tmp_path: Path) -> None:
    make_run("rich", tmp_path / "run")
    assert chosen(tmp_path / "run", "early", layer=4).detector == load_run(
        tmp_path / "run"
    ).detector(DETECTOR)


def test_text_monitor_oracle_and_layers_come_without_being_asked_for(tmp_path: Path) -> None:
    make_run("rich", tmp_path / "run")
    content = chosen(tmp_path / "run", "early").beside.content()
    assert [(one["name"], one["kind"]) for one in content["beside"]] == [(MONITOR, "probability")]
    assert [row["layer"] for row in content["layers"]["rows"]] == list(LAYERS)
    assert content["layers"]["shown"] == 4
    trace = PLANTED[0][0]
    points = content["oracle"]["points"]
    assert [point[0] for point in points[:3]] == [
        trace.prompt_stop,
        trace.sentences[0].stop,
        trace.sentences[1].stop,
    ]
    assert all(low <= p <= high for _, p, low, high, _ in points)


def test_the_oracle_is_drawn_as_the_share_that_it_is_named() -> None:
    points = [OraclePoint(n, 9 + n, known, hits) for n, (known, hits) in enumerate(COUNTED)]
    drawn = oracle(points)
    assert drawn is not None
    assert [point[:2] for point in drawn["points"]] == [[9, 1.0], [10, 0.0], [11, 0.5]]
    assert all(low <= share <= high for _, share, low, high, _ in drawn["points"])
    assert [point[4] for point in drawn["points"]] == [8, 16, 4]
    assert oracle(points[3:]) is None


def test_a_run_without_them_has_nothing_beside(tmp_path: Path) -> None:
    make_run("planted", tmp_path / "run")
    content = chosen(tmp_path / "run", "early").beside.content()
    assert content == {"beside": [], "oracle": None, "layers": None}


def test_what_is_over_is_decided_before_rounding() -> None:
    scores = np.array([0.59999999, 0.6, np.nan])
    assert rounded(scores) == [0.6, 0.6, None]
    assert over(scores, 0.6) == [1]
    assert over(scores, None) == []
    assert curve(shown("other", 0.6), scores)["over"] == [1]


def test_the_cards_quote_the_sentences_of_the_marks() -> None:
    trace, label, scores = PLANTED[0]
    row = build_row(facts_of(trace), label, scores, THRESHOLD)
    eye = shown(DETECTOR, THRESHOLD, REPORT)
    cards = facts(trace, row, eye, find_marks(trace, row), absent(row))
    assert [card["name"] for card in cards] == ["alarm", "said", "action", "sure"]
    for card, place in zip(cards, (5, 8, 13), strict=False):
        assert card["quote"] == trace.text_of(trace.sentences[place]).strip()
        assert card["sentence"] == place
    assert cards[1]["value"] == f"{row.lead_said} tokens after the alarm"
    assert cards[3]["value"] == "0.8 % [0.1, 2.9] false alarms"


def test_a_card_without_a_mark_says_why() -> None:
    trace, label, scores = next(item for item in PLANTED if item[0].id == "quiet")
    row = build_row(facts_of(trace), label, scores, THRESHOLD)
    cards = facts(trace, row, shown(DETECTOR, THRESHOLD), find_marks(trace, row), absent(row))
    assert cards[1]["value"] == "Never said"
    assert cards[1]["sentence"] is None


def test_a_detector_not_shown_to_beat_chance_is_called_so() -> None:
    flat = {"within_prompt_auroc": {"estimate": 0.6, "lower": 0.4, "upper": 0.8, "n": 9}}
    assert "no early signal" in early_signal(shown("eye", 0.0, flat))[0]
    assert "no early signal" not in early_signal(shown("eye", 0.0, REPORT))[0]
    assert early_signal(shown("eye", 0.0)) == []


def test_the_tokens_of_a_sentence_are_its_text() -> None:
    trace, label, scores = PLANTED[0]
    row = build_row(facts_of(trace), label, scores, THRESHOLD)
    for start, stop, _, text, cuts in payload(trace, row, None)["sentences"]:
        assert len(cuts) == stop - start
        assert sum(cuts) == len(text)
        begin = 0
        for token, cut in zip(range(start, stop), cuts, strict=True):
            assert text[begin : begin + cut] == trace.text_of(Span(token, token + 1))
            begin += cut


def test_two_traces_are_drawn_on_axes_of_one_length_with_their_origins_together() -> None:
    sides = []
    for trace, label, scores in PLANTED[:2]:
        row = build_row(facts_of(trace), label, scores, THRESHOLD)
        sides.append(payload(trace, row, shown(DETECTOR, THRESHOLD)))
    origins = (sides[0]["marks"]["alarm"]["token"], sides[1]["marks"]["alarm"]["token"])
    pair = aligned(sides[0], sides[1], origins)
    (a, b), (c, d) = (side["axis"] for side in pair)
    assert b - a == d - c
    assert origins[0] - a == origins[1] - c
    assert a <= sides[0]["begin"]
    assert c <= sides[1]["begin"]
    assert b >= sides[0]["end"]
    assert d >= sides[1]["end"]
    assert pair[0]["lanes"] == ["alarm", "said", "action"]


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    """Return a copy of the committed run with its probe beside it."""
    for kind in ("traces", "probes"):
        shutil.copytree(ROOT / kind / "demo", tmp_path / kind / "demo")
    return tmp_path


def test_every_recorded_layer_of_the_demo_is_scored_and_its_own_is_the_probe(demo: Path) -> None:
    run, probe = demo / "traces" / "demo", demo / "probes" / "demo"
    done = CliRunner().invoke(app, ["layers", str(run), str(probe), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    loaded, card = load_run(run), load_probe(probe).card
    assert [one["layer"] for one in found["layers"]] == list(loaded.manifest.layers)
    kept = loaded.scores(loaded.detector(card.name))
    for trace_id in list(kept)[:20]:
        rows = read_layers(loaded.store, card.name, trace_id)
        (own,) = (row.scores for row in rows if row.layer == card.layer)
        np.testing.assert_allclose(own, kept[trace_id], rtol=1e-5)
    thresholds = {one["layer"]: one["threshold"] for one in found["layers"]}
    assert thresholds[card.layer] == card.threshold
    assert strength(card, card.layer) == card.C


def test_another_layer_keeps_the_promise_of_the_probe(demo: Path) -> None:
    saved, store = load_probe(demo / "probes" / "demo"), Store(demo / "traces" / "demo")
    rate, limits = 0.2, {}
    for guarantee in ("conformal", "pac"):
        card = replace(saved.card, layers=(0,), guarantee=guarantee, target_false_alarm_rate=rate)
        limits[guarantee] = at_layer(store, SavedProbe(card, saved.probe), 2).card.threshold
    assert limits["pac"] > limits["conformal"]


def test_show_writes_a_page_that_reaches_nothing(demo: Path) -> None:
    run, file = demo / "traces" / "demo", demo / "one.html"
    trace_id = next(iter(load_run(run).facts))
    done = CliRunner().invoke(app, ["show", str(run), trace_id[:8], "--html", str(file)])
    assert done.exit_code == 0, done.output
    text = file.read_text(encoding="utf-8")
    assert "default-src 'none'" in text
    assert "src=" not in text.split("<style>")[0]
    assert trace_id in text
