"""In which precision a model runs, and why."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import PreTrainedConfig

from trace_probe.errors import ModelError
from trace_probe.model.shapes import DTYPES, network_of, parameters, with_blocks
from trace_probe.model.threads import TINY

WORTH = 1.25
"""How many times as fast bfloat16 must be on a CPU to be chosen."""
READ, WRITE = (1, 256), (8, 1)
"""Rows and tokens of the passes that are timed: reading a text, and writing with a few rows."""
ROUNDS = 5
FAST = ("amx_bf16", "avx512_bf16")
"""Instructions, as Linux calls them, without which bfloat16 is not worth a try."""


class Precision(NamedTuple):
    """A type of weights."""

    dtype: str
    why: str
    """How it was chosen; empty if somebody named it."""


def choose_precision(
    wanted: str | None, device: str, config: Callable[[], PreTrainedConfig]
) -> Precision:
    """Return the precision for a model: what is asked for, or what suits the device.

    Without a wish it is float32 on a CPU and bfloat16 elsewhere. ``auto`` times both on a CPU
    that has instructions for bfloat16, on one block of this shape, unless the model is tiny.

    Raises:
        ModelError: there is no such precision.
    """
    if wanted not in (None, "auto"):
        if wanted not in DTYPES:
            raise ModelError(f"no dtype {wanted}: choose auto or one of {', '.join(DTYPES)}")
        return Precision(str(wanted), "")
    if device != "cpu":
        return Precision("bfloat16", f"the default on {device}")
    if wanted is None:
        return Precision("float32", "the default on a CPU")
    if parameters(shape := config()) <= TINY:
        return Precision("float32", "auto: a tiny model")
    if not has_bfloat16():
        return Precision("float32", "auto: this CPU has no instructions for bfloat16")
    gain = bfloat16_gain(shape)
    dtype = "bfloat16" if gain >= WORTH else "float32"
    return Precision(dtype, f"auto: a block runs {gain:.1f} times as fast in bfloat16")


def has_bfloat16(about: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether the CPU says that it multiplies in bfloat16; only Linux tells."""
    flags = about.read_text(encoding="utf-8").split() if about.is_file() else []
    return any(name in flags for name in FAST)


def bfloat16_gain(config: PreTrainedConfig) -> float:
    """Return how many times as fast one block runs in bfloat16 as in float32, on this CPU."""
    block = with_blocks(config, 1)
    block.vocab_size, block.pad_token_id = 64, None
    networks = [network_of(block, dtype).get_decoder() for dtype in ("float32", "bfloat16")]
    gains = []
    for size in (READ, WRITE):
        ids = torch.zeros(size, dtype=torch.long)
        best = [float("inf")] * 2
        for _ in range(ROUNDS):  # in turns, so that a busy moment meets both
            for which, network in enumerate(networks):
                start = time.perf_counter()
                with torch.inference_mode():
                    network(ids, use_cache=False)
                best[which] = min(best[which], time.perf_counter() - start)
        gains.append(best[0] / best[1])
    return float((gains[0] * gains[1]) ** 0.5)
