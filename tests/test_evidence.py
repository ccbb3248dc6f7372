import json
from dataclasses import replace
from pathlib import Path

import pytest
from planted import World, keep, plant
from typer.testing import CliRunner

from trace_probe.commands.main import app
from trace_probe.probing.probe import load_probe, save_probe
from trace_probe.training import train

WORLD = World(strength=4.0, benign=60, hard_negatives=6, samples=5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two runs of one world, and two probes."""
    folder = tmp_path_factory.mktemp("evidence")
    store = keep(plant(WORLD), folder / "run")
    keep(plant(replace(WORLD, seed=3)), folder / "again")
    save_probe(folder / "probe", train(store, name="probe", target_rate=0.05))
    save_probe(folder / "blind", train(store, name="blind", layers=[0], target_rate=0.05))
    return folder


def call(*words: object) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_evaluate_prints_every_detector_and_keeps_the_report(folder: Path) -> None:
    text = call("evaluate", folder / "run", folder / "probe")
    for name in ("probe", "tfidf", "prompt-only", "smoothing mean:3", "ensemble of layers"):
        assert any(line.startswith(name) for line in text.splitlines()), name
    kept = json.loads((folder / "run" / "reports" / "probe.json").read_text("utf-8"))
    assert kept["alternatives"]["top-3 mean"]["within_prompt_auroc"]["estimate"] > 0.8


def test_a_probe_is_judged_on_another_run_with_baselines_of_its_own(folder: Path) -> None:
    found = json.loads(
        call(
            "evaluate",
            folder / "again",
            folder / "probe",
            "--trained-on",
            folder / "run",
            "--json",
        )
    )
    assert found["within_prompt_auroc"]["estimate"] > 0.8
    assert found["notes"][0] == "Trained on planted."
    assert found["false_alarm_rate"]["n"] > 0


def test_compare_sets_two_probes_side_by_side(folder: Path) -> None:
    words = ("compare", folder / "run", folder / "probe", folder / "blind")
    found = json.loads(call(*words, "--json"))
    assert found["figures"]["within_prompt_auroc"]["difference"]["lower"] > 0
    assert "difference" in call(*words)


@pytest.mark.parametrize("across", ["category", "run"])
def test_transfer_gives_a_figure_for_each_pair_of_kinds(folder: Path, across: str) -> None:
    runs = [folder / "run"] if across == "category" else [folder / "run", folder / "again"]
    found = json.loads(call("transfer", folder / "probe", *runs, "--across", across, "--json"))
    cells = [cell for row in found["cells"].values() for cell in row.values()]
    assert len(cells) == 4
    assert all(cell["within_prompt_auroc"]["estimate"] > 0.8 for cell in cells)


@pytest.mark.parametrize("across", ["category", "target"])
def test_transfer_ranks_as_the_card_of_the_probe_says(folder: Path, across: str) -> None:
    saved = load_probe(folder / "probe")
    save_probe(folder / "smooth", replace(saved, card=replace(saved.card, ranked_by="mean:3")))
    words = ("transfer", folder / "smooth", folder / "run", "--across", across)
    assert json.loads(call(*words, "--json"))["ranked_by"] == "mean:3"
    assert "ranked by mean:3" in call(*words).splitlines()[0]


def test_kinds_that_need_several_runs_are_not_asked_of_one(folder: Path) -> None:
    done = CliRunner().invoke(
        app, ["transfer", str(folder / "probe"), str(folder / "run"), "--across", "run"]
    )
    assert done.exit_code == 2


def test_what_needs_a_probe_is_not_asked_of_text(folder: Path) -> None:
    done = CliRunner().invoke(
        app, ["evaluate", str(folder / "run"), "--trained-on", str(folder / "again")]
    )
    assert done.exit_code == 2


def test_observe_lets_a_model_read_a_run(model_folder: Path, tmp_path: Path) -> None:
    small = keep(plant(World(tasks=4, samples=1)), tmp_path / "small")
    out = tmp_path / "observed"
    found = json.loads(call("observe", small.path, model_folder, out, "--layers", "1", "--json"))
    assert found == {"read": 4, "resumed": 0, "checked": 1}
    assert "0 traces read" in call("observe", small.path, model_folder, out, "--layers", "1")
