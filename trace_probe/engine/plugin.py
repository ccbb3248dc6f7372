"""How the plug-in gets onto the model runners of vLLM, in each of its processes.

It does nothing unless the engine's additional configuration holds a plan: see
`trace_probe.engine.plan`. The entry point that vLLM finds is `trace_probe.serving.vllm_plugin`.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from trace_probe.engine.plan import read_plan
from trace_probe.errors import ModelError

if TYPE_CHECKING:
    from trace_probe.engine.attached import MakeGuard

DONE = "_trace_probe_attached"


def register(guard: "MakeGuard") -> None:
    """Have every model runner of vLLM attach what its plan asks for, once its model is loaded.

    `guard` makes what watches a model by the plan of a guard. vLLM may call this several times in
    a process.
    """
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    for runner in (GPUModelRunner, CPUModelRunner):
        _after_loading(runner, partial(_attach, guard=guard))
    from vllm.v1.worker.gpu.model_runner import GPUModelRunner as NewerRunner

    _after_loading(NewerRunner, _refuse)


def _after_loading(runner: Any, then: Callable[[Any], None]) -> None:  # noqa: ANN401
    """Have a class of runners do something after its own `load_model`."""
    load = vars(runner).get("load_model")
    if load is None or getattr(load, DONE, False):
        return

    def load_model(self: Any, *given: Any, **named: Any) -> None:  # noqa: ANN401
        load(self, *given, **named)
        then(self)

    setattr(load_model, DONE, True)
    runner.load_model = load_model


def _attach(runner: Any, guard: "MakeGuard") -> None:  # noqa: ANN401
    plan = read_plan(runner.vllm_config.additional_config)
    if plan is None or getattr(runner, "trace_probe", None) is not None:
        return
    from trace_probe.engine.attached import Attached

    runner.trace_probe = Attached(runner, plan, guard)


def _refuse(runner: Any) -> None:  # noqa: ANN401
    if read_plan(runner.vllm_config.additional_config) is not None:
        raise ModelError(
            "trace_probe reads the first model runner of vLLM (V1), and this engine runs the "
            "second: set VLLM_USE_V2_MODEL_RUNNER=0 in its environment"
        )
