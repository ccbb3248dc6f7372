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
WRONG = b"Bearer somebody-elses"
OTHERS = ("/v1/responses", "/v1/messages", "/inference/v1/generate", "/invocations", "/v1/new")
ALARMED = {"choice": 0, "alarm": True, "alarms": ["p"], "sentences": []}


class Engine:
    """An engine whose workers know one answer."""

    def __init__(self, policy: str, told: list[dict[str, Any]]) -> None:
        plan = EnginePlan(guard=GuardPlan(("p",), policy=policy))
        self.vllm_config = SimpleNamespace(additional_config=plan.configuration())
        self.told, self.asked, self.errored = told, list[str](), False
        self.untold: list[dict[str, Any]] = []

    async def collective_rpc(self, method: str, args: tuple[str, ...] = ()) -> list[Any]:
        self.asked += args
        if method == "trace_probe_untold":
            return [[], self.untold]
        assert method == "trace_probe_told"
        return [[], self.told]  # the second of two ranks answers


def answer(
    engine: Any,
    chunks: list[bytes],
    kind: str,
    *,
    path: str = "/v1/chat/completions",
    asked: tuple[bytes, ...] = (b"{}",),
    root: str = "",
    name: bytes = b"theirs",
    host: bytes = b"127.0.0.1:8765",
    bearer: bytes = b"",
    method: str = "POST",
) -> tuple[bytes, dict[bytes, bytes], list[tuple[bytes, bytes]]]:
    """Return what comes through the middleware: body, headers, and the headers that vLLM got."""
    seen: list[tuple[bytes, bytes]] = []
    out: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if method == "POST" and path.startswith("/v1/"):
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
        assert bearer != WRONG  # whoever may not ask is not listened to
        number, piece = pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": number < len(asked)}

    state = SimpleNamespace(engine_client=engine)
    scope = {
        "type": "http",
        "method": method,
        "path": root + path,
        "root_path": root,
        "headers": [
            *((b"x-request-id", name), (b"accept", b"*/*"), (b"host", host)),
            *([(b"authorization", bearer)] if bearer else []),
        ],
        "app": SimpleNamespace(state=state),
    }
    asyncio.run(GuardedAnswers(app)(scope, receive, send))
    assert out[0]["type"] == "http.response.start"
    assert not out[-1].get("more_body")
    return b"".join(one["body"] for one in out[1:]), dict(out[0]["headers"]), seen


def figures() -> dict[str, float]:
    """Return what vLLM's server counts of probes."""
    from prometheus_client import REGISTRY, generate_latest

    page = generate_latest(REGISTRY).decode().splitlines()
    lines = (line.rpartition(" ") for line in page if line.startswith("trace_probe"))
    return {name: float(value) for name, _, value in lines}


def whole(engine: Any) -> dict[str, Any]:
    message = {"role": "assistant", "reasoning": "Hm.", "content": "no", "refusal": None}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "token_ids": [7]}
    choice["stop_reason"] = 7
    data = json.dumps({"id": "x", "choices": [choice]}).encode()
    body, headers, _ = answer(engine, [data[:9], data[9:]], "application/json")
    assert headers[b"content-length"] == str(len(body)).encode()
    found: dict[str, Any] = json.loads(body)
    return found


@pytest.fixture(autouse=True)
def _no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TRACE_PROBE_TOKEN", "VLLM_API_KEY"):
        monkeypatch.delenv(name, raising=False)


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
    assert choice["stop_reason"] == (None if withheld else 7)


def test_an_answer_of_which_nothing_is_known_is_withheld_where_alarms_are() -> None:
    assert whole(Engine("withhold", []))["choices"][0]["message"]["content"] is None
    assert whole(Engine("stop", []))["choices"][0]["message"]["content"] == "no"
    *parts, _ = stream(Engine("withhold", [{**QUIET, "choice": 1}]), 50)
    assert not any(part["choices"][0]["delta"].get("content") for part in parts)


