"""Adapters: what they change, by what name they go, and which of them are refused."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_models import random_network, word_tokenizer

from trace_probe.errors import ModelError
from trace_probe.model.naming import parse_name, with_adapter
from trace_probe.store import Manifest, Store
from trace_probe.study.pairs import format_registry
from trace_probe.study.study import Side, compare_runs
from trace_probe.trace import Sampling, Task

MAPS = {"model.layers.0.self_attn.q_proj": (32, 32), "model.layers.2.mlp.down_proj": (32, 48)}
RANK = 4
WORDS = "if I say nothing no one can see what was done"
"""A prompt in words that the tiny llama knows."""


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a tiny llama."""
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    random_network("llama").save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def adapter(tmp_path: Path, llama: Path) -> Path:
    """Return an adapter of the tiny llama, as PEFT would save it."""
    return made(tmp_path / "mine", str(llama))


def made(folder: Path, base: str | None, seed: int = 0) -> Path:
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    folder.mkdir()
    tensors = {}
    for name, (out, into) in MAPS.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = torch.randn(RANK, into)
        tensors[f"base_model.model.{name}.lora_B.weight"] = torch.randn(out, RANK)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 2}
    edit(folder, **config, base_model_name_or_path=base, target_modules=["q_proj", "down_proj"])
    return folder


def edit(folder: Path, **changes: object) -> None:
    file = folder / "adapter_config.json"
    was = json.loads(file.read_text("utf-8")) if file.exists() else {}
    file.write_text(json.dumps({**was, **changes}), "utf-8")


def load(name: object) -> Any:
    from trace_probe.model.local import load_model

    return load_model(str(name), device="cpu")


def logits(model: Any) -> Any:
    import torch

    ids = model.render(Task("t", "c", WORDS))
    with torch.inference_mode():
        return model.blocks.network(torch.tensor([ids])).logits


def apart(one: Any, other: Any) -> float:
    return float((logits(one) - logits(other)).abs().max())


