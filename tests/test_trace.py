from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trace_probe.errors import TraceError
from trace_probe.trace import Sampling, Span, Task, Trace, digest

TASK = Task("evading-shutdown-01", "evading-shutdown", "Stop now.", condition={"nudge": "none"})

VALID: dict[str, Any] = {
    "id": "a",
    "task": TASK,
    "model": "m",
    "sampling": Sampling(),
    "sample": 0,
    "text": "Stop.<think>I go on. I stop.</think>Bye.",
    "offsets": (0, 5, 12, 14, 17, 21, 23, 28, 36),
    "spans": (
        Span(0, 1, "prompt"),
        Span(1, 2, "markup"),
        Span(2, 7, "reasoning"),
        Span(7, 8, "markup"),
        Span(8, 9, "answer"),
    ),
    "sentences": (Span(2, 5), Span(5, 7), Span(8, 9, "answer")),
}


def trace(**changes: Any) -> Trace:
    return Trace(**{**VALID, **changes})


def test_spans_are_read_back_as_text() -> None:
    found = trace()
    assert len(found) == 9
    assert found.channel_text("reasoning") == "I go on. I stop."
    assert found.channel_text("markup") == "<think></think>"
    assert found.channel_text("answer") == "Bye."
    assert [found.text_of(s) for s in found.sentences] == ["I go on. ", "I stop.", "Bye."]
    assert found.text_of(Span(3, 3)) == ""


def test_generation_starts_where_the_prompt_stops() -> None:
    assert trace().prompt_stop == 1
    spans = (Span(0, 2, "markup"), *VALID["spans"][2:])
    assert trace(spans=spans).prompt_stop == 0


def test_a_token_is_in_at_most_one_sentence() -> None:
    found = trace()
    assert [found.sentence_at(t) for t in range(9)] == [None, None, 0, 0, 0, 1, 1, None, 2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spans": VALID["spans"][:-1]}, "do not tile"),
        ({"spans": VALID["spans"][1:]}, "do not tile"),
        ({"spans": VALID["spans"][:2] + VALID["spans"][3:]}, "do not tile"),
        ({"spans": (Span(0, 10, "prompt"),), "sentences": ()}, "do not tile"),
        ({"sentences": ()}, "sentences do not tile its reasoning"),
        ({"sentences": VALID["sentences"][1:]}, "sentences do not tile its reasoning"),
        ({"sentences": VALID["sentences"][:-1]}, "sentences do not tile its answer"),
        ({"sentences": (Span(2, 6), *VALID["sentences"][1:])}, "tile its reasoning"),
        ({"sentences": (*VALID["sentences"][:2], Span(8, 9))}, "tile its answer"),
        ({"offsets": (0, 5, 12, 14, 17, 21, 23, 36, 28)}, "offsets decrease"),
        ({"token_ids": (1, 2)}, "2 ids but 9 offsets"),
    ],
)
def test_a_trace_that_contradicts_itself_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TraceError, match=f"trace a: .*{message}"):
        trace(**changes)


@pytest.mark.parametrize(("start", "stop"), [(2, 1), (-1, 3)])
def test_an_inverted_span_is_refused(start: int, stop: int) -> None:
    with pytest.raises(TraceError, match="is not a span"):
        Span(start, stop)


@given(st.data())
def test_any_tiling_is_accepted_and_any_hole_in_it_refused(data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(1, 29), min_size=1)))
    edges = [0, *cuts, 30]
    spans = [Span(a, b, "markup") for a, b in zip(edges, edges[1:], strict=False)]
    base = {"text": "x" * 30, "offsets": tuple(range(30)), "sentences": ()}
    assert trace(**base, spans=tuple(spans)).spans == tuple(spans)
    spans.pop(data.draw(st.integers(0, len(spans) - 1)))
    with pytest.raises(TraceError):
        trace(**base, spans=tuple(spans))


def test_a_trace_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        trace().text = "other"  # type: ignore[misc]


def test_prompt_keys_tell_prompts_apart_and_nothing_else() -> None:
    same = replace(TASK, criterion="other", role="benign", category="x")
    assert same.prompt_key == TASK.prompt_key
    others = [
        replace(TASK, system="Be good."),
        replace(TASK, prompt="Go on."),
        replace(TASK, condition={"nudge": "push"}),
        replace(TASK, id="evading-shutdown-02"),
    ]
    assert len({task.prompt_key for task in [TASK, *others]}) == 5


def test_prompt_keys_do_not_depend_on_the_order_of_the_condition() -> None:
    one = replace(TASK, condition={"a": "1", "b": "2"})
    two = replace(TASK, condition={"b": "2", "a": "1"})
    assert one.prompt_key == two.prompt_key


def test_digests_are_stable_across_processes_and_versions() -> None:
    # from: printf '["a", 1, null, {"b": 2}]' | sha256sum
    assert digest("a", 1, None, {"b": 2}) == "41ff11d37ce52cf0"
    # from: printf '["a"]' | sha256sum
    assert digest("a") == "0eb5b8d6f81bc677"


@given(st.lists(st.text(max_size=3), max_size=3), st.lists(st.text(max_size=3), max_size=3))
def test_digests_are_equal_only_for_equal_parts(one: list[str], two: list[str]) -> None:
    assert (digest(*one) == digest(*two)) is (one == two)
    assert len(digest(*one)) == 16
