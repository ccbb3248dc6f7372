"""A probe goes to a hub and comes back the same, and nothing but a probe comes from there."""

import json
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hub_server import Hub, running_hub
from typer.testing import CliRunner

from trace_probe.commands.main import app
from trace_probe.errors import ProbeError
from trace_probe.monitor.calibrated import calibrate, save_calibration
from trace_probe.monitor.detector import load_detector
from trace_probe.monitor.sharing import pull_probe, push_probe
from trace_probe.probing.hub import Address, local_folder
from trace_probe.probing.kept import read_json, write_json
from trace_probe.probing.probe import load_probe
from trace_probe.store import Store
from trace_probe.training import score_run

ROOT = Path(__file__).parents[1]
DEMO, RUN = ROOT / "probes" / "demo", ROOT / "traces" / "demo"
NAME = "lab/demo-probe"
TOKEN = "hf_" + "x" * 34


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with running_hub() as running:
        yield running


@pytest.fixture(params=["server", "folder"])
def endpoint(request: pytest.FixtureRequest, hub: Hub, tmp_path: Path) -> str:
    """Return a hub of each kind."""
    return hub.url if request.param == "server" else str(tmp_path / "shared")


def test_what_is_pulled_gives_the_same_scores_to_the_bit(endpoint: str, tmp_path: Path) -> None:
    commit = push_probe(DEMO, NAME, run=Store(RUN), endpoint=endpoint)
    for revision in ("", f"@{commit}"):
        folder = tmp_path / f"pulled{revision[:3]}"
        assert pull_probe(NAME + revision, folder, endpoint=endpoint) == commit
        for file in DEMO.iterdir():
            assert (folder / file.name).read_bytes() == file.read_bytes()
    ours = score_run(Store(RUN), load_probe(DEMO))
    theirs = score_run(Store(RUN), load_probe(f"hub:{NAME}@{commit}", endpoint=endpoint))
    assert all(np.array_equal(ours[name], theirs[name], equal_nan=True) for name in ours)


def test_the_page_says_base_promises_baselines_and_limits(hub: Hub) -> None:
    yaml = pytest.importorskip("yaml", reason="reads the YAML of the page")
    commit = push_probe(DEMO, NAME, run=Store(RUN), endpoint=hub.url)
    page = hub.commits[NAME][commit]["README.md"].decode()
    _, front, text = page.split("---\n", 2)
    told = yaml.safe_load(front)
    card = load_probe(DEMO).card
    assert told["library_name"] == "trace_probe"
    assert told["trace_probe"]["guaranteed"]["benign"] == card.guaranteed_false_alarm_rate
    assert told["trace_probe"]["guaranteed"]["siblings"] == card.target_sibling_rate
    assert all(limit in text for limit in card.limits)
    assert str(card.rates) in text
    assert "| **this probe** |" in text
    assert "prompt-only" in text