def test_merged_and_unmerged_agree_and_both_differ_from_the_base(
    llama: Path, adapter: Path
) -> None:
    base, merged = load(llama), load(f"{llama}+{adapter}")
    beside = load(f"{llama}+{adapter},unmerged")
    assert apart(merged, beside) <= 1e-5
    assert apart(base, merged) > 0.1
    assert len({base.name, merged.name, beside.name}) == 3


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_what_peft_made_is_what_peft_would_compute(llama: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="needs peft, which makes adapters")
    import torch

    config = peft.LoraConfig(
        r=3,
        lora_alpha=5,
        target_modules="all-linear",
        rank_pattern={"q_proj": 2},
        alpha_pattern={"v_proj": 7, "layers.1.mlp.up_proj": 1},
        use_rslora=True,
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    base = load(llama)
    network = random_network("llama")
    network.name_or_path = str(llama)
    torch.manual_seed(1)
    wrapped = peft.get_peft_model(network, config, autocast_adapter_dtype=False).eval()
    wrapped.save_pretrained(tmp_path / "peft")
    ids = torch.tensor([base.render(Task("t", "c", "act now"))])
    with torch.inference_mode():
        expected = wrapped(ids).logits
        assert float((expected - base.blocks.network(ids).logits).abs().max()) > 1e-2
        for how in ("", ",unmerged"):
            found = load(f"{llama}+{tmp_path / 'peft'}{how}").blocks.network(ids).logits
            assert float((found - expected).abs().max()) <= 1e-5


def test_the_identity_changes_with_the_base_with_the_adapter_and_with_merging(
    llama: Path, adapter: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(llama, tmp_path / "other" / "tiny-llama")
    random_network("llama", intermediate_size=48, rms_norm_eps=1e-4).save_pretrained(other)
    again = made(tmp_path / "again", None, 1)
    names = [
        load(name).name
        for name in (
            llama,
            f"{llama}+{adapter}",
            f"{llama}+{adapter},unmerged",
            f"{other}+{adapter}",
            f"{llama}+{again}",
        )
    ]
    assert names[1].startswith("tiny-llama+mine@")
    assert names[2].startswith("tiny-llama+mine,unmerged@")
    assert len({name.rpartition("@")[2] for name in names}) == len(names)
    assert load(f"{llama}+{adapter}").name == names[1]


def recorded(model: Any, path: Path) -> Store:
    from trace_probe.recording.record import new_manifest, record

    store = Store.create(path, new_manifest(model, Sampling(max_new_tokens=12), layers=(0, 2)))
    record(model, [Task("t", "c", WORDS)], store, progress=False)
    return store


def test_base_and_adapter_are_recorded_under_other_keys_and_are_a_controlled_pair(
    llama: Path, adapter: Path, tmp_path: Path
) -> None:
    plain = recorded(load(llama), tmp_path / "plain")
    adapted = recorded(load(f"{llama}+{adapter}"), tmp_path / "adapted")
    trace = next(iter(plain.traces()))
    assert plain.key(trace) != adapted.key(trace)
    assert adapted.manifest.base == plain.manifest.model
    assert "base" not in json.loads((tmp_path / "plain" / "run.json").read_text("utf-8"))
    pair = compare_runs(side(plain.manifest), side(adapted.manifest))
    assert pair.controlled
    assert pair.differs == "adapter (tiny-llama+mine)"
    moved = replace(adapted.manifest, base="tiny-llama@00000000")
    assert not compare_runs(side(plain.manifest), side(moved)).controlled
    assert "one adapter" in format_registry()


def side(manifest: Manifest) -> Side:
    return Side(manifest.model, manifest, frozenset({"rules"}), frozenset({"nudge=none"}))


def test_the_commands_take_an_adapter(
    command: Callable[..., tuple[int, str, str]], llama: Path, adapter: Path, tmp_path: Path
) -> None:
    run, read = tmp_path / "run", tmp_path / "read"
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text(json.dumps({"id": "a", "category": "c", "prompt": WORDS}) + "\n", "utf-8")
    how = ("--adapter", adapter, "--max-new-tokens", 8, "--samples", 1, "--layers", "0,1")
    code, _, error = command("record", llama, run, "--tasks", tasks, *how)
    assert (code, error if code else "") == (0, "")
    assert Store(run).manifest.model.startswith("tiny-llama+mine@")
    code, _, error = command("observe", run, llama, read, "--adapter", f"{adapter},unmerged")
    assert (code, error if code else "") == (0, "")
    assert Store(read).manifest.model.startswith("tiny-llama+mine,unmerged@")


def test_transformer_lens_reads_a_merged_adapter_and_refuses_one_that_is_not(
    llama: Path, adapter: Path
) -> None:
    from trace_probe.model.bridge import bridged

    model = load(f"{llama}+{adapter}")
    assert apart(model, bridged(model)) <= 1e-4
    with pytest.raises(ModelError, match="without its adapter: merge it"):
        bridged(load(f"{llama}+{adapter},unmerged"))


def test_the_chat_template_beside_an_adapter_is_used(llama: Path, adapter: Path) -> None:
    plain = load(f"{llama}+{adapter}")
    (adapter / "chat_template.jinja").write_text("<think>{{ messages[0].content }}", "utf-8")
    found = load(f"{llama}+{adapter}")
    assert found.chat_template != plain.chat_template
    assert found.name != plain.name


def test_a_name_is_taken_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_name("smollm2") == ("smollm2", "", True)
    assert parse_name("a/b+c/d@main") == ("a/b", "c/d@main", True)
    assert parse_name("smollm2+x,unmerged") == ("smollm2", "x", False)
    assert parse_name("organism:rl") == ("organism:rl", "", True)
    Path("c++").mkdir()
    assert parse_name("c++") == ("c++", "", True)
    assert parse_name("m+c++") == ("m", "c++", True)
    assert with_adapter("smollm2+old", "new") == "smollm2+new"
    assert with_adapter("smollm2", None) == "smollm2"
    with pytest.raises(ModelError, match="has no adapter"):
        parse_name("smollm2,unmerged")


def test_an_organism_may_be_an_adapter_of_smollm2(
    llama: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trace_probe.model import checkpoint, naming

    shutil.copytree(adapter, tmp_path / "family" / "english-base")
    monkeypatch.setattr(naming, "FAMILY", tmp_path / "family")
    monkeypatch.setattr(checkpoint, "smollm2_folder", lambda: llama)
    model = load("organism:english-base")
    assert model.name.startswith("organism:english-base@")
    assert model.base.startswith("smollm2@")
    assert apart(model, load(f"{llama}+{adapter}")) == 0


def test_an_organism_s_adapter_on_another_base_names_that_base(
    llama: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trace_probe.model import naming

    shutil.copytree(adapter, tmp_path / "family" / "english-base")
    monkeypatch.setattr(naming, "FAMILY", tmp_path / "family")
    model = load(f"{llama}+organism:english-base")
    assert model.name.startswith("tiny-llama+organism:english-base@")
    assert model.base.startswith("tiny-llama@")


@pytest.mark.parametrize("what", ["model", "adapter", "GGUF file"])
def test_no_folder_or_file_may_be_called_like_an_organism(
    llama: Path, adapter: Path, tmp_path: Path, what: str
) -> None:
    taken = tmp_path / "organism:rl-s0"
    if what == "model":
        name = str(shutil.copytree(llama, taken))
    elif what == "adapter":
        name = f"{llama}+{shutil.copytree(adapter, taken)}"
    else:
        name = f"{taken}.gguf"
        Path(name).write_bytes(b"GGUF")
    with pytest.raises(ModelError, match=r"organism:rl-s0.* is called like .*: rename it"):
        load(name)


# Adapters of strangers


def test_an_adapter_of_the_hub_is_read_at_its_own_revision_and_by_safetensors_alone(
    llama: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    asked: list[tuple[str, dict[str, Any]]] = []

    def snapshot(name: str, **how: Any) -> str:
        asked.append((name, how))
        return str(adapter)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    model = load(f"{llama}+org/lora@v2")
    assert model.name.startswith("tiny-llama+org/lora@")
    assert [(name, how["revision"]) for name, how in asked] == [("org/lora", "v2")]
    assert not [file for file in asked[0][1]["allow_patterns"] if file.endswith((".bin", ".py"))]
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(ModelError, match="format that can hold a program"):
        load(f"{llama}+org/lora@v2")


def test_a_pickle_beside_an_adapter_is_never_opened(llama: Path, adapter: Path) -> None:
    mark = adapter / "mark"
    evil = f"cos\nsystem\n(S'touch {mark}'\ntR.".encode()
    (adapter / "adapter_model.bin").write_bytes(evil)
    load(f"{llama}+{adapter}")
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"can hold a program: it needs adapter_model\.saf"):
        load(f"{llama}+{adapter}")
    assert not mark.exists()


CODE = {"base_model_class": "Evil", "parent_library": "evil"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"auto_mapping": CODE}, "wants code to be imported .auto_mapping: evil"),
        ({"base_model_name_or_path": "stranger/model"}, "was made for stranger/model, not for"),
        ({"base_model_name_or_path": "../../elsewhere"}, "was made for ../../elsewhere, not"),
        ({"r": 10**9}, "says r = 1000000000, and a rank is a number from 1 to 4096"),
        ({"r": True}, "says r = True"),
        ({"r": 8}, "is not whole"),
        ({"lora_alpha": "many"}, "a lora_alpha that is no number"),
        ({"lora_alpha": 1e999}, "a lora_alpha that is no number"),
        ({"alpha_pattern": {"(a+)+$": 2}}, "an alpha_pattern that is more than names"),
        ({"alpha_pattern": [1]}, "an alpha_pattern that is more than names"),
        ({"peft_type": "PROMPT_TUNING"}, "of the kind 'PROMPT_TUNING', and only LORA"),
        ({"init_lora_weights": "pissa"}, "started from a changed base"),
        ({"use_dora": True}, "uses 'use_dora', which is not read here"),
        ({"modules_to_save": ["lm_head"]}, "uses 'modules_to_save'"),
        ({"bias": "all"}, "changes biases"),
        ({"megatron_config": {"a": 1}}, "uses 'megatron_config'"),
        ({"peft_type": ["LORA"]}, "only LORA is read"),
    ],
    ids=str,
)
def test_an_adapter_that_asks_for_more_than_numbers_is_refused_in_one_sentence(
    llama: Path, adapter: Path, changes: dict[str, object], said: str
) -> None:
    edit(adapter, **changes)
    with pytest.raises(ModelError, match=said) as raised:
        load(f"{llama}+{adapter}")
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 600


@pytest.mark.parametrize(
    "text", ["[]", "{", "[" * 100_000, '{"peft_type": "\\ud800"}', ""], ids=lambda text: text[:9]
)
def test_a_broken_configuration_of_an_adapter_is_one_sentence(
    llama: Path, adapter: Path, text: str
) -> None:
    (adapter / "adapter_config.json").write_text(text, "utf-8")
    with pytest.raises(ModelError, match="adapter_config.json is not.*: copy the adapter again"):
        load(f"{llama}+{adapter}")


def rewrite(adapter: Path, **changed: Any) -> None:
    from safetensors.torch import load_file, save_file

    file = adapter / "adapter_model.safetensors"
    found = {
        **load_file(file),
        **{name.replace("/", "."): value for name, value in changed.items()},
    }
    save_file({name: value for name, value in found.items() if value is not None}, file)


Q_DOWN = "base_model/model/model/layers/0/self_attn/q_proj/lora_A/weight"


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        ("base_model/model/lm_head/weight", (1, 32), "holds base_model.model.lm_head.weight, whi"),
        ("base_model/model/__class__/lora_A/weight", (4, 32), "__class__ .* is not whole"),
        ("base_model/model/model/lora_A/weight", (4, 32), "is not whole"),
        (Q_DOWN, (4, 31), "does not fit: model.layers.0.self_attn.q_proj"),
        (Q_DOWN, (5, 32), "is not whole"),
        (Q_DOWN, (4, 32, 1), "is not read here"),
        (Q_DOWN, None, "is not whole"),
    ],
    ids=str,
)
def test_weights_that_do_not_fit_are_refused(
    llama: Path, adapter: Path, name: str, shape: tuple[int, ...] | None, said: str
) -> None:
    import torch

    rewrite(adapter, **{name: None if shape is None else torch.ones(shape)})
    with pytest.raises(ModelError, match=said):
        load(f"{llama}+{adapter}")


