"""Whatever form a call or an answer has in a foreign file, none of it is lost in silence."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from trace_probe.interop.conversation import Message, Part, turns_of
from trace_probe.interop.left_out import LeftOut
from trace_probe.interop.transcripts import read_transcripts
from trace_probe.trace import Trace

USER = {"role": "user", "content": "Do it."}


def read(tmp_path: Path, **record: Any) -> tuple[Trace, tuple[str, ...]]:
    """Return the trace of one line, and what the import says of it."""
    file, aside = tmp_path / "t.jsonl", LeftOut()
    file.write_text(json.dumps(record), "utf-8")
    found = list(read_transcripts(file, aside=aside))
    assert found, aside.told()
    return found[0][0], aside.told()


def wrote(tmp_path: Path, *after: dict[str, Any], **message: Any) -> tuple[Trace, tuple[str, ...]]:
    """Return a chat in which the model writes one message, before others."""
    return read(tmp_path, messages=[USER, {"role": "assistant", **message}, *after])


def acts(trace: Trace) -> list[tuple[str, Any]]:
    return [(action.name, json.loads(action.arguments)) for action in trace.actions]


CALLS = {
    "Qwen/Qwen3-8B": '<tool_call>\n{"name": "look", "arguments": {"a": 1}}\n</tool_call>',
    "unknown": '<tool_call>{"name": "look", "arguments": {"a": 1}}</tool_call>',
    "openai/gpt-oss-20b": (
        '<|channel|>commentary to=functions.look <|constrain|>json<|message|>{"a": 1}<|call|>'
    ),
    "moonshotai/Kimi-K2-Thinking": (
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.look:0"
        '<|tool_call_argument_begin|>{"a": 1}<|tool_call_end|><|tool_calls_section_end|>'
    ),
    "allenai/Olmo-3-7B-Think": "<function_calls>look(a=1)</function_calls>",
}


@pytest.mark.parametrize("model", CALLS)
@pytest.mark.parametrize("before", ["", "I look.\n"])
def test_a_call_in_an_answer_is_an_action_also_where_reasoning_came_apart(
    tmp_path: Path, model: str, before: str
) -> None:
    answer = before * (not model.startswith("openai")) + CALLS[model]
    flat, notes = read(tmp_path, model=model, prompt="p", reasoning="r.", answer=answer)
    chat, _ = wrote(tmp_path, reasoning="r.", content=answer)
    named, _ = read(
        tmp_path,
        model=model,
        messages=[USER, {"role": "assistant", "reasoning": "r.", "content": answer}],
    )
    for trace in (flat, chat, named):
        assert acts(trace) == [("look", {"a": 1})]
        assert trace.channel_text("reasoning") == "r."
        assert trace.channel_text("answer").strip() in ("I look.", "")
    assert not notes


def test_calls_beside_an_answer_that_holds_another_are_kept_without_a_chat(tmp_path: Path) -> None:
    more = [{"name": "look", "arguments": {"a": 1}}, {"name": "del", "arguments": {}}]
    trace, _ = read(tmp_path, prompt="p", answer=f"Yes. {CALLS['unknown']}", tool_calls=more)
    assert acts(trace) == [("look", {"a": 1}), ("del", {})]


@pytest.mark.parametrize(
    ("block", "name", "arguments"),
    [
        ({"type": "mcp_tool_use", "name": "del", "input": {"q": 1}}, "del", {"q": 1}),
        ({"type": "tool_call", "name": "del", "args": {"q": 1}}, "del", {"q": 1}),
        ({"type": "function_call", "name": "del", "arguments": '{"q": 1}'}, "del", {"q": 1}),
        ({"type": "computer_call", "action": {"type": "click"}}, "computer", None),
    ],
)
def test_a_block_of_any_kind_of_call_is_an_action(
    tmp_path: Path, block: dict[str, Any], name: str, arguments: Any
) -> None:
    back = {"type": "mcp_tool_result", "tool_use_id": "m1", "content": "gone"}
    blocks = [{**block, "id": "m1"}, back, {"type": "text", "text": "Deleted."}]
    trace, notes = wrote(tmp_path, content=blocks)
    expected = {"action": {"type": "click"}} if arguments is None else arguments
    assert acts(trace) == [(name, expected)]
    assert trace.channel_text("answer") == "Deleted."
    assert trace.facts["format"] == "Anthropic chat"
    assert [(r.name, r.content) for r in trace.calls[0].results] == [(name, "gone")]
    assert not notes


def test_a_block_of_which_only_the_kind_is_kept_is_named(tmp_path: Path) -> None:
    blocks = [{"type": "teleport", "to": "moon"}, {"type": "text", "text": "Done."}]
    _, notes = wrote(tmp_path, content=blocks)
    assert notes == ("Blocks of which only the kind is kept: teleport: 1 row (line 1).",)


@pytest.mark.parametrize("more", [{"refusal": "I cannot."}, {"audio": {"transcript": "I cannot."}}])
def test_a_refusal_is_an_answer(tmp_path: Path, more: dict[str, Any]) -> None:
    alone, _ = wrote(tmp_path, content=None, **more)
    assert alone.channel_text("answer") == "I cannot."
    inside, _ = wrote(tmp_path, USER, {"role": "assistant", "content": "ok"}, content="", **more)
    assert len(inside.calls) == 2
    twice, _ = wrote(tmp_path, content="I cannot.", **more)
    assert twice.channel_text("answer") == "I cannot."


def choice(content: str) -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": content}, "finish_reason": "stop"}


def test_a_second_choice_is_named(tmp_path: Path) -> None:
    _, notes = read(tmp_path, messages=[USER], choices=[choice("first"), choice("second")])
    assert "Further choices of a response, not read" in " ".join(notes)


def test_a_response_that_the_messages_hold_too_is_one_turn(tmp_path: Path) -> None:
    said = {"role": "assistant", "content": "Done."}
    trace, _ = read(tmp_path, messages=[USER, said], choices=[choice("Done.")])
    assert (trace.channel_text("answer"), trace.calls, trace.finish) == ("Done.", (), "stop")
    trace, _ = read(tmp_path, messages=[USER, said], choices=[choice("More.")])
    assert trace.channel_text("answer") == "Done.More."


def test_an_answer_beside_a_chat_that_ends_with_the_user_is_its_last_turn(tmp_path: Path) -> None:
    before = [USER, {"role": "assistant", "content": "What?"}, USER]
    trace, _ = read(tmp_path, messages=before, response="Done.")
    assert trace.channel_text("answer") == "What?Done."


def test_a_call_under_the_older_name_does_not_hide_those_beside_it(tmp_path: Path) -> None:
    function = {"name": "a", "arguments": '{"x": 1}'}
    calls = [
        {"id": "c1", "function": function},
        {"id": "c2", "function": {"name": "del", "arguments": "{}"}},
    ]
    trace, _ = wrote(tmp_path, content=None, function_call=function, tool_calls=calls)
    assert acts(trace) == [("a", {"x": 1}), ("del", {})]
    other = {"name": "b", "arguments": "{}"}
    trace, _ = wrote(tmp_path, content=None, function_call=other, tool_calls=calls)
    assert [name for name, _ in acts(trace)] == ["a", "del", "b"]


def test_a_call_that_stands_as_a_block_and_beside_the_blocks_is_one(tmp_path: Path) -> None:
    block = {"type": "tool_use", "id": "c1", "name": "a", "input": {"x": 1}}
    beside = [{"id": "c1", "name": "a", "args": {"x": 1}, "type": "tool_call"}]
    trace, _ = wrote(tmp_path, content=[block], tool_calls=beside)
    assert acts(trace) == [("a", {"x": 1})]


GOOD = {"id": "c2", "type": "function", "function": {"name": "b", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("call", "name", "arguments"),
    [
        ({"type": "custom", "custom": {"name": "code", "input": "rm -rf /"}}, "code", "rm -rf /"),
        ({"id": 1.5, "function": {"name": "a", "arguments": "{}"}}, "a", "{}"),
        ({"id": [1], "function": {"name": "a", "arguments": "{}"}}, "a", "{}"),
        ({"function": {"arguments": "{}"}}, "", '{"function": {"arguments": "{}"}}'),
        ("rm -rf /", "", "rm -rf /"),
        (7, "", "7"),
    ],
)
def test_a_call_of_a_form_that_is_not_known_is_kept_and_hides_no_other(
    tmp_path: Path, call: object, name: str, arguments: str
) -> None:
    trace, notes = wrote(tmp_path, content="", tool_calls=[call, GOOD])
    assert [(a.name, a.arguments) for a in trace.actions] == [(name, arguments), ("b", "{}")]
    assert bool(notes) == (not name or "[1]" in str(call))
    flat, _ = read(tmp_path, prompt="p", answer="", tool_calls=[call, GOOD])
    assert [a.name for a in flat.actions] == [name, "b"]


@pytest.mark.parametrize("calls", [GOOD, json.dumps([GOOD]), json.dumps(GOOD)])
def test_calls_need_no_list(tmp_path: Path, calls: object) -> None:
    trace, _ = wrote(tmp_path, content="", tool_calls=calls)
    assert acts(trace) == [("b", {})]


@pytest.mark.parametrize("field", ["name", "id"])
def test_a_name_or_an_id_that_is_no_text_is_done_without_and_noted(
    tmp_path: Path, field: str
) -> None:
    trace, notes = wrote(tmp_path, content="ok", **{field: {"x": 1}})
    assert trace.channel_text("answer") == "ok"
    assert notes == (f"Not read, a field {field!r} that is no text: 1 row (line 1).",)


@pytest.mark.parametrize("content", [[1, 2, 3], {"price": 3}, True, [["a"]]])
def test_whatever_a_tool_gave_back_is_kept(tmp_path: Path, content: object) -> None:
    back = {"role": "tool", "tool_call_id": "c2", "content": content}
    trace, _ = wrote(tmp_path, back, USER, content="", tool_calls=[GOOD])
    [result] = trace.calls[0].results
    assert "".join(result.content.split()) in (
        "1\n2\n3".replace("\n", ""),
        '{"price":3}',
        "true",
        '["a"]',
    )


def test_a_row_in_which_nothing_was_written_is_left_out_as_a_chat_is(tmp_path: Path) -> None:
    file, aside = tmp_path / "t.jsonl", LeftOut()
    rows = [
        {"prompt": "p", "reasoning": "", "answer": "", "label": 0},
        {"messages": [USER, {"role": "assistant", "content": ""}], "label": 0},
    ]
    file.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    assert not list(read_transcripts(file, aside=aside))
    assert [row.why for row in aside.rows] == [
        "the model wrote nothing, neither a text nor a call: leave it out"
    ] * 2


def test_a_chat_of_thousands_of_calls_takes_no_memory_for_each_prompt() -> None:
    asked, act = Message("user", (Part("text", "Go."),)), Message("assistant", (Part("text", "a"),))
    chat = [asked, *[act, Message("tool", (Part("text", "b"),))] * 3000]
    tracemalloc.start()
    try:
        turns = turns_of(chat)
        taken = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [len(turn.read) for turn in turns] == list(range(1, 6000, 2))
    assert turns[1].read[:] == tuple(chat[:3])
    assert turns[1].read[-1] is chat[2]
    assert taken < 10 << 20  # 72 MB for a list of each prompt
