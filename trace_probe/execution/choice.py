"""Executors by the name under which commands offer them."""

from typing import Literal

from trace_probe.execution.cluster import RayExecutor
from trace_probe.execution.executor import Executor, LocalExecutor

Kind = Literal["local", "ray"]


def executor_named(kind: Kind, workers: int | None = None, gpus: float = 0) -> Executor:
    """Return an executor: this process, or a Ray cluster with so many workers at most."""
    return LocalExecutor() if kind == "local" else RayExecutor(workers, gpus=gpus)
