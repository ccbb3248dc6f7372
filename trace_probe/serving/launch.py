"""Starts the server of a monitored model.

The server's connections: heads come and readers read in time; a stop lets streams end first.
"""

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from trace_probe.model.bridge import load_weights
from trace_probe.model.keys import check_key
from trace_probe.model.weights import Weights
from trace_probe.monitor.detector import Detector
from trace_probe.monitor.live import Monitor
from trace_probe.monitor.recheck import check_rechecked
from trace_probe.serving.audit import AuditLog
from trace_probe.serving.endpoint import build_app
from trace_probe.serving.guarded import GuardedModel
from trace_probe.serving.limits import TOKEN, Limits, check_address
from trace_probe.serving.reply import Policy
from trace_probe.serving.webhook import hook_from

_log = logging.getLogger("uvicorn.error")
_Protocol: Any = AutoHTTPProtocol
GRACE_S = 5.0
"""For answers to leave once the model has been told to stop."""


LATE = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class Punctual(_Protocol):  # type: ignore[misc]
    """A protocol that closes a connection on which a head or a reader is late."""

    head_seconds = 10.0
    read_seconds = 30.0

    @staticmethod
    def on_slow() -> None:
        """Hear of a client that did not read."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Begin to wait for a head."""
        super().connection_made(transport)
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        """Take bytes; a head that is whole makes a new cycle, which ends the wait."""
        if "head" not in self._timers and (self.cycle is None or self.cycle.response_complete):
            self._expect_head()
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self._stop_waiting("head")

    def pause_writing(self) -> None:
        """Begin to wait for a client that does not read; asyncio calls it when too much waits."""
        super().pause_writing()
        self._timers["reader"] = self.loop.call_later(self.read_seconds, self._cut)

    def resume_writing(self) -> None:
        """Wait no longer: the client has caught up."""
        super().resume_writing()
        self._stop_waiting("reader")

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        self._stop_waiting("head")
        self._stop_waiting("reader")
        super().connection_lost(exc)

    def _expect_head(self) -> None:
        self._timers["head"] = self.loop.call_later(self.head_seconds, self._close)

    def _stop_waiting(self, what: str) -> None:
        if what in self._timers:
            self._timers.pop(what).cancel()

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


@dataclass(frozen=True)
class ServePlan:
    """What is served, where and how."""

    weights: Weights
    detectors: Sequence[Detector]
    checked: Sequence[Path] = ()
    """Folders of probes; where the latest recheck of one speaks against it, nothing is served."""
    policy: Policy = "annotate"
    host: str = "127.0.0.1"
    port: int = 8765
    audit: Path = Path("alarms.jsonl")
    limits: Limits = field(default_factory=Limits)
    webhook: str | None = None
    """Where alarms are sent besides the log."""


def serve(plan: ServePlan, say: Callable[[str], None]) -> None:
    """Serve until interrupted.

    Raises:
        ServerError: the address is not this machine's own and the environment has no token; or
            the webhook cannot be one, or has no secret.
        ProbeError: a probe does not fit the model, or its threshold no longer holds for it.
        StoreError: another server writes to the audit log.
    """
    token = check_key(TOKEN)
    check_address(plan.host, token)  # before a model is loaded
    hook = hook_from(plan.webhook) if plan.webhook else None
    audit = AuditLog(plan.audit)
    model = load_weights(plan.weights)
    check_rechecked(model, plan.checked)
    served = GuardedModel(
        Monitor(model, plan.detectors), audit, policy=plan.policy, limits=plan.limits, hook=hook
    )
    app = build_app(served, plan.limits, token)
    say(f"{served.name}, on an alarm: {plan.policy}")
    for detector in plan.detectors:
        say(str(detector))
    say(f"http://{plan.host}:{plan.port}/v1, alarms in {plan.audit}")
    if hook:
        say(f"alarms are sent to {urlsplit(hook.url).netloc}, signed")
    config = uvicorn.Config(
        app,
        host=plan.host,
        port=plan.port,
        http=punctual(plan.limits, served.telemetry.slow.inc),
        log_level="warning",
        access_log=False,
    )
    DrainingServer(config, served, plan.limits.drain_seconds, say).run()
