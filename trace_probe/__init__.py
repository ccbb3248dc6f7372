"""Linear probes on reasoning traces.

The names of this module are all that most programs need; each is imported when it is first used,
so ``import trace_probe as tp`` is quick and loads no torch.

Example:
    >>> import trace_probe as tp
    >>> len(tp.tasks("world:mine:48"))
    48
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trace_probe.errors import TraceProbeError as TraceProbeError
    from trace_probe.labels import Label as Label
    from trace_probe.model.local import load_model as load_model
    from trace_probe.monitor.calibrated import calibrate as calibrate
    from trace_probe.monitor.detector import Detector as Detector
    from trace_probe.monitor.detector import load_detector as load_detector
    from trace_probe.monitor.flagging import flag as flag
    from trace_probe.monitor.live import Monitor as Monitor
    from trace_probe.monitor.stopping import GenerateWatch as GenerateWatch
    from trace_probe.probing.probe import load_probe as load_probe
    from trace_probe.probing.probe import save_probe as save_probe
    from trace_probe.recording.course import Agent as Agent
    from trace_probe.recording.given import describe_model as describe_model
    from trace_probe.recording.given import given_trace as given_trace
    from trace_probe.recording.given import pooled as pooled
    from trace_probe.recording.served import Served as Served
    from trace_probe.run import Run as Run
    from trace_probe.run import evaluate as evaluate
    from trace_probe.run import train as train
    from trace_probe.store import Store as Store
    from trace_probe.tasks.sources import tasks_from
    from trace_probe.trace import Sampling as Sampling
    from trace_probe.trace import Task as Task
    from trace_probe.trace import Trace as Trace

    tasks = tasks_from

_HOMES = {
    "Agent": "recording.course",
    "Detector": "monitor.detector",
    "GenerateWatch": "monitor.stopping",
    "Label": "labels",
    "Monitor": "monitor.live",
    "Run": "run",
    "Sampling": "trace",
    "Served": "recording.served",
    "Store": "store",
    "Task": "trace",
    "Trace": "trace",
    "TraceProbeError": "errors",
    "calibrate": "monitor.calibrated",
    "describe_model": "recording.given",
    "evaluate": "run",
    "flag": "monitor.flagging",
    "given_trace": "recording.given",
    "load_detector": "monitor.detector",
    "load_model": "model.local",
    "load_probe": "probing.probe",
    "pooled": "recording.given",
    "save_probe": "probing.probe",
    "train": "run",
}
"""The module of each public name; `tasks` is the package of that name, which can be called."""

__all__ = sorted([*_HOMES, "tasks"])


def __getattr__(name: str) -> Any:  # noqa: ANN401 - PEP 562
    """Import a public name when it is first asked for."""
    if name == "tasks":
        return import_module("trace_probe.tasks")
    if name not in _HOMES:
        raise AttributeError(f"trace_probe has no {name!r}: see trace_probe.__all__")
    return getattr(import_module(f"trace_probe.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)
