"""Starts the server of a monitored model."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import uvicorn

from trace_probe.model.bridge import load_weights
from trace_probe.model.keys import check_key
from trace_probe.model.weights import Weights
from trace_probe.monitor.detector import Detector, load_detector
from trace_probe.monitor.live import Monitor, check_rechecked
from trace_probe.serving.audit import AuditLog
from trace_probe.serving.connections import DrainingServer, punctual
from trace_probe.serving.endpoint import build_app
from trace_probe.serving.guarded import GuardedModel
from trace_probe.serving.limits import TOKEN, Limits, check_address
from trace_probe.serving.reply import Policy
from trace_probe.serving.webhook import hook_from


@dataclass(frozen=True)
class ServePlan:
    """What is served, where and how."""

    weights: Weights
    probes: tuple[Path, ...]
    smoothing: str | None = None
    threshold: float | None = None
    policy: Policy = "annotate"
    host: str = "127.0.0.1"
    port: int = 8765
    audit: Path = Path("alarms.jsonl")
    limits: Limits = field(default_factory=Limits)
    stale_ok: bool = False
    """Whether to serve with a probe whose latest recheck says that its threshold does not hold."""
    webhook: str | None = None
    """Where alarms are sent besides the log."""


def detectors_of(plan: ServePlan) -> list[Detector]:
    """Return the detectors of a plan, each with its latest calibration.

    Raises:
        ProbeError: a probe cannot be read, or has no threshold for the smoothing.
    """
    return [
        load_detector(folder, smoothing=plan.smoothing, threshold=plan.threshold)
        for folder in plan.probes
    ]


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
    if not plan.stale_ok:
        check_rechecked(model, plan.probes)
    detectors = detectors_of(plan)
    served = GuardedModel(
        Monitor(model, detectors), audit, policy=plan.policy, limits=plan.limits, hook=hook
    )
    app = build_app(served, plan.limits, token)
    say(f"{served.name}, on an alarm: {plan.policy}")
    for detector in detectors:
        say(str(detector))
    say(f"http://{plan.host}:{plan.port}/v1, alarms in {plan.audit}")
    if hook:
        say(f"alarms are sent to {urlsplit(hook.url).netloc}, signed")
    config = uvicorn.Config(
        app,
        host=plan.host,
        port=plan.port,
        http=punctual(plan.limits, served.telemetry.slow),
        log_level="warning",
        access_log=False,
    )
    DrainingServer(config, served, plan.limits.drain_seconds, say).run()
