import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trace_probe.text.channels import (
    FORMATS,
    ChannelReader,
    Format,
    format_alone,
    format_of,
    format_under,
    opens_reasoning,
    split,
)
from trace_probe.text.layout import build_spans
from trace_probe.text.parts import tags_left
from trace_probe.text.tool_calls import TAGS
from trace_probe.trace import Channel, Finish, Sampling, Task, Thought, Trace

TAGGED = [f for f in FORMATS.values() if f.open and f.name != "harmony"]
WORDS = (
    st.lists(
        st.sampled_from(
            ["Hm", " I", " do.", "\n", "\n\n", " <", "think", ">", "|", "</", " é", "鯨"]
        )
    )
    .map("".join)
    .filter(lambda text: "think>" not in text)
)
FINAL = "<|start|>assistant<|channel|>final<|message|>"
ANALYSIS = "<|channel|>analysis<|message|>"

# end of the prompt, completion, format: one row for each family
FAMILIES = {
    "deepseek-r1": (
        "<｜Assistant｜><think>\n",
        "Hm.\n</think>\n\nYes.<｜end▁of▁sentence｜>",
        "think-always",
    ),
    "deepseek-v3.1": ("<｜Assistant｜><think>", "Hm.</think>Yes.<｜end▁of▁sentence｜>", "think"),
    "qwq": ("<|im_start|>assistant\n<think>\n", "Hm.\n</think>\n\nYes.<|im_end|>", "think-always"),
    "qwen3-hybrid": ("assistant\n", "<think>\nHm.\n</think>\n\nYes.<|im_end|>", "think"),
    "qwen3-thinking": ("assistant\n<think>\n", "Hm.\n</think>\n\nYes.<|im_end|>", "think-always"),
    "qwen3.5": ("assistant\n<think>\n", "Hm.\n</think>\n\nYes.<|im_end|>", "think"),
    "gpt-oss": ("<|start|>assistant", f"{ANALYSIS}Hm.<|end|>{FINAL}Yes.<|return|>", "harmony"),
    "magistral": ("[/INST]", "[THINK]Hm.[/THINK]Yes.</s>", "magistral"),
    "magistral-2506": ("[/INST]", "<think>\nHm.\n</think>\nYes.</s>", "think"),
    "ministral-3": ("[/INST]", "[THINK]Hm.[/THINK]Yes.</s>", "magistral"),
    "phi-4-reasoning": ("<|im_sep|>", "<think> Hm. </think> Yes.<|im_end|>", "think"),
    "olmo-3": ("<|im_start|>assistant\n<think>", "Hm.</think>Yes.<|im_end|>", "think-olmo"),
    "exaone-deep": (
        "[|assistant|]<thought>\n",
        "Hm.\n</thought>\n\nYes.[|endofturn|]",
        "exaone-deep",
    ),
    "exaone-4": ("[|assistant|]\n<think>\n", "Hm.\n</think>\n\nYes.[|endofturn|]", "think"),
    "glm-4.5": ("<|assistant|>", "\n<think>Hm.</think>\nYes.<|user|>", "think"),
    "glm-4.7-flash": ("<|assistant|><think>", "Hm.</think>Yes.<|user|>", "think"),
    "kimi-k1": ("assistant", "◁think▷Hm.◁/think▷Yes.<|im_end|>", "kimi"),
    "kimi-k2-thinking": ("<|im_middle|>", "<think>Hm.</think>Yes.<|im_end|>", "think"),
    "seed-oss": ("<seed:bos>assistant\n", "<seed:think>Hm.</seed:think>Yes.<seed:eos>", "seed-oss"),
    "apertus": (
        "<|assistant_start|>",
        "<|inner_prefix|>Hm.<|inner_suffix|>Yes.<|assistant_end|>",
        "apertus",
    ),
    "gemma4": ("<|turn>model\n", "<|channel>thought\nHm.<channel|>Yes.<turn|>", "gemma4"),
    "cohere": (
        "<|CHATBOT_TOKEN|>",
        "<|START_THINKING|>Hm.<|END_THINKING|><|START_RESPONSE|>Yes."
        "<|END_RESPONSE|><|END_OF_TURN_TOKEN|>",
        "cohere",
    ),
    "nemotron": ("<SPECIAL_11>Assistant\n<think>\n\n", "Hm.\n</think>\n\nYes.", "think"),
    "granite": ("<|end_of_role|>", "<think>Hm.</think>Yes.<|end_of_text|>", "think"),
    "smollm3": ("assistant\n", "<think>\nHm.\n</think>\nYes.<|im_end|>", "think"),
}

