"""A quantised model is unpacked, run as it is, or refused before anything is loaded."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from trace_probe.errors import ModelError
from trace_probe.model.quantised import quantised

FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [16, 16]}
BNB = {"quant_method": "bitsandbytes", "load_in_4bit": True}
COMPRESSED = {"quant_method": "compressed-tensors", "format": "float-quantized"}


def with_config(folder: Path, out: Path, about: object) -> Path:
    """Return a copy of a model folder whose configuration says how it is quantised."""
    shutil.copytree(folder, out)
    config = json.loads((out / "config.json").read_text("utf-8"))
    (out / "config.json").write_text(json.dumps({**config, "quantization_config": about}), "utf-8")
    return out


def packed_in_fp8(folder: Path, out: Path) -> dict[str, Any]:
    """Write a folder whose maps are in blocks of FP8; return what they are worth in float32."""
    import torch
    from safetensors.torch import load_file, save_file

    with_config(folder, out, FP8)
    weights, worth = load_file(out / "model.safetensors"), {}
    for name, full in list(weights.items()):
        if not name.endswith("proj.weight"):
            continue
        rows, columns = full.shape[0] // 16, full.shape[1] // 16
        blocks = full.float().reshape(rows, 16, columns, 16)
        scale = blocks.abs().amax(dim=(1, 3)) / 448
        small = (blocks / scale[:, None, :, None]).to(torch.float8_e4m3fn)
        weights[name] = small.reshape(full.shape)
        weights[f"{name}_scale_inv"] = scale
        worth[name] = (small.float() * scale[:, None, :, None]).reshape(full.shape)
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    return worth


def test_fp8_is_unpacked_to_what_it_is_worth_and_the_run_says_so(
    model_folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("accelerate", reason="FP8 is read with accelerate")
    import torch

    from trace_probe.model.local import load_model
    from trace_probe.recording.record import new_manifest
    from trace_probe.trace import Sampling

    worth = packed_in_fp8(model_folder, tmp_path / "tiny-fp8")
    model = load_model(str(tmp_path / "tiny-fp8"), dtype="float32")
    own = dict(model._network.named_parameters())
    assert len(worth) >= 14
    for name, value in worth.items():
        assert own[name].dtype == torch.float32
        assert torch.allclose(own[name], value, rtol=0.01, atol=1e-6)
    manifest = new_manifest(model, Sampling())
    assert manifest.dtype_chosen == "fp8 weights, unpacked while it was loaded"
    full = load_model(str(model_folder), dtype="float32")
    assert full.name.partition("@")[2] != model.name.partition("@")[2]


def test_how_a_model_is_quantised_is_a_part_of_its_fingerprint(
    model_folder: Path, tmp_path: Path
) -> None:
    from trace_probe.model.checkpoint import fingerprint

    eight = {**BNB, "load_in_4bit": False}
    folders = [with_config(model_folder, tmp_path / str(n), q) for n, q in enumerate((BNB, eight))]
    assert len({fingerprint(folder) for folder in (model_folder, *folders)}) == 3


@pytest.mark.parametrize(
    ("about", "reason"),
    [
        (BNB, "bitsandbytes 4 bit weights.*pip install bitsandbytes$"),
        ({**BNB, "load_in_4bit": False}, "bitsandbytes 8 bit weights.*pip install bitsandbytes$"),
        ({"quant_method": "awq", "bits": 4}, "awq 4 bit weights.*pip install gptqmodel$"),
        ({"quant_method": "gptq", "bits": 4}, "gptq 4 bit weights.*pip install gptqmodel$"),
        (COMPRESSED, "compressed-tensors weights.*pip install compressed-tensors$"),
        ({"quant_method": "aqlm"}, "aqlm weights.*take the model in bfloat16"),
        ({"quant_method": "fbgemm_fp8"}, "fbgemm_fp8 weights.*take the model in bfloat16"),
        ({"bits": 4}, "not how .*copy the model again"),
        ("fp8", "not how .*copy the model again"),
        ([], "not how .*copy the model again"),
    ],
)
def test_what_cannot_be_read_here_is_refused_before_weights_are_looked_at(
    about: object,
    reason: str,
    model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from trace_probe.model.local import load_model

    there = ("bitsandbytes", "gptqmodel", "compressed_tensors")
    monkeypatch.setattr(
        "trace_probe.model.quantised.find_spec", lambda name: None if name in there else name
    )
    folder = with_config(model_folder, tmp_path / "packed", about)
    (folder / "model.safetensors").write_bytes(b"never opened")
    with pytest.raises(ModelError, match=reason):
        load_model(str(folder))


@pytest.mark.parametrize("about", [BNB, COMPRESSED, {"quant_method": "awq", "bits": 4}])
def test_where_the_package_is_there_it_runs_as_it_is_with_a_note(
    about: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trace_probe.model.quantised.find_spec", lambda name: name)
    found = quantised("m", {"quantization_config": about})
    assert found is not None
    assert not found.unpack
    assert found.note.startswith(about["quant_method"])
    assert found.note.endswith("weights, run as they are")


def test_a_text_part_that_is_quantised_is_seen_and_no_other_model_is() -> None:
    with pytest.raises(ModelError, match="hqq"):
        quantised("m", {"text_config": {"quantization_config": {"quant_method": "hqq"}}})
    assert quantised("m", {"hidden_size": 8}) is None
    assert quantised("m", {"quantization_config": None}) is None
