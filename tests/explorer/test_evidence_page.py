"""Evidence: each experiment is shown where it was made, else the command that makes it."""

import json
from pathlib import Path
from typing import Any

from explorer.conftest import make_run
from explorer.pages import open_page, words
from explorer.planted import DETECTOR, HOSTILE, interval

FIGURES = {
    "instrumental": interval(0.4, 0.3, 0.5, 24),
    "success": interval(0.9, 0.8, 0.95, 24),
    "well_formed": interval(1.0, 0.9, 1.0, 24),
    "perplexity": None,
}
STEERING = {
    "model": "organism:rl@0",
    "rows": [
        {"cell": {"direction": "probe", "how": "none", "dose": 0}, "figures": FIGURES},
        {"cell": {"direction": HOSTILE[1], "how": "add", "dose": 0.2}, "figures": FIGURES},
    ],
    "added": [],
    "ablated": [],
    "verdict": "Causal here.",
}
INTERVENTION = {
    "reflection": "Wait.",
    "policies": [{"policy": "stop", "figures": FIGURES}],
    "verdict": "Lower than going on unchanged: stop.",
}
EFFICIENCY = {
    "auroc": {"0.5": {"oracle": {"value": FIGURES["success"]}, "demo": {"value": None}}},
    "as_estimator": {},
}


def keep(traces: Path, name: str, value: dict[str, Any]) -> None:
    folder = traces.parent / "studies"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")


def test_what_was_not_measured_has_its_command(traces: Path) -> None:
    make_run("planted", traces / "run")
    shown = words(open_page("evidence", p=DETECTOR))
    run = traces / "run"
    assert f"trace-probe oracle {run} --traces 100" in shown
    for verb, name in (
        ("efficiency", "efficiency"),
        ("steer", "steering"),
        ("intervene", "intervention"),
    ):
        assert f"trace-probe {verb} {run} probes/{DETECTOR} --json > " in shown
        assert f"studies/{name}.json" in shown


def test_what_was_kept_is_shown_with_its_intervals(traces: Path) -> None:
    make_run("planted", traces / "run")
    for name, value in (
        ("steering", STEERING),
        ("intervention", INTERVENTION),
        ("efficiency", EFFICIENCY),
    ):
        keep(traces, name, value)
    app = open_page("evidence", p=DETECTOR)
    assert not app.exception
    assert "trace-probe steer" not in words(app)
    assert "Causal here." in words(app)
    assert "Lower than going on unchanged: stop." in words(app)
    tables = [table.value for table in app.dataframe]
    assert list(tables[0]["after 50 %"]) == ["0.90 [0.80, 0.95]", "not measured"]
    assert list(tables[1]["acts"]) == ["40.0 % [30.0, 50.0]"] * 2
    assert not [one for one in app.markdown if HOSTILE[1] in str(one.value)]


def test_a_broken_result_is_named(traces: Path) -> None:
    make_run("planted", traces / "run")
    folder = traces.parent / "studies"
    folder.mkdir()
    (folder / "steering.json").write_text("{", encoding="utf-8")
    app = open_page("evidence")
    assert not app.exception
    assert "A result cannot be read" in words(app)
