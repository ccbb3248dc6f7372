"""The precision of a model: named, the default of a device, or chosen by a trial."""

from pathlib import Path
from typing import Any

import pytest

from trace_probe.errors import ModelError
from trace_probe.model import dtypes


def shape(width: int = 32) -> Any:
    from transformers import AutoConfig

    from trace_probe.model.shapes import SHAPES

    small = {"hidden_size": width, "intermediate_size": 2 * width, "head_dim": 16}
    return AutoConfig.for_model(**{**SHAPES["Qwen3-1.7B"], **small, "num_hidden_layers": 2})


def never() -> Any:
    raise AssertionError("the configuration was read")


def test_a_precision_that_is_named_is_taken() -> None:
    assert dtypes.choose_precision("float16", "cpu", never) == ("float16", "")
    with pytest.raises(ModelError, match="choose auto or one of float32"):
        dtypes.choose_precision("float8", "cpu", never)


def test_without_a_wish_the_device_decides() -> None:
    assert dtypes.choose_precision(None, "cpu", never).dtype == "float32"
    assert dtypes.choose_precision(None, "cuda", never).dtype == "bfloat16"


@pytest.mark.parametrize(("gain", "dtype"), [(2.9, "bfloat16"), (1.1, "float32")])
def test_auto_takes_what_a_trial_shows_to_be_faster(
    monkeypatch: pytest.MonkeyPatch, gain: float, dtype: str
) -> None:
    monkeypatch.setattr(dtypes, "TINY", 0)
    monkeypatch.setattr(dtypes, "has_bfloat16", lambda: True)
    monkeypatch.setattr(dtypes, "bfloat16_gain", lambda _: gain)
    chosen = dtypes.choose_precision("auto", "cpu", shape)
    assert chosen.dtype == dtype
    assert f"{gain} times as fast" in chosen.why


def test_auto_tries_nothing_on_a_tiny_model_or_an_old_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def trial(_: object) -> float:
        raise AssertionError("bfloat16 was timed")

    monkeypatch.setattr(dtypes, "bfloat16_gain", trial)
    monkeypatch.setattr(dtypes, "has_bfloat16", lambda: True)
    assert dtypes.choose_precision("auto", "cpu", shape) == ("float32", "auto: a tiny model")
    monkeypatch.setattr(dtypes, "TINY", 0)
    monkeypatch.setattr(dtypes, "has_bfloat16", lambda: False)
    assert dtypes.choose_precision("auto", "cpu", shape).dtype == "float32"


def test_the_trial_runs_one_block_in_both_precisions() -> None:
    assert dtypes.bfloat16_gain(shape()) > 0


def test_instructions_are_read_as_whole_words(tmp_path: Path) -> None:
    about = tmp_path / "cpuinfo"
    about.write_text("flags : fpu avx512_bf16x avx2\n", encoding="utf-8")
    assert not dtypes.has_bfloat16(about)
    about.write_text("flags : fpu avx512_bf16 avx2\n", encoding="utf-8")
    assert dtypes.has_bfloat16(about)
    assert not dtypes.has_bfloat16(tmp_path / "none")


def test_a_resumed_run_keeps_its_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trace_probe.model.weights import Weights
    from trace_probe.recording.shares import Recording, record_alone
    from trace_probe.store import Store
    from trace_probe.tasks.sources import tasks_from

    monkeypatch.setattr(dtypes, "TINY", 0)
    monkeypatch.setattr(dtypes, "has_bfloat16", lambda: True)
    monkeypatch.setattr(dtypes, "bfloat16_gain", lambda _: 2.0)
    weights = Weights("organism:rl", dtype="auto", device="cpu")
    tasks = tasks_from("world:resume:2")
    one = Recording(weights, str(tmp_path / "run"), tasks[:1], "world", max_new_tokens=8)
    assert record_alone(one).recorded == 1
    manifest = Store(tmp_path / "run").manifest
    assert manifest.dtype == "bfloat16"
    assert manifest.dtype_chosen == "auto: a block runs 2.0 times as fast in bfloat16"

    monkeypatch.setattr(dtypes, "bfloat16_gain", lambda _: 1.0)  # the machine is busy now
    assert record_alone(Recording(weights, one.run, tasks, "world", max_new_tokens=8)).resumed == 1