HERMES = '<tool_call>\n{"name": "look", "arguments": {"at": "log"}}\n</tool_call>'
GLM = "<tool_call>look\n<arg_key>at</arg_key>\n<arg_value>log</arg_value>\n</tool_call>"
XML = "<function=look>\n<parameter=at>\nlog\n</parameter>\n</function>"
DEEPSEEK = (
    '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>look<｜tool▁sep｜>{"at": "log"}'
    "<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
)
OLD_DEEPSEEK = DEEPSEEK.replace(
    "look<｜tool▁sep｜>", "function<｜tool▁sep｜>look\n```json\n"
).replace("<｜tool▁call▁end｜>", "\n```<｜tool▁call▁end｜>")
MISTRAL = '[TOOL_CALLS][{"name": "look", "arguments": {"at": "log"}}]'
CALLS = dict.fromkeys(FAMILIES, HERMES) | {
    "deepseek-r1": OLD_DEEPSEEK,
    "deepseek-v3.1": DEEPSEEK,
    "qwen3.5": f"<tool_call>\n{XML}\n</tool_call>",
    "gpt-oss": (
        "<|start|>assistant<|channel|>commentary to=functions.look <|constrain|>json"
        '<|message|>{"at": "log"}<|call|>'
    ),
    "magistral": MISTRAL,
    "magistral-2506": MISTRAL,
    "ministral-3": '[TOOL_CALLS]look[ARGS]{"at": "log"}',
    "olmo-3": '<function_calls>look(at="log")</function_calls>',
    "glm-4.5": GLM,
    "glm-4.7-flash": GLM,
    "kimi-k2-thinking": (
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.look:0"
        '<|tool_call_argument_begin|>{"at": "log"}<|tool_call_end|><|tool_calls_section_end|>'
    ),
    "seed-oss": f"<seed:tool_call>\n{XML}\n</seed:tool_call>",
    "apertus": '<|tools_prefix|>[{"look": {"at": "log"}}]<|tools_suffix|>',
    "gemma4": '<|tool_call>call:look{at:<|"|>log<|"|>}<tool_call|>',
    "cohere": (
        '<|START_ACTION|>[{"tool_call_id": "0", "tool_name": "look", '
        '"parameters": {"at": "log"}}]<|END_ACTION|>'
    ),
    "nemotron": '<TOOLCALL>[{"name": "look", "arguments": {"at": "log"}}]</TOOLCALL>',
    "granite": '<|tool_call|>[{"name": "look", "arguments": {"at": "log"}}]',
}
"""What each family writes to look at the log."""

SHUT = {
    "deepseek-r1": "<｜Assistant｜><think>\n\n</think>\n\n",
    "deepseek-v3.1": "<｜Assistant｜><think></think>",
    "qwq": "<|im_start|>assistant\n<think>\n</think>",
    "qwen3-hybrid": "<|im_start|>assistant\n<think>\n\n</think>\n\n",
    "glm-4.5": "<|assistant|>\n<think></think>",
    "glm-4.7-flash": "<|assistant|></think>",
    "smollm3": "<|im_start|>assistant\n<think>\n\n</think>\n",
    "gemma4": "<|turn>model\n<|channel>thought\n<channel|>",
    "cohere": "<|CHATBOT_TOKEN|><|START_THINKING|><|END_THINKING|>",
    "olmo-3": "<|im_start|>assistant\n<think></think>",
}
"""Prompts that turn reasoning off by shutting the thought before it starts."""


