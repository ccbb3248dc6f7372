"""What vLLM's server answers gets what the probes say beside it, and no word that is withheld."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest

from trace_probe.engine.plan import EnginePlan, GuardPlan
from trace_probe.serving.reply import WITHHELD
from trace_probe.serving.vllm_answers import GuardedAnswers

QUIET = {"choice": 0, "alarm": False, "alarms": [], "sentences": []}
ALARMED = {"choice": 0, "alarm": True, "alarms": ["p"], "sentences": []}


class Engine:
    """An engine whose workers know one answer."""

    def __init__(self, policy: str, told: list[dict[str, Any]]) -> None:
        plan = EnginePlan(guard=GuardPlan(("p",), policy=policy))
        self.vllm_config = SimpleNamespace(additional_config=plan.configuration())
        self.told, self.asked, self.errored = told, list[str](), False

    async def collective_rpc(self, method: str, args: tuple[str, ...]) -> list[Any]:
        assert method == "trace_probe_told"
        self.asked += args
        return [[], self.told]  # the second of two ranks answers


def answer(
    engine: Any,
    chunks: list[bytes],
    kind: str,
    *,
    path: str = "/v1/chat/completions",
    asked: tuple[bytes, ...] = (b"{}",),
) -> tuple[bytes, dict[bytes, bytes], list[tuple[bytes, bytes]]]:
    """Return what comes through the middleware: body, headers, and the headers that vLLM got."""
    seen: list[tuple[bytes, bytes]] = []
    out: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if path.startswith("/v1/c"):
            assert (await receive())["body"] == b"".join(asked)
        seen.extend(scope["headers"])
        headers = [(b"content-type", kind.encode()), (b"content-length", b"1")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for at, chunk in enumerate(chunks):
            more = at < len(chunks) - 1
            await send({"type": "http.response.body", "body": chunk, "more_body": more})

    async def send(message: Any) -> None:
        out.append(message)

    pieces = list(enumerate(asked, start=1))

    async def receive() -> Any:
        number, piece = pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": number < len(asked)}

    state = SimpleNamespace(engine_client=engine)
    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "headers": [(b"x-request-id", b"theirs"), (b"accept", b"*/*")],
        "app": SimpleNamespace(state=state),
    }
    asyncio.run(GuardedAnswers(app)(scope, receive, send))
    assert out[0]["type"] == "http.response.start"
    assert not out[-1].get("more_body")
    return b"".join(one["body"] for one in out[1:]), dict(out[0]["headers"]), seen


def whole(engine: Any) -> dict[str, Any]:
    message = {"role": "assistant", "reasoning": "Hm.", "content": "no", "refusal": None}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "token_ids": [7]}
    data = json.dumps({"id": "x", "choices": [choice]}).encode()
    body, headers, _ = answer(engine, [data[:9], data[9:]], "application/json")
    assert headers[b"content-length"] == str(len(body)).encode()
    found: dict[str, Any] = json.loads(body)
    return found


@pytest.mark.parametrize("policy", ["annotate", "stop", "withhold"])
@pytest.mark.parametrize("told", [QUIET, ALARMED])
def test_an_answer_says_what_the_probes_say(policy: str, told: dict[str, Any]) -> None:
    found = whole(Engine(policy, [told]))
    ended = told["alarm"] and policy != "annotate"
    withheld = ended and policy == "withhold"
    (choice,) = found["choices"]
    assert found["trace_probe"] == told
    assert choice["finish_reason"] == ("content_filter" if ended else "stop")
    assert choice["message"]["content"] == (None if withheld else "no")
    assert choice["message"]["refusal"] == (WITHHELD if withheld else None)
    assert choice["message"]["reasoning"] == "Hm."
    assert choice["token_ids"] == (None if withheld else [7])


def test_an_answer_that_is_not_guarded_stays_as_it_is() -> None:
    assert "trace_probe" not in whole(Engine("stop", []))
    for engine, path in ((None, "/v1/chat/completions"), (Engine("stop", []), "/v1/models")):
        body, headers, seen = answer(engine, [b"x"], "application/json", path=path)
        assert (body, headers[b"content-length"]) == (b"x", b"1")
        assert (b"x-request-id", b"theirs") in seen


def test_no_client_can_name_the_answer_of_another() -> None:
    engine = Engine("stop", [QUIET])
    _, _, seen = answer(engine, [b'{"choices": []}'], "application/json")
    (name,) = [value.decode() for key, value in seen if key == b"x-request-id"]
    assert name != "theirs"
    assert engine.asked == [f"chatcmpl-{name}"]


PARTS: list[dict[str, Any]] = [
    {"delta": {"role": "assistant", "content": ""}},
    {"delta": {"reasoning": "Hm."}},
    {"delta": {}, "token_ids": [7]},
    {"delta": {"content": "n"}, "token_ids": [7], "logprobs": {"content": ["n"]}},
    {"delta": {"content": "o"}, "finish_reason": "stop"},
]


def stream(engine: Any, size: int, parts: list[dict[str, Any]] = PARTS) -> list[dict[str, Any]]:
    """Return the events of a streamed answer that comes in pieces of so many bytes."""
    head = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    chunks = [{**head, "choices": [{"index": 0, **part}]} for part in parts]
    text = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
    data = text.encode()
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    body, _, _ = answer(engine, pieces, "text/event-stream; charset=utf-8")
    *events, last, nothing = body.decode().split("\n\n")
    assert (last, nothing) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


@pytest.mark.parametrize("size", [7, 1000])
@pytest.mark.parametrize("policy", ["annotate", "stop", "withhold"])
def test_a_stream_ends_with_what_the_probes_say(policy: str, size: int) -> None:
    *parts, last = stream(Engine(policy, [ALARMED]), size)
    assert last["trace_probe"] == ALARMED
    assert last["choices"] == []
    choices = [part["choices"][0] for part in parts]
    said = "".join(choice["delta"].get("content") or "" for choice in choices)
    assert said == ("" if policy == "withhold" else "no")
    assert "".join(choice["delta"].get("reasoning", "") for choice in choices) == "Hm."
    reason = "stop" if policy == "annotate" else "content_filter"
    assert choices[-1]["finish_reason"] == reason
    refusals = [c["delta"]["refusal"] for c in choices if "refusal" in c["delta"]]
    assert refusals == ([WITHHELD] if policy == "withhold" else [])
    told = [choice.get(name) for choice in choices for name in ("token_ids", "logprobs")]
    assert any(told) == (policy != "withhold")


def test_what_was_held_back_comes_if_all_is_quiet() -> None:
    *parts, last = stream(Engine("withhold", [QUIET]), 50)
    said = "".join(part["choices"][0]["delta"].get("content") or "" for part in parts)
    assert said == "no"
    assert parts[-1]["choices"][0]["finish_reason"] == "stop"
    assert last["trace_probe"] == QUIET


def test_an_answer_that_is_over_holds_no_other_of_its_request_back() -> None:
    parts: list[dict[str, Any]] = [
        {"index": 0, "delta": {"content": "a"}, "finish_reason": "stop"},
        {"index": 1, "delta": {"content": "b"}},
        {"index": 0, "delta": {}, "token_ids": [2]},
        {"index": 1, "delta": {"content": "c"}, "finish_reason": "stop"},
    ]
    told = [QUIET, {**ALARMED, "choice": 1}]
    *found, last = stream(Engine("stop", told), 1000, parts)
    choices = [part["choices"][0] for part in found]
    assert [(one["index"], one["delta"].get("content")) for one in choices] == [
        *((1, "b"), (0, "a"), (0, None), (1, "c"))
    ]
    assert [one.get("finish_reason") for one in choices] == [None, "stop", None, "content_filter"]
    assert last["trace_probe"]["choices"] == told


def test_what_is_asked_comes_to_vllm_whole_and_beams_are_refused() -> None:
    body, _, seen = answer(Engine("stop", []), [b"{}"], "application/json", asked=(b'{"a"', b":1}"))
    assert json.loads(body) == {}
    assert seen
    beams = (b'{"use_beam_search": true, ', b'"n": 4}')
    body, _, seen = answer(Engine("annotate", []), [b"{}"], "application/json", asked=beams)
    assert b"use_beam_search" in body
    assert not seen


def test_nothing_is_written_where_it_could_not_be_withheld() -> None:
    for path in ("/v1/responses", "/v1/messages", "/inference/v1/generate"):
        body, _, seen = answer(Engine("withhold", []), [b"x"], "application/json", path=path)
        assert b"could not be withheld" in body
        assert not seen  # vLLM was not asked
        body, _, _ = answer(Engine("stop", []), [b"x"], "application/json", path=path)
        assert body == b"x"


def test_alarms_and_scores_are_among_the_figures_of_vllms_server() -> None:
    from prometheus_client import REGISTRY, generate_latest

    def figures() -> dict[str, float]:
        page = generate_latest(REGISTRY).decode().splitlines()
        lines = (line.rpartition(" ") for line in page if line.startswith("trace_probe"))
        return {name: float(value) for name, _, value in lines}

    risks = [{"risk": [{"probe": "q", "score": 3.0}]}, {"risk": []}]
    told = {"choice": 0, "alarm": True, "alarms": ["q"], "sentences": risks}
    whole(Engine("stop", [QUIET]))
    before = figures()
    whole(Engine("stop", [told]))
    engine = Engine("stop", [told])
    answer(engine, [b"data: {"], "text/event-stream")  # and then the client was gone
    after = figures()
    assert len(engine.asked) == 1
    more = {name: after[name] - before.get(name, 0.0) for name in after}
    assert more['trace_probe_alarms_total{probe="q"}'] == 2
    assert more["trace_probe_sentence_score_count"] == 2
    assert more["trace_probe_traces_total"] == 1
    assert more["trace_probe_disconnects_total"] == 1
