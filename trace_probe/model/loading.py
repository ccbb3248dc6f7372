"""The one place that loads what others made: configurations, tokenizers and networks.

A model folder comes from a stranger. Whatever it says, no code of its own is run, no pickle is
opened, nobody is asked a question on standard input, and every fault is one `ModelError`.
"""

import os
import re
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import TYPE_CHECKING, Any, Literal

from trace_probe.errors import ModelError, StoreError
from trace_probe.files import load_json
from trace_probe.model.naming import SMOLLM2
from trace_probe.model.quantised import Quantised, quantised

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

Kind = Literal["AutoModelForCausalLM", "AutoModel"]
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.h5", "*.msgpack")
"""Weights that are a program to be run, or that only a framework we do not use can read."""
TEXTS = ("*.json", "*.jinja", "*.txt", "*.model", "*_templates/*")
"""Files that are read whole, unlike weights."""
TEMPLATE = "chat_template.jinja"
LARGEST_FILE = {"tokenizer.json": 1 << 28, "vocab.json": 1 << 28, TEMPLATE: 1 << 20}
"""Bytes; `LARGEST_OTHER_FILE` of every other file."""
LARGEST_OTHER_FILE = 1 << 26
LARGEST = {
    "num_hidden_layers": 10_000,
    "hidden_size": 1 << 20,
    "vocab_size": 1 << 26,
    "intermediate_size": 1 << 24,
    "num_attention_heads": 1 << 16,
    "num_key_value_heads": 1 << 16,
}
"""Sizes of a configuration beyond which no model exists, but memory would be used up."""
_ROOM = threading.RLock()


def read_tokenizer(
    name: str, place: Path | str, revision: str | None = None
) -> "PreTrainedTokenizerBase":
    """Return the tokenizer of a model or an adapter that lies at `place`.

    Raises:
        ModelError: it cannot be loaded, or needs code of its own.
    """
    from transformers import AutoTokenizer

    with _room(name, place):
        _check_folder(name, place)
        if isinstance(place, Path) and (place / "config.json").is_file():
            _check_config(name, place, revision)  # a tokenizer may stand alone
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            place, revision=revision, trust_remote_code=False
        )
        return tokenizer


def read_config(name: str, place: Path | str, revision: str | None = None) -> "PreTrainedConfig":
    """Return the configuration of a model that lies at `place`.

    Raises:
        ModelError: it cannot be read, needs code of its own, or cannot be.
    """
    from transformers import AutoConfig

    with _room(name, place):
        _check_folder(name, place)
        _check_config(name, place, revision)
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            place, revision=revision, trust_remote_code=False
        )
        return config


def read_stops(name: str, place: Path | str, revision: str | None = None) -> frozenset[int]:
    """Return the ids that end a turn, for a model that lies at `place` or its chat template.

    Raises:
        ModelError: its configuration cannot be read.
    """
    from transformers import GenerationConfig

    config = read_config(name, place, revision)
    tokenizer = read_tokenizer(name, place, revision)
    with _room(name, place):
        try:
            own = GenerationConfig.from_pretrained(
                place, revision=revision, trust_remote_code=False
            )
        except OSError:  # it has no such file
            own = GenerationConfig.from_model_config(config)
    return stop_ids(own.eos_token_id, tokenizer.eos_token_id)


def stop_ids(stops: Sequence[int] | int | None, own: int | None) -> frozenset[int]:
    """Return the ids that end a turn: one or several of a model, and that of its tokenizer."""
    several = stops if isinstance(stops, Sequence) else [stops]
    return frozenset(int(i) for i in (*several, own) if i is not None)


def read_network(
    name: str,
    place: Path | str,
    kind: Kind = "AutoModelForCausalLM",
    *,
    revision: str | None = None,
    dtype: object = None,
    device_map: Mapping[str, str | int] | str | None = None,
) -> "PreTrainedModel":
    """Return the network of a model that lies at `place`, from safetensors alone.

    Raises:
        ModelError: it cannot be loaded, needs code of its own, is an adapter, has its weights in
            another format, or only some of them, or is quantised in a way that is not known.
    """
    import transformers

    with _room(name, place):
        _check_folder(name, place)
        packed = quantised(name, _check_config(name, place, revision))
        how = {"quantization_config": _unpacking(packed.unpack)} if packed and packed.unpack else {}
        _check_weights(name, place)
        network: PreTrainedModel
        network, report = getattr(transformers, kind).from_pretrained(
            place,
            revision=revision,
            dtype=dtype,
            device_map=dict(device_map) if isinstance(device_map, Mapping) else device_map,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **how,
        )
    if how and hasattr(network.config, "quantization_config"):
        del network.config.quantization_config  # it no longer says what the weights are
    if kind == "AutoModelForCausalLM":
        _check_complete(name, report)
    return network