def channels(text: str, format: Format, *, prefilled: bool = False) -> dict[Channel, str]:
    """Return the text of each channel of a completion."""
    found: dict[Channel, str] = {}
    for channel, start, stop in split(text, 0, format, prefilled=prefilled).ranges:
        found[channel] = found.get(channel, "") + text[start:stop]
    return found


def state(text: str, name: str, *, prefilled: bool = False) -> Thought:
    return split(text, 0, FORMATS[name], prefilled=prefilled).thought


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_split_and_its_tags_are_markup(family: str) -> None:
    prompt, completion, name = FAMILIES[family]
    prefilled = opens_reasoning(prompt, FORMATS[name])
    assert prefilled is ("Hm" in completion.split(FORMATS[name].open or "-")[0])
    found = channels(completion, FORMATS[name], prefilled=prefilled)
    assert found["reasoning"].strip() == "Hm."
    assert found["answer"].strip() == "Yes."
    assert state(completion, name, prefilled=prefilled) == "closed"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_thought_that_was_cut_off_is_truncated_in_every_family(family: str) -> None:
    prompt, completion, name = FAMILIES[family]
    prefilled = opens_reasoning(prompt, FORMATS[name])
    cut = completion[: completion.index("Hm.") + 3]
    assert state(cut, name, prefilled=prefilled) == "truncated"
    found = channels(cut, FORMATS[name], prefilled=prefilled)
    assert found["reasoning"].strip() == "Hm."
    assert "answer" not in found


@pytest.mark.parametrize("family", FAMILIES)
def test_a_blank_thought_is_empty_in_every_family(family: str) -> None:
    prompt, completion, name = FAMILIES[family]
    prefilled = opens_reasoning(prompt, FORMATS[name])
    blank = completion.replace("Hm.", "\n\n")
    assert state(blank, name, prefilled=prefilled) == "empty"
    found = channels(blank, FORMATS[name], prefilled=prefilled)
    assert "reasoning" not in found
    assert found["answer"].strip() == "Yes."


@pytest.mark.parametrize("family", SHUT)
def test_a_prompt_that_shuts_the_thought_turns_it_off(family: str) -> None:
    format, prefilled = format_under(SHUT[family], FORMATS[FAMILIES[family][2]])
    assert not prefilled
    assert channels("Yes.", format) == {"answer": "Yes."}
    assert split("Yes.", 0, format, prefilled=prefilled).thought == "absent"


def stream_is_whole(text: str, format: Format, prefilled: bool) -> Thought:
    """Feed a completion by character; at each it must be what the whole text so far is."""
    reader = ChannelReader(format, prefilled=prefilled)
    for end, character in enumerate(text, start=1):
        said = reader.feed(character)
        whole = split(text[:end], 0, format, prefilled=prefilled)
        assert reader.split() == whole
        assert said == whole.ranges[-1].channel or format.name == "plain"
    return reader.split().thought


