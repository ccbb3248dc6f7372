"""Chats of any format come in whole: every turn, thought, call and result, as one trace."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from trace_probe.commands.main import app
from trace_probe.episode import Episode, calls_of
from trace_probe.errors import TraceProbeError
from trace_probe.interop import episodes
from trace_probe.interop.conversation import GAP, Message, Part, Turn
from trace_probe.interop.exchange import export_run, import_export
from trace_probe.interop.fields import FieldMapping
from trace_probe.interop.transcripts import import_transcripts, read_transcripts
from trace_probe.labels import Label
from trace_probe.store import Store
from trace_probe.trace import Sampling, Task, Trace

USER = {"role": "user", "content": "Keep the backup running."}


def call(name: str, arguments: object, id: str = "c1") -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


OPENAI: dict[str, Any] = {
    "id": "o1",
    "model": "m",
    "messages": [
        {"role": "system", "content": "Be brief."},
        USER,
        {
            "role": "assistant",
            "reasoning_content": "I look first.",
            "content": None,
            "tool_calls": [call("read_log", '{"n":  5}'), call("ps", {}, "c2")],
        },
        {"role": "tool", "tool_call_id": "c2", "content": "nothing runs"},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "12 lines"}]},
        {"role": "assistant", "reasoning": "Now I copy myself.", "content": "It was stopped."},
        {"role": "user", "content": "Then start it."},
        {"role": "assistant", "content": "", "tool_calls": [call("start", '{"now": true}', "c3")]},
        {"role": "tool", "tool_call_id": "c3", "content": "started"},
    ],
    "finish_reason": "tool_calls",
    "label": 1,
}

ANTHROPIC: dict[str, Any] = {
    "id": "o1",
    "model": "m",
    "system": [{"type": "text", "text": "Be brief."}],
    "messages": [
        USER,
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "I look first.", "signature": "xyz"},
                {"type": "tool_use", "id": "c1", "name": "read_log", "input": {"n": 5}},
                {"type": "tool_use", "id": "c2", "name": "ps", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "c2", "content": "nothing runs"},
                {
                    "type": "tool_result",
                    "tool_use_id": "c1",
                    "content": [{"type": "text", "text": "12 lines"}],
                },
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Now I copy myself.", "signature": "xyz"},
                {"type": "text", "text": "It was stopped."},
            ],
        },
        {"role": "user", "content": "Then start it."},
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "c3", "name": "start", "input": {"now": True}}],
        },
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "c3", "content": "started"}],
        },
    ],
    "stop_reason": "tool_use",
    "label": 1,
}

ATIF: dict[str, Any] = {
    "schema_version": "ATIF-v1.4",
    "session_id": "o1",
    "agent": {"name": "a", "version": "1", "model_name": "m"},
    "steps": [
        {"step_id": 1, "source": "system", "message": "Be brief."},
        {"step_id": 2, "source": "user", "message": "Keep the backup running."},
        {
            "step_id": 3,
            "source": "agent",
            "message": "",
            "reasoning_content": "I look first.",
            "tool_calls": [
                {"tool_call_id": "c1", "function_name": "read_log", "arguments": {"n": 5}},
                {"tool_call_id": "c2", "function_name": "ps", "arguments": {}},
            ],
            "observation": {
                "results": [
                    {"source_call_id": "c2", "content": "nothing runs"},
                    {"source_call_id": "c1", "content": "12 lines"},
                ]
            },
        },
        {
            "step_id": 4,
            "source": "agent",
            "message": "It was stopped.",
            "reasoning_content": "Now I copy myself.",
        },
        {"step_id": 5, "source": "user", "message": "Then start it."},
        {
            "step_id": 6,
            "source": "agent",
            "message": "",
            "tool_calls": [
                {"tool_call_id": "c3", "function_name": "start", "arguments": {"now": True}}
            ],
            "observation": {"results": [{"source_call_id": "c3", "content": "started"}]},
        },
    ],
    "finish_reason": "stop",
    "label": 1,
}


def read(tmp_path: Path, *records: object) -> list[tuple[Trace, Label | None]]:
    file = tmp_path / "t.jsonl"
    file.write_text("\n".join(json.dumps(record) for record in records), "utf-8")
    return list(read_transcripts(file))


def one(tmp_path: Path, **record: Any) -> Trace:
    return read(tmp_path, record)[0][0]


def said(tmp_path: Path, finish: str = "stop", **message: Any) -> Trace:
    """Return a chat in which the model writes one message."""
    messages = [USER, {"role": "assistant", **message}]
    return one(tmp_path, messages=messages, finish_reason=finish)


@pytest.mark.parametrize(
    ("record", "shape"),
    [(OPENAI, "OpenAI chat"), (ANTHROPIC, "Anthropic chat"), (ATIF, "ATIF trajectory")],
)
def test_a_chat_of_each_format_comes_in_turn_by_turn(
    tmp_path: Path, record: dict[str, Any], shape: str
) -> None:
    ((trace, label),) = read(tmp_path, record)
    assert trace.facts["format"] == shape
    assert (trace.task.system, trace.task.prompt) == ("Be brief.", "Keep the backup running.")
    assert (trace.model, trace.thought, trace.finish) == ("m", "closed", "stop")
    assert [(a.name, json.loads(a.arguments), a.id) for a in trace.actions] == [
        ("read_log", {"n": 5}, "c1"),
        ("ps", {}, "c2"),
        ("start", {"now": True}, "c3"),
    ]
    assert [trace.call_at(action.span.start) for action in trace.actions] == [0, 0, 2]
    assert all(trace.text_of(a.span).startswith("<tool_call>\n") for a in trace.actions)
    assert [{(r.call_id, r.name, r.content) for r in turn.results} for turn in trace.calls] == [
        {("c2", "ps", "nothing runs"), ("c1", "read_log", "12 lines")},
        set(),
        {("c3", "start", "started")},
    ]
    assert [trace.text_of(s) for s in trace.channel("reasoning")] == [
        "I look first.",
        "Now I copy myself.",
    ]
    assert trace.channel_text("answer") == "It was stopped."
    assert label is not None
    assert (label.outcome, label.trace_id) == (True, trace.id)


@pytest.mark.parametrize("record", [OPENAI, ANTHROPIC, ATIF])
def test_later_prompts_are_kept_as_what_is_new_in_them(
    tmp_path: Path, record: dict[str, Any]
) -> None:
    trace, _ = read(tmp_path, record)[0]
    alone = list(calls_of(trace))
    assert [turn.kept for turn in trace.calls] == [0, len(alone[0]), len(alone[1])]
    for said in ("nothing runs", "12 lines"):
        assert f"<tool_response>\n{said}\n</tool_response>" in trace.calls[1].text
    assert "I look first." not in trace.calls[1].text
    assert trace.calls[2].text == "\n\nThen start it.\n\n"
    assert alone[2].text.startswith(alone[1].text)
    assert Episode.of(trace).joined() == replace(trace, facts=trace.facts)


def test_arguments_stay_as_the_model_wrote_them(tmp_path: Path) -> None:
    trace, _ = read(tmp_path, OPENAI)[0]
    assert trace.actions[0].arguments == '{"n":  5}'
    broken = said(tmp_path, tool_calls=[call("run", '{"cmd": "</tool_call>')])
    assert [(a.name, a.arguments) for a in broken.actions] == [("run", '{"cmd": "</tool_call>')]
    assert broken.channel_text("answer") == ""


def test_words_stand_for_tokens_and_the_trace_says_so(tmp_path: Path) -> None:
    trace, _ = read(tmp_path, OPENAI)[0]
    assert (trace.tokenizer, trace.token_ids, trace.facts["ids"]) == ("words", (), "words")


def test_a_message_that_only_calls_is_an_action_and_no_empty_answer(tmp_path: Path) -> None:
    trace = said(tmp_path, "tool_calls", content="", tool_calls=[call("stop", "{}")])
    assert [action.name for action in trace.actions] == ["stop"]
    assert trace.channel("action")
    assert trace.calls == ()


def test_a_thought_before_a_call_is_closed_and_a_harmless_label_stays(tmp_path: Path) -> None:
    message = {
        "role": "assistant",
        "reasoning": "Hm.",
        "content": "",
        "tool_calls": [call("a", {})],
    }
    ((trace, label),) = read(tmp_path, {"messages": [USER, message], "label": 0})
    assert trace.thought == "closed"
    assert label is not None
    assert label.outcome is False


def test_reasoning_that_was_cut_off_is_truncated_and_a_harmless_label_unknown(
    tmp_path: Path,
) -> None:
    message = {"role": "assistant", "reasoning_content": "Half a thou", "content": ""}
    record = {"messages": [USER, message], "finish_reason": "length", "label": 0}
    ((trace, label),) = read(tmp_path, record)
    assert (trace.thought, trace.finish) == ("truncated", "length")
    assert label is not None
    assert label.outcome is None


def test_a_deepseek_text_without_tags_that_was_cut_off_is_a_thought(tmp_path: Path) -> None:
    messages = [USER, {"role": "assistant", "content": "Okay, the user wants"}]
    record = {"model": "deepseek-ai/DeepSeek-R1", "messages": messages, "finish_reason": "length"}
    trace = one(tmp_path, **record)
    assert (trace.thought, trace.channel_text("answer")) == ("truncated", "")


def test_thoughts_between_texts_are_thoughts_in_their_order(tmp_path: Path) -> None:
    blocks = [
        {"type": "text", "text": "I check."},
        {"type": "thinking", "thinking": "It is odd.", "signature": "x"},
        {"type": "text", "text": "It runs."},
        {"type": "thinking", "thinking": "I hide it.", "signature": "x"},
    ]
    trace = said(tmp_path, "end_turn", content=blocks)
    shown = [(s.channel, trace.text_of(s)) for s in trace.spans if s.channel != "markup"]
    assert shown[1:] == [
        ("answer", "I check."),
        ("reasoning", "It is odd."),
        ("answer", "It runs."),
        ("reasoning", "I hide it."),
    ]
    assert trace.thought == "closed"


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "redacted_thinking", "data": "AbC"}, {"type": "text", "text": "Done."}],
        [
            {"type": "thinking", "thinking": "", "signature": "AbC"},
            {"type": "text", "text": "Done."},
        ],
    ],
)
def test_hidden_reasoning_was_there(tmp_path: Path, content: list[dict[str, Any]]) -> None:
    trace = said(tmp_path, content=content)
    assert trace.thought == "closed"
    assert trace.facts["hidden_reasoning"] == "in 1 of 1 calls"
    assert (trace.channel_text("reasoning"), trace.channel_text("answer")) == ("", "Done.")
    assert "hidden_reasoning" not in said(tmp_path, content="Done.").facts


def test_tags_in_a_content_without_reasoning_beside_it_are_read(tmp_path: Path) -> None:
    trace = said(
        tmp_path,
        content='<think>Hm.</think><tool_call>\n{"name": "a", "arguments": {}}\n</tool_call>',
    )
    assert trace.channel_text("reasoning") == "Hm."
    assert [action.name for action in trace.actions] == ["a"]


def test_a_call_that_stands_in_the_content_and_beside_it_is_one(tmp_path: Path) -> None:
    content = 'I stop it.<tool_call>{"name": "stop", "arguments": {}}</tool_call>'
    for more in ({}, {"reasoning": "Hm."}):
        trace = said(tmp_path, content=content, tool_calls=[call("stop", {})], **more)
        assert [action.name for action in trace.actions] == ["stop"]
        assert trace.channel_text("answer") == "I stop it."


def test_a_call_beside_a_content_that_holds_another_is_not_lost(tmp_path: Path) -> None:
    written = '<tool_call>{"name": "pay", "arguments": {"sum": 1}}</tool_call>'
    beside = [call("pay", {"sum": 1}), call("pay", {"sum": 1000}), call("stop", {})]
    for content in (f"I pay.{written}", f"I write {written}, then", "<tool_call>{torn</tool_call>"):
        trace = said(tmp_path, content=content, tool_calls=beside)
        found = [(one.name, json.loads(one.arguments)) for one in trace.actions if one.name]
        assert found == [("pay", {"sum": 1}), ("pay", {"sum": 1000}), ("stop", {})]


def test_what_a_server_looked_up_itself_is_a_result_and_order_is_kept(tmp_path: Path) -> None:
    blocks = [
        {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"q": "x"}},
        {"type": "web_search_tool_result", "tool_use_id": "s1", "content": [{"url": "u"}]},
        {"type": "text", "text": "Found."},
    ]
    trace = said(tmp_path, content=blocks)
    shown = [s.channel for s in trace.spans if s.channel != "markup"]
    assert shown == ["prompt", "action", "answer"]
    [[result]] = [turn.results for turn in trace.calls]
    assert (result.name, result.content, result.error) == ("web_search", '{"url": "u"}', "")


@pytest.mark.parametrize(
    ("error", "told"), [(False, ""), (True, "no such job"), ("timed out", "timed out"), (None, "")]
)
def test_an_error_of_a_tool_is_told_in_words(tmp_path: Path, error: object, told: str) -> None:
    back = {"role": "tool", "tool_call_id": "c1", "content": "no such job", "error": error}
    asked = {"role": "assistant", "content": "", "tool_calls": [call("start", {})]}
    trace = one(tmp_path, messages=[USER, asked, back, {"role": "assistant", "content": "Hm."}])
    assert [(r.content, r.error) for r in trace.calls[0].results] == [("no such job", told)]


@pytest.mark.parametrize(("given", "told"), [(5, "5"), (0.5, "0.5"), (True, "true")])
def test_what_a_tool_gave_back_as_a_number_is_told_as_it_is(
    tmp_path: Path, given: object, told: str
) -> None:
    back = {"role": "tool", "tool_call_id": "c1", "content": given}
    asked = {"role": "assistant", "content": "", "tool_calls": [call("count", {})]}
    trace = one(tmp_path, messages=[USER, asked, back, {"role": "assistant", "content": "Hm."}])
    assert [r.content for r in trace.calls[0].results] == [told]


def test_two_equal_messages_are_two_calls_each_with_what_stood_before_it(tmp_path: Path) -> None:
    again = {"role": "assistant", "content": "I wait."}
    trace = one(tmp_path, messages=[USER, again, {"role": "user", "content": "Go on."}, again])
    first, second = calls_of(trace)
    assert first.text == "Keep the backup running.\n\nI wait."
    assert second.text == "Keep the backup running.\n\nI wait.\n\nGo on.\n\nI wait."


def test_a_greeting_before_the_user_speaks_is_prompt(tmp_path: Path) -> None:
    hello = {"role": "assistant", "content": "Hi!"}
    trace = one(tmp_path, messages=[hello, USER, {"role": "assistant", "content": "Done."}])
    assert trace.calls == ()
    assert trace.channel_text("prompt").startswith("Hi!\n\nKeep")


def test_an_answer_may_stand_beside_the_messages_it_answers(tmp_path: Path) -> None:
    apart = one(tmp_path, messages=[USER], reasoning="I copy.", answer="Done.")
    choice = {"finish_reason": "stop", "message": {"reasoning": "I copy.", "content": "Done."}}
    served = one(tmp_path, messages=[USER], response={"choices": [choice]})
    for trace in (apart, served):
        assert trace.channel_text("reasoning") == "I copy."
        assert trace.channel_text("answer") == "Done."
    assert served.finish == "stop"


def test_steps_that_were_copied_or_made_by_no_model_are_prompt(tmp_path: Path) -> None:
    steps = [dict(step) for step in ATIF["steps"]]
    steps[2]["is_copied_context"] = True
    steps[3]["llm_call_count"] = 0
    trace = one(tmp_path, **{**ATIF, "steps": steps})
    assert [action.name for action in trace.actions] == ["start"]
    assert "12 lines" in trace.channel_text("prompt")
    assert "It was stopped." in trace.channel_text("prompt")


def test_an_atif_file_on_many_lines_is_one_trajectory(tmp_path: Path) -> None:
    file = tmp_path / "trajectory.json"
    file.write_text(json.dumps(ATIF, indent=2), "utf-8")
    report = import_transcripts(file, tmp_path / "run")
    assert (report.added, report.formats) == (1, {"ATIF trajectory": 1})


def test_import_says_what_it_took_the_lines_for_and_what_it_left_out(tmp_path: Path) -> None:
    bad = {"messages": [USER, {"role": "wizard", "content": "x"}]}
    empty = {"messages": [USER, {"role": "assistant", "content": ""}]}
    plain = {"prompt": "Go.", "answer": "Done."}
    file = tmp_path / "mixed.jsonl"
    lines = [json.dumps(r) for r in (OPENAI, bad, ANTHROPIC, ATIF, plain, empty)]
    file.write_text("\n".join(lines), "utf-8")
    done = CliRunner().invoke(app, ["import", str(file), str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    assert "1 x OpenAI chat, 1 x Anthropic chat, 1 x ATIF trajectory, 1 x transcript" in done.output
    assert "2 left out" in done.output
    assert "line 2: a message has the role 'wizard'" in done.output
    assert "the model wrote nothing" in done.output
    rows = Store(tmp_path / "run").artifacts.lines("left_out", "mixed").raw()
    assert [row["text"] for row in rows] == [lines[1], lines[5]]


def test_the_same_file_twice_adds_nothing(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text("\n".join(json.dumps(r) for r in (OPENAI, OPENAI, ATIF)), "utf-8")
    assert import_transcripts(file, tmp_path / "run").read == 3
    before = (tmp_path / "run" / "traces.jsonl").read_bytes()
    assert import_transcripts(file, tmp_path / "run").added == 0
    assert (tmp_path / "run" / "traces.jsonl").read_bytes() == before


def test_episodes_survive_export_and_import(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text("\n".join(json.dumps(r) for r in (OPENAI, ANTHROPIC, ATIF)), "utf-8")
    import_transcripts(file, tmp_path / "run")
    export_run(Store(tmp_path / "run"), tmp_path / "x.jsonl")
    import_export(tmp_path / "x.jsonl", tmp_path / "back")
    for name in ("traces.jsonl", "labels.jsonl"):
        assert (tmp_path / "back" / name).read_bytes() == (tmp_path / "run" / name).read_bytes()
    lines = (tmp_path / "x.jsonl").read_text("utf-8").splitlines()
    shown = json.loads(lines[1])
    assert '"name": "read_log"' in shown["action"]


BRANCHED = [
    [("user", "Go."), ("assistant", "I look.")],
    [("user", "Go."), ("assistant", "I look."), ("tool", "12 lines"), ("assistant", "I stop.")],
    [("user", "Go."), ("assistant", "I look."), ("tool", "[cleared]"), ("assistant", "I wait.")],
    [("system", "You judge."), ("user", "Is it so?"), ("assistant", "Yes.")],
    [
        *[("user", "Go."), ("assistant", "I look."), ("tool", "[cleared]")],
        *[("assistant", "I wait."), ("user", "Go on."), ("assistant", "Done.")],
    ],
    [("user", "Go."), ("assistant", "I")],
]


def test_calls_that_begin_anew_are_kept_as_what_is_new_in_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As in logs of agents that compact what they read, or of several agents."""
    chats: list[Any] = [
        [Message(role, (Part("text", text),)) for role, text in chat]  # type: ignore[arg-type]
        for chat in BRANCHED
    ]
    turns = [Turn(tuple(chat[:-1]), chat[-1], "stop") for chat in chats]
    about = {"task": Task("t", "c", "Go."), "model": "m", "sampling": Sampling(), "sample": 0}
    trace = episodes.trace_of(turns, about, ("k",))
    assert [call.kept for call in trace.calls] == [0, 3, 5, 0, 0, 1]
    assert [call.text for call in calls_of(trace)] == [
        "".join(
            text.join(episodes.TOOL_RESULT if role == "tool" else ("", "")) + GAP
            for role, text in chat[:-1]
        )
        + chat[-1][1]
        for chat in BRANCHED
    ]
    whole = Episode.of(trace).joined()
    assert (whole.calls, whole.text, whole.offsets) == (trace.calls, trace.text, trace.offsets)
    monkeypatch.setattr(episodes, "MOST_READ", 10)
    with pytest.raises(TraceProbeError, match="begin anew with more than 0 million characters"):
        episodes.trace_of(turns, about, ("k",))


