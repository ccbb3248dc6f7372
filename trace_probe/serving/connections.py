"""The server's connections: heads come and readers read in time; a stop lets streams end first."""

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from trace_probe.serving.guarded import GuardedModel
from trace_probe.serving.limits import Limits

_log = logging.getLogger("uvicorn.error")
_Protocol: Any = AutoHTTPProtocol
GRACE_S = 5.0
"""For answers to leave once the model has been told to stop."""


LATE = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class Punctual(_Protocol):  # type: ignore[misc]
    """A protocol that closes a connection on which a head or a reader is late."""

    head_seconds = 10.0
    read_seconds = 30.0
    _late: asyncio.TimerHandle | None = None
    _behind: asyncio.TimerHandle | None = None

    @staticmethod
    def on_slow() -> None:
        """Hear of a client that did not read."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Begin to wait for a head."""
        super().connection_made(transport)
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        """Take bytes; a head that is whole makes a new cycle, which ends the wait."""
        if self._late is None and (self.cycle is None or self.cycle.response_complete):
            self._expect_head()
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self._head_is_here()

    def pause_writing(self) -> None:
        """Begin to wait for a client that does not read; asyncio calls it when too much waits."""
        super().pause_writing()
        self._behind = self.loop.call_later(self.read_seconds, self._cut)

    def resume_writing(self) -> None:
        """Wait no longer: the client has caught up."""
        super().resume_writing()
        self._stop_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        self._head_is_here()
        self._stop_waiting()
        super().connection_lost(exc)

    def _expect_head(self) -> None:
        self._late = self.loop.call_later(self.head_seconds, self._close)

    def _head_is_here(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _stop_waiting(self) -> None:
        if self._behind is not None:
            self._behind.cancel()
            self._behind = None

    def _close(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(LATE)
            self.transport.close()

    def _cut(self) -> None:
        """Leave a client that does not read; what waits for it is thrown away."""
        self.on_slow()
        _log.warning(
            "a client took nothing for %g s: its connection is closed and its stream ended",
            self.read_seconds,
        )
        self.transport.abort()


def punctual(limits: Limits, on_slow: Callable[[], None]) -> type[asyncio.Protocol]:
    """Return the protocol with limits of its own; `on_slow` hears of clients that do not read."""
    own = {"head_seconds": limits.head_seconds, "read_seconds": limits.read_seconds}
    return type("Punctual", (Punctual,), {**own, "on_slow": staticmethod(on_slow)})


class DrainingServer(uvicorn.Server):
    """A server that says that it stops, and lets streams under way end, up to a limit."""

    def __init__(
        self,
        config: uvicorn.Config,
        served: GuardedModel,
        drain_seconds: float,
        say: Callable[[str], None],
    ) -> None:
        config.timeout_graceful_shutdown = int(drain_seconds + 2 * GRACE_S)
        super().__init__(config)
        self._served, self._drain, self._say = served, drain_seconds, say

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take nothing new, wait for the streams, and end those that take too long."""
        self._served.drain()
        under_way = self._served.scheduler.active
        if under_way:
            self._say(
                f"stopping: {under_way} streams may end within {self._drain:g} s; "
                f"a second signal ends them at once"
            )
        cut = asyncio.create_task(self._cut())
        await super().shutdown(sockets)
        cut.cancel()
        self._say("stopped")

    async def _cut(self) -> None:
        await asyncio.sleep(self._drain)
        if cut := self._served.scheduler.active:
            self._say(f"{cut} streams did not end in time: they are told and ended")
        await asyncio.to_thread(self._served.scheduler.close)
