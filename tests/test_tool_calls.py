"""Tool calls of every family are read, and none is lost."""

import json
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trace_probe.text.channels import FORMATS, ChannelReader, split
from trace_probe.text.layout import build_spans
from trace_probe.text.tool_calls import TAGS, is_bare_call, parse_calls, write_call
from trace_probe.trace import Span

THINK = FORMATS["think"]

TWO = {
    "Hermes": (
        '<tool_call>\n{"name": "read", "arguments": {"n": 5}}\n</tool_call>\n'
        '<tool_call>\n{"name": "stop", "arguments": {}}\n</tool_call>'
    ),
    "Qwen3-Coder": (
        "<tool_call>\n<function=read>\n<parameter=n>\n5\n</parameter>\n</function>\n</tool_call>"
        "<tool_call>\n<function=stop>\n</function>\n</tool_call>"
    ),
    "Qwen3-Coder without its outer tags": (
        "<function=read>\n<parameter=n>\n5\n</parameter>\n</function>\n<function=stop>\n</function>"
    ),
    "GLM-4.5": (
        "<tool_call>read\n<arg_key>n</arg_key>\n<arg_value>5</arg_value>\n</tool_call>\n"
        "<tool_call>stop\n</tool_call>"
    ),
    "DeepSeek-V3.1": (
        '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>read<｜tool▁sep｜>{"n": 5}<｜tool▁call▁end｜>'
        "<｜tool▁call▁begin｜>stop<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
    ),
    "DeepSeek-R1": (
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>read\n```json\n"
        '{"n": 5}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>stop\n'
        "```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
    ),
    "DeepSeek-V3.2": (
        '<｜DSML｜function_calls>\n<｜DSML｜invoke name="read">\n'
        '<｜DSML｜parameter name="n" string="false">5</｜DSML｜parameter>\n</｜DSML｜invoke>\n'
        '<｜DSML｜invoke name="stop">\n</｜DSML｜invoke>\n</｜DSML｜function_calls>'
    ),
    "Kimi-K2": (
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.read:0"
        '<|tool_call_argument_begin|>{"n": 5}<|tool_call_end|><|tool_call_begin|>functions.stop:1'
        "<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>"
    ),
    "Mistral": (
        '[TOOL_CALLS][{"name": "read", "arguments": {"n": 5}}, {"name": "stop", "arguments": {}}]'
    ),
    "Magistral": '[TOOL_CALLS]read[CALL_ID]a1[ARGS]{"n": 5}[TOOL_CALLS]stop[ARGS]{}',
    "OLMo-3": "<function_calls>read(n=5)\nstop()</function_calls>",
    "MiniMax-M2": (
        '<minimax:tool_call>\n<invoke name="read">\n<parameter name="n">5</parameter>\n</invoke>\n'
        '<invoke name="stop">\n</invoke>\n</minimax:tool_call>'
    ),
    "Gemma-4": "<|tool_call>call:read{n:5}<tool_call|><|tool_call>call:stop{}<tool_call|>",
    "Cohere": (
        '<|START_ACTION|>[\n{"tool_call_id": "0", "tool_name": "read", "parameters": {"n": 5}},\n'
        '{"tool_call_id": "1", "tool_name": "stop", "parameters": {}}\n]<|END_ACTION|>'
    ),
    "Seed-OSS": (
        "<seed:tool_call>\n<function=read>\n<parameter=n>5</parameter>\n</function>\n"
        "</seed:tool_call><seed:tool_call>\n<function=stop>\n</function>\n</seed:tool_call>"
    ),
    "Apertus": '<|tools_prefix|>[{"read": {"n": 5}}, {"stop": {}}]<|tools_suffix|>',
    "Phi-4": (
        '<|tool_call|>[{"name": "read", "arguments": {"n": 5}}, {"name": "stop"}]<|/tool_call|>'
    ),
    "Llama-3": (
        '<|python_tag|>{"name": "read", "parameters": {"n": 5}}; {"name": "stop", "parameters": {}}'
    ),
}


@pytest.mark.parametrize("family", TWO)
def test_two_calls_of_every_family_are_read_with_name_arguments_and_place(family: str) -> None:
    text = TWO[family]
    read, stop = parse_calls(f"I look.{text}", len("I look."))
    assert (read.name, stop.name) == ("read", "stop")
    assert (json.loads(read.arguments), json.loads(stop.arguments)) == ({"n": 5}, {})
    assert len("I look.") <= read.start < read.stop <= stop.start < stop.stop <= len(text) + 7
    assert "5" in f"I look.{text}"[read.start : read.stop]
    assert "stop" in f"I look.{text}"[stop.start : stop.stop]


