"""Two workers that share a model: what is kept and what is scored is that of the whole model."""

from pathlib import Path
from typing import Any

import pytest

from engine.test_compiled import ORGANISM, assert_scored, guarded
from engine.test_recording import assert_faithful, recorded
from trace_probe.tasks.sources import tasks_from

EAGER = {"enforce_eager": True}


@pytest.fixture(autouse=True)
def share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let both workers run wherever there is a core."""
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")


@pytest.mark.parametrize("size", ["tensor_parallel_size", "pipeline_parallel_size"])
def test_rows_agree(engine: Any, tmp_path: Path, size: str) -> None:
    model = engine(ORGANISM, layers=(0, 1, 2, 3), **{size: 2})
    assert_faithful(recorded(model, tmp_path / "run", count=8, batch=8), 8)


def test_a_guard_scores_as_the_finished_text_is_scored(tmp_path: Path) -> None:
    tasks = tasks_from("world:mine:8")
    written = guarded(ORGANISM, tmp_path, tasks, tensor_parallel_size=2, **EAGER)
    assert_scored(ORGANISM, tmp_path / "probe", written)


def test_a_guard_whose_layers_are_on_two_stages_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"(?i)engine core|pipeline"):
        guarded(ORGANISM, tmp_path, tasks_from("world:mine:1"), pipeline_parallel_size=2, **EAGER)
