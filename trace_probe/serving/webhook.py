"""A webhook of alarms: each is sent, signed, to an address of the operator's.

It never holds a stream up: alarms wait in a queue of their own, and where it is full they are
dropped and counted, as they are in the audit log anyway. What is sent is the entry of that log as
JSON, in the form of Standard Webhooks (https://www.standardwebhooks.com)::

    webhook-id          the same at each try, so that a receiver can tell a repetition
    webhook-timestamp   seconds since 1970
    webhook-signature   v1,BASE64 of the HMAC-SHA256 of ID.TIMESTAMP.BODY by the secret

Any 2xx means that it has arrived. A fault, 408, 429 and 5xx are tried again, later and later, until
the deadline; any other answer is final. A redirect is not followed.
"""

import asyncio
import base64
import binascii
import hashlib
import hmac
import json
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from trace_probe.errors import ServerError
from trace_probe.model.keys import check_key
from trace_probe.serving.limits import is_loopback

SECRET = "TRACE_PROBE_WEBHOOK_SECRET"
PREFIX = "whsec_"
"""Before secrets that are in base64, as Standard Webhooks has them."""
SHORTEST = 16
"""Bytes that a secret has at least."""
RETRIED = frozenset({408, 429})
_log = logging.getLogger("uvicorn.error")
Result = Literal["delivered", "given-up", "dropped"]


@dataclass(frozen=True)
class Hook:
    """Where alarms are sent, and with how much patience."""

    url: str
    secret: bytes
    try_seconds: float = 10.0
    """For one try, from the first byte sent to the status of the answer."""
    deadline_seconds: float = 120.0
    """From the first try to the last."""
    first_wait: float = 1.0
    """Before the second try; each further wait is twice as long."""
    most_waiting: int = 1000
    """Alarms in the queue; more are dropped."""
    closing_seconds: float = 5.0
    """For those that wait once the server stops."""


def hook_from(url: str) -> Hook:
    """Return the webhook at an address, with the secret of the environment.

    Raises:
        ServerError: it is no address for a webhook, or there is no secret.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ServerError("the webhook is no address: give one such as https://example.org/alarms")
    if parts.username or parts.password:
        raise ServerError(
            f"the address of the webhook holds a password, which lists of processes show: leave "
            f"it out, alarms are signed with {SECRET}"
        )
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise ServerError(
            "an alarm holds text of the model, and http:// would send it in the clear: use https://"
        )
    secret = check_key(SECRET)
    if not secret:
        raise ServerError(
            f"a webhook is signed: set a secret in the environment variable {SECRET}, for example "
            f"the output of `openssl rand -hex 32`, and give it to the receiver"
        )
    known = _secret_bytes(secret)
    if len(known) < SHORTEST:
        raise ServerError(
            f"the secret in {SECRET} is shorter than {SHORTEST} bytes, so that others could guess "
            f"it and forge alarms: set a longer one, for example the output of "
            f"`openssl rand -hex 32`"
        )
    return Hook(url, known)


def _secret_bytes(secret: str) -> bytes:
    if not secret.startswith(PREFIX):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except binascii.Error as error:
        raise ServerError(
            f"what follows {PREFIX} in {SECRET} is not base64: copy the secret again"
        ) from error


def signature(secret: bytes, name: str, stamp: str, body: bytes) -> str:
    """Return the signature of a delivery, as its header has it."""
    signed = b".".join((name.encode(), stamp.encode(), body))
    return "v1," + base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode()


class Webhook:
    """Sends alarms one after another, while it is `running` in the loop that calls `put`."""

    def __init__(self, hook: Hook, count: Callable[[Result], None]) -> None:
        """Send to a hook; `count` hears what became of each alarm."""
        self._hook, self._count = hook, count
        self._waiting: asyncio.Queue[Mapping[str, Any]] = asyncio.Queue(hook.most_waiting)
        self._client: Any = None

    def put(self, entry: Mapping[str, Any]) -> None:
        """Send an alarm when its turn comes; where too many wait it is dropped and counted."""
        try:
            self._waiting.put_nowait(entry)
        except asyncio.QueueFull:
            self._settle("dropped", entry, f"{self._hook.most_waiting} alarms wait already")

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Webhook"]:
        """Send alarms meanwhile; at the end send what waits, for a while, and say what is left."""
        from openai import DefaultAsyncHttpxClient

        async with DefaultAsyncHttpxClient(follow_redirects=False, timeout=None) as self._client:
            sending = asyncio.create_task(self._run())
            try:
                yield self
            finally:
                await self._finish()
                sending.cancel()

    async def _finish(self) -> None:
        """Wait for what is to be sent, but not for long."""
        try:
            async with asyncio.timeout(self._hook.closing_seconds):
                await self._waiting.join()
        except TimeoutError:
            _log.warning(
                "alarms that the webhook did not get are in the audit log alone: at least %d",
                self._waiting.qsize() + 1,
            )

    async def _run(self) -> None:
        while True:
            entry = await self._waiting.get()
            try:
                await self._deliver(entry)
            finally:
                self._waiting.task_done()

    async def _deliver(self, entry: Mapping[str, Any]) -> None:
        """Try until it has arrived, is refused, or the deadline has passed."""
        hook, name = self._hook, f"msg_{secrets.token_hex(12)}"
        body = json.dumps({"type": "trace_probe.alarm", "data": entry}, ensure_ascii=True).encode()
        end, wait = time.monotonic() + hook.deadline_seconds, hook.first_wait
        while True:
            status, why = await self._try(name, body)
            if 200 <= status < 300:
                return self._settle("delivered", entry)
            passing = status == 0 or status in RETRIED or status >= 500
            if not passing or time.monotonic() + wait > end:
                return self._settle("given-up", entry, why)
            await asyncio.sleep(wait)
            wait *= 2

    async def _try(self, name: str, body: bytes) -> tuple[int, str]:
        """Send it once; return the status and what is to be said of it, 0 if there was none."""
        stamp = str(int(time.time()))
        headers = {
            "content-type": "application/json",
            "webhook-id": name,
            "webhook-timestamp": stamp,
            "webhook-signature": signature(self._hook.secret, name, stamp, body),
        }
        asked = {"content": body, "headers": headers}
        try:
            async with (
                asyncio.timeout(self._hook.try_seconds),
                self._client.stream("POST", self._hook.url, **asked) as answer,
            ):
                return answer.status_code, f"status {answer.status_code}"  # its text is not read
        except TimeoutError:
            return 0, f"no answer within {self._hook.try_seconds:g} s"
        except Exception as error:  # whatever a network does, the next alarm is to be sent
            return 0, f"{type(error).__name__}: {error}"

    def _settle(self, result: Result, entry: Mapping[str, Any], why: str = "") -> None:
        self._count(result)
        if result != "delivered":
            _log.warning(
                "the webhook did not get the alarm of %s (%s): it is in the audit log",
                entry.get("completion"),
                why,
            )