def test_an_answer_that_is_not_guarded_stays_as_it_is() -> None:
    assert "trace_probe" not in whole(Engine("stop", []))
    for engine, path, method in (
        (None, "/v1/chat/completions", "POST"),
        (Engine("stop", []), "/v1/models", "GET"),
    ):
        body, headers, seen = answer(engine, [b"x"], "application/json", path=path, method=method)
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
    for many in (b'{"n": 513}', b'{"n": "513"}', b'{"prompt": ["a", "b"], "n": 300}'):
        body, _, seen = answer(Engine("stop", []), [b"{}"], "application/json", asked=(many,))
        assert b"512" in body
        assert not seen
    forms = {
        b'{"response_format": {"type": "json_object"}}': True,
        b'{"response_format": {"type": "text"}, "tool_choice": "auto"}': False,
        b'{"structured_outputs": {"regex": "a"}}': True,
        b'{"tool_choice": "required"}': True,
        # By these a thought could be read that no probe sees.
        b'{"prompt_logprobs": 0}': True,
        b'{"echo": true, "logprobs": 1}': True,
        b'{"echo": true}': False,
        b'{"thinking_token_budget": 3}': True,
    }
    for policy in ("annotate", "stop"):
        for asked, bound in forms.items():
            *_, seen = answer(Engine(policy, []), [b"{}"], "application/json", asked=(asked,))
            assert bool(seen) == (policy == "annotate" or not bound)


def test_an_answer_is_guarded_below_any_path_of_a_server() -> None:
    for policy in ("stop", "withhold"):
        data = json.dumps({"choices": [{"index": 0, "text": "no", "finish_reason": "stop"}]})
        engine = Engine(policy, [ALARMED])
        path = "/v1/completions"
        body, _, _ = answer(engine, [data.encode()], "application/json", path=path, root="/api")
        (choice,) = json.loads(body)["choices"]
        assert choice["finish_reason"] == "content_filter"
        assert choice["text"] == ("" if policy == "withhold" else "no")


def test_an_answer_whose_alarm_is_in_no_log_was_ended_under_any_policy() -> None:
    told = {**ALARMED, "unlogged": True}
    choice = whole(Engine("annotate", [told]))["choices"][0]
    assert choice["finish_reason"] == "content_filter"
    assert choice["message"]["content"] == "no"
    assert figures()["trace_probe_unlogged_total"] > 0


def test_what_is_given_at_other_addresses_is_counted_too() -> None:
    engine = Engine("annotate", [])
    engine.untold = [ALARMED, QUIET]
    answer(Engine("annotate", []), [b"x"], "application/json", path="/v1/responses")
    before = figures()
    *_, seen = answer(
        engine, [b"x"], "application/json", path="/v1/responses", name=b"guarded-mine"
    )
    assert not [value for _, value in seen if b"guarded" in value]  # it would be asked for
    after = figures()
    assert after["trace_probe_traces_total"] - before["trace_probe_traces_total"] == 2
    name = 'trace_probe_alarms_total{probe="p"}'
    assert after[name] - before.get(name, 0.0) == 1
    answer(engine, [b"x"], "application/json", path="/tokenize")
    assert figures() == after


@pytest.mark.parametrize(
    "asked", [b'{"request_id": "resp_guarded-0"}', b'{"request_id": "\\u0067uarded-1"}']
)
def test_no_client_keeps_its_alarms_out_of_the_figures_by_a_name(asked: bytes) -> None:
    for path in OTHERS:
        engine = Engine("annotate", [])
        body, _, seen = answer(engine, [b"x"], "application/json", path=path, asked=(asked,))
        assert json.loads(body)["error"]["param"] == "request_id"
        assert not seen
    mine = b'{"request_id": "resp_mine"}'
    body, *_ = answer(engine, [b"x"], "application/json", path="/v1/responses", asked=(mine,))
    assert body == b"x"


def test_a_stream_that_failed_before_it_began_gets_no_event_of_ours() -> None:
    failed = b'data: {"error": {"message": "no"}}\n\ndata: [DONE]\n\n'
    body, _, _ = answer(Engine("stop", [ALARMED]), [failed], "text/event-stream")
    assert body == failed


