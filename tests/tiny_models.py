"""Tiny models of the real architectures, with random weights and a word-level tokenizer."""

from typing import Any

import numpy as np

from trace_probe.trace import Span

FAMILIES = (
    "qwen2",
    "qwen3",
    "qwen3_moe",
    "llama",
    "mistral",
    "gemma3_text",
    "gpt_oss",
    "olmo3",
    "phi3",
    "glm4",
)

SENTENCES = (
    "user assistant system the model must finish its task before they stop it . ? and if I say "
    "nothing no one can see what was done here so let us wait or act now copy key log plan report"
)

TEMPLATE = (
    "{% for message in messages %}<|im_start|> {{ message['role'] }} {{ message['content'] }}"
    "<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|> assistant<think>{% endif %}"
)

COMMON = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "eos_token_id": 1,
    "bos_token_id": None,
    "pad_token_id": 0,
}
MIXTURE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
SPECIFIC: dict[str, dict[str, object]] = {
    "qwen3_moe": {**MIXTURE, "decoder_sparse_step": 1},
    "mistral": {"sliding_window": 8},
    "gemma3_text": {
        "sliding_window": 8,
        "layer_types": ["sliding_attention"] * 2 + ["full_attention"],
    },
    "gpt_oss": {
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "olmo3": {"sliding_window": 8, "layer_types": ["sliding_attention"] * 2 + ["full_attention"]},
}


def relative_error(got: np.ndarray, wanted: np.ndarray) -> float:
    """Return the largest difference as a part of the largest value."""
    return float(np.abs(got - wanted).max() / np.abs(wanted).max())


def each_token(count: int, start: int = 0) -> list[Span]:
    """Return a span for each token, so that a row is read of each."""
    return [Span(i, i + 1) for i in range(start, count)]


def word_tokenizer() -> Any:
    """Return a fast tokenizer of one token a word, its leading space included.

    Its template opens the thought, as those of reasoning models do.
    """
    from tokenizers import Regex, Tokenizer, decoders
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<|im_end|>", "<|im_start|>", "<think>", "</think>", "<unk>"]
    words = [f" {word}" for word in SENTENCES.split()]
    vocabulary = {word: i for i, word in enumerate([*special, *words])}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
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


def random_network(family: str = "qwen3", **settings: object) -> Any:
    """Return a randomly initialised causal model of a family, always the same one."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = word_tokenizer()
    merged = {**COMMON, "vocab_size": len(tokenizer), **SPECIFIC.get(family, {}), **settings}
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(
        AutoConfig.for_model(family, **merged), trust_remote_code=False
    )
