"""Figures of a running server in the form that Prometheus reads."""

from collections.abc import Callable, Mapping, Sequence
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
from trace_probe.monitor.scorer import ScoredSentence

CONTENT_TYPE = CONTENT_TYPE_LATEST
SCORES = (-16, -8, -4, -2, -1, 0, 1, 2, 4, 8, 16)


class Judged:
    """Counts what probes say of the answers that they watch."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Put the figures among those of a server."""
        at = registry
        self._traces = Counter(
            "trace_probe_traces", "Completions that ran to their end.", registry=at
        )
        self._disconnects = Counter(
            "trace_probe_disconnects", "Clients that left early.", registry=at
        )
        self._alarms = Counter("trace_probe_alarms", "Traces that alarmed.", ["probe"], registry=at)
        self._scores = Histogram(
            "trace_probe_sentence_score", "First probe's scores.", buckets=SCORES, registry=at
        )

    def ended(self) -> None:
        """Count a completion."""
        self._traces.inc()

    def disconnected(self) -> None:
        """Count a client that left before its answer was whole."""
        self._disconnects.inc()

    def score(self, value: float) -> None:
        """Take in the score of a sentence."""
        self._scores.observe(value)

    def alarm(self, probe: str) -> None:
        """Count a trace that alarmed."""
        self._alarms.labels(probe).inc()


class EngineJudged(Judged):
    """Counts what probes in vLLM's workers say."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Put the figures among those of vLLM's server."""
        super().__init__(registry)
        self._unlogged = Counter(
            "trace_probe_unlogged",
            "Alarmed traces not in the audit log at once.",
            registry=registry,
        )

    def take(self, told: Sequence[Mapping[str, Any]]) -> None:
        """Take in what a guard tells of answers."""
        for one in told:
            for name in one["alarms"]:
                self.alarm(name)
            for sentence in one["sentences"]:
                if sentence["risk"]:
                    self.score(sentence["risk"][0]["score"])
            if one.get("unlogged"):
                self._unlogged.inc()


class Telemetry(Judged):
    """Counts what a server of ours does; each has its own figures."""

    def __init__(self, active: Callable[[], int]) -> None:
        self._registry = at = CollectorRegistry()
        super().__init__(at)
        self._requests = Counter(
            "trace_probe_requests", "Answers by status.", ["status"], registry=at
        )
        self._tokens = Counter("trace_probe_tokens", "Tokens written.", registry=at)
        self._slow = Counter("trace_probe_slow_clients", "Clients that did not read.", registry=at)
        self._sent = Counter(
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

    def answered(self, status: int) -> None:
        """Count an answer."""
        self._requests.labels(str(status)).inc()

    def token(self) -> None:
        """Count a token."""
        self._tokens.inc()

    def slow(self) -> None:
        """Count a client that was left because it did not take what it was sent."""
        self._slow.inc()

    def sentence(self, scored: ScoredSentence) -> None:
        """Take in the score of a sentence."""
        if scored.scores:
            self.score(scored.scores[0])

    def sent(self, result: str) -> None:
        """Count an alarm that was delivered, given up or dropped by the webhook."""
        self._sent.labels(result).inc()

    def finished(self, drift: Drift | None) -> None:
        """Count a completion and take in what the drift check says after it."""
        self.ended()
        if drift is not None:
            self._evidence.set(drift.evidence)
            self._drifted.set(drift.drifted)

    def page(self) -> bytes:
        """Return the figures as text."""
        return bytes(generate_latest(self._registry))
