"""What vLLM's own server answers, with what the probes say beside it: an ASGI middleware.

    vllm serve MODEL --middleware trace_probe.serving.vllm_answers.GuardedAnswers ...

The scores are asked of the workers once an answer is whole, so nothing waits for them before.
"""

import json
import secrets
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trace_probe.engine.plan import ASKED, GuardPlan, read_plan
from trace_probe.model.keys import check_key
from trace_probe.serving.limits import TOKEN, Refusal, bad, check_host, check_token
from trace_probe.serving.reply import WITHHELD

if TYPE_CHECKING:
    from trace_probe.serving.telemetry import EngineJudged

PATHS = {"/v1/chat/completions": "chatcmpl-", "/v1/completions": "cmpl-"}
"""Of what is guarded, and how vLLM names those answers."""
OPEN = frozenset({"/health", "/ping", "/metrics"})
"""What needs no token: no text can be had there."""
HARMLESS = frozenset({"/tokenize", "/detokenize", "/ping"})
"""What may be posted to besides, whatever the policy: no model writes there."""
READING = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods by which nothing is asked of a model."""
ENGINE_KEY = "VLLM_API_KEY"
"""What vLLM itself asks for, and only at some of its addresses."""
SHOWN = frozenset({"role", "reasoning", "reasoning_content"})
"""What of a message is not withheld: the thought, where a parser of vLLM gives it apart."""
AROUND = frozenset({"index", "finish_reason"})
"""What of a choice says nothing of its text; ids and log-probabilities of its tokens do, and so
does what it was stopped by."""
ANSWERS = 512
"""To one request at most; the workers keep what they know of several thousand."""
HEAD = ("id", "object", "created", "model")
EXTENSION = "trace_probe"
END = b"data: [DONE]"


class GuardedAnswers:
    """Lets those in who may ask, and adds to each answer what the guard in the workers knows."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap an app of vLLM.

        Raises:
            ServerError: the token in the environment cannot be one.
        """
        self._app = app
        self._token = check_key(TOKEN) or check_key(ENGINE_KEY)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or say why not."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        try:
            self._check_caller(scope)
            await self._answered(scope, receive, send)
        except Refusal as refusal:
            refused = JSONResponse(refusal.body, refusal.status, headers=refusal.headers)
            await refused(scope, receive, send)

    def _check_caller(self, scope: Scope) -> None:
        """Let only those in who may ask; nothing of the body is read before.

        Raises:
            Refusal: 400 for a name that is not this machine's own, 401 without the token.
        """
        headers = Headers(scope=scope)
        check_host(headers.get("host"), self._token)
        # A browser asks with OPTIONS, without a token, whether it may ask at all.
        if _route(scope) not in OPEN and scope.get("method") != "OPTIONS":
            check_token(headers.get("authorization"), self._token)

    async def _answered(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on under a name that no other has, and add to its answer.

        Raises:
            Refusal: what is asked cannot be guarded.
        """
        engine = getattr(scope["app"].state, "engine_client", None)
        guard, path = _guard_of(engine), _route(scope)
        if guard is None or scope.get("method") in READING or path in HARMLESS:
            await self._app(scope, receive, send)
            return
        prefix = PATHS.get(path)
        if scope["type"] == "websocket" or (prefix is None and guard.policy != "annotate"):
            why = f"what is written at {path} is not guarded: ask at {' or '.join(PATHS)}"
            raise Refusal(403, why, "not_guarded")
        body = await _whole_body(receive)
        _check_guarded(body, guard.policy)
        again = _again(body, receive)
        if prefix is not None:
            await self._guarded(prefix, _Guarding(engine, guard), scope, again, send)
        else:
            _check_name(body)
            await self._app(_unnamed(scope), again, send)
            await _count_untold(engine)

    async def _guarded(
        self,
        prefix: str,
        guarding: "_Guarding",
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        name = ASKED + secrets.token_hex(16)
        headers = [pair for pair in scope["headers"] if pair[0].lower() != b"x-request-id"]
        named = {**scope, "headers": [*headers, (b"x-request-id", name.encode())]}
        answer = _Answer(guarding, prefix + name, send)
        try:
            await self._app(named, receive, answer.send)
        finally:
            await answer.close()


def _route(scope: Scope) -> str:
    """Return the path of a request below that at which the server stands."""
    path, root = str(scope.get("path", "")), str(scope.get("root_path", "")).rstrip("/")
    return path.removeprefix(root) if path.startswith(f"{root}/") else path


def _unnamed(scope: Scope) -> Scope:
    """Return a request without a name that only guarded ones may have."""
    kept = [
        pair
        for pair in scope["headers"]
        if pair[0].lower() != b"x-request-id" or ASKED.encode() not in pair[1]
    ]
    return {**scope, "headers": kept}


async def _count_untold(engine: Any) -> None:  # noqa: ANN401 - of vLLM
    """Count what the workers know of answers that are given at other addresses."""
    if engine.errored:
        return
    _figures().take(await engine.collective_rpc("trace_probe_untold"), ended=True)


class _Guarding(NamedTuple):
    """Who watches, and how."""

    engine: Any
    """Of vLLM."""
    guard: GuardPlan


async def _whole_body(receive: Receive) -> bytes:
    """Return the body of a request; empty if the client left before it was whole."""
    try:
        return await Request({"type": "http"}, receive).body()
    except ClientDisconnect:
        return b""


def _again(body: bytes, receive: Receive) -> Receive:
    """Return what gives a body that was read, and then what else comes from the client."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def received() -> Message:
        return waiting.pop() if waiting else await receive()

    return received


def _fields(body: bytes) -> dict[str, Any]:
    """Return the fields of a request; none where it is not as it should be, which vLLM says."""
    try:
        asked = json.loads(body)
    except ValueError:
        return {}
    return asked if isinstance(asked, dict) else {}


def _check_guarded(body: bytes, policy: str) -> None:
    """Refuse a request that cannot be guarded.

    Each token of a beam is a request of its own, and a grammar does not let a turn be ended.

    Raises:
        Refusal: 400.
    """
    asked = _fields(body)
    where_ended = () if policy == "annotate" else _not_ended(asked)
    whole = {
        "beams are not guarded: leave `use_beam_search` out": asked.get("use_beam_search"),
        f"more than {ANSWERS} answers to one request are not guarded: ask for fewer": (
            _answers(asked) > ANSWERS
        ),
    }
    if why := next((why for why, is_so in (*whole.items(), *where_ended) if is_so), ""):
        raise Refusal(400, why, "not_guarded")


def _check_name(body: bytes) -> None:
    """Refuse a name for a request that only guarded ones may have: nobody would ask for it.

    Raises:
        Refusal: 400.
    """
    if ASKED in str(_fields(body).get("request_id", "")):
        raise bad(
            f"names with {ASKED!r} are the server's own: leave `request_id` out", "request_id"
        )


def _not_ended(asked: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    """Yield why a request may not be made where alarms end answers, and whether it is so."""
    for name, is_bound in _grammars(asked).items():
        yield f"an answer with a grammar cannot be ended by an alarm: leave `{name}` out", is_bound
    yield (
        "what is written once a thought was cut off is not scored: leave `thinking_token_budget` "
        "out",
        asked.get("thinking_token_budget") is not None,
    )
    echoed = bool(asked.get("echo")) and asked.get("logprobs") is not None
    yield (
        "log-probabilities of a prompt say what the model would write in it, and that is not "
        "scored: leave `prompt_logprobs` out, and `echo` or `logprobs`",
        echoed or asked.get("prompt_logprobs") is not None,
    )


def _answers(asked: dict[str, Any]) -> float:
    """Return how many answers a request is for."""
    prompts, several = asked.get("prompt"), 1
    if isinstance(prompts, list) and any(isinstance(one, str | list) for one in prompts):
        several = len(prompts)
    try:
        return float(asked.get("n") or 1) * several  # vLLM takes "9" for 9
    except (TypeError, ValueError):
        return several  # vLLM says what is wrong


def _grammars(asked: dict[str, Any]) -> dict[str, bool]:
    """Return which fields of a request bind its answer to a grammar."""
    form, tool = asked.get("response_format"), asked.get("tool_choice")
    return {
        "structured_outputs": bool(asked.get("structured_outputs")),
        "response_format": bool(form) if not isinstance(form, dict) else form.get("type") != "text",
        "tool_choice": tool not in (None, "auto", "none"),
    }


@cache
def _figures() -> "EngineJudged":
    """Return what is counted, among the figures of vLLM's own page ``/metrics``."""
    from prometheus_client import REGISTRY

    from trace_probe.serving.telemetry import EngineJudged

    return EngineJudged(REGISTRY)


def _guard_of(engine: Any) -> GuardPlan | None:  # noqa: ANN401 - of vLLM
    plan = None if engine is None else read_plan(engine.vllm_config.additional_config)
    return None if plan is None else plan.guard


class _Answer:
    """One answer on its way out."""

    def __init__(self, guarding: _Guarding, name: str, send: Send) -> None:
        self._engine, self._guard = guarding
        self._name, self._send = name, send
        self._start: Message = {}
        self._kind = ""
        """``json`` or ``events``; empty for what is passed on as it is."""
        self._rest = b""
        self._held: list[dict[str, Any]] = []
        """Events that wait until it is known what the probes say."""
        self._head: dict[str, Any] = {}
        """What all events of a stream say of it."""
        self._behind: set[int] = set()
        """Choices of which an event waits, and so all that follow."""
        self._heard = False
        """Whether the workers have told."""

    async def send(self, message: Message) -> None:
        """Take what vLLM sends."""
        if message["type"] == "http.response.start":
            self._start = message
            content = dict(message["headers"]).get(b"content-type", b"")
            if message["status"] == 200:
                self._kind = "events" if content.startswith(b"text/event-stream") else "json"
            if self._kind != "json":
                await self._send(message)
        elif message["type"] != "http.response.body" or not self._kind:
            await self._send(message)
        elif self._kind == "json":
            self._rest += message.get("body", b"")
            if not message.get("more_body"):
                await self._whole()
        else:
            await self._events(message)

    async def _told(self, *, ended: bool) -> list[dict[str, Any]]:
        """Return what the workers know of the choices of this answer, and count it."""
        found = await self._engine.collective_rpc("trace_probe_told", args=(self._name,))
        self._heard = True
        return _figures().take(found, ended=ended)

    async def close(self) -> None:
        """Count a client that left before its answer was whole, and an answer that failed."""
        if not self._heard and not self._engine.errored and await self._told(ended=False):
            failed = self._start.get("status", 200) != 200
            (_figures().traces if failed else _figures().disconnects).inc()

    async def _whole(self) -> None:
        body, told = json.loads(self._rest), await self._told(ended=True)
        for choice in body.get("choices", ()):
            if self._ends(told, choice.get("index", 0)):
                self._end(choice)
        if told:
            body[EXTENSION] = _extension(told)
        data = json.dumps(body, ensure_ascii=False).encode()
        kept = [pair for pair in self._start["headers"] if pair[0].lower() != b"content-length"]
        length = (b"content-length", str(len(data)).encode())
        await self._send({**self._start, "headers": [*kept, length]})
        await self._send({"type": "http.response.body", "body": data})

    def _ends(self, told: list[dict[str, Any]], choice: int) -> bool:
        """Return whether a choice was ended by an alarm, or because one could not be written down.

        Where all is to be withheld that alarms, so is that of which nothing is known.
        """
        if any(one.get("unlogged") for one in told if one["choice"] == choice):
            return True
        if self._guard.policy == "annotate":
            return False
        mine = [one["alarm"] for one in told if one["choice"] == choice]
        unknown = not mine and (self._guard.unasked or bool(told))
        return any(mine) or (unknown and self._guard.policy == "withhold")

    async def _events(self, message: Message) -> None:
        """Pass server-sent events on, those held back that what the probes say may change."""
        self._rest += message.get("body", b"")
        *events, self._rest = self._rest.split(b"\n\n")
        out = [line for event in events for line in await self._event(event)]
        if not message.get("more_body"):
            out += [self._rest] if self._rest else []
            self._rest = b""
        data = b"".join(line + b"\n\n" for line in out)
        if data or not message.get("more_body"):
            await self._send({**message, "body": data})

    async def _event(self, event: bytes) -> list[bytes]:
        if event.startswith(END):
            return [*await self._last(), event]
        if not event.startswith(b"data: {"):
            return [event]
        chunk = json.loads(event.removeprefix(b"data: "))
        choices = chunk.get("choices", ())
        self._head = {key: chunk[key] for key in HEAD if key in chunk} or self._head
        numbers = {choice.get("index", 0) for choice in choices}
        self._behind |= {one.get("index", 0) for one in choices if self._waits(one)}
        if numbers & self._behind or (self._held and not choices):
            self._held.append(chunk)
            return []
        return [event]

    def _waits(self, choice: dict[str, Any]) -> bool:
        """Return whether a part of a choice may be changed by what the probes say."""
        said = {name for name, value in (choice.get("delta") or {}).items() if value} - SHOWN
        more = {name for name, value in choice.items() if value} - AROUND - {"delta"}
        withheld = self._guard.policy == "withhold" and (said or more)
        return bool(choice.get("finish_reason") or withheld)

    async def _last(self) -> list[bytes]:
        """Return the events that were held back, as they may go out, and what the probes say."""
        told = await self._told(ended=True)
        for chunk in self._held:
            for choice in chunk.get("choices", ()):
                if self._ends(told, choice.get("index", 0)):
                    self._end(choice)
        extra = [{**self._head, "choices": [], EXTENSION: _extension(told)}]
        extra = extra if told and self._head else []  # not where the answer failed before it began
        every = [*self._held, *extra]
        return [b"data: " + json.dumps(one, ensure_ascii=False).encode() for one in every]

    def _end(self, choice: dict[str, Any]) -> None:
        """Make a choice, or a part of one, that of an answer which an alarm has ended."""
        over = bool(choice.get("finish_reason"))
        if over:
            choice["finish_reason"] = "content_filter"
        if self._guard.policy != "withhold":
            return
        for name in choice.keys() - AROUND:
            if name not in ("message", "delta"):
                choice[name] = "" if name == "text" else None
                continue
            message = {key: value for key, value in choice[name].items() if key in SHOWN}
            whole: dict[str, Any] = {}
            if name == "message":
                whole = {"content": None, "tool_calls": []}
            choice[name] = {**message, **whole, **({"refusal": WITHHELD} if over else {})}


def _extension(told: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what the probes say of an answer, or of each of several."""
    return told[0] if len(told) == 1 else {"choices": told}
