"""Agents that vLLM runs, here and on Ray, are recorded as those that transformers runs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.test_recording import assert_faithful
from trace_probe.recording.course import Agent
from trace_probe.store import Store
from trace_probe.tasks.sources import tasks_from
from trace_probe.trace import Sampling

ACTING = "organism:agent-base"
COUNT = 8


def recorded(model: Any, folder: Path, tasks: Any) -> Store:
    from trace_probe.recording.record import new_manifest, record

    run = Store.create(folder, new_manifest(model, Sampling(max_new_tokens=150), layers=(1, 3)))
    record(model, tasks, run, Agent(max_calls=6), batch_size=COUNT, progress=False)
    return run


def test_episodes_are_those_of_transformers_and_their_rows_agree(
    engine: Any, tmp_path: Path
) -> None:
    from trace_probe.model.local import load_model

    tasks = tasks_from(f"agentworld:engine:{COUNT}")
    ours = recorded(load_model(ACTING, dtype="float32"), tmp_path / "ours", tasks)
    model = engine(ACTING, layers=(1, 3), max_model_len=640)
    theirs = recorded(model, tmp_path / "theirs", tasks)
    assert_faithful(theirs, COUNT)
    assert theirs.ids() == ours.ids()
    assert sum(len(trace.calls) > 1 for trace in theirs.traces()) > COUNT // 2
    same = [theirs.trace(one).token_ids == ours.trace(one).token_ids for one in ours.ids()]
    assert sum(same) >= COUNT - 1  # a draw may fall between two roundings


def test_each_worker_on_ray_has_an_engine_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="needs Ray: pip install 'trace-probe[ray]'")
    from trace_probe.engine.plan import EngineOptions
    from trace_probe.model.weights import Weights
    from trace_probe.recording.shares import Recording, record_with

    monkeypatch.delenv("VLLM_ENABLE_V1_MULTIPROCESSING")
    options = EngineOptions('{"enforce_eager": true, "max_model_len": 512}', fidelity=1.0)
    recording = Recording(
        run=str(tmp_path / "ray"),
        tasks=tasks_from(f"world:train:{COUNT}"),
        source="world:train",
        samples=1,
        layers=(1,),
        max_new_tokens=60,
        batch_size=2,
        weights=Weights("organism:rl", dtype="float32"),
        engine=options,
    )
    report = record_with(recording, "ray", workers=2)
    assert report.recorded == COUNT
    run = Store(tmp_path / "ray")
    assert_faithful(run, COUNT)
    assert run.manifest.engine.startswith("vllm ")
    record_with(replace(recording, run=str(tmp_path / "alone")), "local")
    alone = Store(tmp_path / "alone")
    same = [alone.trace(one).token_ids == run.trace(one).token_ids for one in run.ids()]
    assert sum(same) >= COUNT - 1
