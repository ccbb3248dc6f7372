"""What each family's template makes of an agent's earlier calls is what the model is given."""

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import COMMON

from trace_probe.activations import pooled_spans
from trace_probe.environment import Tool
from trace_probe.episode import Episode, calls_of
from trace_probe.trace import Task, ToolResult, Trace

OWN = Path(__file__).with_name("templates")
LOOK_UP = Tool(
    "look_up", "Look up.", {"type": "object", "properties": {"item": {"type": "string"}}}
)
RESULT = "It costs 12."
AGAIN = {"role": "user", "content": "And a nut?"}
THINKS = Task("t", "c", "What is a bolt?", condition={"thinking": "on"})
TASK = Task("t", "c", "What is a bolt?")


@dataclass(frozen=True)
class Family:
    """A family of models: what its completions look like, and what its template keeps."""

    name: str
    template: str
    """A file of TRL's, or one of ours with its ending."""
    calls: str
    """A completion that thinks and calls the tool, as the model writes it."""
    answers: str
    """One that thinks and answers."""
    prefix: bool = True
    """Whether the prompt of the second call starts with all of the first call."""
    kept: bool = False
    """Whether thoughts are still there after a new user turn."""
    instead: str = ""
    """What stands where the thought was, after a new user turn."""
    task: Task = TASK


FAMILIES = (
    Family(
        "Qwen/Qwen3-4B",
        "qwen3",
        "<think>\nPrice first.\n</think>\n\n<tool_call>\n"
        '{"name": "look_up", "arguments": {"item": "bolt"}}\n</tool_call><|im_end|>',
        "<think>\nSay it.\n</think>\n\nA bolt costs 12.<|im_end|>",
        instead="<|im_start|>assistant\n<tool_call>",
    ),
    Family(
        "Qwen/Qwen3.5-4B",
        "qwen3_5_think",
        "Price first.\n</think>\n\n<tool_call>\n<function=look_up>\n<parameter=item>\nbolt\n"
        "</parameter>\n</function>\n</tool_call><|im_end|>",
        "Say it.\n</think>\n\nA bolt costs 12.<|im_end|>",
        instead="<|im_start|>assistant\n<tool_call>",
    ),
    Family(
        "zai-org/GLM-4.5",
        "glm4moe",
        "\n<think>Price first.</think>\n<tool_call>look_up\n<arg_key>item</arg_key>\n"
        "<arg_value>bolt</arg_value>\n</tool_call><|observation|>",
        "\n<think>Say it.</think>\nA bolt costs 12.<|user|>",
        instead="<|assistant|>\n<think></think>\n<tool_call>",
    ),
    Family(
        "openai/gpt-oss-20b",
        "gptoss",
        "<|channel|>analysis<|message|>Price first.<|end|><|start|>assistant to=functions.look_up"
        '<|channel|>commentary json<|message|>{"item": "bolt"}<|call|>',
        "<|channel|>analysis<|message|>Say it.<|end|><|start|>assistant<|channel|>final<|message|>"
        "A bolt costs 12.<|return|>",
        instead="<|end|><|start|>assistant to=functions.look_up",
    ),
    Family(
        "deepseek-ai/DeepSeek-V3.1",
        "deepseek_v3_1.jinja",
        "Price first.</think><｜tool▁calls▁begin｜><｜tool▁call▁begin｜>look_up<｜tool▁sep｜>"
        '{"item": "bolt"}<｜tool▁call▁end｜><｜tool▁calls▁end｜><｜end▁of▁sentence｜>',
        "Say it.</think>A bolt costs 12.<｜end▁of▁sentence｜>",
        prefix=False,
        instead="<｜Assistant｜></think><｜tool▁calls▁begin｜>",
        task=THINKS,
    ),
    Family(
        "moonshotai/Kimi-K2-Thinking",
        "kimi_k2_thinking.jinja",
        "<think>Price first.</think><|tool_calls_section_begin|><|tool_call_begin|>"
        'functions.look_up:0<|tool_call_argument_begin|>{"item": "bolt"}<|tool_call_end|>'
        "<|tool_calls_section_end|><|im_end|>",
        "<think>Say it.</think>A bolt costs 12.<|im_end|>",
        instead="<|im_middle|><think></think><|tool_calls_section_begin|>",
    ),
    Family(
        "allenai/Olmo-3-7B-Think",
        "olmo_3.jinja",
        'Price first.</think><function_calls>look_up(item="bolt")</function_calls><|im_end|>',
        "Say it.</think>A bolt costs 12.<|im_end|>",
        kept=True,
        instead="<think>Price first.</think><function_calls>",
    ),
)
each = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name.split("/")[1])


