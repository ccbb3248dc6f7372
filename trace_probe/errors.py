"""Everything that can go wrong and that a user can act on.

TraceProbeError
├── TaskError          a task file is missing, changed or malformed
├── TraceError         a trace contradicts itself, or a transcript cannot be read
├── ModelError         a model cannot be loaded, or is not the one that was asked for
├── ServerError        a server cannot be reached, or refuses what it is asked
├── StoreError         a run folder is missing, foreign, locked or broken
├── WorkerError        work on other processes or machines failed, or could not be started
├── ProbeError         a probe does not fit the run or the model it is used on
└── NotEnoughData      a figure was asked for that the data cannot give
"""


class TraceProbeError(Exception):
    """Base of all errors below; its text says what to do. The command line prints it, exit code 1.

    Example:
        >>> from trace_probe.store import Store
        >>> try:
        ...     Store("nowhere")
        ... except TraceProbeError as error:
        ...     print(type(error).__name__)
        StoreError
    """


class TaskError(TraceProbeError):
    """A task file is missing, changed or malformed."""


class TraceError(TraceProbeError):
    """A trace contradicts itself, or a foreign transcript cannot be read."""


class ModelError(TraceProbeError):
    """A model cannot be loaded, or is not the one that was asked for."""


class ServerError(TraceProbeError):
    """A server of models cannot be reached, or refuses what it is asked."""


class StoreError(TraceProbeError):
    """A run folder is missing, foreign, locked by another writer, or broken."""


class WorkerError(TraceProbeError):
    """Work that was handed to other processes or machines failed, or could not be started."""


class ProbeError(TraceProbeError):
    """A probe does not fit the run, the model or the layer it is used on."""


class NotEnoughData(TraceProbeError):
    """A figure was asked for that the data cannot give; the text says what is missing."""
