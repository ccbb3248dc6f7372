"""How many threads a process computes on: one while all of its models are tiny."""

import os
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits
from transformers import PreTrainedModel

TINY = 20_000_000
"""Parameters up to which a second thread costs more, in waiting, than it gives."""
SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class ProcessThreads:
    """The threads of this process, for torch and for NumPy alike.

    A number that the user chose is never changed: one of the environment variables that set
    it, or a call of `torch.set_num_threads`, before the first model is loaded or after.
    """

    def __init__(self) -> None:
        self._limits: threadpool_limits | None = None
        self._before = 0
        self._large = False

    def make_room_for(self, network: PreTrainedModel) -> None:
        """Compute on one thread if this and every earlier network is tiny, else as torch would.

        Call it for each network that is loaded.
        """
        self._large = self._large or network.num_parameters() > TINY
        if self._large:
            self._restore()
        elif self._limits is None and not chosen_by_user():
            self._before = torch.get_num_threads()
            self._limits = threadpool_limits(1)
            torch.set_num_threads(1)

    def _restore(self) -> None:
        if self._limits is not None and torch.get_num_threads() == 1:
            self._limits.restore_original_limits()
            torch.set_num_threads(self._before)
        self._limits = None


PROCESS = ProcessThreads()


def chosen_by_user() -> bool:
    """Return whether the number of threads is another than torch takes by itself."""
    told = any(os.environ.get(name) for name in SETTINGS)
    return told or torch.get_num_threads() != cores()


def cores() -> int:
    """Return on how many physical cores this process may run."""
    affinity = getattr(os, "sched_getaffinity", None)
    if affinity is None:
        return os.cpu_count() or 1
    siblings = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    files = [Path(siblings.format(cpu)) for cpu in affinity(0)]
    if not all(file.is_file() for file in files):
        return len(files)
    return len({file.read_text(encoding="ascii") for file in files})