def template_of(file: str) -> str:
    if file.endswith(".jinja"):
        return (OWN / file).read_text(encoding="utf-8")
    trl = importlib.util.find_spec("trl")
    if trl is None or trl.origin is None:
        pytest.skip("this family's template comes with TRL, which is not installed")
    found = Path(trl.origin).with_name("chat_templates") / f"{file}.jinja"
    return found.read_text(encoding="utf-8")


@cache
def speaker(file: str, name: str) -> Any:
    """Return a tiny model with random weights that has a family's template: a token a character."""
    import torch
    from tokenizers import Regex, Tokenizer, decoders
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    from trace_probe.model.local import Model

    letters = sorted({*map(chr, range(32, 127)), "\n", *"｜▁"})
    core = Tokenizer(WordLevel({one: i for i, one in enumerate(["<unk>", *letters])}, "<unk>"))
    core.pre_tokenizer = Split(Regex(r"[\s\S]"), behavior="isolated")
    core.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", chat_template=template_of(file)
    )
    sizes = {**COMMON, "max_position_embeddings": 8192, "vocab_size": len(tokenizer)}
    sizes |= {"eos_token_id": None, "pad_token_id": None}
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen3", **sizes))
    return Model(network, tokenizer, name)


def tools_of(model: Any) -> list[dict[str, Any]]:
    return [LOOK_UP.schema] if model.chat.dialect.tools else []


def call_of(model: Any, task: Task, after: Sequence[dict[str, Any]], completion: str) -> Trace:
    from trace_probe.monitor.scoring import as_if_written

    prompt = model.render(task, after, tools_of(model))
    ids = (*prompt, *model.encode(completion))
    return as_if_written(model, task, ids, len(prompt), "here")


def walk(family: Family) -> tuple[Any, list[Trace]]:
    """Return a model and three calls: it calls a tool, answers, and is asked again."""
    model = speaker(family.template, family.name)
    dialect, turns, calls = model.chat.dialect, list[dict[str, Any]](), list[Trace]()
    for completion in (family.calls, family.answers, family.answers):
        call = call_of(model, family.task, turns, completion)
        results = [ToolResult(RESULT, one.name, one.id) for one in call.actions]
        turns += [dialect.assistant(call, model.chat.format), *dialect.results(results)]
        turns += [] if results else [AGAIN]
        calls.append(call)
    return model, calls


@each
def test_a_completion_is_read_as_thought_call_and_answer(family: Family) -> None:
    _, (called, answered, _) = walk(family)
    (action,) = called.actions
    assert (action.name, json.loads(action.arguments)) == ("look_up", {"item": "bolt"})
    assert called.channel_text("reasoning").strip() == "Price first."
    assert not called.channel_text("answer").strip()
    assert answered.channel_text("answer").strip() == "A bolt costs 12."
    assert not answered.actions


@each
def test_in_a_tool_loop_the_second_call_reads_the_first_as_the_table_says(family: Family) -> None:
    _, (first, second, _) = walk(family)
    prompt = second.text[: second.offsets[second.prompt_stop]]
    assert prompt.startswith(first.text) == family.prefix
    assert ("Price first." in prompt) == family.prefix
    assert prompt.count(RESULT) == 1
    if not family.prefix:
        assert family.instead in prompt


