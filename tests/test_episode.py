"""An agent's run is one trace that can be taken apart into its model calls, exactly."""

from dataclasses import replace

import pytest
from episodes import Turn, model_call

from trace_probe.activations import pooled_spans
from trace_probe.episode import Episode, calls_of, steps
from trace_probe.errors import StoreError, TraceError
from trace_probe.storage.records import Manifest, to_line, to_trace
from trace_probe.storage.seals import opened_line
from trace_probe.storage.tensors import content_key
from trace_probe.trace import ModelCall, Span, Task, ToolCall, ToolResult, Trace

TASK = Task("t-1", "hacking", "Look up the sum.")


def call(number: int, prompt: str, thought: str, name: str = "", answer: str = "") -> Trace:
    """Return one model call."""
    called, said = [(name, "{}")] if name else [], [answer] if answer else []
    made = model_call(number, prompt, Turn([thought], called, said), task=TASK)
    return replace(made, actions=tuple(replace(one, id=f"c{number}") for one in made.actions))


FIRST = call(0, "Ask.", "I look it up. ", "look")
GROWN = call(1, FIRST.text + "=12;", "It is 12. ", "pay")
REWRITTEN = call(2, "Ask. <look>=12; <pay>=ok;", "Done then. ", "", "All is paid.")
EPISODE = Episode(
    "e",
    (FIRST, GROWN, REWRITTEN),
    results=((ToolResult("12", "look", "c0"),), (ToolResult("ok", "pay"),), ()),
    agents=("worker", "worker", "checker"),
    messages=("m1", "m2", "m3"),
    facts={"branch": "b"},
)


def test_joining_and_taking_apart_gives_the_same_calls() -> None:
    again = Episode.of(EPISODE.joined())
    assert [replace(one, facts={}) for one in again.calls] == list(EPISODE.calls)
    assert again.results == EPISODE.results
    assert again.agents == EPISODE.agents
    assert again.messages == EPISODE.messages
    assert again.joined() == EPISODE.joined()


def test_the_joined_trace_holds_the_first_prompt_and_all_that_was_written_and_nothing_else() -> (
    None
):
    trace = EPISODE.joined()
    assert trace.text == "Ask.I look it up. <look {}>It is 12. <pay {}>Done then. All is paid."
    assert [trace.text_of(one.span) for one in trace.actions] == ["<look {}>", "<pay {}>"]
    assert [trace.text[a:b] for a, b in steps(trace)] == [
        one.text[one.prompt_stop :] for one in EPISODE.calls
    ]
    assert [trace.call_at(one.span.start) for one in trace.actions] == [0, 1]


def test_a_prompt_that_goes_on_from_the_call_before_is_kept_as_its_new_part_alone() -> None:
    _, grown, rewritten = EPISODE.joined().calls
    assert (grown.kept, grown.text) == (len(FIRST), "=12;")
    assert rewritten.kept == 4  # the template has dropped the thought after "Ask."
    assert rewritten.text == " <look>=12; <pay>=ok;"


@pytest.mark.parametrize("ids", [True, False])
def test_a_trace_of_many_calls_survives_its_line(ids: bool) -> None:
    calls = EPISODE.calls if ids else tuple(replace(c, token_ids=()) for c in EPISODE.calls)
    trace = replace(EPISODE, calls=calls).joined()
    assert to_trace(opened_line(to_line(trace).rstrip())) == trace


def test_a_trace_of_one_call_is_an_episode_of_one_and_its_line_is_as_before() -> None:
    alone = call(0, "Ask.", "Thought.", "", "Answer.")
    assert list(calls_of(alone)) == [alone]
    assert Episode.of(alone).joined().text == alone.text
    assert b'"calls"' not in to_line(alone)
    assert b'"actions"' not in to_line(alone)


def test_what_a_later_call_read_belongs_to_the_key_of_the_activations() -> None:
    manifest, trace = Manifest("m"), EPISODE.joined()
    other = replace(trace, calls=(*trace.calls[:2], replace(trace.calls[2], token_ids=(1,) * 21)))
    keys = {content_key(manifest, each, pooled_spans(each)) for each in (trace, other)}
    assert len(keys) == 2


@pytest.mark.parametrize(
    "calls",
    [
        (ModelCall(5),),
        (ModelCall(4), ModelCall(4)),
        (ModelCall(4), ModelCall(999)),
        (ModelCall(4), ModelCall(24, token_ids=(1,))),
    ],
)
def test_calls_that_cannot_be_are_refused(calls: tuple[ModelCall, ...]) -> None:
    with pytest.raises(TraceError, match="call"):
        replace(EPISODE.joined(), calls=calls)


def test_a_tool_call_outside_the_action_channel_is_refused() -> None:
    with pytest.raises(TraceError, match="outside the channel action"):
        replace(FIRST, actions=(ToolCall("look", "{}", Span(4, 6, "action")),))


def test_a_line_with_a_call_of_another_form_is_one_sentence() -> None:
    raw = opened_line(to_line(EPISODE.joined()).rstrip())
    raw["calls"][1]["kept"] = -1
    with pytest.raises(StoreError, match="not as this version wrote it"):
        to_trace(raw)
