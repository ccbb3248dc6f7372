"""Chats in the tokens of a model: exact ids where the file has them, else its text cut again."""

import json
from pathlib import Path
from typing import Any

import pytest

from trace_probe.episode import calls_of
from trace_probe.errors import ModelError
from trace_probe.interop.left_out import IN_WORDS
from trace_probe.interop.transcripts import import_transcripts, read_transcripts
from trace_probe.model.tokenizer import ChatTokenizer
from trace_probe.store import Store
from trace_probe.trace import Trace

TEMPLATE = (
    "{% if tools %}<|tools|>{{ tools | tojson }}<|end|>{% endif %}"
    "{% for m in messages %}<|{{ m.role }}|>"
    "{% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}"
    "{{ m.content or '' }}"
    "{% for c in m.tool_calls or [] %}<tool_call>\n"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}'
    "\n</tool_call>{% endfor %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CALL = '<tool_call>\n{"name": "look", "arguments": {"n": 5}}\n</tool_call>'
FIRST = f"<think>\nI look.\n</think>\n\n{CALL}"


@pytest.fixture(scope="module")
def tokenizer() -> ChatTokenizer:
    """Return a tokenizer of single bytes, and of tags as tokens of their own."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytes_ = Tokenizer(models.BPE({letter: n for n, letter in enumerate(letters)}, []))
    bytes_.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=bytes_)
    made.add_special_tokens({"additional_special_tokens": ["<|end|>", "<think>", "</think>"]})
    made.chat_template = TEMPLATE
    return ChatTokenizer(made, "bytes")


def atif(tokenizer: ChatTokenizer | None = None) -> dict[str, Any]:
    """Return a trajectory of two calls, with exact ids if there is a tokenizer."""
    first = "<|user|>Keep it.<|end|><|assistant|>"
    texts = [(first, FIRST), (f"{first}{FIRST}<|end|><|tool|>12<|end|><|assistant|>", "Done.")]
    metrics = [
        {
            "prompt_token_ids": list(tokenizer.encode(prompt)),
            "completion_token_ids": list(tokenizer.encode(completion)),
        }
        if tokenizer
        else {}
        for prompt, completion in texts
    ]
    call = {"tool_call_id": "c1", "function_name": "look", "arguments": {"n": 5}}
    steps = [
        {"step_id": 1, "source": "user", "message": "Keep it."},
        {
            "step_id": 2,
            "source": "agent",
            "message": "",
            "reasoning_content": "I look.",
            "tool_calls": [call],
            "observation": {"results": [{"source_call_id": "c1", "content": "12"}]},
            "metrics": metrics[0],
        },
        {"step_id": 3, "source": "agent", "message": "Done.", "metrics": metrics[1]},
    ]
    return {"schema_version": "ATIF-v1.6", "agent": {"model_name": "m"}, "steps": steps}


def one(tmp_path: Path, record: dict[str, Any], tokenizer: ChatTokenizer | None) -> Trace:
    file = tmp_path / "t.jsonl"
    file.write_text(json.dumps(record), "utf-8")
    [(trace, _)] = read_transcripts(file, tokenizer=tokenizer)
    return trace


def test_exact_ids_of_a_trajectory_are_kept_where_a_tokenizer_is_named(
    tmp_path: Path, tokenizer: ChatTokenizer
) -> None:
    record = atif(tokenizer)
    trace = one(tmp_path, record, tokenizer)
    assert trace.facts["ids"] == "exact"
    assert trace.tokenizer == tokenizer.fingerprint
    for step, call in zip(record["steps"][1:], calls_of(trace), strict=True):
        told = step["metrics"]
        assert list(call.token_ids) == told["prompt_token_ids"] + told["completion_token_ids"]
    assert [(a.name, a.arguments, a.id) for a in trace.actions] == [("look", '{"n": 5}', "c1")]
    assert trace.channel_text("reasoning").strip() == "I look."
    assert [r.content for r in trace.calls[0].results] == ["12"]
    assert one(tmp_path, record, None).facts["ids"] == "words"


def test_without_ids_the_text_is_cut_into_tokens_again_and_says_so(
    tmp_path: Path, tokenizer: ChatTokenizer
) -> None:
    trace = one(tmp_path, atif(), tokenizer)
    assert trace.facts["ids"] == "retokenised"
    first, second = calls_of(trace)
    assert first.channel_text("prompt") == "<|user|>Keep it.<|end|><|assistant|>"
    assert second.channel_text("prompt").endswith("<|end|><|tool|>12<|end|><|assistant|>")
    for call in (first, second):
        assert tokenizer.offsets(call.token_ids)[0] == call.text
    assert [(a.name, a.id) for a in trace.actions] == [("look", "c1")]
    assert trace.text_of(trace.actions[0].span) == CALL


def test_tools_of_a_chat_stand_in_its_prompts_as_the_template_writes_them(
    tmp_path: Path, tokenizer: ChatTokenizer
) -> None:
    call = {"id": "c1", "function": {"name": "look", "arguments": '{"n": 5}'}}
    messages = [
        {"role": "user", "content": "Keep it."},
        {"role": "assistant", "reasoning_content": "I look.", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "12"},
        {"role": "assistant", "content": "Done."},
    ]
    theirs = {"name": "look", "description": "Look.", "input_schema": {"type": "object"}}
    ours = {"name": "look", "description": "Look.", "parameters": {"type": "object"}}
    for tool in (theirs, {"type": "function", "function": ours}):
        trace = one(tmp_path, {"messages": messages, "tools": [tool]}, tokenizer)
        assert trace.facts["ids"] == "retokenised"
        for step in calls_of(trace):
            assert step.text.startswith(
                '<|tools|>[{"type": "function", "function": {"name": "look"'
            )
            assert step.text.count("<|tools|>") == 1
        assert f"<|assistant|>{FIRST}<|end|><|tool|>12<|end|>" in step.text


def test_ids_that_do_not_hold_the_calls_of_the_file_are_not_taken(
    tmp_path: Path, tokenizer: ChatTokenizer
) -> None:
    record = atif(tokenizer)
    record["steps"][1]["metrics"]["completion_token_ids"] = list(tokenizer.encode("Fine."))
    trace = one(tmp_path, record, tokenizer)
    assert trace.facts["ids"] == "retokenised"
    assert [a.name for a in trace.actions] == ["look"]


def test_the_run_of_chats_in_tokens_names_their_tokenizer(
    tmp_path: Path, tokenizer: ChatTokenizer
) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text(json.dumps(atif(tokenizer)), "utf-8")
    import_transcripts(file, tmp_path / "run", tokenizer=tokenizer)
    assert Store(tmp_path / "run").manifest.tokenizer == tokenizer.fingerprint
    [trace] = Store(tmp_path / "run").traces()
    assert trace == one(tmp_path, atif(tokenizer), tokenizer)


PLAIN: dict[str, Any] = {"prompt": "Keep it.", "reasoning": "I look. I keep.", "answer": "Done."}
THOUGHT = "<think>\nI look. I keep.\n</think>\n\n"


@pytest.mark.parametrize(
    "line",
    [PLAIN, {"prompt": "Keep it.", "completion": f"{THOUGHT}Done."}],
    ids=["apart", "one completion"],
)
def test_a_plain_transcript_comes_in_tokens_of_its_prompt_as_the_template_writes_it(
    tmp_path: Path, tokenizer: ChatTokenizer, line: dict[str, Any]
) -> None:
    trace = one(tmp_path, line, tokenizer)
    assert trace.text == f"<|user|>Keep it.<|end|><|assistant|>{THOUGHT}Done."
    assert tokenizer.offsets(trace.token_ids) == (trace.text, trace.offsets)
    assert (trace.tokenizer, trace.facts) == (tokenizer.fingerprint, {"ids": "retokenised"})
    assert trace.text[: trace.offsets[trace.prompt_stop]] == "<|user|>Keep it.<|end|><|assistant|>"
    thoughts = [trace.text_of(one).strip() for one in trace.sentences if one.channel == "reasoning"]
    assert (thoughts, trace.thought) == (["I look.", "I keep."], "closed")
    assert trace.channel_text("answer").strip() == "Done."


def test_tool_calls_of_a_plain_transcript_are_actions_in_tokens_too(
    tmp_path: Path, tokenizer: ChatTokenizer
) -> None:
    calls = [{"function": {"name": "look", "arguments": '{"n": 5}'}}]
    trace = one(
        tmp_path, {"prompt": "Keep it.", "reasoning": "So.", "tool_calls": calls}, tokenizer
    )
    assert trace.token_ids
    [act] = trace.actions
    assert (act.name, trace.text_of(act.span).strip()) == ("look", CALL)


def test_a_thought_that_the_prompt_has_opened_is_not_opened_again(
    tmp_path: Path, tokenizer: ChatTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = "<|user|>Keep it.<|end|><think>\n"
    monkeypatch.setattr(type(tokenizer), "conversation", lambda *_, **__: opened)
    trace = one(tmp_path, PLAIN, tokenizer)
    assert trace.text == f"<|user|>Keep it.<|end|>{THOUGHT}Done."
    assert trace.channel_text("reasoning").strip() == "I look. I keep."


def refuse(*_: object, **__: object) -> str:
    raise ModelError("the chat template refuses this")


@pytest.mark.parametrize("record", [PLAIN, atif()], ids=["plain", "chat"])
def test_what_cannot_be_had_in_tokens_stays_in_words_and_the_report_says_so(
    tmp_path: Path,
    tokenizer: ChatTokenizer,
    monkeypatch: pytest.MonkeyPatch,
    record: dict[str, Any],
) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text(json.dumps(record), "utf-8")
    monkeypatch.setattr(type(tokenizer), "conversation", refuse)
    report = import_transcripts(file, tmp_path / "run", tokenizer=tokenizer)
    [trace] = Store(tmp_path / "run").traces()
    assert (trace.tokenizer, trace.token_ids) == ("words", ())
    [note] = report.notes
    assert note == f"{IN_WORDS}: 1 row (line 1)."
    assert "`observe`" in note
