"""Who may ask and how much: token, host, size of a body and time to send it.

How a client is told that it may not.
"""

import asyncio
import hmac
import re
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from trace_probe.errors import ServerError

if TYPE_CHECKING:
    from starlette.requests import Request


class Refusal(Exception):
    """A request that gets an error for an answer, in OpenAI's form."""

    def __init__(self, status: int, message: str, code: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param

    @property
    def body(self) -> dict[str, Any]:
        """Return the body of the answer."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}

    @property
    def headers(self) -> dict[str, str]:
        """Return the headers that say what to do about it."""
        if self.status == 401:
            return {"www-authenticate": "Bearer"}
        return {"retry-after": "1"} if self.status in (429, 503) else {}


def bad(message: str, param: str | None) -> Refusal:
    """Return the refusal of a request that is malformed, or asks what is not served."""
    return Refusal(400, message, "invalid_request", param)


TOKEN = "TRACE_PROBE_TOKEN"
LOCAL_HOST = re.compile(r"(localhost|127\.0\.0\.1|\[::1\]|::1)(:[0-9]{1,5})?", re.IGNORECASE)


@dataclass(frozen=True)
class Limits:
    """What a client may ask for."""

    body_bytes: int = 1 << 20
    tokens: int = 4096
    """Of one answer."""
    streams: int = 64
    """At a time; one more is answered with 429."""
    body_seconds: float = 30.0
    """To send a body."""
    head_seconds: float = 10.0
    """To send the line and the headers of a request."""
    read_seconds: float = 30.0
    """To take what it was sent, once so much waits for it that the server cannot send on."""
    drain_seconds: float = 30.0
    """For the streams under way to end once the server is told to stop."""
    sessions: int = 1024
    """Episodes that are remembered at a time; one more takes the place of one that seems over, or
    is answered with 429."""
    session_seconds: float = 3600.0
    """After which a session that is not used is forgotten."""
    session_calls: int = 1000
    """Model calls of one session."""


def check_address(host: str, token: str | None) -> None:
    """Refuse to listen beyond this machine without a token.

    Raises:
        ServerError: the address is not a loopback one and there is no token.
    """
    if token or is_loopback(host):
        return
    raise ServerError(
        f"{host} can be reached from other machines: set a token in the environment variable "
        f"{TOKEN}, or listen on 127.0.0.1"
    )


def is_loopback(host: str) -> bool:
    """Return whether an address is this machine's own."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def caller_of(header: str | None) -> str:
    """Return the token in a header of authorization, however the header is spelt."""
    scheme, _, given = (header or "").strip().partition(" ")
    return given.strip() if scheme.lower() == "bearer" else (header or "").strip()


def check_token(header: str | None, token: str | None) -> None:
    """Let only those in who bring the token, where there is one.

    Raises:
        Refusal: 401.
    """
    scheme = (header or "").strip().partition(" ")[0].lower()
    given = caller_of(header).encode()
    right = token is None or (scheme == "bearer" and hmac.compare_digest(given, token.encode()))
    if not right:
        raise Refusal(401, "send the token of this server as a bearer token", "invalid_api_key")


def check_host(header: str | None, token: str | None) -> None:
    """Without a token answer only to local names, so that no web page can ask by a name of its own.

    Raises:
        Refusal: 400.
    """
    if token is None and not LOCAL_HOST.fullmatch(header or ""):
        raise Refusal(
            400,
            f"without a token this server answers to localhost, 127.0.0.1, [::1] only: ask by one "
            f"of these names, or have {TOKEN} set where it is started",
            "bad_host",
        )


def check_type(header: str | None) -> None:
    """Take JSON only; a web page elsewhere cannot send that without asking first.

    Raises:
        Refusal: 400.
    """
    if (header or "").partition(";")[0].strip().lower() != "application/json":
        raise Refusal(400, "send the content type application/json", "invalid_content_type")


async def read_body(request: "Request", limits: Limits) -> bytes:
    """Read a body, no longer than is allowed, whatever its header says.

    Raises:
        Refusal: 413 if it is too long, 408 if it comes too slowly, 400 if it breaks off.
    """
    from starlette.requests import ClientDisconnect

    too_long = Refusal(
        413, f"a body may have {limits.body_bytes} bytes: send a shorter one", "body_too_large"
    )
    length = request.headers.get("content-length", "")
    if not length.isascii():
        raise Refusal(400, "the content length is no number", "invalid_request")
    if length.isdigit() and int(length) > limits.body_bytes:
        raise too_long
    body = bytearray()
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for part in request.stream():
                body += part
                if len(body) > limits.body_bytes:
                    raise too_long
    except TimeoutError as error:
        raise Refusal(408, "the body came too slowly", "timeout") from error
    except ClientDisconnect as error:
        raise Refusal(400, "the body broke off", "invalid_request") from error
    return bytes(body)
