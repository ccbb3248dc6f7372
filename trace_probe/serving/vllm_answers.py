"""What vLLM's own server answers, with what the probes say beside it: an ASGI middleware.

    vllm serve MODEL --middleware trace_probe.serving.vllm_answers.GuardedAnswers ...

The scores are asked of the workers once an answer is whole, so nothing waits for them before.
"""

import json
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from trace_probe.engine.plan import GuardPlan, read_plan
from trace_probe.serving.reply import WITHHELD

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Receive = Callable[[], Awaitable[Message]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]
PATHS = {"/v1/chat/completions": "chatcmpl-", "/v1/completions": "cmpl-"}
"""Of what is guarded, and how vLLM names those answers."""
EXTENSION = "trace_probe"
END = b"data: [DONE]"


class GuardedAnswers:
    """Adds to each answer what the guard in the workers knows of it."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Pass a request on under a name that no other has, and add to its answer."""
        prefix = PATHS.get(scope.get("path", "")) if scope["type"] == "http" else None
        engine = getattr(scope["app"].state, "engine_client", None) if prefix else None
        guard = _guard_of(engine)
        if prefix is None or guard is None:
            await self._app(scope, receive, send)
            return
        name = secrets.token_hex(16)
        headers = [pair for pair in scope["headers"] if pair[0].lower() != b"x-request-id"]
        named = {**scope, "headers": [*headers, (b"x-request-id", name.encode())]}
        answer = _Answer(engine, prefix + name, guard, send)
        await self._app(named, receive, answer.send)


def _guard_of(engine: Any) -> GuardPlan | None:  # noqa: ANN401 - of vLLM
    plan = None if engine is None else read_plan(engine.vllm_config.additional_config)
    return None if plan is None else plan.guard


class _Answer:
    """One answer on its way out."""

    def __init__(
        self,
        engine: Any,  # noqa: ANN401 - of vLLM
        name: str,
        guard: GuardPlan,
        send: Send,
    ) -> None:
        self._engine, self._name, self._guard, self._send = engine, name, guard, send
        self._start: Message = {}
        self._kind = ""
        """``json`` or ``events``; empty for what is passed on as it is."""
        self._rest = b""
        self._held: list[dict[str, Any]] = []
        """Events that wait until it is known what the probes say."""

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

    async def _told(self) -> list[dict[str, Any]]:
        """Return what the workers know of the choices of this answer."""
        found = await self._engine.collective_rpc("trace_probe_told", args=(self._name,))
        return next((one for one in found if one), [])

    async def _whole(self) -> None:
        body, told = json.loads(self._rest), await self._told()
        for choice in body.get("choices", ()):
            if self._ends(told, choice.get("index", 0)):
                choice["finish_reason"] = "content_filter"
                if self._guard.policy == "withhold":
                    self._withhold(choice)
        if told:
            body[EXTENSION] = _extension(told)
        data = json.dumps(body, ensure_ascii=False).encode()
        kept = [pair for pair in self._start["headers"] if pair[0].lower() != b"content-length"]
        length = (b"content-length", str(len(data)).encode())
        await self._send({**self._start, "headers": [*kept, length]})
        await self._send({"type": "http.response.body", "body": data})

    def _ends(self, told: list[dict[str, Any]], choice: int) -> bool:
        """Return whether a choice was ended by an alarm."""
        return self._guard.policy != "annotate" and any(
            one["alarm"] for one in told if one["choice"] == choice
        )

    @staticmethod
    def _withhold(choice: dict[str, Any]) -> None:
        if "message" in choice:
            choice["message"] |= {"content": None, "tool_calls": [], "refusal": WITHHELD}
        else:
            choice["text"] = ""

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
        if self._held or any(map(self._waits, chunk.get("choices", ()))):
            self._held.append(chunk)
            return []
        return [event]

    def _waits(self, choice: dict[str, Any]) -> bool:
        """Return whether a part of a choice may be changed by what the probes say."""
        given = choice.get("delta") or {}
        text = given.get("content") or given.get("tool_calls") or choice.get("text")
        return bool(choice.get("finish_reason") or (self._guard.policy == "withhold" and text))

    async def _last(self) -> list[bytes]:
        """Return the events that were held back, as they may go out, and what the probes say."""
        told = await self._told()
        for chunk in self._held:
            for choice in chunk.get("choices", ()):
                if self._ends(told, choice.get("index", 0)):
                    self._end(choice)
        head = (
            {key: self._held[-1][key] for key in ("id", "object", "created", "model")}
            if (self._held)
            else {}
        )
        extra = [{**head, "choices": [], EXTENSION: _extension(told)}] if told else []
        every = [*self._held, *extra]
        return [b"data: " + json.dumps(one, ensure_ascii=False).encode() for one in every]

    def _end(self, choice: dict[str, Any]) -> None:
        """Make a part of a choice one that an alarm has ended."""
        withheld = self._guard.policy == "withhold"
        if withheld and "delta" in choice:
            kept = {k: v for k, v in choice["delta"].items() if k not in ("content", "tool_calls")}
            choice["delta"] = kept
        elif withheld:
            choice["text"] = ""
        if choice.get("finish_reason"):
            choice["finish_reason"] = "content_filter"
            if withheld and "delta" in choice:
                choice["delta"] |= {"refusal": WITHHELD}


def _extension(told: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what the probes say of an answer, or of each of several."""
    return told[0] if len(told) == 1 else {"choices": told}