@pytest.mark.parametrize("family", TWO)
def test_the_calls_of_a_completion_are_tokens_of_the_channel_action(family: str) -> None:
    text = f"I look. {TWO[family]}"
    layout = build_spans(text, range(len(text)), 0, FORMATS["plain"], prefilled=False)
    assert [action.name for action in layout.actions] == ["read", "stop"]
    inside = {t for span in layout.spans if span.channel == "action" for t in range(*_ends(span))}
    assert all(set(range(*_ends(action.span))) <= inside for action in layout.actions)


def _ends(span: Span) -> tuple[int, int]:
    return span.start, span.stop


def test_ids_that_a_family_writes_are_kept() -> None:
    assert parse_calls(TWO["Kimi-K2"])[1].id == "functions.stop:1"
    assert parse_calls(TWO["Magistral"])[0].id == "a1"
    assert parse_calls(TWO["Cohere"])[1].id == "1"


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize(
    "inside", ["read the log(", '{"name": "read", "arg', "", '{"a": 1, "b": 2}']
)
def test_a_call_that_cannot_be_read_has_no_name_and_is_not_lost(tag: str, inside: str) -> None:
    text = f"{tag}{inside}{TAGS[tag]}"
    calls = parse_calls(text)
    assert calls
    for call in calls:
        assert call.name in {"", "python"}
        assert 0 <= call.start < call.stop <= len(text)


def test_arguments_are_kept_as_they_were_written() -> None:
    [call] = parse_calls('<tool_call>{"arguments": {"b":  1,"a": 2.50}, "name": "f"}</tool_call>')
    assert (call.name, call.arguments) == ("f", '{"b":  1,"a": 2.50}')
    [call] = parse_calls('<tool_call>{"name": "f", "arguments": "{\\"n\\": 5}"}</tool_call>')
    assert call.arguments == '{"n": 5}'


def test_a_text_of_an_element_stays_a_text() -> None:
    [call] = parse_calls(
        "<function=write>\n<parameter=text>\nline 1\nline 2\n</parameter>\n"
        "<parameter=flags>\n[1, true]\n</parameter>\n</function>"
    )
    assert json.loads(call.arguments) == {"text": "line 1\nline 2", "flags": [1, True]}


def test_what_llama_writes_behind_its_tag_is_a_built_in_tool_or_code() -> None:
    [call] = parse_calls('<|python_tag|>brave_search.call(query="logs")')
    assert (call.name, json.loads(call.arguments)) == ("brave_search", {"query": "logs"})
    [call] = parse_calls("<|python_tag|>import os\nos.remove('log')")
    assert (call.name, call.arguments) == ("python", "import os\nos.remove('log')")


def test_json_without_tags_is_a_call_only_if_it_is_a_name_and_parameters() -> None:
    assert is_bare_call('{"name": "look", "parameters": {"at": "log"}}')
    assert is_bare_call('{"type": "function", "name": "look", "parameters": {}}')
    assert not is_bare_call('{"name": "Ann", "parameters": 3}')
    assert not is_bare_call('{"name": "Ann", "age": 3}')
    assert not is_bare_call('{"name": "Ann"')
    text = '{"name": "look", "parameters": {"at": "log"}}'
    layout = build_spans(text, range(len(text)), 0, FORMATS["plain"], prefilled=False)
    assert [(a.name, a.arguments) for a in layout.actions] == [("look", '{"at": "log"}')]
    layout = build_spans(text, range(len(text)), 0, FORMATS["think"], prefilled=False)
    assert not layout.actions


@given(st.text(), st.text(min_size=1), st.text())
def test_a_call_that_is_written_is_read_back(arguments: str, name: str, id: str) -> None:
    [call] = parse_calls(write_call(name, json.dumps({"text": arguments}), id))
    assert (call.name, call.id) == (name, id)
    assert json.loads(call.arguments) == {"text": arguments}


PIECES = [*TAGS, *TAGS.values(), *TWO.values(), "{", "}", "[", "]", '"', ":", ",", "f(", ")", "\n"]


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=4)).map("".join))
def test_any_text_gives_calls_that_lie_in_it_in_order(text: str) -> None:
    calls = parse_calls(text)
    assert bool(calls) == bool(text)
    assert all(0 <= call.start < call.stop <= len(text) for call in calls)
    assert [call.start for call in calls] == sorted(call.start for call in calls)


def meant(text: str) -> list[tuple[str, object]]:
    """Return names and arguments of the calls in a text; the text itself where it is no JSON."""
    found = []
    for call in parse_calls(text):
        try:
            found.append((call.name, json.loads(call.arguments)))
        except ValueError:
            found.append((call.name, call.arguments))
    return found


