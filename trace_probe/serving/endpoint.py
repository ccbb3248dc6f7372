"""The HTTP side: OpenAI's chat completions with the risk of each sentence beside them.

POST /v1/chat/completions   200, or 400, 401, 403, 404, 408, 409, 413, 429, 500, 503 in OpenAI's
                            form; requests with one session_id are the calls of an episode
GET  /v1/models             the one model, with its detectors and how often they alarm
GET  /v1/models/ID          the same, or 404
GET  /healthz               200 while the model runs, else 503; needs no token
GET  /metrics               for Prometheus
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, nullcontext
from dataclasses import asdict
from typing import Any

from fastapi import FastAPI, Request
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trace_probe.monitor.scorer import ScoredSentence
from trace_probe.serving.guarded import Answer, GuardedModel
from trace_probe.serving.limits import (
    Limits,
    Refusal,
    caller_of,
    check_host,
    check_token,
    check_type,
    read_body,
)
from trace_probe.serving.protocol import ChatRequest, no_model, read_request
from trace_probe.serving.reply import described
from trace_probe.serving.telemetry import CONTENT_TYPE

EXTENSION = "trace_probe"
POLL_S = 0.1
"""Between two looks whether the client of a whole answer is still there."""


def build_app(served: GuardedModel, limits: Limits, token: str | None) -> FastAPI:
    """Return the application; closing it ends all generations."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with served.webhook.running() if served.webhook else nullcontext():
            yield
            await asyncio.to_thread(served.close)

    app = FastAPI(lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None)
    app.add_middleware(_Gate, served=served, token=token)
    _explain(app)
    _list_models(app, served)

    @app.get("/healthz")
    async def healthz() -> Response:
        alive = served.scheduler.alive
        return JSONResponse({"status": "ok" if alive else "down"}, 200 if alive else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(served.telemetry.page(), media_type=CONTENT_TYPE)

    @app.post("/v1/chat/completions")
    async def completions(request: Request) -> Response:
        check_type(request.headers.get("content-type"))
        body = await read_body(request, limits)
        asked = await asyncio.to_thread(read_request, body, served.name, limits.tokens)
        answer = await served.begin(asked, caller_of(request.headers.get("authorization")))
        if not asked.stream:
            return await _whole(request, served, answer)
        return _Events(served, answer, asked)

    return app


def _list_models(app: FastAPI, served: GuardedModel) -> None:
    """Say which model is here, to those who ask for all and to those who ask for one."""
    name = served.name
    detectors = [
        {**described(one), "rates": None if one.rates is None else asdict(one.rates)}
        for one in served.detectors
    ]
    model = {"id": name, "object": "model", "created": 0, "owned_by": "trace_probe"}
    model[EXTENSION] = {"detectors": detectors}

    @app.get("/v1/models")
    async def models() -> Response:
        return JSONResponse({"object": "list", "data": [model]})

    @app.get("/v1/models/{asked:path}")
    async def one_model(asked: str) -> Response:
        if asked != name:
            raise no_model(asked, name)
        return JSONResponse(model)


class _Gate:
    """Checks host and token of every request and counts the answers; plain ASGI."""

    def __init__(self, app: ASGIApp, served: GuardedModel, token: str | None) -> None:
        self._app, self._served, self._token = app, served, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._served.telemetry.requests.labels(str(message["status"])).inc()
            await send(message)

        headers = Headers(scope=scope)
        try:
            check_host(headers.get("host"), self._token)
            if scope["path"] != "/healthz":
                check_token(headers.get("authorization"), self._token)
        except Refusal as refusal:
            return await _refused(refusal)(scope, receive, counted)
        return await self._app(scope, receive, counted)


def _explain(app: FastAPI) -> None:
    """Put every error into OpenAI's form."""

    @app.exception_handler(Refusal)
    async def refused(_: Request, refusal: Refusal) -> Response:
        return _refused(refusal)

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> Response:
        return _refused(Refusal(error.status_code, str(error.detail), "not_found"))

    @app.exception_handler(Exception)
    async def broken(_: Request, __: Exception) -> Response:
        return _refused(Refusal(500, "the server has a fault: see its log", "internal"))


class _Events(StreamingResponse):
    """Server-sent events; however they end, so does the generation."""

    def __init__(self, served: GuardedModel, answer: Answer, asked: ChatRequest) -> None:
        super().__init__(_events(served, answer, asked), media_type="text/event-stream")
        self._served, self._answer = served, answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._served.end(self._answer)


def _refused(refusal: Refusal) -> Response:
    return JSONResponse(refusal.body, refusal.status, headers=refusal.headers)


async def _whole(request: Request, served: GuardedModel, answer: Answer) -> Response:
    """Answer at once, unless the client leaves before."""
    collecting = asyncio.ensure_future(_collect(served, answer))
    try:
        while not (await asyncio.wait([collecting], timeout=POLL_S))[0]:
            if await request.is_disconnected():
                return Response(status_code=499)  # nobody will read it
    finally:
        if not collecting.done():
            collecting.cancel()
            await asyncio.wait([collecting])
        served.end(answer)
    parts = collecting.result()
    whole = answer.reply.completion(parts, answer.prompt_tokens)
    return JSONResponse(whole | {EXTENSION: served.extension(answer)})


async def _collect(served: GuardedModel, answer: Answer) -> list[dict[str, Any]]:
    async with aclosing(served.parts(answer)) as parts:
        return [part async for part in parts if not isinstance(part, ScoredSentence)]


async def _events(served: GuardedModel, answer: Answer, asked: ChatRequest) -> AsyncIterator[bytes]:
    """Yield server-sent events; the last but one says how it ended, the last is ``[DONE]``."""
    reply = answer.reply
    yield _event(reply.chunk({"role": "assistant", "content": ""}))
    try:
        async with aclosing(served.parts(answer)) as parts:
            async for part in parts:
                if isinstance(part, ScoredSentence):
                    yield _event(reply.chunk({}) | {EXTENSION: {"sentence": reply.risk(part)}})
                else:
                    yield _event(reply.chunk(dict(part)))
    except Refusal as refusal:
        yield _event(refusal.body)
        return
    delta = {"refusal": reply.refusal} if reply.refusal else {}
    yield _event(reply.chunk(delta, reply.reason()) | {EXTENSION: served.extension(answer)})
    if asked.include_usage:
        usage = {"choices": [], "usage": reply.usage(answer.prompt_tokens)}
        yield _event(reply.chunk({}) | usage)
    yield b"data: [DONE]\n\n"


def _event(body: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n".encode()