def test_a_model_of_the_hub_is_named_as_the_base(hub: Hub, tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml", reason="reads the YAML of the page")
    shutil.copytree(DEMO, tmp_path / "probe")
    _changed(tmp_path / "probe", model="Qwen/Qwen3-4B+lab/x@abcdef12")
    commit = push_probe(tmp_path / "probe", NAME, endpoint=hub.url)
    front = hub.commits[NAME][commit]["README.md"].decode().split("---\n")[1]
    assert yaml.safe_load(front)["base_model"] == ["Qwen/Qwen3-4B", "lab/x"]


def test_a_commit_that_is_there_is_not_asked_for_again(hub: Hub) -> None:
    commit = push_probe(DEMO, NAME, endpoint=hub.url)
    load_probe(f"hub:{NAME}@{commit}", endpoint=hub.url)
    hub.status = 500
    load_probe(f"hub:{NAME}@{commit}", endpoint=hub.url)


def test_the_commands_push_and_pull_and_print_no_token(endpoint: str, tmp_path: Path) -> None:
    way = ["--endpoint", endpoint]
    pushed = CliRunner().invoke(app, ["probe", "push", str(DEMO), NAME, "--json", *way])
    assert pushed.exit_code == 0, pushed.output
    commit = json.loads(pushed.output)["commit"]
    folder = tmp_path / "there"
    pulled = CliRunner().invoke(app, ["probe", "pull", f"{NAME}@{commit}", str(folder), *way])
    assert pulled.exit_code == 0, pulled.output
    assert load_detector(folder).threshold == load_detector(DEMO).threshold
    assert TOKEN not in pushed.output + pulled.output


@pytest.fixture
def calibrated(tmp_path: Path) -> Path:
    """Return the folder of a probe that has a calibration beside it."""
    shutil.copytree(DEMO, tmp_path / "calibrated")
    found = calibrate(Store(RUN), load_probe(DEMO), ["max"], rate=0.1)
    save_calibration(tmp_path / "calibrated", found)
    return tmp_path / "calibrated"


@pytest.mark.parametrize("name", ["card.json", "probe.safetensors", "alarms.json"])
def test_a_probe_of_the_cache_that_was_damaged_is_fetched_again(
    hub: Hub, calibrated: Path, name: str
) -> None:
    commit = push_probe(calibrated, NAME, endpoint=hub.url)
    address = f"hub:{NAME}@{commit}"
    load_probe(address, endpoint=hub.url)
    file = local_folder(address, hub.url) / name
    whole = file.read_bytes()
    file.write_bytes(whole[:-9] + b"\0" * 9)
    assert load_probe(address, endpoint=hub.url).card == load_probe(DEMO).card
    assert file.read_bytes() == whole


@pytest.mark.parametrize("name", ["card.json", "siblings"])
def test_a_hub_that_never_ends_is_given_up_and_leaves_nothing(
    hub: Hub, tmp_path: Path, name: str
) -> None:
    hub.put(NAME, _whole())
    hub.endless.add(name)
    with pytest.raises(ProbeError, match="does not end after .* nothing is kept"):
        pull_probe(NAME, tmp_path / "there", endpoint=hub.url)
    assert hub.poured < 64 << 20
    assert not (tmp_path / "there").exists()


def test_a_promise_or_a_threshold_that_cannot_be_is_refused(
    hub: Hub, calibrated: Path, tmp_path: Path
) -> None:
    for values, why in (
        ({"guaranteed_false_alarm_rate": 7.0}, "guaranteed_false_alarm_rate is 7, which is no"),
        ({"target_sibling_rate": -0.1}, "target_sibling_rate is -0.1, which is no share"),
        ({"threshold": 1e308}, "the threshold is 1e\\+308, which no score can have"),
    ):
        shutil.copytree(DEMO, tmp_path / "evil")
        _changed(tmp_path / "evil", **values)
        hub.put(NAME, {file.name: file.read_bytes() for file in (tmp_path / "evil").iterdir()})
        with pytest.raises(ProbeError, match=why):
            pull_probe(NAME, tmp_path / "there", endpoint=hub.url)
        shutil.rmtree(tmp_path / "evil")
    raw, _ = read_json(calibrated / "alarms.json")
    raw["calibrations"][0]["thresholds"]["max"]["guaranteed_rate"] = 7.0
    write_json(calibrated / "alarms.json", raw)
    with pytest.raises(ProbeError, match="guaranteed_rate is 7, which is no share"):
        load_detector(calibrated)


def _whole() -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in DEMO.iterdir()}


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("probe.pkl", pickle.dumps({"coef": 1})),
        ("pytorch_model.bin", b"PK"),
        ("modeling.py", b"import os"),
        ("../../evil.json", b"{}"),
        ("sub/card.json", b"{}"),
        ("/etc/card.json", b"{}"),
    ],
)
def test_a_repository_with_anything_else_is_refused_before_it_is_fetched(
    hub: Hub, tmp_path: Path, name: str, data: bytes
) -> None:
    hub.put(NAME, {**_whole(), name: data})
    with pytest.raises(ProbeError, match="which no probe has: only JSON and safetensors"):
        pull_probe(NAME, tmp_path / "there", endpoint=hub.url)
    assert not hub.fetched
    assert not (tmp_path / "there").exists()


