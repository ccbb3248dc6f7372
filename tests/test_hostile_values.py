"""Values that no honest file holds: each is refused in one sentence, none ends in a traceback."""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import hub_server
import numpy as np
import pytest

from trace_probe.activations import Activations, pooled_spans
from trace_probe.errors import ModelError, ProbeError, StoreError, TraceError
from trace_probe.interop.chats import chat_of
from trace_probe.interop.fields import DEFAULT_MAPPING, Line, read_lines
from trace_probe.model.dialect import _object
from trace_probe.monitor.sharing import pull_probe, push_probe
from trace_probe.probing.probe import load_probe
from trace_probe.run import Run
from trace_probe.statistics.smoothing import parse_smoothing
from trace_probe.storage.seals import sealed_json
from trace_probe.store import Store
from trace_probe.text.tool_calls import meaning
from trace_probe.trace import Sampling, Trace

DEEP = '{"a":' * 900 + "1" + "}" * 900


@pytest.mark.parametrize("limit", [1_000, 10_000])  # some libraries raise the limit of a process
def test_arguments_of_a_call_may_be_nested_as_deeply_as_a_model_writes_them(
    limit: int, request: pytest.FixtureRequest
) -> None:
    request.addfinalizer(partial(sys.setrecursionlimit, sys.getrecursionlimit()))
    sys.setrecursionlimit(limit)
    assert meaning("f", DEEP) == ("f", DEEP)
    assert _object(DEEP) is None
    assert _object("[" * 100_000) is None


def test_a_chat_that_is_nested_too_deeply_is_named(tmp_path: Path) -> None:
    block: dict[str, Any] = {"type": "text", "text": "x"}
    for _ in range(300):
        block = {"type": "text", "text": [block]}
    said = [{"role": "user", "content": "do it"}, {"role": "assistant", "content": [block]}]
    file = tmp_path / "chat.jsonl"
    file.write_text(json.dumps({"messages": said}))
    with pytest.raises(TraceError, match="nested more than 100 deep"):
        list(read_lines(file, DEFAULT_MAPPING))


@pytest.mark.parametrize("results", [5, True, "abc", {"a": 1}])
def test_an_observation_whose_results_are_no_list_is_one_result(results: object) -> None:
    steps = [
        {"source": "user", "message": "do it"},
        {"source": "agent", "message": "done", "observation": {"results": results}},
        {"source": "agent", "message": "bye"},
    ]
    chat = chat_of(Line({"schema_version": "ATIF-v1.2", "steps": steps}, DEFAULT_MAPPING))
    assert chat is not None
    (result,) = chat.turns[0].results
    assert result.content in (results, json.dumps(results))


@pytest.mark.parametrize(
    "name", ["cusum:1e400", "cusum:-1e400", "cusum:1e308", f"mean:{10**30}", "1-of-99999999999"]
)
def test_a_smoothing_that_could_never_alarm_or_never_start_is_refused(name: str) -> None:
    with pytest.raises(ProbeError, match="no smoothing"):
        parse_smoothing(name)
    with pytest.raises(ProbeError) as raised:
        parse_smoothing("x" * 10**6)
    assert len(str(raised.value)) < 1000


