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
        self._registry = registry
        self.traces = self._counter("traces", "Completions that ran to their end.")
        self.disconnects = self._counter("disconnects", "Clients that left early.")
        self.alarms = self._counter("alarms", "Traces that alarmed.", "probe")
        name = "trace_probe_sentence_score"
        self.scores = Histogram(name, "First probe's scores.", buckets=SCORES, registry=registry)

    def _counter(self, name: str, about: str, *labels: str) -> Counter:
        return Counter(f"trace_probe_{name}", about, labels, registry=self._registry)


class EngineJudged(Judged):
    """What probes in vLLM's workers say."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Put the figures among those of vLLM's server."""
        super().__init__(registry)
        about = "Alarmed traces not in the audit log at once."
        self._unlogged = self._counter("unlogged", about)

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
        at = CollectorRegistry()
        super().__init__(at)
        self.requests = self._counter("requests", "Answers by status.", "status")
        self.tokens = self._counter("tokens", "Tokens written.")
        self.slow = self._counter("slow_clients", "Clients that did not read.")
        about = "Alarms for the webhook by what became of them."
        self.sent = self._counter("webhook", about, "result")
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
