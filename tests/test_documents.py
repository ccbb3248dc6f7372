"""The documents tell the truth: fields are those of the code, blocks run, promises are kept."""

import ast
import importlib
import re
import tomllib
from dataclasses import fields
from functools import cache
from pathlib import Path

import pytest

from trace_probe.evaluation.report import Report
from trace_probe.explorer.launch import SETTINGS
from trace_probe.interop.fields import FieldMapping
from trace_probe.labelling.human import COLUMNS
from trace_probe.labels import Label
from trace_probe.model.keys import KEY
from trace_probe.monitor.calibrated import Calibration
from trace_probe.probing.probe import ProbeCard
from trace_probe.serving.limits import TOKEN
from trace_probe.serving.webhook import SECRET
from trace_probe.store import Manifest
from trace_probe.trace import Sampling, Task, Trace

ROOT = Path(__file__).parents[1]
RUN, PROBE = "traces/FORMAT.md", "probes/FORMAT.md"
DESCRIBED = {
    (RUN, "run.json"): Manifest,
    (RUN, "A trace"): Trace,
    (RUN, "A task"): Task,
    (RUN, "Sampling"): Sampling,
    (RUN, "A label"): Label,
    (RUN, "Transcripts from elsewhere"): FieldMapping,
    (RUN, "A report"): Report,
    (PROBE, "card.json"): ProbeCard,
    (PROBE, "alarms.json"): Calibration,
}
BLOCKS = [
    pytest.param(name, code, id=f"{name}-{number}")
    for name in (RUN, PROBE, "CONTRIBUTING.md", "docs/guard.md")
    for number, code in enumerate(
        re.findall(r"```python\n(.*?)```", (ROOT / name).read_text("utf-8"), flags=re.DOTALL)
    )
]


def section(document: str, title: str) -> str:
    text = (ROOT / document).read_text("utf-8")
    return text.split(f"\n## {title}\n")[1].split("\n## ")[0]


def table(document: str, title: str) -> dict[str, str]:
    """Return the rows of the table under a heading, by the name in their first cell."""
    return dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", section(document, title), re.MULTILINE))


@pytest.mark.parametrize(("document", "title"), DESCRIBED, ids=lambda value: str(value))
def test_the_fields_described_are_those_that_are_written(document: str, title: str) -> None:
    assert list(table(document, title)) == [
        field.name for field in fields(DESCRIBED[document, title])
    ]


def test_the_names_that_an_import_knows_are_those_described() -> None:
    known = {field.name: getattr(FieldMapping(), field.name) for field in fields(FieldMapping)}
    described = table(RUN, "Transcripts from elsewhere")
    assert {name: tuple(re.findall(r"`(\w+)`", row)) for name, row in described.items()} == known


def test_the_columns_of_a_persons_file_are_described() -> None:
    assert all(f"`{column}`" in section(RUN, "A label") for column in COLUMNS)


def test_everything_in_the_committed_run_is_described() -> None:
    layout = (ROOT / RUN).read_text("utf-8").split("```text\n")[1].split("```")[0]
    there = {path.name for path in (ROOT / "traces" / "demo").iterdir()}
    named = {word.split("/")[0] for word in re.findall(r"\S+", layout)}
    assert there - {".lock", ".joined"} <= named
    text = (ROOT / PROBE).read_text("utf-8")
    assert all(path.name in text for path in (ROOT / "probes" / "demo").iterdir())


@pytest.mark.parametrize(("document", "code"), BLOCKS)
def test_every_block_runs(
    document: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("traces", "probes"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "demo").symlink_to(ROOT / folder / "demo")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, document, "exec"), {"__name__": "example"})


def test_every_file_that_a_contributor_is_sent_to_is_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    named = re.findall(r"`((?:tests|trace_probe|traces)/[\w/.]+)`", text)
    assert named
    assert not [name for name in named if not (ROOT / name).exists()]


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "SECURITY.md", RUN, PROBE])
def test_links_between_files_lead_somewhere(name: str) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / name).read_text("utf-8"))
    assert not [link for link in links if not (ROOT / name).parent.joinpath(link).is_file()]


def test_the_citation_is_of_this_version_and_of_the_benchmark() -> None:
    yaml = pytest.importorskip("yaml")
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert {"cff-version", "message", "title", "authors"} <= set(cited)  # what 1.2.0 requires
    assert (cited["version"], cited["license"]) == (project["version"], project["license"])
    (paper,) = cited["references"]
    assert {"type", "title", "authors"} <= set(paper)
    assert paper["doi"].endswith("arXiv.2502.12206")
    assert "2502.12206" in (ROOT / "README.md").read_text("utf-8")