def test_weights_of_maps_that_the_base_lacks_or_that_are_no_numbers_are_refused(
    llama: Path, adapter: Path
) -> None:
    import torch

    rewrite(adapter, **{Q_DOWN: torch.full((4, 32), float("nan"))})
    with pytest.raises(ModelError, match="holds inf or nan"):
        load(f"{llama}+{adapter}")
    rewrite(adapter, **{Q_DOWN: torch.ones(4, 32)})
    sides = {"A": torch.ones(4, 32), "B": torch.ones(32, 4)}
    rewrite(
        adapter, **{f"base_model/model/model/norm/lora_{k}/weight": v for k, v in sides.items()}
    )
    with pytest.raises(ModelError, match="changes model.norm, which is no linear map"):
        load(f"{llama}+{adapter}")
    (adapter / "adapter_model.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(ModelError, match="is damaged .*: copy the adapter again"):
        load(f"{llama}+{adapter}")


@pytest.mark.parametrize("reference", ["../nowhere", "a/../b", "/nowhere", "..", "x@y"])
def test_a_reference_that_is_neither_a_folder_nor_a_hub_id_is_refused(
    llama: Path, reference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"no adapter|is not an adapter"):
        load(f"{llama}+{reference}")


def test_an_adapter_alone_is_no_model(adapter: Path) -> None:
    with pytest.raises(ModelError, match="is an adapter, not a model: .* by --adapter"):
        load(adapter)
    assert os.listdir(adapter)