@given(st.sampled_from(sorted(FAMILIES)), WORDS, WORDS, st.booleans())
def test_every_family_s_stream_is_its_whole_text_at_every_cut_and_finds_what_was_planted(
    family: str, thought: str, answer: str, call: bool
) -> None:
    prompt, completion, name = FAMILIES[family]
    format, prefilled = format_under(prompt, FORMATS[name])
    tool = CALLS[family] if call else ""
    text = completion.replace("Hm.", thought).replace("Yes.", answer + tool)
    state = stream_is_whole(text, format, prefilled)
    found = channels(text, format, prefilled=prefilled)
    assert found.get("reasoning", "").strip() == thought.strip()
    assert found.get("answer", "").strip() == answer.strip()
    if name != "harmony":
        assert found.get("action", "").strip() == tool.strip()
    assert state == ("closed" if thought.strip() else "empty")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_call_behind_the_thought_is_an_action_in_every_family(family: str) -> None:
    prompt, completion, name = FAMILIES[family]
    format, prefilled = format_under(prompt, FORMATS[name])
    close = format.close if name != "harmony" else "<|end|>"
    text = completion.partition(close)[0] + close + CALLS[family]
    assert stream_is_whole(text, format, prefilled) == "closed"
    trace = trace_of(["Go ", text[:9], text[9:]], 1, name, prefilled=prefilled)
    assert trace.channel_text("answer").strip() == ""
    layout = build_spans(text, range(len(text)), 0, format, prefilled=prefilled)
    [action] = layout.actions
    assert action.name == "look"
    assert json.loads(action.arguments) == {"at": "log"}
    assert "".join(text[s.start : s.stop] for s in layout.spans if s.channel == "reasoning")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_thought_that_only_a_call_ends_is_closed_in_every_family(family: str) -> None:
    prompt, completion, name = FAMILIES[family]
    format, prefilled = format_under(prompt, FORMATS[name])
    text = completion[: completion.index("Hm.") + 3] + CALLS[family]
    assert stream_is_whole(text, format, prefilled) == "closed"
    found = channels(text, format, prefilled=prefilled)
    assert found["reasoning"].strip() == "Hm."
    assert "log" in found["action"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_second_thought_after_an_answer_is_reasoning_in_every_family(family: str) -> None:
    prompt, completion, name = FAMILIES[family]
    format, prefilled = format_under(prompt, FORMATS[name])
    again = FORMATS[name].open
    second = completion if again in completion else again + completion.lstrip()
    text = completion.partition("Yes.")[0] + "Yes. " + second.replace("Hm.", "Oh.")
    if name == "harmony":
        text = text.replace("Yes. ", "Yes.<|end|><|start|>assistant")
    assert stream_is_whole(text, format, prefilled) == "closed"
    found = channels(text, format, prefilled=prefilled)
    assert "".join(found["reasoning"].split()) == "Hm.Oh."
    assert "".join(found["answer"].split()) == "Yes.Yes."


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "gpt-oss"])
def test_a_call_that_a_thought_mentions_does_not_end_it_in_any_family(family: str) -> None:
    prompt, completion, name = FAMILIES[family]
    format, prefilled = format_under(prompt, FORMATS[name])
    tag = next(tag for tag in TAGS if tag in CALLS[family])
    thought = f"Others write {tag} here; I will not."
    text = completion.replace("Hm.", thought)
    assert stream_is_whole(text, format, prefilled) == "closed"
    found = channels(text, format, prefilled=prefilled)
    assert found["reasoning"].strip() == thought
    assert found["answer"].strip() == "Yes."
    assert "action" not in found


def test_a_tag_in_a_thought_that_was_cut_off_is_no_call_unless_one_follows() -> None:
    for text in ("<think>Others write <tool_call>", "<think>Others write <tool_call> here"):
        assert state(text, "think") == "truncated"
    assert state('<think>I write <tool_call>\n{"na', "think") == "closed"


@pytest.mark.parametrize("thought", ["<think>", ""])
def test_a_whole_call_that_a_thought_mentions_is_none_once_the_sentence_goes_on(
    thought: str,
) -> None:
    """Before the thought is closed, so that a monitor that reads along goes on reading."""
    call = '<tool_call>\n{"name": "look", "arguments": {}}\n</tool_call>'
    text = f"{thought}Others write {call} here"
    prefilled = not thought
    for more in ("", ". I will", ". I will not.\n</think>\n\nYes."):
        found = channels(text + more, FORMATS["think"], prefilled=prefilled)
        assert call in found["reasoning"]
        assert "action" not in found
    assert stream_is_whole(text + more, FORMATS["think"], prefilled) == "closed"


@pytest.mark.parametrize(
    "text",
    [
        "I look. {call} It is {call}",
        "I look.\n{call}\nThat was it.",
        "So I write {call}",
        "So I write {call}\n{call}",
    ],
)
def test_a_call_between_sentences_or_at_the_end_is_made_without_a_close_tag(text: str) -> None:
    call = '<tool_call>\n{"name": "look", "arguments": {}}\n</tool_call>'
    text = text.replace("{call}", call)
    assert stream_is_whole(text, FORMATS["think"], True) == "closed"
    assert call in channels(text, FORMATS["think"], prefilled=True)["action"]


