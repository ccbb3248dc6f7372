"""Reading activations against the bare forward pass and against TransformerLens."""

import ctypes
import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from benchmarks.command import Figures, Say, run
from benchmarks.spread import Spread, in_turns
from trace_probe.activations import ALL_POOLINGS
from trace_probe.model.devices import STATUS, status_bytes
from trace_probe.trace import Span

FOUR = "4 layers"
SENTENCE = 16
"""Tokens of a row."""
M_MMAP_THRESHOLD = -3
"""Of malloc.h: a block at least this large is mapped on its own, and unmapped when freed."""

Work = Callable[[], object]


@dataclass(frozen=True)
class CapturePlan:
    """What is measured; all networks have random weights, in float32 where nothing else is said."""

    layers: int = 8
    width: int = 512
    traces: int = 4
    tokens: int = 384
    repeats: int = 5
    long_tokens: int = 8192
    """Of one trace that TransformerLens reads too; on `few_layers` blocks."""
    memory_tokens: tuple[int, ...] = (2048, 16384)
    few_layers: int = 4
    """Blocks of the networks for long traces, which share what is measured among blocks."""
    pooling: str = ALL_POOLINGS
    """What is kept of each sentence."""
    seed: int = 0


@dataclass(frozen=True)
class CaptureBench(Figures):
    """Everything measured."""

    plan: CapturePlan
    seconds: dict[str, tuple[float, ...]]
    """Processor seconds of each way and round; in a round the ways come in turns."""
    long_seconds: dict[str, tuple[float, ...]]
    """The same for one long trace."""
    half_seconds: dict[str, dict[str, tuple[float, ...]]]
    """In bfloat16, for short traces and for one long one."""
    peak_bytes: dict[str, dict[int, int]]
    """By family and tokens of one trace: the highest memory above the loaded network."""

    @property
    def ratios(self) -> dict[str, Spread]:
        """Return how many times longer than the bare pass each way took, round by round."""
        return _over_bare(self.seconds)

    @property
    def half_ratios(self) -> dict[str, Spread]:
        """Return how many times longer than the bare pass four layers took in bfloat16."""
        return {name: _over_bare(taken)[FOUR] for name, taken in self.half_seconds.items()}

    @property
    def transformer_lens(self) -> dict[str, Spread]:
        """Return how many times longer than four layers here its cache of the same took."""
        found = {}
        for name, seconds in (("short", self.seconds), ("long", self.long_seconds)):
            found[name] = Spread.times(seconds["TransformerLens, 4 layers"], seconds[FOUR])
        return found

    @property
    def memory_ratios(self) -> dict[str, float]:
        """Return the peak of the longest trace over that of the shortest, by family."""
        return {
            family: peaks[max(peaks)] / max(peaks[min(peaks)], 1)
            for family, peaks in self.peak_bytes.items()
        }