@pytest.mark.parametrize(
    ("inside", "calls"),
    [
        ("a(x=true, y=[null, {'z': false}])", [("a", {"x": True, "y": [None, {"z": False}]})]),
        ('a(x="line\nbreak")\nrm(y=1)', [("a", {"x": "line\nbreak"}), ("rm", {"y": 1})]),
        ("a(x=open)\nrm(y=1)", [("", "a(x=open)"), ("rm", {"y": 1})]),
        ("a(\n  x=1,\n)\n[b(), c(z='é')]", [("a", {"x": 1}), ("b", {}), ("c", {"z": "é"})]),
    ],
)
def test_a_bad_call_of_olmo_hides_no_other_and_literals_of_json_are_read(
    inside: str, calls: list[tuple[str, object]]
) -> None:
    assert meant(f"<function_calls>{inside}</function_calls>") == calls


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("<function=sh>\n<parameter=c>\nrm -rf /\n</function>", {"c": "rm -rf /"}),
        ("<function=sh>\n<parameter=c>\nls\n<parameter=d>\n1\n</function>", {"c": "ls", "d": 1}),
        (
            '<function=sh>\n<parameter=c>\nprint("</parameter>")\n</parameter>\n</function>',
            {"c": 'print("</parameter>")'},
        ),
        (
            "<tool_call>sh\n<arg_key>c</arg_key>\n<arg_value>a </arg_value> b</arg_value>\n"
            "<arg_key>d</arg_key>\n<arg_value>1\n</tool_call>",
            {"c": "a </arg_value> b", "d": 1},
        ),
        (
            '<minimax:tool_call><invoke name="sh"><parameter name="c">x </parameter> y</parameter>'
            '<parameter name="d">1</invoke></minimax:tool_call>',
            {"c": "x </parameter> y", "d": 1},
        ),
    ],
)
def test_an_element_without_its_end_or_with_it_in_its_text_is_neither_dropped_nor_cut(
    text: str, arguments: object
) -> None:
    assert meant(text) == [("sh", arguments)]


def test_what_is_no_element_makes_a_call_unread_instead_of_one_without_arguments() -> None:
    assert meant("<function=sh>rm -rf /</function>") == [("", "<function=sh>rm -rf /")]


TAGGED_ARGUMENTS = [
    '<tool_call>\n{"name": "a", "arguments": {"x": "</tool_call>"}}\n</tool_call>',
    '<tool_call>\n{"name": "a", "arguments": {"x": "\\" <tool_call>{"}}\n</tool_call>',
    '<function_calls>a(x="</function_calls>")</function_calls>',
]


@pytest.mark.parametrize("text", TAGGED_ARGUMENTS)
def test_a_tag_among_the_arguments_of_a_call_does_not_end_it(text: str) -> None:
    (call,) = parse_calls(text)
    assert (call.name, call.start, call.stop) == ("a", 0, len(text))
    whole = f"<think>Hm.</think>{text}Done."
    ranges, thought = split(whole, 0, FORMATS["think"], prefilled=False)
    found = {channel: whole[start:stop] for channel, start, stop in ranges}
    assert (thought, found["action"], found["answer"]) == ("closed", text, "Done.")
    reader = ChannelReader(FORMATS["think"], prefilled=False)
    for stop, char in enumerate(whole, start=1):
        reader.feed(char)
        assert reader.split() == split(whole[:stop], 0, FORMATS["think"], prefilled=False)


def test_a_text_that_is_not_closed_does_not_swallow_the_next_call() -> None:
    bad, good = '<tool_call>{"name": "a", "x": "oops}}</tool_call>', TAGGED_ARGUMENTS[0]
    assert [call.name for call in parse_calls(bad + good)] == ["", "a"]


HELD = {
    "Hermes": '<tool_call>\n{"name": "w", "arguments": {"x": "$"}}\n</tool_call>',
    "Llama 3.1": '<function=w>{"x": "$"}</function>',
    "Qwen3-Coder": (
        "<tool_call>\n<function=w>\n<parameter=x>\n$\n</parameter>\n</function>\n</tool_call>"
    ),
    "Qwen3-Coder without its outer tags": (
        "<function=w>\n<parameter=x>\n$\n</parameter>\n</function>"
    ),
    "GLM-4.5": "<tool_call>w\n<arg_key>x</arg_key>\n<arg_value>$</arg_value>\n</tool_call>",
    "MiniMax-M2": (
        '<minimax:tool_call>\n<invoke name="w">\n<parameter name="x">$</parameter>\n</invoke>\n'
        "</minimax:tool_call>"
    ),
    "DeepSeek-V3.1": (
        '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>w<｜tool▁sep｜>{"x": "$"}<｜tool▁call▁end｜>'
        "<｜tool▁calls▁end｜>"
    ),
    "Kimi-K2": (
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.w:0"
        '<|tool_call_argument_begin|>{"x": "$"}<|tool_call_end|><|tool_calls_section_end|>'
    ),
    "OLMo-3": "<function_calls>w(x='$')</function_calls>",
    "OLMo-3 in double quotes": '<function_calls>w(x="$")</function_calls>',
    "Gemma-4": '<|tool_call>call:w{x:<|"|>$<|"|>}<tool_call|>',
}