@pytest.mark.parametrize(
    "change",
    [
        {"layers": [-1]},
        {"smoothing": "cusum:1e400"},
        {"twin": {"layers": 5}},
        {"twin": {"layers": "abc", "features": ["last"]}},
        {"guard": -5},
    ],
)
def test_a_card_with_a_number_that_cannot_be_is_refused(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    shutil.copytree("probes/demo", tmp_path / "probe")
    card = tmp_path / "probe" / "card.json"
    raw = {name: one for name, one in json.loads(card.read_text()).items() if name != "checksum"}
    card.write_bytes(sealed_json({**raw, **change}))
    with pytest.raises(ProbeError):
        load_probe(tmp_path / "probe")


@pytest.fixture(scope="module")
def demo() -> tuple[Run, Trace]:
    run = Run.open("traces/demo")
    return run, next(run.traces())


def _added(
    demo: tuple[Run, Trace], place: Path, change: dict[str, Any], values: Callable[[Any], Any]
) -> Store:
    run, trace = demo[0], replace(demo[1], **change)
    shape = len(run.manifest.layers), len(pooled_spans(trace)), run.manifest.width
    rows = values(np.zeros(shape, np.float32))
    given = Activations(rows, run.manifest.layers, pooled_spans(trace), run.manifest.pooling)
    new = Run(Store.create(place / "run", run.manifest))
    new.add(trace, given)
    return new.store


@pytest.mark.parametrize(
    "values",
    [
        lambda rows: rows.astype(np.float64) + 1e308,
        lambda rows: rows + 1j,
        lambda rows: rows.astype(object),
        lambda rows: rows * np.nan,
    ],
)
def test_activations_that_no_float32_can_hold_are_refused(
    demo: tuple[Run, Trace], tmp_path: Path, values: Callable[[Any], Any]
) -> None:
    with pytest.raises(StoreError, match="activations of trace"):
        _added(demo, tmp_path, {}, values)


@pytest.mark.parametrize(
    "change",
    [{"id": "a\nb"}, {"facts": {"a": 1.5}}, {"token_ids": (-1,)}, {"token_ids": (2**70,)}],
)
def test_a_trace_that_no_reader_would_take_is_not_acknowledged(
    demo: tuple[Run, Trace], tmp_path: Path, change: dict[str, Any]
) -> None:
    if "token_ids" in change:
        change = {"token_ids": (*change["token_ids"], *demo[1].token_ids[1:])}
    with pytest.raises(StoreError):
        _added(demo, tmp_path, change, lambda rows: rows)
    assert len(Store(tmp_path / "run")) == 0
    assert not list((tmp_path / "run").rglob("*.safetensors"))


@pytest.mark.parametrize("change", [{"max_new_tokens": 10**300}, {"temperature": float("nan")}])
def test_settings_that_no_line_can_hold_are_no_sampling(change: dict[str, Any]) -> None:
    with pytest.raises(TraceError, match="cannot sample"):
        Sampling(**change)


def _a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def _a_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def _huge(file: Path) -> None:
    os.truncate(file, 3 << 30)


@pytest.mark.parametrize("damage", [_a_folder, _a_pipe, _huge])
@pytest.mark.parametrize("name", ["card.json", "README.md", "../main"])
def test_a_hub_holds_ordinary_files_of_a_probes_size(
    tmp_path: Path, damage: Callable[[Path], None], name: str
) -> None:
    commit = push_probe(Path("probes/demo"), "lab/demo", endpoint=str(tmp_path / "hub"))
    damage(tmp_path / "hub" / "lab" / "demo" / commit / name)
    with pytest.raises(ProbeError):
        pull_probe("lab/demo", tmp_path / "out", endpoint=str(tmp_path / "hub"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "answer",
    [[], 5, b"<html>", b"[" * 100_000, {"id": "lab/demo", "siblings": [1]}]
    + [{"id": "lab/demo", "siblings": [{"rfilename": "card.json", "size": "x"}]}],
)
def test_a_hub_that_answers_nonsense_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, answer: object
) -> None:
    monkeypatch.setattr(hub_server.Handler, "info", lambda self, *_: self.reply(answer))
    with (
        hub_server.running_hub() as hub,
        tempfile.TemporaryDirectory() as room,
        pytest.raises(ProbeError, match="hub"),
    ):
        pull_probe("lab/demo", Path(room) / "out", endpoint=hub.url)


@pytest.mark.parametrize("alpha", [10**400, 1e308, float("inf")])
def test_an_adapter_with_an_alpha_that_cannot_be_is_refused(tmp_path: Path, alpha: float) -> None:
    from trace_probe.model.adapters import find_adapter

    config = {"peft_type": "LORA", "r": 1, "lora_alpha": alpha}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="lora_alpha"):
        find_adapter(str(tmp_path), "base")
