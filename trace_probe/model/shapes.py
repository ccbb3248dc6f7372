"""Networks of a given shape with random weights: what a model costs, without its weights."""

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from trace_probe.errors import ModelError
from trace_probe.files import tables_beside
from trace_probe.model import loading
from trace_probe.model.checkpoint import locate
from trace_probe.model.naming import parse_name

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SHAPES: dict[str, dict[str, Any]] = tables_beside(__file__)
"""Settings of public models, as their config.json has them."""
WORDS_A_SENTENCE = 20
"""Of the made-up language: one word in so many ends a sentence."""
SPECIAL = ("<pad>", "<|im_end|>", "<|im_start|>", "<think>", "</think>", "<unk>")
TEMPLATE = (
    "{% for message in messages %}<|im_start|> {{ message['role'] }} {{ message['content'] }}"
    "<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|> assistant<think>{% endif %}"
)


def config_of(name: str, revision: str | None = None) -> PreTrainedConfig:
    """Return the configuration of a built-in shape, a model folder or a hub id, of its text part.

    A folder needs no more than its config.json.

    Raises:
        ModelError: there is no such model, or its configuration cannot be read.
    """
    if name in SHAPES:
        config = AutoConfig.for_model(**SHAPES[name])
    else:
        try:
            base = parse_name(name).base
            config = loading.read_config(base, locate(base), revision)
        except ModelError as error:
            known = ", ".join(SHAPES)
            raise ModelError(f"{error} (or name a built-in shape: {known})") from error
    text: PreTrainedConfig = copy.deepcopy(config.get_text_config())
    return text


def parameters(config: PreTrainedConfig) -> int:
    """Return how many weights a network of this configuration has, without making them."""
    with torch.device("meta"):
        network = loading.network_of(config)
    return int(network.num_parameters())


def with_blocks(config: PreTrainedConfig, count: int) -> PreTrainedConfig:
    """Return a configuration with the first blocks only, everything else as it is."""
    short, whole = copy.deepcopy(config), config.num_hidden_layers
    for name, value in vars(config).items():
        if isinstance(value, list) and len(value) == whole:
            setattr(short, name, value[:count])
    short.num_hidden_layers = count
    return short


def period(config: PreTrainedConfig) -> int:
    """Return after how many blocks the kinds of blocks repeat: 6 for Gemma 3, 1 for Llama."""
    kinds: Sequence[str] = getattr(config, "layer_types", None) or ["same"]
    return next(
        step
        for step in range(1, len(kinds) + 1)
        if all(kind == kinds[i % step] for i, kind in enumerate(kinds))
    )


def network_of(config: PreTrainedConfig, dtype: str, seed: int = 0) -> PreTrainedModel:
    """Return a causal network with random weights."""
    torch.manual_seed(seed)
    network = loading.network_of(config, DTYPES[dtype])
    return network.eval().requires_grad_(False)


def made_up_tokenizer(vocabulary: int) -> "PreTrainedTokenizerBase":
    """Return a tokenizer of so many made-up words, so that random ids read as sentences.

    Its chat template opens a thought, as those of reasoning models do.
    """
    from tokenizers import Regex, Tokenizer, decoders
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split
    from transformers import PreTrainedTokenizerFast

    ends = (" user", " assistant", *(f" w{i}" for i in range(vocabulary - len(SPECIAL) - 2)))
    words = [word if i % WORDS_A_SENTENCE else f"{word}." for i, word in enumerate(ends, 1)]
    backend = Tokenizer(
        WordLevel({word: i for i, word in enumerate([*SPECIAL, *words])}, unk_token="<unk>")
    )
    backend.pre_tokenizer = Split(Regex(r" \S+"), behavior="isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        pad_token="<pad>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>", "<think>", "</think>"],
        chat_template=TEMPLATE,
    )