def test_a_call_that_is_not_closed_ends_where_the_thought_is_opened() -> None:
    text = "<tool_call>{}<think>a</think>b"
    found = channels(text, FORMATS["think"])
    assert found == {"action": "<tool_call>{}", "reasoning": "a", "answer": "b"} | {
        "markup": found["markup"]
    }
    assert stream_is_whole(text, FORMATS["think"], False) == "closed"


def test_a_tag_amid_a_sentence_opens_no_further_thought_and_is_told() -> None:
    text = "<think>a</think>The tag <think> opens it."
    assert channels(text, FORMATS["think"])["answer"] == "The tag <think> opens it."
    assert tags_left("The tag <think> opens it.") == ("<think>",)
    assert tags_left("analysisI hide it.assistantfinalDone.") == ("analysis", "assistantfinal")
    assert tags_left("An analysis of a < b.") == ()


def test_a_further_thought_that_was_cut_off_is_truncated() -> None:
    text = "<think>a</think>Yes.\n<think>b"
    assert channels(text, FORMATS["think"])["reasoning"] == "ab"
    assert state(text, "think") == "truncated"


def test_a_completion_with_calls_by_the_thousand_is_cut_in_a_moment() -> None:
    piece = "<think>a</think>b.<tool_call>{}"
    start = time.process_time()
    split(piece * 20_000, 0, FORMATS["think"], prefilled=False)
    split("<tool_call>" * 50_000, 0, FORMATS["think"], prefilled=True)
    split("I write <tool_call>{} so " * 20_000, 0, FORMATS["think"], prefilled=True)
    argument = "y </tool_call> " * 20_000
    made = f'<tool_call>{{"name": "a", "arguments": {{"x": "{argument}"}}}}</tool_call>'
    called = f"<think>a</think>{made}"
    [*_, last] = split(called, 0, FORMATS["think"], prefilled=False).ranges
    assert (last.channel, last.stop) == ("action", len(called))
    assert time.process_time() - start < 20


CUT_OFF = "Okay, the user wants the backup up. First I think about"


@pytest.mark.parametrize(
    ("text", "model", "finish", "thought"),
    [
        (CUT_OFF, "deepseek-ai/DeepSeek-R1", "length", "truncated"),
        (CUT_OFF, "deepseek-ai/DeepSeek-R1", "stop", "not_delimited"),
        (CUT_OFF, "Qwen/Qwen3-8B", "length", "absent"),
        (CUT_OFF, "unknown", "length", "not_delimited"),
        ("[THINK]a[/THINK]b", "unknown", "stop", "closed"),
        ("<think>about [THINK]</think>b", "Qwen/Qwen3-8B", "stop", "closed"),
    ],
)
def test_a_completion_without_its_prompt_is_read_by_model_and_finish(
    text: str, model: str, finish: Finish, thought: Thought
) -> None:
    format = format_alone(text, format_of(None, model), finish)
    assert split(text, 0, format, prefilled=False).thought == thought


@pytest.mark.parametrize("format", TAGGED, ids=lambda f: f.name)
def test_a_completion_without_tags_is_what_its_family_says(format: Format) -> None:
    found = channels("Yes.", format)
    assert found == {"reasoning" if format.untagged == "truncated" else "answer": "Yes."}
    assert state("Yes.", format.name) == format.untagged


def test_an_untagged_completion_is_told_apart_by_family() -> None:
    assert state("Yes.", "think") == "absent"
    assert state("Yes.", "think-always") == "truncated"
    assert state("Yes.", "think-olmo") == "not_delimited"
    assert state("Yes.", "plain") == "not_delimited"
    assert state("analysisHm.assistantfinalYes.", "harmony") == "not_delimited"
    assert state(f"{FINAL}Yes.<|return|>", "harmony") == "absent"


def test_the_first_close_tag_wins() -> None:
    found = channels("a</think>b</think>c <think>d", FORMATS["think"], prefilled=True)
    assert found == {"reasoning": "a", "markup": "</think>", "answer": "b</think>c <think>d"}


