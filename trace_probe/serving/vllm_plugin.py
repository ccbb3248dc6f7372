"""The entry point that vLLM finds and calls in each of its processes."""

from typing import TYPE_CHECKING, Any

from trace_probe.engine import plugin
from trace_probe.engine.plan import GuardPlan

if TYPE_CHECKING:
    from trace_probe.serving.vllm_guard import Guard


def register() -> None:
    """Have vLLM's model runners attach what the additional configuration asks for."""
    plugin.register(_guard)


def _guard(runner: Any, plan: GuardPlan) -> "Guard":  # noqa: ANN401 - of vLLM
    from trace_probe.serving.vllm_guard import load_guard

    return load_guard(runner, plan)
