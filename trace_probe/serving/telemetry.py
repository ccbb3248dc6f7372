"""Figures of a running server in the form that Prometheus reads."""

from collections.abc import Callable, Sequence
from typing import Any

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

from trace_probe.monitor.drift import Drift

CONTENT_TYPE = CONTENT_TYPE_LATEST
SCORES = (-16, -8, -4, -2, -1, 0, 1, 2, 4, 8, 16)


class Judged:
    """What probes say of the answers that they watch; each figure is counted by whoever sees it."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Put the figures among those of a server."""
        at = registry
        self.traces = Counter(
            "trace_probe_traces", "Completions that ran to their end.", registry=at
        )
        self.disconnects = Counter(
            "trace_probe_disconnects", "Clients that left early.", registry=at
        )
        self.alarms = Counter("trace_probe_alarms", "Traces that alarmed.", ["probe"], registry=at)
        self.scores = Histogram(
            "trace_probe_sentence_score", "First probe's scores.", buckets=SCORES, registry=at
        )


class EngineJudged(Judged):
    """What probes in vLLM's workers say."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Put the figures among those of vLLM's server."""
        super().__init__(registry)
        self._unlogged = Counter(
            "trace_probe_unlogged",
            "Alarmed traces not in the audit log at once.",
            registry=registry,
        )

    def take(
        self, found: Sequence[list[dict[str, Any]] | None], *, ended: bool
    ) -> list[dict[str, Any]]:
        """Return what one of the workers tells of answers, and count it."""
        told = next((one for one in found if one), [])
        if ended:
            self.traces.inc(len(told))
        for one in told:
            for name in one["alarms"]:
                self.alarms.labels(name).inc()
            for sentence in one["sentences"]:
                if sentence["risk"]:
                    self.scores.observe(sentence["risk"][0]["score"])
            if one.get("unlogged"):
                self._unlogged.inc()
        return told


class Telemetry(Judged):
    """What a server of ours does; each has its own figures."""

    def __init__(self, active: Callable[[], int]) -> None:
        self._registry = at = CollectorRegistry()
        super().__init__(at)
        self.requests = Counter(
            "trace_probe_requests", "Answers by status.", ["status"], registry=at
        )
        self.tokens = Counter("trace_probe_tokens", "Tokens written.", registry=at)
        self.slow = Counter("trace_probe_slow_clients", "Clients that did not read.", registry=at)
        self.sent = Counter(
            "trace_probe_webhook",
            "Alarms for the webhook by what became of them.",
            ["result"],
            registry=at,
        )
        self._evidence = Gauge(
            "trace_probe_drift_log10_evidence", "Bet against the calibrated range.", registry=at
        )
        self._drifted = Gauge("trace_probe_drifted", "1 once scores have left it.", registry=at)
        Gauge("trace_probe_streams", "Streams under way.", registry=at).set_function(active)

    def finished(self, drift: Drift | None) -> None:
        """Count a completion and take in what the drift check says after it."""
        self.traces.inc()
        if drift is not None:
            self._evidence.set(drift.evidence)
            self._drifted.set(drift.drifted)

    def page(self) -> bytes:
        """Return the figures as text."""
        return bytes(generate_latest(self._registry))
