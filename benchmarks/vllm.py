"""What capture and a guard cost in vLLM, beside the same vLLM without trace_probe."""

import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.command import run
from benchmarks.monitor import MonitorPlan, random_probe
from benchmarks.spread import Spread

Say = Callable[[str], None]
Write = Callable[[Sequence[Sequence[int]], int], int]
"""Completes prompts with a seed; returns how many tokens were written."""
BARE, CAPTURE, GUARD = "vLLM alone", "capture", "guard"


@dataclass(frozen=True)
class VllmPlan:
    """What is written, how often."""

    model: str = "smollm2"
    batches: tuple[int, ...] = (1, 32)
    tokens: int = 64
    """Of each answer."""
    prompt: int = 64
    rounds: int = 8
    layer: int = 15
    arguments: str = '{"max_model_len": 512}'
    """More arguments of `vllm.LLM`, as JSON."""


@dataclass(frozen=True)
class VllmBench:
    """Processor seconds and seconds of each round of each way and batch."""

    model: str
    seconds: dict[str, dict[str, tuple[float, ...]]]
    """By batch, then by way: of the processors."""
    elapsed: dict[str, dict[str, tuple[float, ...]]]
    tokens: dict[str, int]
    """Of a round, by batch."""

    def speed(self) -> dict[str, dict[str, Spread]]:
        """Return tokens per processor second as a share of those of vLLM alone."""
        return {
            batch: {
                way: Spread.times(ways[BARE], taken) for way, taken in ways.items() if way != BARE
            }
            for batch, ways in self.seconds.items()
        }

    def to_json(self) -> dict[str, Any]:
        """Return what was measured and what follows from it."""
        shares = {
            batch: {way: asdict(one) for way, one in ways.items()}
            for batch, ways in self.speed().items()
        }
        return {**asdict(self), "speed": shares}


def bench_vllm(plan: VllmPlan, say: Say) -> VllmBench:
    """Write the same number of tokens with and without trace_probe in vLLM, in turns."""
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    with tempfile.TemporaryDirectory() as folder:
        ways = _ways(plan, Path(folder), say)
        seconds: dict[str, dict[str, list[float]]] = {}
        elapsed: dict[str, dict[str, list[float]]] = {}
        tokens = {}
        drawn = np.random.default_rng(0)
        for number in range(plan.rounds + 1):  # the first one warms up
            for batch in plan.batches:
                prompts = drawn.integers(1000, 9000, (batch, plan.prompt)).tolist()
                for way in drawn.permutation(list(ways)).tolist():
                    began = _processors(), time.perf_counter()
                    tokens[str(batch)] = ways[way](prompts, number)
                    if number:
                        taken = _processors() - began[0], time.perf_counter() - began[1]
                        for into, one in zip((seconds, elapsed), taken, strict=True):
                            into.setdefault(str(batch), {}).setdefault(way, []).append(one)
            say(f"round {number} of {plan.rounds}")
    return VllmBench(plan.model, _fixed(seconds), _fixed(elapsed), tokens)


def _fixed(found: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, tuple[float, ...]]]:
    return {b: {w: tuple(t) for w, t in ways.items()} for b, ways in found.items()}


def _processors() -> float:
    """Return the seconds that this process and its engines have had of the processors."""
    import psutil  # type: ignore[import-untyped,unused-ignore]

    every = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(sum(one.cpu_times()[:2]) for one in every)


def _ways(plan: VllmPlan, folder: Path, say: Say) -> dict[str, Write]:
    """Start an engine for each way."""
    from trace_probe.engine.offline import load_engine, start
    from trace_probe.engine.plan import EngineOptions, EnginePlan, GuardPlan
    from trace_probe.model.capture import Reading
    from trace_probe.model.checkpoint import locate
    from trace_probe.model.weights import Weights
    from trace_probe.probing.probe import save_probe
    from trace_probe.trace import Sampling, Span

    say("start the engine that captures")
    given = json.loads(plan.arguments)
    options = EngineOptions(plan.arguments, fidelity=0.0)
    weights = Weights(plan.model, dtype="float32")
    capture = load_engine(weights, (plan.layer,), options)
    capture.stops = frozenset()  # all ways write the same number of tokens
    save_probe(folder / "probe", random_probe(capture, MonitorPlan(), plan.layer))
    audit = str(folder / "alarms.jsonl")
    guard = EnginePlan(guard=GuardPlan((str(folder / "probe"),), plan.model, audit=audit))

    def captured(prompts: Sequence[Sequence[int]], seed: int) -> int:
        sampling = Sampling(seed, max_new_tokens=plan.tokens)
        seeds = [seed * 1000 + number for number in range(len(prompts))]
        written = capture.complete(prompts, seeds, sampling)
        ids = [(*p, *w.ids) for p, w in zip(prompts, written, strict=True)]
        spans = [[Span(at, at + 16) for at in range(0, len(one) - 17, 16)] for one in ids]
        capture.checked_replay(ids, spans, capture.layers, Reading("last+mean+max"))
        return sum(len(one.ids) for one in written)

    plain = {"model": str(locate(plan.model)), "dtype": "float32", **given}
    say("start the engine alone")
    ways = {BARE: _written(start(plain, EnginePlan()), plan), CAPTURE: captured}
    say("start the engine with a guard")
    # Each prompt opens the thought, so that every token counts.
    opened = list(capture.chat.encode("<think>"))
    ways[GUARD] = _written(start(plain, guard), plan, opened)
    return ways


def _written(llm: Any, plan: VllmPlan, opened: Sequence[int] = ()) -> Write:  # noqa: ANN401
    """Return how an engine writes by itself."""
    from vllm import SamplingParams

    def write(prompts: Sequence[Sequence[int]], seed: int) -> int:
        settings = [
            SamplingParams(
                temperature=1.0,
                seed=seed * 1000 + number,
                max_tokens=plan.tokens,
                ignore_eos=True,
                detokenize=False,
            )
            for number in range(len(prompts))
        ]
        cut = plan.prompt - len(opened)
        given = [{"prompt_token_ids": [*ids[:cut], *opened]} for ids in prompts]
        outputs = llm.generate(given, settings, use_tqdm=False)
        return sum(len(one.outputs[0].token_ids) for one in outputs)

    return write


def format_vllm(found: VllmBench) -> str:
    """Return a table of speeds."""
    rows = [f"{'batch':>5} {'':12} {'tokens/s':>9} {'share':>7}  between rounds"]
    speed = found.speed()
    for batch, ways in found.elapsed.items():
        for way, taken in ways.items():
            each = found.tokens[batch] / float(np.median(taken))
            one = speed[batch].get(way)
            more = f" {one.median:7.3f}  {one.lowest:.3f} to {one.highest:.3f}" if one else ""
            rows.append(f"{batch:>5} {way:12} {each:9.1f}{more}")
    return "\n".join([f"{found.model}, by processor time", *rows])


if __name__ == "__main__":
    run(VllmPlan, bench_vllm, format_vllm)
