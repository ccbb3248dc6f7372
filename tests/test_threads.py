"""Tiny models compute on one thread, and nobody's choice of threads is overruled."""

import os
import subprocess
import sys

import pytest

from trace_probe.model.threads import SETTINGS

MORE = """
import torch
from trace_probe.model import threads
threads.cores = lambda: torch.get_num_threads()  # so that two look like torch's own choice
"""
LOAD = """
import numpy
from threadpoolctl import threadpool_info
from trace_probe.model.local import load_model
load_model("organism:rl")
blas = max(one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas")
print(torch.get_num_threads(), blas)
"""


def threads_after(code: str, **environment: str) -> list[int]:
    """Return the threads of torch and NumPy that a fresh process prints."""
    clean = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.split()[-2:]]


def test_a_tiny_model_computes_on_one_thread() -> None:
    assert threads_after(f"{MORE}torch.set_num_threads(2)\n{LOAD}") == [1, 1]


def test_threads_that_the_user_chose_stay() -> None:
    chosen = "import torch\ntorch.set_num_threads(3)\n"
    assert threads_after(f"{chosen}{LOAD}")[0] == 3
    looks_like_torch_s = f"{MORE}print(torch.get_num_threads(), 0)"
    (before, _) = threads_after(looks_like_torch_s, OMP_NUM_THREADS="2")
    assert threads_after(f"{MORE}{LOAD}", OMP_NUM_THREADS="2")[0] == before


@pytest.mark.parametrize("order", ["tiny large", "large tiny", "tiny large tiny"])
def test_a_large_model_has_the_threads_of_torch(order: str) -> None:
    sizes = {"tiny": 1000, "large": threads_limit() + 1}
    networks = "\n".join(
        f"threads.PROCESS.make_room_for(Network({sizes[n]}))" for n in order.split()
    )
    code = f"""{MORE}
torch.set_num_threads(2)

class Network:
    def __init__(self, size): self.size = size
    def num_parameters(self): return self.size

{networks}
print(torch.get_num_threads(), 0)
"""
    assert threads_after(code)[0] == 2


def threads_limit() -> int:
    from trace_probe.model.threads import TINY

    return TINY
