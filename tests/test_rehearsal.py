"""A rehearsal: shapes as published, scaled as they should be, the whole road on random weights."""

import json
from pathlib import Path
from typing import Any

import pytest

from trace_probe.errors import ModelError

TINY = {
    "model_type": "gemma3_text",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 400,
    "sliding_window": 64,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "max_position_embeddings": 4096,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a model folder that holds a configuration and nothing else."""
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny/config.json").write_text(json.dumps(TINY), encoding="utf-8")
    return tmp_path / "tiny"


@pytest.mark.parametrize(
    ("name", "millions", "group"),
    [
        ("DeepSeek-R1-Distill-Qwen-1.5B", 1777, 1),
        ("Qwen3-1.7B", 1721, 1),
        ("gpt-oss-20b", 20915, 2),
        ("Gemma-3-1B", 1000, 6),
        ("Llama-3.2-1B", 1236, 1),
    ],
)
def test_built_in_shapes_have_the_published_sizes(name: str, millions: int, group: int) -> None:
    from trace_probe.model.shapes import config_of, parameters, period

    config = config_of(name)
    assert round(parameters(config) / 1e6) == millions
    assert period(config) == group


def test_what_is_no_shape_is_answered_with_those_that_there_are() -> None:
    from trace_probe.model.shapes import config_of

    with pytest.raises(ModelError, match=r"no folder .* built-in shape: DeepSeek"):
        config_of("/nowhere/at/all")


def test_fewer_blocks_keep_whole_groups(folder: Path) -> None:
    from trace_probe.model.rehearsed import build

    shape, model = build(str(folder), "cpu", None, 1)
    assert (shape.built, shape.blocks, shape.scale) == (2, 4, 2.0)
    assert model.n_layers == 2
    # Two blocks slide over 64 tokens and two see all; keys and values of 2 heads, 8 wide.
    assert shape.cached(100) == 2 * 2 * 8 * 4 * 2 * (64 + 100)


def rates(**changes: Any) -> Any:
    """Return the rates of a model of 8 blocks, 2 of which were built."""
    from trace_probe.doctor.rates import Rates
    from trace_probe.model.rehearsed import CHECKED_ROWS, Shape

    shape = Shape("m", 8, 2, 10**9, 2 * 10**9, 64, "bfloat16", "", "cpu", ((100, None),) * 8)
    steps = ("store", "label", "train", "evaluate", "flag")
    known = {
        "step": 1.5,
        "read": 5.0,
        "heads": {10: 0.5, CHECKED_ROWS: 1.0, 1: 0.1},
        "watch": 0.3,
        "disk": ((100, 1000), (200, 2000)),
        "learned": {name: ((100, 2.0), (200, 3.0)) for name in steps},
    }
    return Rates(shape, 2, **{**known, **changes})


def test_blocks_are_scaled_up_and_the_head_is_there_once() -> None:
    from trace_probe.doctor.rates import RehearsalPlan
    from trace_probe.doctor.rehearsal import forecast

    found = forecast(RehearsalPlan("m", traces=20, tokens=100, batch_size=10), rates())
    assert found.seconds["write"] == pytest.approx(2 * 100 * (0.5 + 1.0 * 4))
    assert found.seconds["read again"] == pytest.approx(20 * (1.0 + 4.0 * 4))
    assert found.watch_seconds == pytest.approx(0.1 + 0.2 * 4)
    assert found.seconds["evaluate"] == pytest.approx(2.0)  # 20 traces of 5 sentences: 100 rows
    assert found.seconds["train"] == pytest.approx(4 * 2.0)  # 8 layers are recorded, 2 were timed
    assert found.disk_bytes == pytest.approx(4 * 1000 / 20)


def test_a_longer_context_makes_writing_slower_and_caches_larger() -> None:
    from trace_probe.doctor.rates import PROMPT_WORDS, RehearsalPlan
    from trace_probe.doctor.rehearsal import GROWTH, forecast

    plan = RehearsalPlan("m", traces=10, tokens=100, batch_size=10)
    plain, longer = forecast(plan, rates()), forecast(plan, rates(step_a_token=0.001))
    extra = 100 * 0.001 * 4 * 10 * (PROMPT_WORDS + 50)
    assert longer.seconds["write"] - plain.seconds["write"] == pytest.approx(extra)
    cache = 10 * 8 * 100 * (PROMPT_WORDS + 100) * GROWTH
    assert plain.memory_bytes == pytest.approx(2 * 10**9 + cache)


def test_the_whole_road_is_walked_on_random_weights(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    from trace_probe.commands.main import app
    from trace_probe.doctor import rates as measured

    monkeypatch.setattr(measured, "SENTENCES", (2, 4))
    monkeypatch.setattr(measured, "LONG", 64)
    options = ["--traces", "10", "--tokens", "40", "--batch-size", "4", "--dtype", "bfloat16"]
    done = CliRunner().invoke(app, ["doctor", "--rehearse", str(folder), "--json", *options])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["rates"]["shape"]["dtype"] == "bfloat16"
    assert told["rates"]["shape"]["built"] == 4
    seconds = told["forecast"]["seconds"]
    steps = ("write", "read again", "store", "label", "train", "evaluate", "flag")
    assert set(seconds) == set(steps)
    assert all(each > 0 for each in seconds.values())
    assert told["forecast"]["disk_bytes"] > 0
    assert told["total_seconds"] == pytest.approx(sum(seconds.values()))
