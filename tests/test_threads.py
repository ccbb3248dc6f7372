"""Tiny models compute on one thread, and nobody's choice of threads is overruled."""

import os
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

LOAD = """
import numpy, torch
from threadpoolctl import threadpool_info
from trace_probe.model import threads
from trace_probe.model.local import load_model

threads.cores = lambda: 2  # as many as torch has: they look like its own choice
torch.set_num_threads(2)
load_model("organism:rl")
blas = max(one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas")
print(torch.get_num_threads(), blas)
"""
FEW, MANY = 1000, 10**9
"""Parameters of a tiny model, and of one that is none."""


def test_a_tiny_model_that_is_loaded_computes_on_one_thread() -> None:
    from trace_probe.model.threads import SETTINGS

    clean = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    done = subprocess.run([sys.executable, "-c", LOAD], env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-2:] == ["1", "1"]


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return the threads of a process of two cores, in which nobody has chosen anything."""
    import torch
    from threadpoolctl import threadpool_limits

    from trace_probe.model import threads

    for name in threads.SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(threads, "cores", lambda: 2)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with threadpool_limits():  # what is limited meanwhile is as it was when this ends
        yield threads.ProcessThreads()
    torch.set_num_threads(before)


def threads_after(process: Any, *parameters: int) -> int:
    """Return the threads of torch once models of so many parameters were loaded."""
    import torch

    for count in parameters:
        process.make_room_for(SimpleNamespace(num_parameters=lambda count=count: count))
    return torch.get_num_threads()


def test_a_tiny_model_computes_on_one_thread(process: Any) -> None:
    assert threads_after(process, FEW) == 1


def test_threads_that_the_user_has_set_stay(process: Any) -> None:
    import torch

    torch.set_num_threads(3)
    assert threads_after(process, FEW) == 3


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"])
def test_threads_that_the_environment_names_stay(
    process: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "2")
    assert threads_after(process, FEW) == 2


@pytest.mark.parametrize("order", [(FEW, MANY), (MANY, FEW), (FEW, MANY, FEW)])
def test_a_large_model_has_the_threads_of_torch(process: Any, order: tuple[int, ...]) -> None:
    assert threads_after(process, *order) == 2
