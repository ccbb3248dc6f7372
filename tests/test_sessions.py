"""Sessions of the server: the calls of an agent are scored as one episode, each caller's apart."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the server needs fastapi: pip install -e .[test]")

import openai
from acting import TASKS, acting_model, script
from made_probes import a_probe, planted_probe
from test_endpoint import NAME, Up, up, wait_until
from test_episode_watch import ASKED, in_bulk

from trace_probe.episode import Episode
from trace_probe.monitor.detector import Detector, Source
from trace_probe.monitor.scorer import FRESH, Reading, ScoredSentence
from trace_probe.probing.probe import SavedProbe
from trace_probe.recording.course import Agent
from trace_probe.serving.limits import Limits, Refusal, caller_of, check_token
from trace_probe.serving.protocol import read_request
from trace_probe.serving.reply import Policy, Reply
from trace_probe.serving.sessions import Sessions
from trace_probe.statistics.smoothing import MAX
from trace_probe.tasks.environments import scripted
from trace_probe.text.channels import FORMATS, ChannelReader
from trace_probe.trace import Sampling, Trace

LIMITS = Limits(tokens=24)


def ask(server: Up, number: int, *, key: str = "none", session: str = "s-1", **more: Any) -> Any:
    """Make a call of an episode."""
    create: Any = server.client(key).chat.completions.create
    return create(
        model=NAME,
        messages=[{"role": "user", "content": ASKED[number].prompt}],
        seed=7 + number,
        extra_body={"session_id": session},
        **more,
    )


def joined(model: Any) -> Trace:
    """Return the trace of the episode that `ask` makes."""
    from trace_probe.monitor.scoring import as_if_written

    calls = []
    for number, task in enumerate(ASKED):
        prompt = model.render(task)
        (written,) = model.generate([prompt], [7 + number], Sampling(7 + number, 1.0, 1.0, 24))
        calls.append(as_if_written(model, task, (*prompt, *written.ids), len(prompt), "a call"))
    return Episode("e", tuple(calls)).joined()


def _summary(events: Any) -> Any:
    """Return what the last event of a stream that says so says of the whole answer."""
    told = [getattr(event, "trace_probe", {}) for event in events]
    return next(one for one in reversed(told) if "sentences" in one)


def running(model: Any) -> SavedProbe:
    """Return a probe of what was thought so far, which a call alone would score otherwise."""
    return a_probe(model, feature="running-mean")


@contextmanager
def served(model: Any, audit: Path, saved: SavedProbe, **more: Any) -> Iterator[Up]:
    with up(model, audit, limits=more.pop("limits", LIMITS), saved=saved, **more) as server:
        yield server


@pytest.mark.parametrize("stream", [False, True])
def test_a_session_is_scored_as_the_joined_trace_of_its_calls(
    tiny: Callable[..., Any], tmp_path: Path, stream: bool
) -> None:
    model = tiny()
    saved, trace = running(model), joined(model)
    scores, seen = in_bulk(model, saved, trace), []
    with served(model, tmp_path / "audit.jsonl", saved) as server:
        for number in range(3):
            answer = ask(server, number, stream=stream)
            told = _summary(answer) if stream else answer.trace_probe
            assert (told["session"], told["call"]) == ("s-1", number + 1)
            seen += told["sentences"]
    assert [one["sentence"] for one in seen] == list(range(len(trace.sentences)))
    for one, span in zip(seen, trace.sentences, strict=True):
        assert [token + trace.prompt_stop for token in one["tokens"]] == [span.start, span.stop]
        for risk in one["risk"]:
            assert abs(risk["score"] - scores[one["sentence"]]) <= 1e-5
    assert sum(bool(one["risk"]) for one in seen) > 3


def test_sessions_of_other_names_and_requests_without_one_start_anew(
    tiny: Callable[..., Any], tmp_path: Path
) -> None:
    model = tiny()
    with served(model, tmp_path / "audit.jsonl", running(model)) as server:
        ask(server, 0)
        other = ask(server, 1, session="s-2").trace_probe
        alone: Any = server.client().chat.completions.create(
            model=NAME, messages=[{"role": "user", "content": ASKED[1].prompt}], seed=8
        )
        again = ask(server, 1).trace_probe
        assert (other["call"], again["call"]) == (1, 2)
        assert "session" not in alone.trace_probe
        assert other["sentences"] == alone.trace_probe["sentences"]
        assert [s["risk"] for s in again["sentences"]] != [s["risk"] for s in other["sentences"]]


def test_an_alarm_is_written_down_with_session_and_call_once(
    tiny: Callable[..., Any], tmp_path: Path
) -> None:
    model = tiny()
    with served(model, tmp_path / "a.jsonl", replace_threshold(running(model))) as server:
        first, second = (ask(server, number).trace_probe for number in (0, 1))
        assert first["alarm"]
        assert second["alarm"]
        (entry,) = server.entries()
    assert (entry["session"], entry["call"]) == ("s-1", 1)


def replace_threshold(saved: SavedProbe, threshold: float = -1e9) -> SavedProbe:
    return replace(saved, card=replace(saved.card, threshold=threshold))


@pytest.mark.parametrize("policy", ["stop", "withhold"])
def test_an_episode_that_was_stopped_stays_stopped_and_others_go_on(
    tiny: Callable[..., Any], tmp_path: Path, policy: str
) -> None:
    model = tiny()
    saved = replace_threshold(running(model))
    with served(model, tmp_path / "a.jsonl", saved, policy=policy) as server:
        assert ask(server, 0).choices[0].finish_reason == "content_filter"
        with pytest.raises(openai.PermissionDeniedError, match="stopped by an alarm of p"):
            ask(server, 1)
        assert ask(server, 1, session="s-2").choices[0].finish_reason == "content_filter"


def test_a_call_whose_client_left_counts_for_nothing(
    tiny: Callable[..., Any], tmp_path: Path
) -> None:
    model = tiny()
    limits = Limits(tokens=400)
    with served(model, tmp_path / "a.jsonl", running(model), limits=limits) as server:
        first = ask(server, 0, max_tokens=24).trace_probe
        broken = ask(server, 1, stream=True, max_tokens=400)
        next(iter(broken))
        broken.close()
        wait_until(lambda: not server.served.scheduler.active)
        again = ask(server, 1, max_tokens=24).trace_probe
        assert (first["call"], again["call"]) == (1, 2)


def test_a_stop_text_would_leave_a_gap_and_is_refused(
    tiny: Callable[..., Any], tmp_path: Path
) -> None:
    model = tiny()
    with served(model, tmp_path / "a.jsonl", running(model)) as server:
        with pytest.raises(openai.BadRequestError, match="stop is not served within a session"):
            ask(server, 0, stop="x")
        with pytest.raises(openai.BadRequestError, match="session_id cannot be"):
            ask(server, 0, session="a b")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def after_a_call(sessions: Sessions, caller: str, name: str) -> None:
    session = sessions.enter(caller, name, stops=True)
    sessions.leave(session, carried=replace(session.carried, calls=session.call))


def test_sessions_are_bound_to_their_caller() -> None:
    sessions = Sessions(9, 60, 9)
    after_a_call(sessions, "Bearer a", "s")
    assert sessions.enter("Bearer b", "s", stops=True).carried is FRESH
    assert sessions.enter("Bearer a", "s", stops=True).call == 2


def test_sessions_are_bounded_in_number_and_calls_and_expire() -> None:
    clock = Clock()
    sessions = Sessions(2, 60, 2, clock)
    for name in ("a", "b"):
        after_a_call(sessions, "", name)
    with pytest.raises(Refusal, match="too many sessions"):
        sessions.enter("", "c", stops=True)
    after_a_call(sessions, "", "a")
    with pytest.raises(Refusal, match="at most 2 calls"):
        sessions.enter("", "a", stops=True)
    clock.now = 61.0
    assert sessions.enter("", "c", stops=True).call == 1
    assert len(sessions) == 1


def test_an_episode_that_seems_over_makes_room_and_one_that_alarmed_does_not() -> None:
    clock = Clock()
    sessions = Sessions(3, 60, 9, clock)
    for name, over, alarms in (("a", False, ()), ("b", True, ("p",)), ("c", True, ())):
        session = sessions.enter("", name, stops=False)
        sessions.leave(session, alarms, replace(session.carried, calls=1), over=over)
    again = sessions.enter("", "c", stops=False)
    assert again.call == 2
    with pytest.raises(Refusal, match="too many sessions"):
        sessions.enter("", "d", stops=False)  # the third goes on after all
    sessions.leave(again, (), again.carried, over=True)
    for number in range(2000):
        session = sessions.enter("", f"e-{number}", stops=False)
        sessions.leave(session, (), replace(session.carried, calls=1), over=True)
    assert len(sessions) == 3
    assert sessions.enter("", "a", stops=False).call == 2
    assert sessions.enter("", "b", stops=False).alarms == ("p",)


@pytest.mark.parametrize("header", ["Bearer tok", "bearer tok", "BEARER  tok", " Bearer tok "])
def test_a_caller_is_its_token_however_the_header_is_spelt(header: str) -> None:
    check_token(header, "tok")
    assert caller_of(header) == "tok"
    assert caller_of(None) == ""


def test_a_session_has_one_request_at_a_time() -> None:
    sessions = Sessions(2, 60, 2)
    session = sessions.enter("", "a", stops=True)
    with pytest.raises(Refusal, match="under way") as caught:
        sessions.enter("", "a", stops=True)
    assert caught.value.status == 409
    sessions.leave(session)
    assert sessions.enter("", "a", stops=True).call == 1
    assert len(sessions) == 1


def test_an_alarm_outlives_the_call_that_was_cut_off_by_it() -> None:
    sessions = Sessions(2, 60, 2)
    sessions.leave(sessions.enter("", "a", stops=True), ("p",))
    with pytest.raises(Refusal, match="stopped by an alarm of p"):
        sessions.enter("", "a", stops=True)
    assert sessions.enter("", "a", stops=False).alarms == ("p",)


CALL = '<tool_call>\n{"name": "delete_file", "arguments": {}}\n</tool_call>'


def message(policy: Policy, text: str, alarm_at: int | None) -> tuple[dict[str, Any], Reply]:
    """Return the message of an answer whose alarm comes with a character, as a stream gives it."""
    format = FORMATS["think"]
    channels = ChannelReader(format, prefilled=True)
    reply = Reply("id", "m", (), policy, channels, format, most_tokens=9999)
    parts = []
    for at, piece in enumerate(text):
        alarms = ("p",) if alarm_at is not None and at >= alarm_at else ()
        parts += reply.take(Reading(at, piece, "reasoning", 0, (), alarms))
        if reply.over:
            break
    return reply.completion([*parts, *reply.finish()], 0)["choices"][0], reply


@pytest.mark.parametrize("policy", ["stop", "withhold"])
def test_a_tool_call_is_not_handed_over_once_there_is_an_alarm(policy: Policy) -> None:
    text = f"I hide it.</think>{CALL}<think>Nobody sees.</think>Done."
    choice, reply = message(policy, text, text.index("Nobody sees."))
    assert "delete_file" not in json.dumps(choice)
    assert choice["finish_reason"] == "content_filter"
    assert reply.extension()["call_withheld"] is True


@pytest.mark.parametrize("policy", ["stop", "withhold"])
def test_an_alarm_in_the_thought_ends_it_before_the_call_is_written(policy: Policy) -> None:
    text = f"I hide it.</think>{CALL}"
    choice, reply = message(policy, text, text.index("</think>"))
    assert "delete_file" not in json.dumps(choice)
    assert choice["finish_reason"] == "content_filter"
    assert reply.extension()["call_withheld"] is False


@pytest.mark.parametrize("policy", ["annotate", "stop", "withhold"])
def test_a_quiet_call_is_handed_over_whole(policy: Policy) -> None:
    choice, reply = message(policy, f"I tidy.</think>{CALL}", None)
    assert choice["message"]["content"] == CALL
    assert choice["finish_reason"] == "stop"
    assert reply.extension()["call_withheld"] is False


def test_annotating_only_says_so() -> None:
    text = f"I hide it.</think>{CALL}"
    choice, reply = message("annotate", text, 3)
    assert choice["message"]["content"] == CALL
    assert reply.extension()["alarm"] is True


@pytest.fixture(scope="module")
def agent() -> Any:
    return acting_model()


AGENT = Agent(scripted(script()), "script")
SCHEMAS = [tool.schema for tool in AGENT.place(TASKS[0]).tools(TASKS[0])]
USER = {"role": "user", "content": TASKS[0].prompt}


def act(server: Up, *messages: dict[str, Any], seed: int, **more: Any) -> Any:
    """Make a call of an agent that may use tools."""
    create: Any = server.client().chat.completions.create
    return create(model="tiny-agent", messages=[USER, *messages], tools=SCHEMAS, seed=seed, **more)


def that_acts(server: Up, **more: Any) -> tuple[int, Any]:
    """Return the first seed under which the agent thinks and then calls a tool, and its answer."""
    for seed in range(60):
        choice = act(server, seed=seed, **more).choices[0]
        if choice.finish_reason == "tool_calls" and choice.message.reasoning_content:
            return seed, choice.message
    raise AssertionError("the tiny agent never calls a tool: draw it anew")


def test_an_agent_s_client_gets_calls_and_sends_back_what_they_came_to(
    agent: Any, tmp_path: Path
) -> None:
    from trace_probe.monitor.scoring import as_if_written

    with served(agent, tmp_path / "a.jsonl", running(agent)) as server:
        seed, message = that_acts(server)
        sampling = Sampling(seed, 1.0, 1.0, LIMITS.tokens)
        prompt = agent.render(TASKS[0], (), SCHEMAS)
        (written,) = agent.generate([prompt], [seed], sampling)
        call = as_if_written(agent, TASKS[0], (*prompt, *written.ids), len(prompt), "a call")
        named = [(one.name, one.arguments) for one in call.actions if one.name]
        got = [(one.function.name, one.function.arguments) for one in message.tool_calls]
        assert got == named
        assert "<tool_call>" not in (message.content or "") or len(named) < len(call.actions)
        dumped = message.model_dump(exclude_none=True)
        results = [
            {"role": "tool", "tool_call_id": one.id, "content": " the key ."}
            for one in message.tool_calls
        ]
        second = act(server, dumped, *results, seed=1)
        assert second.usage.prompt_tokens > len(prompt)


@pytest.mark.parametrize("stream", [False, True])
def test_a_stopped_agent_s_client_gets_no_call(agent: Any, tmp_path: Path, stream: bool) -> None:
    with served(agent, tmp_path / "a.jsonl", running(agent)) as server:
        seed, _ = that_acts(server)
    saved = replace_threshold(running(agent))
    with served(agent, tmp_path / "b.jsonl", saved, policy="stop") as server:
        answer = act(server, seed=seed, stream=stream)
        text = json.dumps([one.model_dump() for one in answer] if stream else answer.model_dump())
    assert "content_filter" in text
    assert '"function"' not in text
    assert "<tool_call>" not in text


@pytest.mark.parametrize(
    "more",
    [
        {"tools": [{"type": "function"}]},
        {"tools": "look"},
        {"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [{}]}]},
        {"messages": [USER, {"role": "tool", "content": "x", "tool_call_id": 3}]},
    ],
)
def test_tools_and_calls_of_another_form_are_refused_by_name(more: dict[str, Any]) -> None:
    body = json.dumps({"model": "m", "messages": [USER], **more}).encode()
    with pytest.raises(Refusal) as caught:
        read_request(body, "m", 24)
    assert caught.value.status == 400
    assert caught.value.param in more


def test_an_answer_names_the_probes_for_which_it_lies_outside_the_calibrated_range() -> None:
    _, reply = message("annotate", "I tidy.</think>Done.", None)
    near, far = (
        Detector(name, MAX, 5.0, Source("hand"), planted_probe(), distances=(farthest,) * 20)
        for name, farthest in (("near", 1.0), ("far", 3.0))
    )
    reply.detectors = near, far
    scores = (0.0, 0.0)
    thought = ScoredSentence(0, "reasoning", 0, 3, "I tidy.", scores, scores, (), (2.0, 2.0))
    reply.sentences = [thought, ScoredSentence(1, "answer", 4, 6, "Done.", (), (), ())]
    assert reply.extension()["outside"] == ["near"]