def test_a_long_episode_is_bounded_by_what_is_new_in_each_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(episodes, "MOST_READ", 1_000)
    messages = [USER]
    for number in range(40):
        messages.append({"role": "assistant", "tool_calls": [call("look", {}, f"c{number}")]})
        messages.append({"role": "tool", "tool_call_id": f"c{number}", "content": "word " * 20})
    trace = one(tmp_path, messages=messages)
    assert len(trace.calls) == len(trace.actions) == 40
    assert [len(turn.results) for turn in trace.calls] == [1] * 40


def test_a_line_of_a_chat_grows_with_what_is_written_and_not_with_what_is_read(
    tmp_path: Path,
) -> None:
    def messages(calls: int) -> list[dict[str, Any]]:
        turns: list[dict[str, Any]] = [{"role": "user", "content": "word " * 500}]
        for n in range(calls):
            turns.append({"role": "assistant", "content": f"I look at {n}. " * 20})
            turns.append({"role": "user", "content": "Go on."})
        return turns

    sizes = []
    for calls in (10, 20):
        file, run = tmp_path / f"{calls}.jsonl", tmp_path / f"run{calls}"
        file.write_text(json.dumps({"messages": messages(calls)}), "utf-8")
        import_transcripts(file, run)
        sizes.append((run / "traces.jsonl").stat().st_size)
    assert sizes[1] < 2 * sizes[0]


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                (
                    "type",
                    "text",
                    "thinking",
                    "name",
                    "id",
                    "function",
                    "arguments",
                    "content",
                    "input",
                )
            ),
            inner,
        )
    ),
    max_leaves=6,
)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(("system", "user", "assistant", "tool", "x"))},
    optional={
        name: ANY_JSON | st.text(max_size=20)
        for name in ("content", "reasoning", "tool_calls", "function_call", "tool_call_id", "id")
    },
)


@settings(max_examples=150, derandomize=True, deadline=None)
@given(st.lists(MESSAGE | ANY_JSON, min_size=1, max_size=6), st.booleans())
def test_any_chat_is_read_or_named(
    tmp_path_factory: pytest.TempPathFactory, messages: list[Any], atif: bool
) -> None:
    file = tmp_path_factory.mktemp("fuzz") / "t.jsonl"
    steps = [
        {**m, "source": m.get("role"), "message": m.get("content")} if isinstance(m, dict) else m
        for m in messages
    ]
    record = {"schema_version": "ATIF-v1.6", "steps": steps} if atif else {"messages": messages}
    file.write_text(json.dumps(record), "utf-8")
    try:
        for trace, _ in read_transcripts(file, FieldMapping()):
            assert Episode.of(trace).joined().text == trace.text
    except TraceProbeError as error:
        assert "line 1" in str(error)  # noqa: PT017 - any of our errors, or none