def test_the_way_of_a_token_leads_through_what_is_there() -> None:
    way = section("CONTRIBUTING.md", "The way of one token")
    stations = re.findall(r"`([a-z_]+(?:\.\w+)+)`", way)
    assert len(stations) > 8
    for station in stations:
        parts = station.split(".")
        cut = next(n for n in range(1, len(parts)) if _is_module(parts[:n]))
        found: object = importlib.import_module(".".join(("trace_probe", *parts[:cut])))
        for name in parts[cut:]:
            found = getattr(found, name)


def _is_module(parts: list[str]) -> bool:
    return (ROOT / "trace_probe").joinpath(*parts).with_suffix(".py").is_file()


@cache
def package() -> dict[str, ast.Module]:
    files = (ROOT / "trace_probe").rglob("*.py")
    return {str(file.relative_to(ROOT)): ast.parse(file.read_text("utf-8")) for file in files}


def called(call: ast.Call) -> str:
    """Return the last part of what a call names, or nothing where it names nothing."""
    return str(getattr(call.func, "attr", getattr(call.func, "id", "")))


def test_nothing_is_unpickled_and_no_code_comes_with_a_model() -> None:
    unsafe = {"pickle", "joblib", "dill", "cloudpickle", "marshal", "shelve"}
    for name, tree in package().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                assert not unsafe & {alias.name.split(".")[0] for alias in node.names}, name
            elif isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] not in unsafe, name
            elif isinstance(node, ast.keyword):
                allowed = node.arg != "allow_pickle" or ast.unparse(node.value) == "False"
                assert allowed, name
            elif isinstance(node, ast.Call):
                suspected = called(node) in {"load", "eval", "exec"}
                unsafely = {"torch.load", "eval", "exec"}
                assert not suspected or ast.unparse(node.func) not in unsafely, name


LOADS = {"from_pretrained", "from_config", "boot_transformers", "from_single_file"}
TRAINERS = {"GRPOConfig"}


def test_models_are_loaded_in_one_room_and_every_load_forbids_their_code() -> None:
    """Whoever adds a load elsewhere, or forgets to forbid code, or allows it, fails here."""
    rooms, loads = set(), 0
    for name, tree in package().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and node.value == "trust_remote_code":
                continue  # as a key of a mapping, whose value is looked at below
            if isinstance(node, ast.Dict):
                keys = [getattr(key, "value", None) for key in node.keys]
                said = dict(zip(keys, node.values, strict=True)).get("trust_remote_code")
                assert said is None or ast.unparse(said) == "False", name
            if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
                assert ast.unparse(node.value) == "False", name
            if isinstance(node, ast.Call) and called(node) in LOADS | TRAINERS:
                given = {one.arg: ast.unparse(one.value) for one in node.keywords}
                assert given.get("trust_remote_code") == "False", f"{name}:{node.lineno}"
                rooms |= {name} if called(node) in LOADS else set()
                loads += 1
    assert rooms == {"trace_probe/model/loading.py"}
    assert loads == 9


def test_keys_have_the_names_that_are_described_and_telemetry_is_off() -> None:
    text = (ROOT / "SECURITY.md").read_text("utf-8")
    assert set(table("SECURITY.md", "Keys")) == {KEY, TOKEN, SECRET}
    assert all(name in text for name in ("HF_HUB_OFFLINE", "OPENAI_BASE_URL"))
    config = tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text("utf-8"))
    assert config["browser"]["gatherUsageStats"] is False
    assert config["server"]["address"] == SETTINGS["server.address"] == "127.0.0.1"
    assert SETTINGS["browser.gatherUsageStats"] == "false"
    assert "RAY_USAGE_STATS_ENABLED" in (ROOT / "trace_probe/execution/executor.py").read_text()


def test_every_promise_of_security_names_a_test_that_is_there() -> None:
    text = (ROOT / "SECURITY.md").read_text("utf-8")
    promises = re.findall(r"^\| [^|]+ \| (`tests/.+`) \|$", text, re.MULTILINE)
    assert len(promises) >= 35
    for file, name in re.findall(r"`(tests/[^`]+\.py)::(\w+)`", "".join(promises)):
        assert f"def {name}(" in (ROOT / file).read_text("utf-8"), name
    assert all("::" in each for promise in promises for each in promise.split(", "))
    for place in re.findall(r"`(trace_probe/[\w/]+\.py)`", text):
        assert (ROOT / place).is_file()
