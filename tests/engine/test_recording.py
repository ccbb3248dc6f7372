"""What vLLM writes and holds is what transformers writes and reads, however vLLM is run."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trace_probe.store import Store
from trace_probe.tasks.sources import tasks_from
from trace_probe.trace import Sampling

ORGANISM = "organism:rl"
TOLERATED = 1e-4
"""Of the greatest value of a layer, in float32."""
WIDER = {"hidden_size": 128, "intermediate_size": 192, "head_dim": 32}
"""vLLM's attention takes no head that is narrower."""

SETTINGS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "prefix caching": {"enable_prefix_caching": True},
    "prompts in chunks": {"max_num_batched_tokens": 32, "enable_chunked_prefill": True},
    "a cache too small for the batch": {
        "num_gpu_blocks_override": 12,
        "block_size": 32,
        "max_model_len": 320,
    },
}


def recorded(model: Any, folder: Path, *, count: int, batch: int, room: int = 120) -> Store:
    from trace_probe.recording.record import new_manifest, record

    manifest = new_manifest(
        model, Sampling(max_new_tokens=room), layers=getattr(model, "layers", None)
    )
    run = Store.create(folder, manifest)
    record(model, tasks_from(f"world:train:{count}"), run, batch_size=batch, progress=False)
    return run


def assert_faithful(run: Store, count: int) -> None:
    found = [run.vault.fidelity(trace.id) for trace in run.traces()]
    assert len(found) == count
    for one in found:
        assert one is not None
        assert one.against == "transformers"
        assert one.error <= TOLERATED


@pytest.mark.parametrize("settings", SETTINGS)
def test_rows_agree_with_transformers(engine: Any, tmp_path: Path, settings: str) -> None:
    model = engine(ORGANISM, **SETTINGS[settings])
    for batch, count in ((1, 2), (8, 8), (32, 32)):
        assert_faithful(recorded(model, tmp_path / str(batch), count=count, batch=batch), count)
    (again,) = model._llm.collective_rpc("trace_probe_repeated")
    # Only where requests had to leave the cache were rows made twice.
    assert (again > 0) == settings.startswith("a cache too small")


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma3_text", "olmo3"])
def test_rows_of_other_families_agree(engine: Any, tmp_path: Path, family: str) -> None:
    from tiny_models import random_network, word_tokenizer

    random_network(family, **WIDER).save_pretrained(tmp_path / family)
    word_tokenizer().save_pretrained(tmp_path / family)
    model = engine(str(tmp_path / family), block_size=32)
    assert_faithful(recorded(model, tmp_path / "run", count=8, batch=8, room=40), 8)


def test_the_same_run_comes_of_both_engines(engine: Any, tmp_path: Path) -> None:
    from trace_probe.model.local import load_model

    ours = recorded(load_model(ORGANISM, dtype="float32"), tmp_path / "ours", count=16, batch=16)
    theirs = recorded(engine(ORGANISM), tmp_path / "theirs", count=16, batch=16)
    assert theirs.ids() == ours.ids()
    assert theirs.manifest.engine.startswith("vllm ")
    assert not ours.manifest.engine
    same = 0
    for trace in ours.traces():
        other = theirs.trace(trace.id)
        if other.token_ids != trace.token_ids:
            continue  # a draw that fell between two roundings
        same += 1
        assert other.sentences == trace.sentences
        assert theirs.key(other) == ours.key(trace)
        np.testing.assert_allclose(other.uncertainty, trace.uncertainty, atol=2e-3)
        rows, wanted = (run.activations(trace).values for run in (theirs, ours))
        assert np.abs(rows - wanted).max() <= 1e-3 * np.abs(wanted).max()  # both are float16
    assert same >= 15


def test_a_recording_is_resumed_and_a_trace_can_be_read_again(engine: Any, tmp_path: Path) -> None:
    from trace_probe.activations import pooled_spans
    from trace_probe.model.capture import Reading

    model = engine(ORGANISM)
    run = recorded(model, tmp_path / "run", count=4, batch=2)
    lines = (tmp_path / "run/traces.jsonl").read_bytes()
    recorded(model, tmp_path / "run", count=4, batch=2)
    assert (tmp_path / "run/traces.jsonl").read_bytes() == lines
    trace = next(run.traces())
    (again,) = model.checked_replay(
        [trace.token_ids], [pooled_spans(trace)], model.layers, Reading(run.manifest.pooling, True)
    )
    assert again.fidelity is not None
    assert again.fidelity.error <= TOLERATED
    assert again.tokens is not None
    assert again.tokens.shape == (len(model.layers), again.reach, model.d_model)


def test_what_a_trace_holds_depends_on_its_seed_alone(engine: Any, tmp_path: Path) -> None:
    model = engine(ORGANISM, fidelity=0.0)
    alone = recorded(model, tmp_path / "alone", count=8, batch=1)
    together = recorded(model, tmp_path / "together", count=8, batch=8)
    equal = [alone.trace(i).token_ids == together.trace(i).token_ids for i in alone.ids()]
    assert sum(equal) >= 7


def test_rows_that_were_crowded_out_are_read_again(engine: Any, tmp_path: Path) -> None:
    model = engine(ORGANISM, room=1 << 20)
    assert_faithful(recorded(model, tmp_path / "run", count=16, batch=16), 16)