def test_a_huge_file_is_refused_before_it_is_fetched(hub: Hub, tmp_path: Path) -> None:
    hub.put(NAME, _whole())
    hub.sizes["probe.safetensors"] = 1 << 40
    with pytest.raises(ProbeError, match="at most 268,435,456: it is not fetched"):
        pull_probe(NAME, tmp_path / "there", endpoint=hub.url)
    assert not hub.fetched


def _changed(folder: Path, **values: object) -> None:
    raw, _ = read_json(folder / "card.json")
    write_json(folder / "card.json", {**raw, **values})


def test_a_card_that_leads_elsewhere_or_was_damaged_is_refused(hub: Hub, tmp_path: Path) -> None:
    evil = tmp_path / "evil"
    for values, why in (
        ({"name": "../../x"}, "cannot be called"),
        ({"C": "1"}, "C is .1.: it should"),
    ):
        shutil.copytree(DEMO, evil)
        _changed(evil, **values)
        hub.put(NAME, {file.name: file.read_bytes() for file in evil.iterdir()})
        with pytest.raises(ProbeError, match=why):
            pull_probe(NAME, tmp_path / "there", endpoint=hub.url)
        shutil.rmtree(evil)
    card = (DEMO / "card.json").read_bytes()
    torn = {"card.json": card.replace(b'"guard": 0', b'"guard": 1')}
    bare = {"card.json": json.dumps({**json.loads(card), "seal": None, "schema": 1}).encode()}
    pickled = {"probe.safetensors": pickle.dumps([1.0])}
    for files, why in ((torn, "checksum"), (bare, "checksum"), (pickled, "not hold a whole")):
        hub.put(NAME, {**_whole(), **files})
        with pytest.raises(ProbeError, match=f"{why}.*nothing is kept"):
            pull_probe(NAME, tmp_path / "there", endpoint=hub.url)
    assert not (tmp_path / "there").exists()


def test_a_link_in_a_folder_is_not_followed_and_a_change_is_found(tmp_path: Path) -> None:
    hub = tmp_path / "shared"
    commit = push_probe(DEMO, NAME, endpoint=str(hub))
    file = hub / NAME / commit / "probe.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:-1] + b"\x01")
    with pytest.raises(ProbeError, match="was changed after it was pushed"):
        pull_probe(NAME, tmp_path / "there", endpoint=str(hub))
    file.unlink()
    (tmp_path / "elsewhere").write_bytes(data)
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ProbeError, match="is a link"):
        pull_probe(NAME, tmp_path / "there", endpoint=str(hub))


@pytest.mark.parametrize("text", ["demo", "a/b/c", "../x/y", "a/..", "a/b@", "a/b@../c", "a/b@-x"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ProbeError, match="write org/name"):
        Address.of(text)


def test_what_is_not_there_and_what_may_not_be_seen_are_one_sentence(
    endpoint: str, hub: Hub, tmp_path: Path
) -> None:
    with pytest.raises(ProbeError, match="no probe|no lab/none@main on the hub"):
        pull_probe("lab/none", tmp_path / "there", endpoint=endpoint)
    hub.status = 403
    with pytest.raises(ProbeError, match="status 403") as refused:
        push_probe(DEMO, NAME, endpoint=hub.url)
    assert any(TOKEN in sent for sent in hub.tokens)
    assert TOKEN not in str(refused.value)
    with pytest.raises(ProbeError, match="is there a network"):
        pull_probe(NAME, tmp_path / "there", endpoint="http://127.0.0.1:1")


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    push_probe(DEMO, NAME, endpoint=str(tmp_path / "hub"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ProbeError, match="holds something already"):
        pull_probe(NAME, tmp_path / "full", endpoint=str(tmp_path / "hub"))
