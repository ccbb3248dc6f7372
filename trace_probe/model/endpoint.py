"""Chat completions from servers that speak OpenAI's protocol: spread, bounded, paced, retried.

The key comes from the environment variable OPENAI_API_KEY and is kept out of every text; where
a key stands in an address or among the fields of a request it is refused, for runs keep these
and a list of processes shows them.
"""

import asyncio
import json
import os
import re
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import urlsplit

from trace_probe.errors import ServerError

if TYPE_CHECKING:
    from openai import AsyncOpenAI

KEY = "OPENAI_API_KEY"
RETRIED = frozenset({408, 409, 425, 429})
"""Status codes after which the same request may succeed, as may any of 500 and above."""
HOPELESS = frozenset({401, 403, 404})
"""Status codes that every request would meet: no key, no right, no such model."""
POLL_S = 0.05
LONGEST_ASKED_S = 3600.0
"""A server may ask for this much patience and no more."""
SECRET = re.compile(r"api[-_]?key|authorization|secret|password|^token$", re.IGNORECASE)
Result = TypeVar("Result")


@dataclass(frozen=True)
class Reply:
    """What a server answered."""

    text: str
    reasoning: str | None
    """None if the server gave no reasoning apart from the text."""
    finish: Literal["stop", "length", "unknown"]
    refusal: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_ids: tuple[int, ...] = ()
    """Exact ids, where a server returns them (vLLM does if asked for ``return_token_ids``)."""
    token_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Patience:
    """How much is asked at once, and how long a fault is borne."""

    concurrency: int = 32
    """Requests under way at a time, over all servers."""
    per_minute: float | None = None
    """Requests to begin in a minute with each server; None sets no limit of our own."""
    attempts: int = 6
    """Tries of one request; also the faults in a row after which a server is given up."""
    timeout_s: float = 600.0
    first_wait_s: float = 0.5
    """Rest of a server after a fault; each further one doubles it."""
    longest_wait_s: float = 60.0
    """No doubling beyond this; a wait that the server itself asks for may be longer."""


class RequestError(ServerError):
    """One request came to nothing; others may fare better."""

    def __init__(self, text: str, status: int | None = None) -> None:
        super().__init__(text)
        self.status = status


@dataclass
class _Server:
    """A base URL and how it has fared."""

    client: "AsyncOpenAI"
    busy: int = 0
    faults: int = 0
    """In a row."""
    failed_at: float = -1.0
    rested_at: float = 0.0
    paced_at: float = 0.0

    def ready(self, now: float) -> bool:
        """Return whether to ask it; after a fault one request at a time tries it out."""
        return now >= max(self.rested_at, self.paced_at) and (not self.faults or not self.busy)

    def begin(self, now: float, per_minute: float | None) -> None:
        """Note that a request begins; the next one waits its turn."""
        self.busy += 1
        if per_minute:
            self.paced_at = now + 60.0 / per_minute

    def fail(self, began: float, now: float, wait_s: float) -> None:
        """Let it rest; requests that failed together count as one fault."""
        if began >= self.failed_at:
            self.faults += 1
            self.failed_at, self.rested_at = now, now + wait_s


