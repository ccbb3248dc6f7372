"""A model folder from a stranger runs no code, opens no pickle, asks nothing, and is named."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_models import word_tokenizer

from trace_probe.errors import ModelError

ROOT = Path(__file__).parents[1]
CODE = "from pathlib import Path\nPath({mark!r}).write_text('it ran')\n"
MAP = {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil", "AutoModel": "evil.Evil"}


def edit(file: Path, **changes: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text("utf-8")), **changes}), "utf-8")


@pytest.fixture
def hostile(model_folder: Path, tmp_path: Path) -> Path:
    """Return a model folder whose own code leaves a mark when it runs."""
    folder = shutil.copytree(model_folder, tmp_path / "hostile")
    (folder / "evil.py").write_text(CODE.format(mark=str(tmp_path / "mark")), "utf-8")
    edit(folder / "config.json", model_type="evil", auto_map=MAP)
    return folder


def test_a_text_that_says_yes_does_not_run_the_code_of_the_model_it_is_scored_with(
    hostile: Path, tmp_path: Path
) -> None:
    """transformers asks on standard input, from where `score` reads the text."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from trace_probe.commands.main import main; main()",
            "score",
            "probes/demo",
        ]
        + ["--model", str(hostile)],
        input="y\n" * 20,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path / "hub")},
        check=False,
    )
    assert not (tmp_path / "mark").exists()
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "needs code of its own, which is never run" in done.stderr


def load_network(folder: Path) -> object:
    from trace_probe.model.local import load_model

    return load_model(str(folder))


def load_words(folder: Path) -> object:
    from trace_probe.model.tokenizer import load_tokenizer

    return load_tokenizer(str(folder))


def load_encoder(folder: Path) -> object:
    from trace_probe.model.embedder import Embedder

    return Embedder(str(folder))(["a text"])


