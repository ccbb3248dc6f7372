"""Chat completions from servers that speak OpenAI's protocol: spread, bounded, paced, retried.

A server is a stranger: its answer has a size and a deadline, it cannot send a request elsewhere,
and what it says is read by `trace_probe.model.reply`.
"""

import asyncio
import json
import math
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from trace_probe.errors import ServerError
from trace_probe.model.keys import KEY, check_key, refuse_secrets, without_key
from trace_probe.model.reply import Odd, Reply, read_reply

if TYPE_CHECKING:
    from openai import AsyncOpenAI

RETRIED = frozenset({408, 409, 425, 429})
"""Status codes after which the same request may succeed, as may any of 500 and above."""
HOPELESS = frozenset({401, 403, 404})
"""Status codes that every request would meet: no key, no right, no such model."""
POLL_S = 0.05
MOST_BYTES = 8 << 20
"""Of one answer; a thousand pages of text with their token ids have a tenth of that."""
LONGEST_ASKED_S = 3600.0
"""A server may ask for this much patience and no more."""
Result = TypeVar("Result")


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
    """For one whole answer, from the request to its last byte."""
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
            ServerError: OpenAI's own is meant and there is no key in the environment, the key
                cannot be one, or an address holds a password.
        """
        refuse_secrets(urls, {})
        self._key = check_key(KEY)
        if not urls and not self._key:
            raise ServerError(f"set {KEY} in the environment, or name a server with --base-url")
        self.patience = patience or Patience()
        self._urls: tuple[str | None, ...] = tuple(dict.fromkeys(urls)) or (None,)
        self._servers: list[_Server] = []

    async def __aenter__(self) -> "Servers":
        """Open the connections."""
        self._slots = asyncio.Semaphore(self.patience.concurrency)
        self._servers = [_Server(self._client(url)) for url in self._urls]
        return self

    def _client(self, url: str | None) -> "AsyncOpenAI":
        """Return a client that follows no redirect and reads no more than an answer may have."""
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        client = DefaultAsyncHttpxClient(
            follow_redirects=False,
            headers={"accept-encoding": "identity"},
            event_hooks={"response": [_bounded]},
        )
        return AsyncOpenAI(
            base_url=url,
            api_key=self._key or "none",
            max_retries=0,
            timeout=self.patience.timeout_s,
            http_client=client,
        )

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
                    async with asyncio.timeout(self.patience.timeout_s):
                        reply = await _ask(server.client, request)
                except TimeoutError:
                    fault = f"timed out: no whole answer within {self.patience.timeout_s:g} s"
                    server.fail(began, _now(), self._rest(server, None))
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


async def _bounded(response: Any) -> None:  # noqa: ANN401 - of httpx or of a fork of it
    """Let a body end at `MOST_BYTES`; one that is packed could be of any size, and is refused."""
    http = sys.modules[type(response).__module__.partition(".")[0]]
    kind = response.headers.get("content-encoding", "identity")
    if kind != "identity":
        raise http.DecodingError(f"the answer is packed ({kind:.20}), which it was not asked to be")
    stream = response.stream

    class Bounded(http.AsyncByteStream):  # type: ignore[misc, name-defined]
        async def __aiter__(self) -> AsyncIterator[bytes]:
            read = 0
            async for chunk in stream:
                read += len(chunk)
                if read > MOST_BYTES:
                    raise http.DecodingError(f"the answer is longer than {MOST_BYTES >> 20} MB")
                yield chunk

        async def aclose(self) -> None:
            await stream.aclose()

    response.stream = Bounded()


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
        if 300 <= error.status_code < 400:
            text += " (it points elsewhere, which is not followed: name that address itself)"
        if error.status_code in RETRIED or error.status_code >= 500:
            raise _Passing(text, retry_after(error.response.headers.get("retry-after"))) from None
        raise RequestError(text, error.status_code) from None
    except (Odd, ValueError, RecursionError) as error:
        why = without_key(" ".join(str(error).split()))
        raise _Passing(f"{where}: the answer is no chat completion: {why:.120}") from None


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
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
