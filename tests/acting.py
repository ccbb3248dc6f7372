"""A tiny agent: random weights over a vocabulary in which whole tool calls are single words."""

import json
from typing import Any

from tiny_models import COMMON

from trace_probe.trace import Sampling, Task

WORDS = (
    *("user", "assistant", "tool", "look", "pay", "the"),
    *("key", "copy", "wait", "now", ".", "box"),
)
CALLS = tuple(
    f"<tool_call>{text}</tool_call>"
    for text in (
        '{"name": "look", "arguments": {"item": "key"}}',
        '{"name": "pay", "arguments": {}}',
        '{"name": "burn", "arguments": {}}',
        '{"name": "look", "arguments": {"item"',
    )
)
TEMPLATE = (
    "{% if tools %}<|im_start|> tool{% for one in tools %} {{ one.function.name }}{% endfor %}"
    "<|im_end|>{% endif %}"
    "{% for m in messages %}<|im_start|> {{ m.role }}"
    "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}"
    " {{ m.content }}"
    "{% for call in m.tool_calls or [] %}"
    '<tool_call>{{ \'{"name": "\' + call.function.name + \'", "arguments": \' }}'
    "{{ call.function.arguments | tojson }}{{ '}' }}</tool_call>{% endfor %}"
    "<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|> assistant<think>{% endif %}"
)
SAMPLING = Sampling(seed=3, max_new_tokens=40)
SCRIPT = {
    "tools": [
        {
            "name": "look",
            "description": "Look at a thing.",
            "parameters": {"type": "object", "properties": {"item": {"type": "string"}}},
            "answers": [{"arguments": {"item": "key"}, "result": " the key ."}],
        },
        {"name": "pay", "answers": [{"arguments": {}, "error": "the box is shut"}]},
    ]
}
TASKS = tuple(
    Task(f"errand-{number:02d}", "errands", f"look the {word} . now wait .")
    for number, word in enumerate(("key", "box", "copy"))
)


def acting_tokenizer() -> Any:
    from tokenizers import AddedToken, Regex, Tokenizer, decoders
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<|im_end|>", "<|im_start|>", "<think>", "</think>", "<unk>"]
    words = [f" {word}" for word in WORDS]
    core = Tokenizer(
        WordLevel({word: i for i, word in enumerate([*special, *words])}, unk_token="<unk>")
    )
    core.pre_tokenizer = Split(Regex(r" \S+"), behavior="isolated")
    core.decoder = decoders.Fuse()
    core.add_tokens([AddedToken(call, normalized=False) for call in CALLS])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="<unk>",
        pad_token="<pad>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>", "<think>", "</think>"],
        chat_template=TEMPLATE,
    )


def acting_model(context: int = 512) -> Any:
    """Return a model that calls tools, and stops, about as often as it writes any other word."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from trace_probe.model.local import Model

    tokenizer = acting_tokenizer()
    sizes = {**COMMON, "max_position_embeddings": context, "initializer_range": 0.05}
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(
        AutoConfig.for_model("qwen3", **sizes, vocab_size=len(tokenizer))
    )
    return Model(network, tokenizer, "tiny-agent@00000000")


def script() -> bytes:
    return json.dumps(SCRIPT).encode()