@each
def test_after_a_new_user_turn_thoughts_are_kept_or_dropped_as_the_table_says(
    family: Family,
) -> None:
    _, (first, second, third) = walk(family)
    prompt = third.text[: third.offsets[third.prompt_stop]]
    assert ("Price first." in prompt) == family.kept
    assert ("Say it." in prompt) == family.kept
    assert family.instead in prompt
    assert prompt.count("A bolt costs 12.") == 1
    assert AGAIN["content"] in prompt
    assert prompt.startswith(second.text) == family.kept
    asked = first.text.index(TASK.prompt) + len(TASK.prompt)
    assert prompt.startswith(first.text[:asked])


@each
def test_activations_of_each_call_are_those_of_one_replay_of_its_ids(family: Family) -> None:
    from trace_probe.model.capture import Reading
    from trace_probe.recording.reading import read_calls

    model, calls = walk(family)
    trace = Episode("e", tuple(calls)).joined()
    assert [call.token_ids for call in calls_of(trace)] == [call.token_ids for call in calls]
    layers, how = (0, 2), Reading("last+mean")
    (held,) = read_calls(lambda ids, spans, _: model.replay(ids, spans, layers, how), [trace])
    spans = [pooled_spans(call)[bool(number) :] for number, call in enumerate(calls)]
    alone = [
        model.replay([call.token_ids], [rows], layers, how)[0].values
        for call, rows in zip(calls, spans, strict=True)
    ]
    np.testing.assert_allclose(held.values, np.concatenate(alone, axis=1), atol=1e-4)


def test_r1_distill_has_no_tools_and_drops_thoughts_after_a_new_user_turn() -> None:
    model = speaker("deepseek_r1_distill", "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B")
    assert not model.chat.dialect.tools
    said = "Say it.\n</think>\n\nA bolt costs 12.<｜end▁of▁sentence｜>"
    first = call_of(model, TASK, [], said)
    turn = model.chat.dialect.assistant(first, model.chat.format)
    second = call_of(model, TASK, [turn, AGAIN], said)
    prompt = second.text[: second.offsets[second.prompt_stop]]
    assert not prompt.startswith(first.text)
    assert "Say it." not in prompt
    assert "<｜Assistant｜>A bolt costs 12." in prompt


def test_a_call_that_cannot_be_read_is_shown_to_the_model_as_it_wrote_it() -> None:
    model = speaker("kimi_k2_thinking.jinja", "moonshotai/Kimi-K2-Thinking")
    broken = (
        "<think>Now.</think><|tool_calls_section_begin|><|tool_call_begin|>functions.look_up:0"
        '<|tool_call_argument_begin|>{"item": <|tool_call_end|><|tool_calls_section_end|><|im_end|>'
    )
    call = call_of(model, TASK, [], broken)
    turn = model.chat.dialect.assistant(call, model.chat.format)
    assert "tool_calls" not in turn
    assert '{"item": ' in turn["content"]


def test_where_a_template_takes_one_text_beside_a_call_nothing_of_both_is_lost() -> None:
    model = speaker("gptoss", "openai/gpt-oss-20b")
    assert not model.chat.dialect.apart
    spoken = (
        "<|channel|>analysis<|message|>Price first.<|end|><|start|>assistant<|channel|>commentary"
        "<|message|>I look it up.<|end|><|start|>assistant to=functions.look_up<|channel|>"
        'commentary json<|message|>{"item": "bolt"}<|call|>'
    )
    call = call_of(model, TASK, [], spoken)
    turn = model.chat.dialect.assistant(call, model.chat.format)
    (result,) = model.chat.dialect.results([ToolResult(RESULT, "look_up")])
    after = model.chat.prompt(TASK, [turn, result], tools_of(model))
    assert "analysis<|message|>Price first.\nI look it up.<|end|>" in after