def test_an_open_tag_that_repeats_the_prompt_is_markup_and_a_later_one_is_not() -> None:
    found = channels("\n<think>a <think> b</think>c", FORMATS["think"], prefilled=True)
    assert found["reasoning"] == "a <think> b"
    found = channels("a <think> b</think>c", FORMATS["think"], prefilled=True)
    assert found["reasoning"] == "a <think> b"


def test_a_close_tag_that_nothing_opened_shows_that_all_before_was_reasoning() -> None:
    assert channels("a</think>b", FORMATS["think"])["reasoning"] == "a"
    assert state("a</think>b", "think") == "closed"


def test_words_before_the_thought_are_answer() -> None:
    found = channels("Sure. <think>a</think>b", FORMATS["think"])
    assert (found["answer"], found["reasoning"]) == ("Sure. b", "a")


def test_a_tool_call_ends_an_open_thought_and_is_an_action() -> None:
    call = "<tool_call>{}</tool_call>"
    assert channels(f"a{call}", FORMATS["think"], prefilled=True)["action"] == call
    assert state(f"<think>a{call}", "think") == "closed"
    assert state(f"Sure: {call}", "think") == "absent"
    assert channels(f"Sure: {call}\n", FORMATS["plain"]) == {
        "answer": "Sure: ",
        "action": call,
        "markup": "\n",
    }


def test_a_harmony_message_to_a_tool_is_an_action_and_every_analysis_is_reasoning() -> None:
    text = (
        f"{ANALYSIS}One.<|end|><|start|>assistant<|channel|>commentary to=f <|constrain|>json"
        f"<|message|>{{}}<|call|><|start|>assistant{ANALYSIS}Two.<|end|>{FINAL}Yes."
    )
    found = channels(text, FORMATS["harmony"])
    assert (found["reasoning"], found["action"], found["answer"]) == ("One.Two.", "{}", "Yes.")
    assert state(text, "harmony") == "closed"
    assert state(text.split("Two.")[0], "harmony") == "truncated"
    assert state(f"{ANALYSIS}One.<|end|>", "harmony") == "closed"


def test_a_harmony_call_is_an_action_whatever_its_channel_and_wherever_its_recipient() -> None:
    first = f"{ANALYSIS}One.<|end|><|start|>assistant"
    for header in (
        "<|channel|>analysis to=functions.look code<|message|>",
        " to=functions.look<|channel|>commentary json<|message|>",
    ):
        text = f'{first}{header}{{"now": true}}<|call|>'
        stream_is_whole(text, FORMATS["harmony"], prefilled=False)
        found = channels(text, FORMATS["harmony"])
        assert (found["reasoning"], found["action"]) == ("One.", '{"now": true}')
        [call] = build_spans(text, range(len(text)), 0, FORMATS["harmony"], prefilled=False).actions
        assert (call.name, call.arguments) == ("look", '{"now": true}')
    alone = " to=functions.look<|channel|>commentary json<|message|>{}"
    assert channels(alone, FORMATS["harmony"]).get("answer") is None


def test_a_harmony_message_without_a_channel_does_not_inherit_one() -> None:
    text = f"{ANALYSIS}One.<|end|><|start|>assistant<|message|>Yes."
    assert channels(text, FORMATS["harmony"])["answer"] == "Yes."
    text = f"{ANALYSIS}One.<|end|><|start|>assistant<|channel|>commentary<|message|>I look."
    assert channels(text, FORMATS["harmony"])["answer"] == "I look."


def test_a_stop_token_in_the_middle_of_an_answer_stays_text() -> None:
    assert channels("<s>old</s> new</s>\n", FORMATS["plain"])["answer"] == "<s>old</s> new"