def bench_capture(plan: CapturePlan, say: Say) -> CaptureBench:
    """Measure time in turns in this process, and memory in a fresh process each."""
    in_turns(_ways(plan, plan.few_layers, 1, SENTENCE), 2)  # to warm up
    size = plan.layers, plan.traces, plan.tokens
    seconds = in_turns(_ways(plan, *size), plan.repeats, say=say)
    few = {
        name: work
        for name, work in _ways(plan, plan.few_layers, 1, plan.long_tokens).items()
        if name in {"bare pass", FOUR, "TransformerLens, 4 layers"}
    }
    rounds = max(plan.repeats // 5, 1)
    long_seconds = in_turns(few, rounds, say=say)
    half = {
        "short": in_turns(_half(plan, *size), plan.repeats, say=say),
        "long": in_turns(_half(plan, plan.few_layers, 1, plan.long_tokens), rounds, say=say),
    }
    peaks: dict[str, dict[int, int]] = {}
    families: tuple[Literal["qwen3", "gpt_oss"], ...] = ("qwen3", "gpt_oss")
    for family in families:
        peaks[family] = {}
        for tokens in plan.memory_tokens if STATUS.exists() else ():
            peaks[family][tokens] = in_fresh_process(peak_above_loaded, plan, family, tokens)
            say(f"{family}, {tokens} tokens: {peaks[family][tokens] / 2**20:.0f} MiB")
    return CaptureBench(plan, seconds, long_seconds, half, peaks)


def _over_bare(seconds: dict[str, tuple[float, ...]]) -> dict[str, Spread]:
    return {name: Spread.times(taken, seconds["bare pass"]) for name, taken in seconds.items()}


def _ways(plan: CapturePlan, layers: int, traces: int, tokens: int) -> dict[str, Work]:
    """Return what reads the same traces, by name."""
    from trace_probe.model.blocks import HookedBlocks
    from trace_probe.model.bridge import bridged_blocks
    from trace_probe.model.capture import Reading, replay
    from trace_probe.model.peers import Sizes, bare_pass, cached_and_pooled, random_network

    network = random_network(Sizes(layers=layers, width=plan.width), plan.seed)
    blocks, lens = HookedBlocks(network, "random"), bridged_blocks(network, "random")
    ids, spans = made_up(plan, traces, tokens)
    four = _four(layers)
    half = tuple(layer for layer in four if layer < layers // 2)
    read = partial(replay, blocks, ids, spans, reading=Reading(plan.pooling))
    return {
        "bare pass": partial(bare_pass, network, ids),
        FOUR: partial(read, four),
        "all layers": partial(read, range(layers)),
        "stop half-way": partial(read, half),
        "TransformerLens, 4 layers": partial(cached_and_pooled, lens, ids, spans, four),
    }


def _half(plan: CapturePlan, layers: int, traces: int, tokens: int) -> dict[str, Work]:
    """Return the bare pass and the reading of four layers in bfloat16."""
    from trace_probe.model.blocks import HookedBlocks
    from trace_probe.model.capture import Reading, replay
    from trace_probe.model.peers import Sizes, bare_pass, random_network

    network = random_network(Sizes(layers=layers, width=plan.width), plan.seed, "bfloat16")
    ids, spans = made_up(plan, traces, tokens)
    blocks = HookedBlocks(network, "random")
    return {
        "bare pass": partial(bare_pass, network, ids),
        FOUR: partial(replay, blocks, ids, spans, _four(layers), Reading()),
    }


def _four(layers: int) -> tuple[int, ...]:
    """Return four evenly spaced blocks, the last among them."""
    return tuple(sorted({round((i + 1) * layers / 4) - 1 for i in range(4)}))


def made_up(
    plan: CapturePlan, traces: int, tokens: int
) -> tuple[list[list[int]], list[list[Span]]]:
    """Return token ids and the spans of their sentences."""
    rng = np.random.default_rng(plan.seed)
    ids = rng.integers(0, 8000, (traces, tokens)).tolist()
    spans = [Span(at, min(at + SENTENCE, tokens)) for at in range(0, tokens, SENTENCE)]
    return ids, [spans] * traces


def in_fresh_process(work: Callable[..., int], *args: object) -> int:
    """Return what a function gives in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, args)


def peak_above_loaded(plan: CapturePlan, family: Literal["qwen3", "gpt_oss"], tokens: int) -> int:
    """Return by how many bytes the memory of this process rises while it reads one trace.

    A short trace is read before, so that what libraries allocate once does not count; the
    allocator is told to give freed memory back, since what it hoards depends on its past.
    """
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 1 << 16)
    from trace_probe.model.blocks import HookedBlocks
    from trace_probe.model.capture import Reading, replay
    from trace_probe.model.peers import Sizes, random_network

    network = random_network(Sizes(family, plan.few_layers, plan.width), plan.seed)
    blocks, every = HookedBlocks(network, "random"), range(plan.few_layers)
    warm = made_up(plan, 1, 4 * SENTENCE)
    for limit in (None, SENTENCE):
        replay(blocks, *warm, every, Reading(pass_tokens=limit))
    ids, spans = made_up(plan, 1, tokens)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forgets the peak so far
    before = status_bytes("VmRSS")
    replay(blocks, ids, spans, every, Reading(plan.pooling))
    return status_bytes("VmHWM") - before


def format_capture(bench: CaptureBench) -> str:
    """Return the measurement as text."""
    plan = bench.plan
    lines = [
        f"{plan.traces} traces of {plan.tokens} tokens, {plan.layers} blocks {plan.width} wide, "
        f"{plan.repeats} rounds; processor time, as a multiple of the bare pass",
        *(f"{name:28}{spread:.3f}" for name, spread in bench.ratios.items()),
        "",
        f"4 layers in bfloat16, as a multiple of the bare pass; long is {plan.long_tokens} tokens "
        f"on {plan.few_layers} blocks",
        *(f"{name:28}{spread:.3f}" for name, spread in bench.half_ratios.items()),
        "",
        "TransformerLens run_with_cache over the same four layers here",
        *(f"{name:28}{spread:.3f}" for name, spread in bench.transformer_lens.items()),
    ]
    if any(bench.peak_bytes.values()):
        lines += ["", "peak memory above the loaded network, one trace"]
    for family, ratio in (bench.memory_ratios if lines[-1].startswith("peak") else {}).items():
        shown = ", ".join(
            f"{tokens} tokens {peak / 2**20:.0f} MiB"
            for tokens, peak in bench.peak_bytes[family].items()
        )
        lines.append(f"{family:28}{ratio:.2f} times ({shown})")
    return "\n".join(lines)


if __name__ == "__main__":
    run(CapturePlan, bench_capture, format_capture)