def read_quantised(name: str, place: Path | str, revision: str | None = None) -> Quantised | None:
    """Return how the weights of a model that lies at `place` are quantised; None if they are not.

    Raises:
        ModelError: its configuration cannot be read, or it is not known how to run it here.
    """
    with _room(name, place):
        _check_folder(name, place)
        return quantised(name, _check_config(name, place, revision))


def read_gguf(name: str, file: Path) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """Return the network of a GGUF file, dequantised to bfloat16, and its tokenizer.

    Raises:
        ModelError: it is damaged, of an unknown kind, or does not hold all weights.
    """
    import torch
    import transformers
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    # Else transformers may fetch kernels, which are code, and keep the weights packed.
    unpacked = getattr(transformers, "GgufConfig", None)  # since 5.23 or so
    how = {"quantization_config": unpacked(dequantize=True)} if unpacked else {}
    with _room(name, file), TemporaryDirectory() as folder:
        # Alone: transformers follows what lies beside it, such as an adapter's configuration.
        part = "model.gguf"
        Path(folder, part).symlink_to(file.resolve())
        config = AutoConfig.from_pretrained(folder, gguf_file=part, trust_remote_code=False)
        _check_settings(name, config.to_dict())
        _check_gguf(name, file, config)
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, gguf_file=part, trust_remote_code=False
        )
        network: PreTrainedModel
        network, report = AutoModelForCausalLM.from_pretrained(
            folder,
            gguf_file=part,
            dtype=torch.bfloat16,
            output_loading_info=True,
            trust_remote_code=False,
            **how,
        )
        _check_complete(name, report)
        if not all(weights.isfinite().all() for weights in network.parameters()):
            raise ModelError(f"{name} holds weights that are inf or nan: copy it again")
        network.config.architectures = [type(network).__name__]
        if hasattr(network.config, "quantization_config"):
            del network.config.quantization_config
        return network, tokenizer


def _check_gguf(name: str, file: Path, config: "PreTrainedConfig") -> None:
    """Raise ModelError if a GGUF file promises more than it holds, before memory is taken for it.

    Of one that cannot be read, transformers says why.
    """
    from gguf import GGUFReader

    shapes = {tensor.name: tensor.shape for tensor in GGUFReader(file).tensors}
    blocks = {found[1] for each in shapes if (found := re.match(r"blk\.(\d+)\.", each))}
    rows = int(max(shapes.get("token_embd.weight", (0,))))
    for what, said, held in (
        ("blocks", config.num_hidden_layers, len(blocks)),
        ("tokens", config.vocab_size, rows),
    ):
        if said > held:
            raise ModelError(
                f"cannot load {name}: it says that it has {said:,} {what}, and holds weights of "
                f"{held:,}: copy it again"
            )


def fetch_adapter(name: str, revision: str | None, files: Iterable[str]) -> Path:
    """Return the folder of an adapter of the hub, with those of some files that it has.

    Raises:
        ModelError: it cannot be had.
    """
    from huggingface_hub import snapshot_download

    with _room(name, name):
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(files)))


def network_of(config: "PreTrainedConfig", dtype: object = None) -> "PreTrainedModel":
    """Return a causal network of a configuration, with random weights.

    Raises:
        ValueError: transformers has no causal language model of this kind.
    """
    from transformers import AutoModelForCausalLM

    network: PreTrainedModel = AutoModelForCausalLM.from_config(
        config, dtype=dtype, trust_remote_code=False
    )
    return network


def random_network(kind: str, settings: Mapping[str, object]) -> "PreTrainedModel":
    """Return a causal network of a model type of transformers, such as ``olmo2``, untrained."""
    from transformers import AutoConfig

    return network_of(AutoConfig.for_model(kind, **settings))


@contextmanager
def _room(name: str, place: Path | str) -> Iterator[None]:
    """Let a library read a model: it can ask nothing, and its faults become `ModelError`.

    transformers asks on standard input whether to run the code of a model unless it is told,
    and standard input may be the very text that is to be scored.
    """
    # Otherwise the hub is asked to convert weights that are not in safetensors.
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    with _ROOM, open(os.devnull, encoding="utf-8") as nothing:
        asked, sys.stdin = sys.stdin, nothing
        try:
            yield
        except ModelError:
            raise
        except Exception as error:  # a stranger's files can break libraries in any way
            raise ModelError(_told(name, place, error)) from error
        finally:
            sys.stdin = asked


def _told(name: str, place: Path | str, error: Exception) -> str:
    text = str(error)
    if "trust_remote_code" in text or "custom code" in text:
        return _needs_code(name)
    if "safetensors" in text and not isinstance(place, Path):
        return _needs_safetensors(name)
    return _failure(name, place, error)


