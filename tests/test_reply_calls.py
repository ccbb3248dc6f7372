"""A tool call reaches the client of a guarded model whole, as content, and not before it is one."""

import json

import pytest

from trace_probe.model.reply import Reply as ServerReply
from trace_probe.monitor.scorer import Reading
from trace_probe.recording.served import completed
from trace_probe.serving.reply import Policy, Reply
from trace_probe.text.channels import FORMATS, ChannelReader
from trace_probe.text.parts import join_parts
from trace_probe.text.tool_calls import parse_calls

CALL = '<tool_call>\n{"name": "look"}\n</tool_call>'


def parts_of(text: str, policy: Policy = "annotate", alarm: int | None = None) -> list[str]:
    """Return what the client got, a field and its text each, fed by character.

    A probe alarms at the character `alarm`.
    """
    format = FORMATS["think"]
    channels = ChannelReader(format, prefilled=True)
    reply = Reply("id", "m", (), policy, channels, format, 10_000)
    got: list[tuple[str, str]] = []
    for place, character in enumerate(text):
        alarms = ("p",) if alarm is not None and place >= alarm else ()
        reading = Reading(place, character, "reasoning", None, (), alarms)
        for part in reply.take(reading):
            got += part.items()
    for part in reply.finish():
        got += part.items()
    names = dict.fromkeys(name for name, _ in got)
    return [f"{name}: {''.join(text for its, text in got if its == name)}" for name in names]


def test_a_call_that_ends_a_thought_is_content_from_its_first_tag() -> None:
    assert parts_of(f"I look.{CALL}") == ["reasoning_content: I look.", f"content: {CALL}"]
    assert parts_of(f"I look.</think>{CALL}") == ["reasoning_content: I look.", f"content: {CALL}"]


def test_a_call_that_a_thought_mentions_stays_in_it() -> None:
    said = "Others write <tool_call> here."
    assert parts_of(f"{said}</think>Done.") == [f"reasoning_content: {said}", "content: Done."]


@pytest.mark.parametrize("text", [f"I look.{CALL}", f"I look.</think>{CALL}"])
def test_a_call_is_withheld_after_an_alarm_as_an_answer_is(text: str) -> None:
    assert parts_of(text, "withhold") == ["reasoning_content: I look.", f"content: {CALL}"]
    assert parts_of(text, "withhold", len(text) - 2) == ["reasoning_content: I look."]


@pytest.mark.parametrize("reasoning", [None, "I look."])
def test_a_call_that_a_server_gives_in_the_text_and_apart_is_made_once(
    reasoning: str | None,
) -> None:
    text = '<tool_call>{"name": "look", "arguments": {"at": 1}}</tool_call>'
    calls = (("look", '{"at":1}', "c1"), ("look", '{"at":2}', "c2"))
    reply = ServerReply(text, reasoning, "stop", calls=calls)
    whole, cut = completed(reply, FORMATS["think"])
    made = [
        (call.name, call.arguments)
        for channel, start, stop in cut.ranges
        if channel == "action"
        for call in parse_calls(whole, start, stop)
    ]
    assert [json.loads(arguments)["at"] for _, arguments in made] == [1, 2]


@pytest.mark.parametrize("reasoning", ["Hm.", "Hm.\n", "\nHm.\n"])
@pytest.mark.parametrize("answer", ["Yes.", "\n\nYes."])
def test_line_breaks_that_a_server_left_beside_its_tags_are_not_doubled(
    reasoning: str, answer: str
) -> None:
    text, cut = join_parts(reasoning, answer, FORMATS["think"], closed=True)
    assert text == "<think>\nHm.\n</think>\n\nYes."
    held = {one.channel: text[one.start : one.stop].strip() for one in cut.ranges}
    assert (held["reasoning"], held["answer"]) == ("Hm.", "Yes.")


def test_a_call_that_was_left_in_the_answer_is_an_action_beside_a_thought_that_came_apart() -> None:
    text, cut = completed(
        ServerReply(f"\n\n{CALL}", "Hm.\n", "stop"), FORMATS["think"], opened=True
    )
    assert text == f"Hm.\n</think>\n\n{CALL}"
    assert [(c, text[a:b]) for c, a, b in cut.ranges if c != "markup"] == [
        ("reasoning", "Hm.\n"),
        ("action", CALL),
    ]
