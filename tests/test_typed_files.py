"""Reports and cards are typed values: they come back whole, and what is no report is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_probes import planted_probe

from trace_probe.errors import ProbeError, StoreError
from trace_probe.evaluation.report import FIGURES, Report, read_report
from trace_probe.monitor.calibrated import calibrate, load_calibrations, save_calibration
from trace_probe.probing.kept import read_json, write_json
from trace_probe.probing.probe import load_probe, save_probe
from trace_probe.storage.records import to_line, to_trace
from trace_probe.store import Store

ROOT = Path(__file__).parents[1]
EARLIER = Path(__file__).parent / "kept" / "schema_1"
"""What an earlier version wrote."""
Raw = dict[str, Any]


@pytest.fixture
def raw() -> Raw:
    """Return a report of schema 1, as JSON."""
    found, _ = read_json(EARLIER / "report.json")
    assert "schema" not in found
    return found


@pytest.fixture
def report(raw: Raw) -> Report:
    return Report.from_json(raw)


def test_a_report_of_schema_1_is_read_with_every_figure(raw: Raw, report: Report) -> None:
    for name in FIGURES:
        found = report.figures.get(name)
        assert (found and found.to_json()) == raw[name]
    caught = report.figures["caught_before_said_at_sibling_rate:0.05"]
    assert caught is not None
    assert caught.to_json() == raw["caught_before_said_at_sibling_rate"]["0.05"]
    assert report.smoothing == raw["rule"]
    for rate, kinds in raw["more"]["by_rate"].items():
        for kind, limit in kinds.items():
            assert report.more.by_rate[rate][kind].guaranteed_rate == limit["honest_rate"]
    assert f"{report.more.by_rate['0.01']['pac'].guaranteed_rate:.2%}" in str(report)


def test_a_report_comes_back_from_its_json_with_all_that_it_held(report: Report) -> None:
    written = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert written["schema"] == 2
    again = Report.from_json(written)
    assert again.to_json() == report.to_json()
    assert str(again) == str(report)


def test_a_run_gives_its_report_as_a_value_and_none_where_there_is_none() -> None:
    run = Store(ROOT / "traces" / "demo")
    found = read_report(run, "demo")
    assert found is not None
    assert found.n["traces"] == 216
    assert read_report(run, "nobody") is None


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"threshold": "high"}, "threshold is 'high': it should be a valid number"),
        ({"n": {"traces": 1.5}}, "n.traces is 1.5: it should be a valid integer"),
        ({"within_prompt_auroc": {"estimate": 1.0}}, "within_prompt_auroc"),
        ({"notes": None}, "notes is None"),
        ({"schema": 3}, "has schema 3: update trace_probe"),
    ],
)
def test_what_is_no_report_is_refused_by_the_name_of_the_field(
    raw: Raw, changes: Raw, why: str
) -> None:
    with pytest.raises(StoreError, match=why):
        Report.from_json({**raw, **changes})
    lacking = {name: value for name, value in raw.items() if name != "labeller"}
    with pytest.raises(StoreError, match="labeller: .* required: evaluate again"):
        Report.from_json(lacking)


@pytest.fixture
def probe(tmp_path: Path) -> Path:
    shutil.copytree(EARLIER / "probe", tmp_path / "probe")
    return tmp_path / "probe"


def test_a_card_of_an_earlier_version_is_read_with_todays_names(probe: Path) -> None:
    raw, _ = read_json(probe / "card.json")
    card = load_probe(probe).card
    assert (card.guarantee, card.guaranteed_false_alarm_rate) == (
        raw["promise"],
        raw["honest_false_alarm_rate"],
    )
    saved = planted_probe(threshold=3.0)
    save_probe(probe, saved)
    (layer,), (feature,) = saved.card.layers, saved.card.features
    raw, _ = read_json(probe / "card.json")
    early = {k: v for k, v in raw.items() if k not in ("layers", "features", "smoothing")}
    early |= {"layer": layer, "pooling": feature, "benign_weight": 1.0, "rule": "mean:3"}
    write_json(probe / "card.json", early)
    assert load_probe(probe).card == replace(saved.card, smoothing="mean:3")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"C": "1"}, "C is '1': it should be a valid number"),
        ({"d_model": True}, "d_model is True: it should be a valid integer"),
        ({"head": "tree"}, "head is 'tree': it should be 'linear' or 'mlp'"),
        ({"features": ["last", "least"]}, "features.1 is 'least'"),
        ({"colour": "red"}, "colour is 'red': "),
    ],
)
def test_a_field_of_a_card_that_is_not_of_its_type_is_named(
    probe: Path, changes: Raw, why: str
) -> None:
    raw, _ = read_json(probe / "card.json")
    write_json(probe / "card.json", {**raw, **changes})
    with pytest.raises(ProbeError, match=why):
        load_probe(probe)


def test_a_calibration_of_an_earlier_version_is_read(probe: Path) -> None:
    found = calibrate(Store(ROOT / "traces" / "demo"), load_probe(probe), ["max"], 0.3)
    save_calibration(probe, found)
    assert load_calibrations(probe) == (found,)
    raw, _ = read_json(probe / "alarms.json")
    (limit,) = raw["calibrations"][0]["thresholds"].values()
    limit["honest_rate"] = limit.pop("guaranteed_rate")
    write_json(probe / "alarms.json", raw)
    assert load_calibrations(probe) == (found,)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"sample": "3"}, "sample is '3': it should be a valid integer"),
        ({"facts": {"watched": 1}}, "facts.watched is 1"),
        ({"thought": "open"}, "thought is 'open'"),
        ({"uncertainty": [[float("nan")]]}, "it should be a finite number"),
        ({"sampling": {"seed": "x"}}, "sampling.seed is 'x'"),
        ({"sampling": {"top_p": 2.0}}, "top_p in"),
    ],
)
def test_a_value_within_a_foreign_trace_that_is_not_of_its_type_is_named(
    changes: Raw, why: str
) -> None:
    trace = next(Store(ROOT / "traces" / "demo").traces())
    raw = json.loads(to_line(replace(trace, text=trace.text + "\ud800")))
    assert to_trace(raw).text == trace.text + "\ud800"  # half a pair is text
    with pytest.raises(StoreError, match=f"trace {trace.id} is not as .*{why}"):
        to_trace({**raw, **changes})