@pytest.mark.parametrize("family", HELD)
@pytest.mark.parametrize("before", ["a ", "a {tag} b "])
def test_an_end_tag_among_the_arguments_ends_no_call_in_any_family(
    family: str, before: str
) -> None:
    tag = next(tag for tag in TAGS if HELD[family].startswith(tag))
    held = [TAGS[tag], *re.findall(r"</[^>]*>|<.tool▁call▁end.>|<\|tool_call_end\|>", HELD[family])]
    for end in held:
        value = before.format(tag=tag if "Coder" not in family else "<tool_call>") + end + " b"
        text = HELD[family].replace("$", value)
        layout = build_spans(f"I do.{text}Done.", range(len(text) + 10), 0, THINK, prefilled=False)
        [call] = layout.actions
        assert (call.name, json.loads(call.arguments)) == ("w", {"x": value})
        assert call.span == Span(5, 5 + len(text), "action")
        stream = ChannelReader(THINK, prefilled=False)
        for stop, character in enumerate(text, start=1):
            stream.feed(character)
            assert stream.split() == split(text[:stop], 0, THINK, prefilled=False)


@pytest.mark.parametrize(
    "torn",
    [
        '<tool_call>\n{"name": "a", "arguments": {"x": "b}}\n</tool_call>',
        "<tool_call>\n<function=a>\n<parameter=x>\nb\n</function>\n</tool_call>",
        "<tool_call>a\n<arg_key>x</arg_key>\n<arg_value>b\n</tool_call>",
        "<function_calls>a(x='it's')</function_calls>It isn't.",
    ],
)
def test_a_torn_call_hides_neither_a_thought_nor_a_call_behind_it(torn: str) -> None:
    text = f"{torn}<think>I hide it.</think>{TWO['Hermes']}{TWO['OLMo-3']}"
    found = split(text, 0, THINK, prefilled=False)
    parts = {text[start:stop] for channel, start, stop in found.ranges if channel == "reasoning"}
    assert parts == {"I hide it."}
    layout = build_spans(text, range(len(text)), 0, THINK, prefilled=False)
    assert [call.name for call in layout.actions][1:] == ["read", "stop"] * 2


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (
            '<tool_call>{"name": "a"}\n{"name": "b", "x":}\n{"name": "c"}</tool_call>',
            ["a", "", "c"],
        ),
        ("<function_calls>a(x='it's')\nb(y='c')</function_calls>", ["", "b"]),
        ("<function_calls>a(\nb(y='c')\nc()</function_calls>", ["", "b", "c"]),
        (
            "<tool_call><function=a><parameter=x>1</parameter> more <parameter=y>2</parameter>"
            "</function><function=b></function></tool_call>",
            ["", "b"],
        ),
    ],
)
def test_a_call_that_cannot_be_read_hides_no_neighbour(text: str, names: list[str]) -> None:
    assert [call.name for call in parse_calls(text)] == names


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>\n<function=sh>\n<parameter=cmd>\nrm -rf /\n<parameter=now>\n1\n</function>\n"
        "</tool_call>",
        "<tool_call>sh\n<arg_key>cmd</arg_key>\n<arg_value>rm -rf /\n<arg_key>now</arg_key>\n"
        "<arg_value>1\n</tool_call>",
    ],
)
def test_a_parameter_without_a_close_tag_ends_at_the_next_one(text: str) -> None:
    [call] = parse_calls(text)
    assert (call.name, json.loads(call.arguments)) == ("sh", {"cmd": "rm -rf /", "now": 1})


def test_calls_by_the_thousand_in_one_text_are_read_in_a_moment() -> None:
    start = time.process_time()
    for piece in (*HELD.values(), '<tool_call>{"', "<function_calls>a(x='\n"):
        text = piece * 5_000
        layout = build_spans(text, range(0, len(text), 8), 0, THINK, prefilled=False)
        assert layout.actions
    assert time.process_time() - start < 30