def _failure(name: str, place: Path | str, error: Exception) -> str:
    """Return what to do about a model that did not load."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    if isinstance(place, Path) and place.is_file() and gettempdir() in reason:
        return f"cannot load {name}: it is damaged, or no GGUF file: copy it again"
    if isinstance(place, Path):
        return f"cannot load {name} ({reason}): its files may be incomplete, copy them again"
    if get_close_matches(name, [SMOLLM2], cutoff=0.8):
        return f"there is no model {name}: did you mean {SMOLLM2} (`trace-probe fetch {SMOLLM2}`)?"
    return (
        f"cannot load {name} ({reason}): check the id; without network, "
        f"run `hf download {name}` where there is one, or give a folder"
    )


def _needs_code(name: str) -> str:
    return (
        f"{name} needs code of its own, which is never run: choose a model that transformers "
        f"knows by itself"
    )


def _needs_safetensors(name: str) -> str:
    return (
        f"the weights of {name} are not in safetensors, and other formats can hold a program: "
        f"convert them with the tools of whoever made them, or take a revision that has "
        f"safetensors"
    )


def _check_folder(name: str, place: Path | str) -> None:
    """Raise ModelError if a file of a local folder is too large or not what it is called."""
    if not isinstance(place, Path):
        return  # the hub's own limits hold, and `_room` takes every fault
    check_sizes(name, place)
    if (place / TEMPLATE).is_file():
        read_template(place / TEMPLATE)
    for part in ("config.json", "tokenizer_config.json", "generation_config.json"):
        if (place / part).is_file():
            _object(place / part)


def check_sizes(name: str, folder: Path) -> None:
    """Raise ModelError if a file of a model or an adapter is larger than any needs to be."""
    for file in sorted(file for pattern in TEXTS for file in folder.glob(pattern)):
        most = LARGEST_FILE.get(file.name, LARGEST_OTHER_FILE)
        if file.stat().st_size > most:
            raise ModelError(
                f"{file} is larger than {most >> 20} MB, which no model needs: remove it if it "
                f"is not part of {name}"
            )


def read_template(file: Path) -> str:
    """Return the chat template that a file holds.

    Raises:
        ModelError: it cannot be read, or is not text.
    """
    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{file} is not text in UTF-8 ({error}): copy it again") from error


def _object(file: Path) -> dict[str, Any]:
    try:
        return load_json(file)
    except StoreError as error:
        raise ModelError(f"{error}: copy the model again") from error


def _unpacking(configuration: str) -> Any:  # noqa: ANN401 - of one of several classes
    """Return a configuration that unpacks weights; else transformers may fetch kernels."""
    import transformers

    return getattr(transformers, configuration)(dequantize=True)


def _check_config(name: str, place: Path | str, revision: str | None) -> dict[str, Any]:
    """Return a configuration as it stands in its file.

    Raises:
        ModelError: it asks for code, a foreign kernel or absurd sizes.
    """
    from transformers import CONFIG_MAPPING, PreTrainedConfig
    from transformers.utils.peft_utils import find_adapter_config_file

    config, _ = PreTrainedConfig.get_config_dict(place, revision=revision)
    if config.get("auto_map") and config.get("model_type") not in CONFIG_MAPPING:
        raise ModelError(_needs_code(name))
    if find_adapter_config_file(str(place), revision=revision) is not None:
        raise ModelError(
            f"{name} holds an adapter (adapter_config.json), which names another model to load: "
            f"name that model yourself, and give this one by --adapter"
        )
    _check_settings(name, config)
    found: dict[str, Any] = config
    return found


def _check_settings(name: str, config: Mapping[str, Any]) -> None:
    """Raise ModelError if a configuration asks for a foreign kernel or for absurd sizes."""
    for key, value in _settings(config):
        if "implementation" in key and "/" in str(value):
            raise ModelError(
                f"{name} asks for the kernel {str(value):.60}, which is code from elsewhere: "
                f"remove {key!r} from its config.json"
            )
        if key in LARGEST and not _sane(value, LARGEST[key]):
            raise ModelError(
                f"the configuration of {name} says {key} = {str(value):.40}, which cannot be: "
                f"copy the model again"
            )


def _settings(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the settings of a configuration and of those within it, as of a text part."""
    for key, value in config.items():
        yield str(key), value
        if isinstance(value, dict):
            yield from _settings(value)


def _sane(value: object, most: int) -> bool:
    several = value if isinstance(value, list) else [value]  # some families have one a layer
    return all(one is None or (isinstance(one, int) and 0 <= one <= most) for one in several)


def _check_complete(name: str, report: Mapping[str, Any]) -> None:
    """Raise ModelError if transformers found some weights missing, which it draws at random."""
    if report["missing_keys"]:
        raise ModelError(
            f"{name} lacks the weights {sorted(report['missing_keys'])[:3]}: copy the model again"
        )


def _check_weights(name: str, place: Path | str) -> None:
    """Raise ModelError if a local folder has no safetensors, with what it has instead."""
    if not isinstance(place, Path) or any(place.glob("*.safetensors")):
        return
    if any(file for pattern in PICKLES for file in place.glob(pattern)):
        raise ModelError(_needs_safetensors(name))
    raise ModelError(f"{place} has no weights (*.safetensors): copy the model again")
