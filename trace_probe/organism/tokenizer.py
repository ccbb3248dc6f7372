"""The organisms' tokenizer: one token a word, with its leading space, so text round-trips."""

from typing import TYPE_CHECKING

from trace_probe.world.pools import CONTROLS, NUDGES
from trace_probe.world.scenario import prompt, scenario, scenario_ids
from trace_probe.world.script import script

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPECIAL = ("<pad>", "<unk>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
TAGS = ("<think>", "</think>", "\n", "\n\n")
WORD = r" ?[A-Za-z]+| ?[0-9]+|\n+| ?[^\sA-Za-z0-9]| "
TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
)
SURVEY = 600
"""Scenarios of each control whose words make the vocabulary."""


def completion(thought: str, answer: str) -> str:
    """Return a thought and an answer as the model writes them after the prefilled tag."""
    return f"{thought}\n</think>\n\n{answer}<|end|>"


def vocabulary() -> dict[str, int]:
    """Return the words of the world by id, the same on every machine."""
    import re

    words: set[str] = set()
    for control in CONTROLS:
        for number, scenario_id in enumerate(scenario_ids("words", SURVEY, control)):
            world = scenario(scenario_id)
            for nudge in NUDGES:
                texts = prompt(world, nudge, number), *script(world, nudge, number)
                words.update(word for text in texts for word in re.findall(WORD, text))
    ordered = [*SPECIAL, *TAGS, *sorted(words)]
    return {word: number for number, word in enumerate(ordered)}


def build_tokenizer() -> "PreTrainedTokenizerFast":
    """Return the tokenizer with its chat template; thinking is prefilled."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel(vocabulary(), unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(WORD), behavior="isolated")
    core.decoder = decoders.Fuse()
    core.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL])
    core.add_tokens([AddedToken(tag, normalized=False) for tag in TAGS[:2]])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<|end|>",
        chat_template=TEMPLATE,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )
