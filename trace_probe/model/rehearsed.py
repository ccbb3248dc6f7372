"""A model of a given shape with random weights, as large as fits, and what it costs to run."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from transformers import PreTrainedConfig

from trace_probe.errors import ModelError
from trace_probe.model.capture import Reading
from trace_probe.model.continuation import complete
from trace_probe.model.devices import memory_free
from trace_probe.model.dtypes import choose_precision
from trace_probe.model.fidelity import CHECKED, read_logprobs
from trace_probe.model.local import Model
from trace_probe.model.shapes import (
    DTYPES,
    config_of,
    made_up_tokenizer,
    network_of,
    parameters,
    period,
    with_blocks,
)
from trace_probe.model.threads import PROCESS
from trace_probe.trace import Sampling, Span

SHARE = 0.5
"""Of the free memory: what weights may take, since caches and scores need room too."""
FEW = 4
"""Rows with which the cost of a long context is measured."""
CHECKED_ROWS = CHECKED
"""Tokens of a trace that go through the head when it is read again."""
TRIES = 3
"""Runs of which the fastest counts; the first one warms up."""
SLOW_SECONDS = 10.0
"""A measurement that takes longer is not repeated."""
STEPS = (4, 12)
"""Tokens of two completions; the difference of their times is that of the steps between."""


@dataclass(frozen=True)
class Shape:
    """How large a model is, and how much of it was built."""

    name: str
    blocks: int
    built: int
    """Blocks of the network that is rehearsed with."""
    parameters: int
    """Of the whole model."""
    weight_bytes: int
    d_model: int
    dtype: str
    dtype_chosen: str
    device: str
    cache_bytes: tuple[tuple[int, int | None], ...]
    """For each block of the whole model: bytes of a cached token, and its window if it slides."""

    @property
    def scale(self) -> float:
        """Return how many times as many blocks the whole model has."""
        return self.blocks / self.built

    def cached(self, tokens: int) -> int:
        """Return how many bytes the keys and values of one text take."""
        return sum(each * min(tokens, window or tokens) for each, window in self.cache_bytes)


def build(
    name: str, device: str | None, dtype: str | None, blocks: int | None
) -> tuple[Shape, Model]:
    """Build a model of a shape with random weights; fewer blocks where all do not fit.

    Raises:
        ModelError: there is no such shape, or not even one group of its blocks fits.
    """
    config = config_of(name)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    chosen = choose_precision(dtype, device, lambda: config)
    size = torch.empty(0, dtype=DTYPES[chosen.dtype]).element_size()
    whole, group = config.num_hidden_layers, period(config)
    every = parameters(config)
    each = (every - parameters(with_blocks(config, group))) / max(whole - group, 1)
    built = blocks or _fitting(name, config, every * size, each * size, device)
    built = min(-(-built // group) * group, whole)
    shape = Shape(
        name=name,
        blocks=whole,
        built=built,
        parameters=every,
        weight_bytes=every * size,
        d_model=config.hidden_size,
        dtype=chosen.dtype,
        dtype_chosen=chosen.why,
        device=device,
        cache_bytes=tuple(_cache(config, layer, size) for layer in range(whole)),
    )
    config.eos_token_id, config.bos_token_id, config.pad_token_id = 1, None, 0
    network = network_of(with_blocks(config, built), chosen.dtype).to(device)
    PROCESS.make_room_for(network)
    return shape, Model(network, made_up_tokenizer(config.vocab_size), f"{name}@random00")


def _fitting(name: str, config: PreTrainedConfig, whole: float, each: float, device: str) -> int:
    """Return how many blocks fit, a multiple of the group in which their kinds repeat."""
    free = memory_free(device)
    if free is None or whole <= SHARE * free:
        return int(config.num_hidden_layers)
    rest, group = whole - each * config.num_hidden_layers, period(config)
    fits = int((SHARE * free - rest) / each) // group * group
    if fits < group:
        need = (rest + each * group) / SHARE / 2**30
        raise ModelError(
            f"{name} needs {need:.0f} GiB of free memory for its first {group} blocks: free some, "
            f"or rehearse on a larger machine"
        )
    return fits


def _cache(config: PreTrainedConfig, layer: int, size: int) -> tuple[int, int | None]:
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    kinds = getattr(config, "layer_types", None)
    slides = kinds is not None and kinds[layer] == "sliding_attention"
    return 2 * heads * width * size, config.sliding_window if slides else None


def step_seconds(model: Model, rows: int, context: int, seed: int = 0) -> float:
    """Return how long it takes to write one more token of each of so many texts.

    The difference between a long and a short completion, each the fastest of `TRIES`.

    Raises:
        ModelError: the long one was not slower, since other work disturbed the measurement.
    """
    prompt = random_ids(model, np.random.default_rng(seed), context)

    def write(count: int) -> None:
        complete(model, [prompt] * rows, range(rows), Sampling(max_new_tokens=count))

    for _ in range(TRIES):
        short, long = (_fastest(partial(write, count)) for count in STEPS)
        if long > short:
            return (long - short) / (STEPS[1] - STEPS[0])
    raise ModelError(
        "this machine is too busy to measure how fast the model writes: "
        "run `trace-probe doctor --rehearse` again when it is idle"
    )


def _fastest(work: Callable[[], object]) -> float:
    """Return the seconds of the fastest of `TRIES` runs, or of a slow one: little disturbs that."""
    best = float("inf")
    for _ in range(TRIES):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
        if best > SLOW_SECONDS:
            break
    return best


def head_seconds(model: Model, rows: int) -> float:
    """Return how long the head takes for so many tokens: the part that is there only once."""
    device = model.blocks.network.device
    stream = torch.zeros(rows, model.d_model, dtype=model.blocks.network.dtype, device=device)
    return _fastest(lambda: list(read_logprobs(model.blocks.network, stream, [0] * rows)))


def read_seconds(
    model: Model, ids: Sequence[int], spans: Sequence[Span], layers: Sequence[int], pooling: str
) -> float:
    """Return how long it takes to read one trace again as `record` does, checks included."""
    start = time.perf_counter()
    noted = [[0.0] * (len(ids) - 1)]
    model.checked_replay([ids], [spans], layers, Reading(pooling), noted)
    return time.perf_counter() - start


def random_ids(model: Model, rng: np.random.Generator, count: int) -> list[int]:
    """Return so many ids of words, none of which ends a turn or a thought."""
    vocabulary = model.blocks.network.config.vocab_size
    return [int(token) for token in rng.integers(16, vocabulary, count)]