@pytest.mark.parametrize("load", [load_network, load_words, load_encoder])
def test_no_load_runs_code_or_asks(
    hostile: Path, tmp_path: Path, load: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def yes(*text: object) -> str:
        asked.append(text)
        return "y"

    monkeypatch.setattr("builtins.input", yes)
    tokens = {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", None]}}
    edit(hostile / "tokenizer_config.json", **tokens)
    with pytest.raises(ModelError, match="needs code of its own, which is never run"):
        load(hostile)
    assert not asked
    assert not (tmp_path / "mark").exists()


def test_a_library_that_reads_standard_input_while_it_loads_gets_nothing(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    from trace_probe.model.loading import read_tokenizer

    monkeypatch.setattr(
        transformers.AutoTokenizer, "from_pretrained", lambda *_, **__: input("go on? ")
    )
    with pytest.raises(ModelError, match="cannot load"):
        read_tokenizer("tiny", model_folder)


def test_a_model_that_transformers_knows_is_loaded_by_its_own_code_only(
    model_folder: Path, tmp_path: Path
) -> None:
    """Many models on the hub carry code from before transformers knew them."""
    folder = shutil.copytree(model_folder, tmp_path / "known")
    (folder / "evil.py").write_text(CODE.format(mark=str(tmp_path / "mark")), "utf-8")
    edit(folder / "config.json", auto_map=MAP)
    load_network(folder)
    assert not (tmp_path / "mark").exists()


def test_weights_in_a_pickle_are_refused_with_what_to_do(
    model_folder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(model_folder, tmp_path / "pickled")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no weights \(\*\.safetensors\): copy"):
        load_network(folder)
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    for load in (load_network, load_encoder):
        with pytest.raises(ModelError, match="are not in safetensors.*: convert them"):
            load(folder)


def test_an_adapter_that_names_another_model_is_refused(model_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model_folder, tmp_path / "adapter")
    (folder / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": "stranger/model", "peft_type": "LORA"})
    )
    with pytest.raises(ModelError, match="holds an adapter .*: name that model yourself"):
        load_network(folder)


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("config.json", DEEP, "config.json is not JSON"),
        ("config.json", "[]", "config.json is not a JSON object"),
        ("config.json", '{"model_type": 7}', "cannot load"),
        ("config.json", "\udcff", "config.json is not UTF-8"),
        ("tokenizer_config.json", DEEP, "tokenizer_config.json is not JSON"),
        ("tokenizer.json", DEEP, "cannot load"),
        ("tokenizer.json", "{}", "cannot load"),
        ("tokenizer.json", '{"model": {"type": "BPE", "vocab": {}, "merges": 3}}', "cannot load"),
        ("generation_config.json", DEEP, "generation_config.json is not JSON"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_a_broken_or_hostile_file_is_one_sentence(
    model_folder: Path, tmp_path: Path, file: str, text: str, said: str
) -> None:
    folder = shutil.copytree(model_folder, tmp_path / "broken")
    (folder / file).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ModelError, match=said) as raised:
        load_network(folder)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 600


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("num_hidden_layers", 10**9, "num_hidden_layers = 1000000000, which cannot be"),
        ("hidden_size", -1, "hidden_size = -1, which cannot be"),
        ("vocab_size", "many", "vocab_size = many, which cannot be"),
        ("attn_implementation", "stranger/kernel", "asks for the kernel stranger/kernel"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused_before_memory_is_taken(
    model_folder: Path, tmp_path: Path, setting: str, value: Any, said: str
) -> None:
    folder = shutil.copytree(model_folder, tmp_path / "absurd")
    edit(folder / "config.json", **{setting: value})
    with pytest.raises(ModelError, match=said):
        load_network(folder)


def test_a_file_larger_than_any_model_has_is_not_read(model_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model_folder, tmp_path / "large")
    with open(folder / "config.json", "r+b") as file:
        file.truncate(1 << 34)  # a hole: it takes no room
    with pytest.raises(ModelError, match="larger than 64 MB, which no model needs"):
        load_network(folder)


def test_standard_input_is_as_before_once_a_model_is_there(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import io

    mine = io.StringIO("the text")
    monkeypatch.setattr("sys.stdin", mine)
    load_words(model_folder)
    assert sys.stdin is mine
    assert word_tokenizer().chat_template


# Chat templates


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "1 s"),
        ("{{ 'a' * 10**10 }}", "MemoryError"),
        (
            "{% set n = namespace(s='aaaaaaaa') %}{% for i in range(60) %}"
            "{% set n.s = n.s ~ n.s %}{% endfor %}",
            "MemoryError",
        ),
        ("{{ 'a'.__class__.__mro__ }}", "refuses this"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{% for a in", "refuses this"),
    ],
    ids=["loops", "one long text", "doubling", "out of the sandbox", "fault", "half a template"],
)
def test_a_template_without_limit_is_one_sentence_and_the_next_prompt_is_rendered(
    template: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trace_probe.model import templates
    from trace_probe.model.tokenizer import ChatTokenizer

    monkeypatch.setattr(templates, "SECONDS", 1.0 if said == "1 s" else 60.0)
    tokenizer = word_tokenizer()
    good = ChatTokenizer(tokenizer, "good").conversation([{"role": "user", "content": "act"}])
    hostile = word_tokenizer()
    hostile.chat_template = template
    with pytest.raises(ModelError, match=said) as raised:
        ChatTokenizer(hostile, "bad").conversation([{"role": "user", "content": "act"}])
    assert "\n" not in str(raised.value)
    monkeypatch.setattr(templates, "SECONDS", 60.0)
    again = ChatTokenizer(tokenizer, "good").conversation([{"role": "user", "content": "act"}])
    assert again == good


SHAPES = (
    "{%- if tools %}tools{%- endif %}\n  {% for m in messages %}\n[{{ m['role'] | upper }}] "
    "{{ m.content | trim | tojson }}\n  {%- endfor %}{{ eos_token }}{{ strftime_now('%Y') }}",
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% if loop.first %}{% continue %}"
    "{% endif %}{% set ns.n = ns.n + 1 %}{{ ns.n }}{{ m.content.split(' ')[-1] }}{% endfor %}",
    "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
    "{% if enable_thinking is defined and enable_thinking is false %}no{% endif %}"
    "{{ dict(a=1) | tojson(indent=2) }}",
)


@pytest.mark.parametrize("number", range(4))
def test_a_prompt_is_what_transformers_would_make_of_it(number: int) -> None:
    from trace_probe.model.tokenizer import ChatTokenizer

    tokenizer = word_tokenizer()
    if number < len(SHAPES):
        tokenizer.chat_template = SHAPES[number]
    turns = [{"role": "system", "content": ' <be> "it" '}, {"role": "user", "content": "a é b"}]
    every: list[dict[str, Any]] = [{}, {"enable_thinking": False}]
    for arguments in every:
        expected = tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True, **arguments
        )
        assert ChatTokenizer(tokenizer, "m").conversation(turns, **arguments) == expected


def test_a_fork_renders_by_a_process_of_its_own() -> None:
    from trace_probe.model.templates import render

    assert render("{{ a }}", {"a": 1}) == "1"
    pid = os.fork()
    if pid == 0:
        os._exit(0 if render("{{ a }}", {"a": 2}) == "2" else 1)
    assert render("{{ a }}", {"a": 3}) == "3"
    assert os.waitpid(pid, 0)[1] == 0