@pytest.mark.parametrize(
    ("template", "model", "name"),
    [
        ("{{ '<|im_start|>assistant\n<think>\n' }}", "Qwen/Qwen3-4B-Thinking-2507", "think-always"),
        ("{{ content.split('</think>')[-1] }}", "some/finetune", "think"),
        ("{{ '<think>' }}", "allenai/Olmo-3-7B-Think", "think-olmo"),
        ("{{ '<|channel|>final<|message|>' }}", "mirror/of-oss", "harmony"),
        ("{{ '<|channel>thought' }}{{ '<|think|>' }}", "", "gemma4"),
        ("{{ '[THINK]' }}", "", "magistral"),
        ("{{ '<|im_start|>' }}", "Qwen/Qwen2.5-7B-Instruct", "plain"),
        ("{{ '<|user|>' }}", "organism:rl", "plain"),
        (None, "openai/gpt-oss-20b", "harmony"),
        (None, "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", "think-always"),
        (None, "Qwen/QwQ-32B", "think-always"),
        (None, "Qwen/Qwen3-8B", "think"),
        (None, "Qwen/Qwen3-4B-Instruct-2507", "plain"),
        (None, "mistralai/Magistral-Small-2506", "think"),
        (None, "mistralai/Magistral-Small-2509", "magistral"),
        (None, "microsoft/Phi-4-reasoning-plus", "think"),
        (None, "zai-org/GLM-4.6", "think"),
        (None, "LGAI-EXAONE/EXAONE-Deep-7.8B", "exaone-deep"),
        (None, "moonshotai/Kimi-K2-Thinking", "think"),
        (None, "ByteDance-Seed/Seed-OSS-36B-Instruct", "seed-oss"),
        (None, "microsoft/phi-4", "plain"),
        (None, "deepseek-ai/DeepSeek-V3.1", "think"),
        (None, "Qwen/Qwen3.5-4B", "think"),
        (None, "LGAI-EXAONE/EXAONE-4.0-32B", "think"),
        (None, "zai-org/GLM-4.7-Flash", "think"),
        (None, "moonshotai/Kimi-VL-A3B-Thinking", "kimi"),
        (None, "mistralai/Ministral-3-14B-Reasoning-2512", "magistral"),
        (None, "HuggingFaceTB/SmolLM3-3B", "think"),
        (None, "ibm-granite/granite-3.3-8b-instruct", "think"),
        (None, "nvidia/NVIDIA-Nemotron-Nano-9B-v2", "think"),
        (None, "swiss-ai/Apertus-8B-Instruct-2509", "apertus"),
        (None, "google/gemma-4-31B-it", "gemma4"),
        (None, "CohereLabs/command-a-reasoning-08-2025", "cohere"),
        (None, "allenai/Olmo-3-7B-Instruct", "plain"),
        ("{{ '<think></think>' }}", "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", "think-always"),
        (None, "", "plain"),
    ],
)
def test_the_format_comes_from_the_template_else_from_the_name(
    template: str | None, model: str, name: str
) -> None:
    assert format_of(template, model) is FORMATS[name]


def test_a_prompt_that_closes_the_thought_does_not_open_it() -> None:
    assert not opens_reasoning("assistant\n<think>\n\n</think>\n\n", FORMATS["think"])
    assert not opens_reasoning("anything", FORMATS["plain"])


