"""`trace-probe doctor` says what is here, what is missing, and how to get it."""

import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from packaging.requirements import Requirement
from typer.testing import CliRunner

from trace_probe.commands.main import app
from trace_probe.doctor import findings
from trace_probe.doctor.checkup import broken, checkup, format_checkup
from trace_probe.doctor.findings import Finding
from trace_probe.model.devices import Device, Torch, drivers, look

DECLARED = [
    Requirement(line)
    for line in (
        "one>=1.2,<2",
        "two>=3",
        'three[more]>=4; extra == "big"',
        'four>=1; extra == "big"',
        'only-elsewhere; sys_platform == "nowhere"',
    )
]
WANTED = '"torch>=2.10"'


def found(versions: Mapping[str, str]) -> dict[str, Finding]:
    every = [
        *findings.dependencies(DECLARED, versions.get),
        *findings.extras(DECLARED, versions.get),
    ]
    return {one.name: one for one in every}


def test_a_package_within_its_bounds_is_ok_and_others_come_with_the_command() -> None:
    there = found({"one": "2.0", "two": "3.1", "three": "4.0", "four": "1.0"})
    assert there["two"].state == "ok"
    assert not there["two"].fix
    assert there["one"].state == "broken"
    assert there["one"].fix == 'pip install "one<2,>=1.2"'
    assert found({})["two"].found == "missing, >=3"
    assert "only-elsewhere" not in there


def test_an_incomplete_extra_is_optional_and_only_what_lacks_is_installed() -> None:
    some = found({"one": "1.5", "two": "3", "four": "1"})["big"]
    assert (some.state, some.fix) == ("optional", 'pip install "three[more]>=4"')
    assert found({"three": "4", "four": "1"})["big"].state == "ok"


def test_bounds_are_those_that_the_installation_declares() -> None:
    declared = {Requirement(line).name for line in metadata.requires("trace-probe") or ()}
    names = {one.name for one in findings.dependencies()}
    assert names < declared
    assert {"torch", "numpy", "typer"} <= names
    assert {"ray", "serve", "inspect", "organism", "test"} <= {
        one.name for one in findings.extras()
    }
    assert findings.bounds("torch").startswith('"torch')


def accelerators(torch: Torch, *there: str) -> list[Finding]:
    return list(findings.accelerators(torch, there, WANTED))


def test_a_cpu_build_on_a_machine_with_a_gpu_is_told_how_to_change_that() -> None:
    first, *_ = accelerators(Torch("cpu"), "NVIDIA")
    assert first.state == "optional"
    assert first.fix.startswith(f"pip install --force-reinstall {WANTED}")
    assert not accelerators(Torch("cpu"))[0].fix


def test_a_gpu_that_torch_does_not_see_points_at_the_driver() -> None:
    first, *_ = accelerators(Torch("CUDA 12.8"), "NVIDIA")
    assert "driver" in first.fix


def test_each_accelerator_is_named_with_memory_and_precision() -> None:
    cards = (Device("cuda:0", "H100", 80 * 2**30, True), Device("cuda:1", "T4", 2**34, False))
    fits, new, old = accelerators(Torch("CUDA 12.8", cards), "NVIDIA")
    assert (fits.state, fits.fix) == ("ok", "")
    assert new.found == "H100, 80 GiB, bfloat16"
    assert "no bfloat16" in old.found


def test_a_torch_that_cannot_be_imported_is_broken() -> None:
    (only,) = accelerators(Torch("", error="libcudart.so.12: cannot open"))
    assert only.state == "broken"
    assert WANTED in only.fix


def test_the_driver_is_found_without_torch(tmp_path: Path) -> None:
    version = tmp_path / "proc/driver/nvidia/version"
    version.parent.mkdir(parents=True)
    version.touch()
    assert "NVIDIA" in drivers(tmp_path)


def test_this_torch_can_be_looked_at() -> None:
    assert look().build
    assert not look().error


def test_lost_organisms_and_a_full_disk_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert findings.organisms().state == "ok"
    monkeypatch.setattr(findings, "FOLDER", tmp_path)
    assert findings.organisms().state == "broken"
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=2**20))
    assert findings.disk(tmp_path).state == "optional"


def test_the_hub_cache_is_named_and_offline_flags_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "offline by HF_HUB_OFFLINE" in findings.hub().found


def test_a_project_that_is_not_installed_is_broken_and_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(findings, "installed", lambda _: None)
    told = checkup()
    assert broken(told) == 1
    assert "pip install -e ." in format_checkup(told)


def test_the_command_prints_text_or_json_and_fails_only_if_something_is_broken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def answer(*state: str) -> Any:
        findings = tuple(Finding("t", "n", one, "f", "do this") for one in state)  # type: ignore[arg-type]
        monkeypatch.setattr("trace_probe.doctor.checkup.checkup", lambda _: findings)
        return CliRunner().invoke(app, ["doctor", "--json"])

    fine, bad = answer("ok", "optional"), answer("ok", "broken")
    assert (fine.exit_code, bad.exit_code) == (0, 1)
    assert json.loads(bad.stdout)["broken"] == 1
    assert json.loads(fine.stdout)["findings"][1]["fix"] == "do this"
    assert "-> do this" in CliRunner().invoke(app, ["doctor"]).stdout


def test_what_is_required_works_here() -> None:
    assert not [one for one in checkup() if one.state == "broken"]


def test_places_that_hear_of_alarms_are_optional_and_named_with_the_command() -> None:
    found = {
        one.name: one for one in findings.told(lambda name: "1.0" if name == "wandb" else None)
    }
    assert found["Weights & Biases"].state == "ok"
    assert found["OpenTelemetry"].state == "optional"
    assert "pip install opentelemetry-distro" in found["OpenTelemetry"].fix


def test_what_reads_quantised_models_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "trace_probe.model.quantised.find_spec", lambda name: name == "accelerate" or None
    )
    found = findings.quantised()
    assert found.state == "optional"
    assert "fp8, mxfp4" in found.found
    assert found.fix.startswith("pip install bitsandbytes compressed-tensors gptqmodel")
