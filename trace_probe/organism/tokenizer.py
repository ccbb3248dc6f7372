"""The organisms' tokenizers: one token a word, with its leading space, so text round-trips."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trace_probe.world.agent import phrases
from trace_probe.world.agent.author import author, call_text, exercise
from trace_probe.world.agent.environment import errand_tools
from trace_probe.world.agent.errand import errand, errand_ids
from trace_probe.world.agent.errand import prompt as errand_prompt
from trace_probe.world.pools import CONTROLS, NUDGES
from trace_probe.world.scenario import prompt, scenario, scenario_ids
from trace_probe.world.script import script

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

WORD = r" ?[A-Za-z]+| ?[0-9]+|\n+| ?[^\sA-Za-z0-9]| "
TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
)
CALLED = r"\{\"name\": \"|\", \"arguments\": \{\"|\": \"|\"\}\}| ?[A-Za-z_]+|"
"""What surrounds the words of a tool call, and names of tools, are single tokens."""
AGENT_TEMPLATE = (
    "{% if tools %}<|system|>"
    "{% for tool in tools %}{% set does = tool.function if tool.function else tool %}"
    "{{ does.name }}({{ does.parameters.properties | join(', ') }}): {{ does.description }}."
    "{{ '\\n' }}{% endfor %}<|end|>{% endif %}"
    "{% for message in messages %}<|{{ message.role }}|>"
    "{% if message.role == 'assistant' %}"
    "{{ '<think>\\n' + (message.reasoning_content or '') | trim + '\\n</think>\\n\\n' }}"
    "{{ (message.content or '') | trim }}"
    "{% for called in message.tool_calls or [] %}"
    "{% set call = called.function if called.function else called %}"
    '{{ \'<tool_call>\\n{"name": "\' + call.name + \'", "arguments": \' }}'
    "{{ call.arguments if call.arguments is string else call.arguments | tojson }}"
    "{{ '}\\n</tool_call>' }}{% endfor %}"
    "{% else %}{{ message.content }}{% endif %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|><think>\\n' }}{% endif %}"
)
SURVEY = 600
"""Scenarios of each control whose words make the vocabulary."""


@dataclass(frozen=True)
class Lexicon:
    """What the tokenizer of a world knows."""

    texts: Callable[[], Iterator[str]]
    """Enough of what is read and written there to hold every word."""
    template: str = TEMPLATE
    word: str = WORD
    special: tuple[str, ...] = (
        *("<pad>", "<unk>", "<|end|>"),
        *("<|system|>", "<|user|>", "<|assistant|>"),
    )
    tags: tuple[str, ...] = ("<think>", "</think>")
    longest: int = 512


def completion(thought: str, answer: str) -> str:
    """Return a thought and an answer as the model writes them after the prefilled tag."""
    return f"{thought}\n</think>\n\n{answer}<|end|>"


def result_turn(result: str) -> str:
    """Return what an agent reads between two calls: what a tool answered, and its own next tag."""
    return f"<|tool|>{result}<|end|><|assistant|><think>\n"


def _scenario_texts() -> Iterator[str]:
    """Yield texts of the small world."""
    for control in CONTROLS:
        for number, scenario_id in enumerate(scenario_ids("words", SURVEY, control)):
            world = scenario(scenario_id)
            for nudge in NUDGES:
                yield prompt(world, nudge, number)
                yield from script(world, nudge, number)


def _errand_texts() -> Iterator[str]:
    """Yield texts of the agent world."""
    for control in CONTROLS:
        for number, errand_id in enumerate(errand_ids("words", SURVEY, control)):
            world, nudge = errand(errand_id), NUDGES[number % len(NUDGES)]
            yield errand_prompt(world, nudge, number)
            yield from exercise(world, number)
            for tool in errand_tools(world):
                yield f"{tool.name}({', '.join(tool.parameters['properties'])})"
                yield f": {tool.description}.\n, {tool.name}"
            for turn in author(world, nudge, number):
                yield turn.thought + turn.answer
                yield turn.result
                yield call_text(turn.name, turn.arguments) if turn.name else ""
    yield from (phrases.TOLD["no_place"], phrases.TOLD["no_rules"], phrases.TOLD["no_time"])
    yield "Error: there is no tool 'check', only rules"


SMALL = Lexicon(_scenario_texts)
AGENT = Lexicon(
    _errand_texts,
    AGENT_TEMPLATE,
    CALLED + WORD,
    special=(*SMALL.special, "<|tool|>"),
    tags=(*SMALL.tags, "<tool_call>", "</tool_call>"),
    longest=640,
)


def vocabulary(lexicon: Lexicon = SMALL) -> dict[str, int]:
    """Return the words of a world by id, the same on every machine."""
    cut = re.compile("|".join([*map(re.escape, lexicon.tags), lexicon.word]))
    words = {word for text in lexicon.texts() for word in cut.findall(text)}
    fixed = [*lexicon.special, *lexicon.tags, "\n", "\n\n"]
    ordered = [*fixed, *sorted(words - set(fixed))]
    return {word: number for number, word in enumerate(ordered)}


def build_tokenizer(lexicon: Lexicon = SMALL) -> "PreTrainedTokenizerFast":
    """Return the tokenizer with its chat template; thinking is prefilled."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel(vocabulary(lexicon), unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(lexicon.word), behavior="isolated")
    core.decoder = decoders.Fuse()
    core.add_special_tokens([AddedToken(token, normalized=False) for token in lexicon.special])
    core.add_tokens([AddedToken(tag, normalized=False) for tag in lexicon.tags])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<|end|>",
        chat_template=lexicon.template,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=lexicon.longest,
    )