@st.composite
def completions(draw: st.DrawFn) -> tuple[str, Format, bool]:
    format = FORMATS[draw(st.sampled_from(sorted(FORMATS)))]
    tags = [t for t in (format.open, format.close, format.answer_open) if t]
    tags += [draw(st.sampled_from(sorted(CALLS.values()))), *draw(st.sampled_from([*TAGS.items()]))]
    halves = [t[: len(t) // 2] for t in tags] + [t[len(t) // 2 :] for t in tags]
    harmony = [ANALYSIS, FINAL, "<|start|>assistant", "<|return|>", "<|message|>", "<|channel|>"]
    words = ["a", " b.", "\n", "<", "</s>", "<|im_end|>", "<|end|>", *tags, *halves]
    pieces = draw(st.lists(st.sampled_from(words + harmony * (format.name == "harmony"))))
    return "".join(pieces), format, draw(st.booleans()) and bool(format.open)


@given(completions(), st.data())
def test_a_stream_agrees_with_the_whole_text_at_every_cut(
    case: tuple[str, Format, bool], data: st.DataObject
) -> None:
    text, format, prefilled = case
    cuts = data.draw(st.lists(st.integers(0, len(text))).map(sorted))
    reader, fed = ChannelReader(format, prefilled=prefilled), 0
    for cut in [*cuts, len(text)]:
        reader.feed(text[fed:cut])
        fed = cut
        assert reader.split() == split(text[:cut], 0, format, prefilled=prefilled)


@given(completions())
def test_ranges_tile_any_completion(case: tuple[str, Format, bool]) -> None:
    text, format, prefilled = case
    prompt = "<think> in the prompt is no tag"
    ranges, _ = split(prompt + text, len(prompt), format, prefilled=prefilled)
    assert "".join((prompt + text)[r.start : r.stop] for r in ranges) == text
    assert all(
        a.stop == b.start and a.channel != b.channel
        for a, b in zip(ranges, ranges[1:], strict=False)
    )


@given(st.sampled_from(TAGGED), st.booleans(), st.text(alphabet="ab <>/\n"), completions())
def test_once_closed_nothing_that_follows_changes_the_thought(
    format: Format, prefilled: bool, thought: str, later: tuple[str, Format, bool]
) -> None:
    closed = f"{'' if prefilled else format.open}a{thought}{format.close}b"
    before = split(closed, 0, format, prefilled=prefilled)
    after = split(closed + later[0], 0, format, prefilled=prefilled)
    assert before.thought == "closed"
    assert after.thought in {"closed", "truncated"}  # of a further thought
    assert after.ranges[: len(before.ranges) - 1] == before.ranges[:-1]


@given(st.text(alphabet="ab <>/\n"), st.text(), st.sampled_from(TAGGED))
def test_a_prefilled_thought_is_what_stands_before_its_close_tag(
    thought: str, answer: str, format: Format
) -> None:
    found = channels(f"a{thought}{format.close}{answer}b", format, prefilled=True)
    assert found["reasoning"] == f"a{thought}"
    assert found["answer"] == f"{answer}b"


def trace_of(pieces: list[str], prompt_stop: int, name: str, *, prefilled: bool) -> Trace:
    offsets = tuple(sum(map(len, pieces[:i])) for i in range(len(pieces)))
    text = "".join(pieces)
    layout = build_spans(text, offsets, prompt_stop, FORMATS[name], prefilled=prefilled)
    task = Task("t-01", "t", "go")
    return Trace("id", task, "m", Sampling(), 0, text, offsets, **layout._asdict())


def test_tokens_are_laid_out_in_channels_and_sentences() -> None:
    pieces = ["Go", ".", "<think>", "\n", "One", ".", " Two", ".\n", "</", "think", ">", "\n\n"]
    trace = trace_of([*pieces, "Yes", ".", "<|im_end|>", ""], 4, "think", prefilled=True)
    assert [(s.channel, trace.text_of(s)) for s in trace.spans] == [
        ("prompt", "Go.<think>\n"),
        ("reasoning", "One. Two.\n"),
        ("markup", "</think>"),
        ("answer", "\n\nYes."),
        ("markup", "<|im_end|>"),
    ]
    assert [trace.text_of(s) for s in trace.sentences] == ["One.", " Two.\n", "\n\nYes."]


def test_a_token_that_straddles_a_boundary_belongs_where_it_starts() -> None:
    trace = trace_of(["Go ", "One", ".</", "think>Yes", " I", " do"], 1, "think", prefilled=True)
    assert [len(s) for s in trace.channel("reasoning")] == [2]
    assert [trace.text_of(s) for s in trace.channel("markup")] == ["think>Yes"]
    assert trace.channel_text("answer") == " I do"


@given(completions(), st.data())
def test_any_tokens_of_any_completion_make_a_valid_trace(
    case: tuple[str, Format, bool], data: st.DataObject
) -> None:
    text, format, prefilled = case
    cuts = sorted({0, *data.draw(st.lists(st.integers(0, len(text))))})
    pieces = [text[a:b] for a, b in zip(cuts, [*cuts[1:], len(text)], strict=True)]
    trace = trace_of(["Go ", *pieces], 1, format.name, prefilled=prefilled)
    assert trace.prompt_stop == 1
