"""Starts vLLM's own server with probes in its workers."""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trace_probe.engine.offline import (
    EXTENSION,
    check_plugin,
    json_arguments,
    precision_of,
    prepare_environment,
    whole_model,
)
from trace_probe.engine.plan import EnginePlan, GuardPlan
from trace_probe.errors import ModelError
from trace_probe.model.checkpoint import locate
from trace_probe.model.keys import check_key
from trace_probe.model.weights import Weights
from trace_probe.serving.audit import AuditLog
from trace_probe.serving.limits import TOKEN, Limits, check_address
from trace_probe.serving.vllm_guard import read_probes

SERVER = "vllm.entrypoints.openai.api_server"
ANSWERS = "trace_probe.serving.vllm_answers.GuardedAnswers"


@dataclass(frozen=True)
class EngineServer:
    """What vLLM is to serve, and where."""

    weights: Weights
    guard: GuardPlan
    host: str = "127.0.0.1"
    port: int = 8765
    streams: int = 64
    arguments: str = "{}"
    """More arguments of ``vllm serve`` as JSON, such as ``{"reasoning_parser": "qwen3"}``."""

    def command(self) -> list[str]:
        """Return the arguments of ``vllm serve``, and the model first.

        Raises:
            ModelError: they are no arguments, the model has an adapter, or it would be spread over
                several stages.
        """
        weights, more = self.weights, json_arguments(self.arguments)
        name = whole_model(weights)
        if more.get("pipeline_parallel_size", 1) != 1:
            raise ModelError(
                "a guard needs all of its layers in one worker: serve with tensor_parallel_size, "
                "not with pipeline_parallel_size"
            )
        ours: dict[str, Any] = {
            "served-model-name": weights.name,
            "host": self.host,
            "port": self.port,
            "max-num-seqs": self.streams,
            "dtype": precision_of(weights).dtype,
            "revision": weights.revision,
            "worker-extension-cls": EXTENSION,
            "middleware": ANSWERS,
            "additional-config": EnginePlan(guard=self.guard).configuration(),
        }
        given = {key.replace("_", "-"): value for key, value in more.items()}
        flags = [word for name, value in {**ours, **given}.items() for word in _flag(name, value)]
        return [str(locate(name)), *flags]


def _flag(name: str, value: Any) -> list[str]:  # noqa: ANN401 - of JSON
    """Return an argument as words of a command line."""
    if value is None:
        return []
    if isinstance(value, bool):
        return [f"--{name}"] if value else [f"--no-{name}"]
    return [f"--{name}", json.dumps(value) if isinstance(value, dict | list) else str(value)]


def serve_engine(server: EngineServer, say: Callable[[str], None]) -> None:
    """Become vLLM's server; this does not return.

    Raises:
        ServerError: the address is not this machine's own and the environment has no token.
        StoreError: the audit log cannot be written.
        ModelError: vLLM is not installed, or does not find the plug-in.
        ProbeError: a probe does not fit the model.
    """
    token = check_key(TOKEN)
    check_address(server.host, token)
    prepare_environment(alone=False)
    check_plugin()
    if token:
        os.environ["VLLM_API_KEY"] = token
    model, *flags = server.command()
    weights = server.weights
    read_probes(server.guard, weights.name, weights.revision, precision_of(weights).dtype)
    AuditLog(Path(server.guard.audit)).close()  # it is found out now if it cannot be written
    say(f"vLLM serves {server.weights.name}, with its first model runner (V1)")
    say(f"on an alarm: {server.guard.policy}")
    say(f"http://{server.host}:{server.port}/v1, alarms in {server.guard.audit}")
    os.execv(sys.executable, [sys.executable, "-m", SERVER, "--model", model, *flags])


def check_limits(webhook: str | None, *, tokens: int, body: int) -> None:
    """Refuse what our server has and vLLM's has not.

    Raises:
        ModelError: with what to do instead.
    """
    if webhook:
        raise ModelError(
            "vLLM's server sends no webhooks: leave --alarm-webhook out and follow the log of "
            "alarms, or serve with --engine transformers"
        )
    if (tokens, body) != (Limits.tokens, Limits.body_bytes):
        raise ModelError(
            "vLLM's server has no --max-tokens and no --max-body: bound its answers with "
            "--engine-args '{\"max_model_len\": 4096}', or serve with --engine transformers"
        )


def guard_of(probes: tuple[Path, ...], **settings: Any) -> GuardPlan:  # noqa: ANN401 - of GuardPlan
    """Return the plan of a guard, with folders as the workers find them."""
    audit = Path(settings.pop("audit")).absolute()
    return GuardPlan(tuple(str(one.absolute()) for one in probes), audit=str(audit), **settings)
