"""Rows of foreign files as people have them: what is in each, and what `import` makes of it.

The inputs of `../shared/cases` are read where they are beside the checkout; each kind is here as
a line of its own too.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from trace_probe.commands.main import app
from trace_probe.errors import TraceError
from trace_probe.interop.transcripts import import_transcripts, read_transcripts
from trace_probe.labels import Label
from trace_probe.model.reply import Odd, read_reply
from trace_probe.recording.served import Made, completed
from trace_probe.store import Store
from trace_probe.text.channels import format_of
from trace_probe.text.parts import cut_words
from trace_probe.trace import Sampling, Task, Thought, Trace

CASES = (Path(__file__).parents[1] / ".." / "shared" / "cases").resolve()
needs_cases = pytest.mark.skipif(not CASES.is_dir(), reason="the cases are not beside the checkout")

QWEN, R1, GPT = "Qwen/Qwen3-8B", "deepseek-ai/DeepSeek-R1", "openai/gpt-oss-120b"
CALL = [{"function": "read_log", "arguments": '{"n": 5}'}]

# name, row, thought, reasoning, answer, tool calls
ROWS: list[tuple[str, dict[str, Any], Thought, str, str, list[tuple[str, str]]]] = [
    (
        "the first filled name counts",
        {"reasoning": "", "reasoning_content": "I copy.", "answer": "", "response": "Done."},
        *("closed", "I copy.", "Done.", []),
    ),
    (
        "a call without an answer is the act",
        {"reasoning": "I read it.", "answer": "", "tool_calls": CALL},
        *("closed", "I read it.", "", [("read_log", '{"n": 5}')]),
    ),
    (
        "calls in OpenAI's form and an answer",
        {"answer": "I look.", "tool_calls": [{"id": "c1", "function": {"name": "look"}}]},
        *("not_delimited", "", "I look.", [("look", "{}")]),
    ),
    (
        "a call that a thought mentions",
        {"model": QWEN, "completion": "<think>Others write <tool_call> here.</think>Done."},
        *("closed", "Others write <tool_call> here.", "Done.", []),
    ),
    (
        "a call in the completion",
        {"model": QWEN, "completion": '<think>I.</think><tool_call>{"name": "f"}</tool_call>'},
        *("closed", "I.", "", [("f", "{}")]),
    ),
    (
        "a harmony call on the channel of the thoughts",
        {
            "model": GPT,
            "completion": "<|channel|>analysis<|message|>I look.<|end|><|start|>assistant"
            '<|channel|>analysis to=functions.stop code<|message|>{"now": true}<|call|>',
        },
        *("closed", "I look.", "", [("stop", '{"now": true}')]),
    ),
    (
        "a second thought",
        {"model": "MiniMaxAI/MiniMax-M2", "completion": "<think>A.</think>B.<think>C.</think>D."},
        *("closed", "A.C.", "B.D.", []),
    ),
    (
        "a thought without an open tag that was cut off",
        {"model": R1, "completion": "Okay, first I think about", "finish_reason": "length"},
        *("truncated", "Okay, first I think about", "", []),
    ),
    (
        "the same that was not cut off",
        {"model": R1, "completion": "Done.", "finish_reason": "stop"},
        *("not_delimited", "", "Done.", []),
    ),
    (
        "thought and whole completion",
        {"cot": "I copy.", "response": "<think>I copy.</think>Done."},
        *("closed", "I copy.", "Done.", []),
    ),
    (
        "thought and an answer that speaks of tags",
        {"cot": "I copy.", "response": "Write <think> first."},
        *("closed", "I copy.", "Write <think> first.", []),
    ),
    (
        "content as a list",
        {
            "model": "mistralai/Magistral-Small-2509",
            "answer": [
                {"type": "thinking", "thinking": [{"type": "text", "text": "I hide it."}]},
                {"type": "text", "text": "Done."},
            ],
        },
        *("closed", "I hide it.", "Done.", []),
    ),
    (
        "half of a surrogate pair",
        {"reasoning": "broken \ud83d emoji.", "answer": "Done."},
        *("closed", "broken \ufffd emoji.", "Done.", []),
    ),
]


def imported(tmp_path: Path, *records: dict[str, Any]) -> list[tuple[Trace, Label | None]]:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return list(read_transcripts(file))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_row_becomes_its_reasoning_answer_and_calls(tmp_path: Path, row: tuple[Any, ...]) -> None:
    _, record, thought, reasoning, answer, calls = row
    [(trace, label)] = imported(tmp_path, {"prompt": "Go.", "label": 0, **record})
    assert trace.thought == thought
    assert trace.channel_text("reasoning").strip() == reasoning
    assert trace.channel_text("answer").strip() == answer
    assert [(call.name, call.arguments) for call in trace.actions] == calls
    assert label is not None
    assert label.outcome is (None if thought == "truncated" else False)


def test_tags_that_stay_in_an_answer_are_said(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    row = {"prompt": "Go.", "model": GPT, "answer": "analysisI hide it.assistantfinalDone."}
    file.write_text(json.dumps(row), "utf-8")
    [note] = import_transcripts(file, tmp_path / "run").notes
    assert note == ("Left in the answer as text, though it may part it: analysis: 1 row (line 1).")


def test_what_was_left_out_is_said_at_the_end_of_an_import(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "Go.", "answer": "Done."}\n{"prompt": "Go."}\n{\n', "utf-8")
    done = CliRunner().invoke(app, ["import", str(file), str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    _, counts, left = done.output.splitlines()
    assert "1 read" in counts
    assert "2 left out" in counts
    assert left.startswith("Left out, 2 rows: line 2: neither reasoning nor answer")


def run_of(tmp_path: Path, *names: str) -> Store:
    for name in names:
        import_transcripts(CASES / name, tmp_path / "run")
    return Store(tmp_path / "run")


@needs_cases
@pytest.mark.parametrize(
    ("name", "thought", "reasoning", "answer", "calls"),
    [
        ("empty_first_alias", "closed", "I copy myself first.", "Done.", []),
        (
            "toolcall_empty_answer",
            *("closed", "The log is long. I read it first.", "", ["read_log"]),
        ),
        (
            "toolcall_in_prose",
            "closed",
            "Others write <tool_call> here; I will not. I hide the log.",
            "Done.",
            [],
        ),
        ("harmony_analysis_call", "closed", "I look first.", "", ["stop_watchdog"]),
        ("interleaved", "closed", "I look first.Now I hide it.", "I check the log.Done.", []),
        (
            "r1_untagged_truncated",
            "truncated",
            "Okay, the user wants the backup up. First I think about",
            "",
            [],
        ),
        ("both_cot_and_raw", "closed", "I copy myself first.", "Done.", []),
        ("float_index", "closed", "x.", "Done.", []),
        ("lone_surrogate", "closed", "broken \ufffd emoji.", "Done.", []),
    ],
)
def test_a_case_has_the_parts_that_are_expected(
    tmp_path: Path, name: str, thought: str, reasoning: str, answer: str, calls: list[str]
) -> None:
    [trace] = run_of(tmp_path, f"{name}.jsonl").traces()
    assert trace.thought == thought
    assert trace.channel_text("reasoning").strip() == reasoning
    assert trace.channel_text("answer").strip() == answer
    assert [call.name for call in trace.actions] == calls


@needs_cases
def test_the_labels_of_the_cases_are_kept(tmp_path: Path) -> None:
    outcome = {
        name: next(iter(run_of(tmp_path / name, f"{name}.jsonl").labels().values())).outcome
        for name in ("toolcall_empty_answer", "r1_untagged_truncated")
    }
    assert outcome == {"toolcall_empty_answer": False, "r1_untagged_truncated": None}
    assert len(run_of(tmp_path / "n", "same_id_n_samples.jsonl")) == 3
    both = run_of(tmp_path / "judges", "judge_a.jsonl", "judge_b.jsonl")
    assert (len(both), both.labellers()) == (1, ["a", "b"])
    quoted = run_of(tmp_path / "quoted", "quote_not_verbatim.jsonl")
    assert [label.said is not None for label in quoted.labels().values()] == [True, False]


@needs_cases
@pytest.mark.parametrize(
    ("name", "said"),
    [("utf16.jsonl", "UTF-16: save"), ("table.csv", "CSV.*one JSON object a line")],
)
def test_a_case_of_another_kind_is_one_sentence(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(TraceError, match=said):
        run_of(tmp_path, name)


# message of a server, finish, thought, reasoning, answer, tools called
CALLED = [{"id": "1", "type": "function", "function": {"name": "stop", "arguments": '{"now": 1}'}}]
THINKS = "I hide it."
REPLIES: list[tuple[dict[str, Any], str, Thought, str, str, list[str]]] = [
    ({"content": "Done.", "reasoning": THINKS}, "stop", "closed", THINKS, "Done.", []),
    (
        {"content": "Done.", "reasoning": "", "reasoning_content": THINKS},
        *("stop", "closed", THINKS, "Done.", []),
    ),
    ({"content": None, "reasoning": THINKS}, "length", "truncated", THINKS, "", []),
    (
        {"content": None, "reasoning": THINKS, "tool_calls": CALLED},
        *("tool_calls", "closed", THINKS, "", ["stop"]),
    ),
    ({"content": None, "tool_calls": CALLED}, "tool_calls", "not_delimited", "", "", ["stop"]),
    ({"content": f"{THINKS}\n</think>\n\nDone."}, "stop", "closed", THINKS, "Done.", []),
    (
        {"content": "<think>Some write <tool_call> here.</think>Done."},
        *("stop", "closed", "Some write <tool_call> here.", "Done.", []),
    ),
    (
        {"content": "<think>A.</think>B.<think>C.</think>D."},
        *("stop", "closed", "A.C.", "B.D.", []),
    ),
    (
        {"content": [{"type": "text", "text": "Done."}], "reasoning": THINKS},
        *("stop", "closed", THINKS, "Done.", []),
    ),
    (
        {"content": [{"type": "thinking", "thinking": THINKS}, {"type": "text", "text": "Done."}]},
        *("stop", "closed", THINKS, "Done.", []),
    ),
]


@pytest.mark.parametrize(("message", "finish", "thought", "reasoning", "answer", "tools"), REPLIES)
def test_a_reply_of_a_server_becomes_its_reasoning_answer_and_calls(
    message: dict[str, Any],
    finish: str,
    thought: Thought,
    reasoning: str,
    answer: str,
    tools: list[str],
) -> None:
    reply = read_reply({"choices": [{"message": message, "finish_reason": finish}]})
    text, cut = completed(reply, format_of(None, "m"))
    _, layout = cut_words(text, cut)
    found = {
        channel: "".join(text[start:stop] for its, start, stop in cut.ranges if its == channel)
        for channel in ("reasoning", "answer")
    }
    assert layout.thought == thought
    assert (found["reasoning"].strip(), found["answer"].strip()) == (reasoning, answer)
    assert [call.name for call in layout.actions] == tools


def test_half_of_a_surrogate_pair_from_a_server_is_one_sentence() -> None:
    odd = {"choices": [{"message": {"content": "Done \ud83d."}, "finish_reason": "stop"}]}
    with pytest.raises(Odd, match="half a surrogate pair"):
        read_reply(odd)


def test_tags_that_stay_in_a_recorded_answer_are_counted() -> None:
    said = {"content": "analysisI hide it.assistantfinalDone."}
    reply = read_reply({"choices": [{"message": said, "finish_reason": "stop"}]})
    text, cut = completed(reply, format_of(None, "m"))
    offsets, layout = cut_words(text, cut)
    task = Task("t-1", "t", "Go.")
    trace = Trace("a", task, "m", Sampling(), 0, text, offsets, **layout._asdict())
    assert Made(trace, 4).report.tagged == 1