class Servers:
    """One or several servers of the same model; use as ``async with``."""

    def __init__(self, urls: Sequence[str] = (), patience: Patience | None = None) -> None:
        """Name the servers by base URL; none means OpenAI's own (or OPENAI_BASE_URL).

        Raises:
            ServerError: OpenAI's own is meant and there is no key in the environment, or an
                address holds a password.
        """
        refuse_secrets(urls, {})
        if not urls and not os.environ.get(KEY):
            raise ServerError(f"set {KEY} in the environment, or name a server with --base-url")
        self.patience = patience or Patience()
        self._urls: tuple[str | None, ...] = tuple(dict.fromkeys(urls)) or (None,)
        self._servers: list[_Server] = []

    async def __aenter__(self) -> "Servers":
        """Open the connections."""
        from openai import AsyncOpenAI

        key = os.environ.get(KEY) or "none"
        self._slots = asyncio.Semaphore(self.patience.concurrency)
        self._servers = [
            _Server(
                AsyncOpenAI(
                    base_url=url, api_key=key, max_retries=0, timeout=self.patience.timeout_s
                )
            )
            for url in self._urls
        ]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connections."""
        for server in self._servers:
            await server.client.close()

    async def ask(self, request: Mapping[str, Any]) -> Reply:
        """Send a request; go on to other servers, and wait, on faults that pass.

        It is for a chat completion, or, if it holds a ``prompt``, for a completion of that.

        Raises:
            RequestError: the request was refused, or no attempt succeeded.
        """
        fault = ""
        async with self._slots:
            for _ in range(self.patience.attempts):
                server = await self._choose(fault)
                began = _now()
                try:
                    reply = await _ask(server.client, request)
                except _Passing as error:
                    fault = str(error)
                    server.fail(began, _now(), self._rest(server, error.wait_s))
                else:
                    server.faults = 0
                    return reply
                finally:
                    server.busy -= 1
        raise RequestError(f"{self.patience.attempts} attempts failed, the last one: {fault}")

    def _rest(self, server: _Server, asked_s: float | None) -> float:
        doubled = self.patience.first_wait_s * 2.0**server.faults
        if asked_s:
            return min(asked_s, LONGEST_ASKED_S)
        return min(doubled, self.patience.longest_wait_s)

    async def _choose(self, fault: str) -> _Server:
        """Return the least busy server that may be asked now, once there is one, as busy."""
        while True:
            now = _now()
            ready = [server for server in self._servers if server.ready(now)]
            if ready:
                chosen = min(ready, key=lambda server: server.busy)
                chosen.begin(now, self.patience.per_minute)
                return chosen
            if all(server.faults >= self.patience.attempts for server in self._servers):
                raise RequestError(f"no server answers: {fault or 'see the other requests'}")
            await asyncio.sleep(POLL_S)


class _Passing(Exception):
    """A fault after which the same request may succeed."""

    def __init__(self, text: str, wait_s: float | None = None) -> None:
        super().__init__(text)
        self.wait_s = wait_s
        """What the server asked for."""


async def _ask(client: "AsyncOpenAI", request: Mapping[str, Any]) -> Reply:
    """Send one request to one server.

    The body is read here, because the client's types leave out what servers add to them.
    """
    from openai import APIConnectionError, APIStatusError

    where = client.base_url.netloc.decode()  # leaves out what a user may have put before an @
    body = {key: value for key, value in request.items() if value is not None}
    try:
        model = body.pop("model")
        if "prompt" in body:
            raw: Any = await client.completions.with_raw_response.create(
                model=model, prompt=body.pop("prompt"), extra_body=body
            )
        else:
            raw = await client.chat.completions.with_raw_response.create(
                model=model, messages=body.pop("messages"), extra_body=body
            )
        return read_reply(json.loads(raw.http_response.text))
    except APIConnectionError as error:
        cause = f"{error} {error.__cause__ or ''}".strip()
        raise _Passing(f"{where}: {without_key(cause)}") from None
    except APIStatusError as error:
        said = " ".join(error.response.text.split()) or error.message
        text = f"{where}: status {error.status_code}: {without_key(said):.300}"
        if error.status_code in RETRIED or error.status_code >= 500:
            raise _Passing(text, retry_after(error.response.headers.get("retry-after"))) from None
        raise RequestError(text, error.status_code) from None
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise _Passing(f"{where}: the answer is no chat completion ({error!r:.80})") from None


def read_reply(body: Mapping[str, Any]) -> Reply:
    """Return what a chat completion, or a completion, says.

    Reasoning is looked for under the names that servers give it: ``reasoning_content``
    (SGLang, DeepSeek, llama.cpp), ``reasoning`` (vLLM, OpenRouter), ``reasoning_details``.
    """
    choice = body["choices"][0]
    message = choice["message"] if "message" in choice else {"content": choice["text"]}
    usage = body.get("usage") or {}
    finish = choice.get("finish_reason")
    return Reply(
        text=message.get("content") or "",
        reasoning=_reasoning(message),
        finish=finish if finish in ("stop", "length") else "unknown",
        refusal=message.get("refusal") or ("filtered" if finish == "content_filter" else ""),
        prompt_tokens=int(usage.get("prompt_tokens") or 0),
        completion_tokens=int(usage.get("completion_tokens") or 0),
        prompt_ids=tuple(body.get("prompt_token_ids") or choice.get("prompt_token_ids") or ()),
        token_ids=tuple(choice.get("token_ids") or ()),
    )


def _reasoning(message: Mapping[str, Any]) -> str | None:
    for name in ("reasoning_content", "reasoning"):
        if isinstance(message.get(name), str) and message[name]:
            return str(message[name])
    details = message.get("reasoning_details") or []
    return "".join(detail.get("text") or "" for detail in details) or None


def refuse_secrets(urls: Sequence[str], fields: Mapping[str, Any]) -> None:
    """Raise ServerError if an address or a field of a request holds what looks like a key."""
    for url in urls:
        if urlsplit(url).password or urlsplit(url).username:
            raise ServerError(
                f"the address of {urlsplit(url).hostname} holds a name or password, which a list "
                f"of processes shows: put the key in the environment as {KEY}"
            )
    key, text = os.environ.get(KEY), json.dumps(dict(fields), default=str)
    for name in _names(fields):
        if SECRET.search(name):
            raise ServerError(
                f"the field {name!r} looks like a key, and runs keep what was asked: "
                f"put the key in the environment as {KEY}"
            )
    if key and key in text:
        raise ServerError(f"the fields of the request hold the key of {KEY}: leave it out")


def _names(value: object) -> list[str]:
    """Return the names of all fields, those within fields too."""
    if isinstance(value, Mapping):
        inner = [name for part in value.values() for name in _names(part)]
        return [*map(str, value), *inner]
    if isinstance(value, list | tuple):
        return [name for part in value for name in _names(part)]
    return []


def without_key(text: str) -> str:
    """Return a text with the key of the environment struck out, should it be there."""
    key = os.environ.get(KEY)
    return text.replace(key, "***") if key else text


def run(work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
    """Run asynchronous work to its end, also from within a notebook, whose loop is running."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work())
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(work())).result()


def _now() -> float:
    return asyncio.get_running_loop().time()


def retry_after(text: str | None) -> float | None:
    """Return the seconds that a Retry-After asks for, which may be a date; None if nothing."""
    if not text:
        return None
    if text.replace(".", "", 1).isdigit():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None