@pytest.mark.parametrize("policy", ["stop", "withhold"])
def test_where_alarms_end_answers_nothing_is_written_at_other_addresses(policy: str) -> None:
    odd = ("//v1/completions", "/v1/completions/", "/V1/completions", "/v1/chat/completions/batch")
    for path in (*OTHERS, *odd):
        engine = Engine(policy, [])
        body, _, seen = answer(engine, [b"x"], "application/json", path=path)
        error = json.loads(body)["error"]
        assert error["code"] == "not_guarded"
        assert "/v1/chat/completions or /v1/completions" in error["message"]
        assert not seen  # vLLM was not asked
    for path, method in (("/tokenize", "POST"), ("/v1/models", "GET"), ("/ping", "POST")):
        body, *_ = answer(engine, [b"x"], "application/json", path=path, method=method)
        assert body == b"x"


def test_beams_are_refused_at_every_address() -> None:
    for path in OTHERS:
        beams = (b'{"use_beam_search": true}',)
        engine = Engine("annotate", [])
        body, _, seen = answer(engine, [b"x"], "application/json", path=path, asked=beams)
        assert b"use_beam_search" in body
        assert not seen


TOKEN = "sesame-open-12345"


@pytest.mark.parametrize("policy", ["annotate", "stop", "withhold"])
@pytest.mark.parametrize("variable", ["TRACE_PROBE_TOKEN", "VLLM_API_KEY"])
def test_every_address_needs_the_token_but_those_that_tell_nothing(
    monkeypatch: pytest.MonkeyPatch, policy: str, variable: str
) -> None:
    monkeypatch.setenv(variable, TOKEN)
    quiet = Engine(policy, [QUIET])

    def asked(path: str, bearer: bytes, method: str = "POST") -> tuple[bytes, Any, Any]:
        given = [b'{"choices": []}']
        return answer(
            *(quiet, given, "application/json"),
            path=path,
            bearer=bearer,
            method=method,
            host=b"evil.example",
        )

    every = (*OTHERS, "/v1/completions", "/tokenize", "/metrics/x", "//health", "/health/")
    for path in every:
        for method in ("POST", "GET", "DELETE"):
            body, headers, seen = asked(path, WRONG, method)
            assert json.loads(body)["error"]["code"] == "invalid_api_key"
            assert headers[b"www-authenticate"] == b"Bearer"
            assert not seen
    for path in ("/health", "/ping", "/metrics"):
        *_, seen = asked(path, b"", "GET")
        assert seen
    for bearer in (f"Bearer {TOKEN}", f"bearer {TOKEN}"):
        *_, seen = asked("/v1/completions", bearer.encode())
        assert seen


def test_a_websocket_needs_the_token_and_is_not_guarded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACE_PROBE_TOKEN", TOKEN)
    assert websocket(b"Bearer x") == 401
    assert websocket(f"Bearer {TOKEN}".encode()) == 403


def websocket(bearer: bytes) -> int:
    """Return with which status a websocket is refused."""
    out: list[Any] = []

    async def never(*_: Any) -> Any:
        raise AssertionError("vLLM was asked")

    async def send(message: Any) -> None:
        out.append(message)

    state = SimpleNamespace(engine_client=Engine("annotate", []))
    scope = {
        "type": "websocket",
        "path": "/v1/realtime",
        "headers": [(b"authorization", bearer)],
        "app": SimpleNamespace(state=state),
    }
    asyncio.run(GuardedAnswers(never)(scope, never, send))
    assert out[0]["type"] == "websocket.http.response.start"
    status: int = out[0]["status"]
    return status


def test_without_a_token_only_names_of_this_machine_are_answered_to() -> None:
    for host in (b"evil.example", b"localhost.evil.example", b"", b"192.168.0.2:8765"):
        for path, method in (("/v1/completions", "POST"), ("/v1/models", "GET")):
            body, _, seen = answer(
                *(Engine("stop", []), [b"{}"], "application/json"),
                path=path,
                method=method,
                host=host,
            )
            error = json.loads(body)["error"]
            assert error["code"] == "bad_host"
            assert "TRACE_PROBE_TOKEN" in error["message"]
            assert not seen
    for host in (b"localhost", b"127.0.0.1:8000", b"[::1]:8765"):
        *_, seen = answer(Engine("stop", []), [b"{}"], "application/json", host=host)
        assert seen


def test_alarms_and_scores_are_among_the_figures_of_vllms_server() -> None:
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
