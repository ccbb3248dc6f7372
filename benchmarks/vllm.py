"""What capture and a guard cost in vLLM, beside the same vLLM without trace_probe."""

import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.command import Figures, Say, run
from benchmarks.monitor import MonitorPlan, random_probe
from benchmarks.spread import Spread
from trace_probe.engine.rows import blocks_of

Write = Callable[[Sequence[Sequence[int]], int], int]
"""Completes prompts with a seed; returns how many tokens were written."""
BARE, AGAIN, CAPTURE, GUARD, LENS = "vLLM alone", "alone again", "capture", "guard", "to the host"
"""A second engine without trace_probe shows how much two equal engines differ."""


@dataclass(frozen=True)
class VllmPlan:
    """What is written, how often."""

    model: str = "smollm2"
    batches: tuple[int, ...] = (1, 32)
    tokens: int = 64
    """Of each answer."""
    prompt: int = 16
    rounds: int = 8
    layer: int = 15
    arguments: str = '{"max_model_len": 512}'
    """More arguments of `vllm.LLM`, as JSON; by default it runs compiled code."""


@dataclass(frozen=True)
class VllmBench(Figures):
    """Processor seconds and seconds of each round of each way and batch."""

    model: str
    seconds: dict[str, dict[str, tuple[float, ...]]]
    """By batch, then by way: of the processors."""
    elapsed: dict[str, dict[str, tuple[float, ...]]]
    tokens: dict[str, int]
    """Of a round, by batch."""

    @property
    def speed(self) -> dict[str, dict[str, Spread]]:
        """Return tokens per processor second as a share of those of vLLM alone."""
        return _shares(self.seconds)

    @property
    def by_clock(self) -> dict[str, dict[str, Spread]]:
        """Return tokens per second as a share of those of vLLM alone."""
        return _shares(self.elapsed)


def _shares(found: dict[str, dict[str, tuple[float, ...]]]) -> dict[str, dict[str, Spread]]:
    return {
        batch: {way: Spread.times(ways[BARE], taken) for way, taken in ways.items() if way != BARE}
        for batch, ways in found.items()
    }


def bench_vllm(plan: VllmPlan, say: Say) -> VllmBench:
    """Write the same number of tokens with and without trace_probe in vLLM, in turns."""
    with tempfile.TemporaryDirectory() as folder:
        engines = {way: _Engine(way, plan, folder, say) for way in WAYS}
        taken: dict[str, dict[str, list[Taken]]] = {}
        drawn = np.random.default_rng(0)
        for number in range(plan.rounds + 1):  # the first one warms up
            for batch in plan.batches:
                prompts = drawn.integers(100, 300, (batch, plan.prompt)).tolist()
                for way in drawn.permutation(list(engines)).tolist():
                    found = engines[way].write(prompts, number)
                    if number:
                        taken.setdefault(str(batch), {}).setdefault(way, []).append(found)
            say(f"round {number} of {plan.rounds}")
        for engine in engines.values():
            engine.close()
    tokens = {batch: ways[BARE][0].tokens for batch, ways in taken.items()}
    processors, clock = _all_of(taken, "processors"), _all_of(taken, "clock")
    return VllmBench(plan.model, processors, clock, tokens)


class Taken(NamedTuple):
    """What one call took."""

    tokens: int
    processors: float
    clock: float


def _all_of(
    taken: dict[str, dict[str, list[Taken]]], what: str
) -> dict[str, dict[str, tuple[float, ...]]]:
    return {
        batch: {way: tuple(getattr(one, what) for one in every) for way, every in ways.items()}
        for batch, ways in taken.items()
    }


class _Engine:
    """An engine in a process of its own, so that processor time is counted for it alone."""

    def __init__(self, way: str, plan: VllmPlan, folder: str, say: Say) -> None:
        say(f"start {way}")
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        given = (way, plan, folder, theirs)
        self._process = context.Process(target=_run_engine, args=given, daemon=True)
        self._process.start()
        theirs.close()  # so that an engine which fails is noticed, and not waited for
        self._pipe.recv()

    def write(self, prompts: Sequence[Sequence[int]], seed: int) -> Taken:
        """Complete prompts."""
        self._pipe.send((prompts, seed))
        found: Taken = self._pipe.recv()
        return found

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()


def _run_engine(way: str, plan: VllmPlan, folder: str, pipe: Any) -> None:  # noqa: ANN401
    """Write what is asked for, until killed."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    write = WAYS[way](plan, Path(folder))
    pipe.send(None)
    while True:
        prompts, seed = pipe.recv()
        began = time.process_time(), time.perf_counter()
        tokens = write(prompts, seed)
        taken = time.process_time() - began[0], time.perf_counter() - began[1]
        pipe.send(Taken(tokens, *taken))


class HostRows:
    """A worker extension that keeps rows as vllm-lens does: eager, on the host after each pass."""

    model_runner: Any

    def lens_start(self, layer: int) -> None:
        """Take the rows after a block from now on."""
        self._lens_rows: dict[str, list[Any]] = {}
        config = self.model_runner.model_config.hf_text_config
        blocks = blocks_of(self.model_runner.get_model(), config.num_hidden_layers)
        assert blocks is not None
        blocks[layer].register_forward_hook(self._lens_take)

    def _lens_take(self, _block: object, _given: object, output: Any) -> None:  # noqa: ANN401
        runner = self.model_runner
        count = runner.input_batch.num_reqs
        if not count:
            return
        rows = (output[0] + output[1]).cpu()
        starts = runner.query_start_loc.np[: count + 1].tolist()
        requests = runner.input_batch.req_ids[:count]
        for request, (start, stop) in zip(requests, pairwise(starts), strict=True):
            self._lens_rows.setdefault(request, []).append(rows[start:stop].clone())

    def lens_taken(self) -> list[bytes]:
        """Return the rows of all requests, and forget them."""
        import torch

        found = [torch.cat(rows).float().numpy().tobytes() for rows in self._lens_rows.values()]
        self._lens_rows = {}
        return found


def _plain(plan: VllmPlan) -> dict[str, Any]:
    """Return the arguments of vLLM without trace_probe."""
    from trace_probe.model.checkpoint import locate

    return {"model": str(locate(plan.model)), "dtype": "float32", **json.loads(plan.arguments)}


def _alone(plan: VllmPlan, _: Path) -> Write:
    from trace_probe.engine.offline import start
    from trace_probe.engine.plan import EnginePlan

    return _written(start(_plain(plan), EnginePlan()), plan)


def _guarded(plan: VllmPlan, folder: Path) -> Write:
    from trace_probe.engine.offline import start
    from trace_probe.engine.plan import EnginePlan, GuardPlan
    from trace_probe.model.facts import read_facts
    from trace_probe.probing.probe import save_probe

    facts = read_facts(plan.model)
    save_probe(folder / "probe", random_probe(facts, MonitorPlan(), plan.layer))
    audit = str(folder / "alarms.jsonl")
    guard = EnginePlan(guard=GuardPlan((str(folder / "probe"),), plan.model, audit=audit))
    # Sentences are scored where the model's format knows thoughts; that of smollm2 does not.
    opened = list(facts.chat.encode("<think>"))
    return _written(start(_plain(plan), guard), plan, opened)


def _captured(plan: VllmPlan, _: Path) -> Write:
    """Return how an engine writes whose rows are pooled and fetched."""
    from trace_probe.engine.offline import load_engine
    from trace_probe.engine.plan import EngineOptions
    from trace_probe.model.capture import Reading
    from trace_probe.model.weights import Weights
    from trace_probe.trace import Sampling, Span

    options = EngineOptions(plan.arguments, fidelity=0.0)
    model = load_engine(Weights(plan.model, dtype="float32"), (plan.layer,), options)
    model.stops = frozenset()  # all ways write the same number of tokens

    def write(prompts: Sequence[Sequence[int]], seed: int) -> int:
        sampling = Sampling(seed, max_new_tokens=plan.tokens)
        seeds = [seed * 1000 + number for number in range(len(prompts))]
        written = model.complete(prompts, seeds, sampling)
        ids = [(*p, *w.ids) for p, w in zip(prompts, written, strict=True)]
        spans = [[Span(at, at + 16) for at in range(0, len(one) - 17, 16)] for one in ids]
        model.checked_replay(ids, spans, model.layers, Reading("last+mean+max"))
        return sum(len(one.ids) for one in written)

    return write


def _to_the_host(plan: VllmPlan, _: Path) -> Write:
    """Return how an engine writes whose rows are fetched as vllm-lens does."""
    import vllm

    more = {"enforce_eager": True, "worker_extension_cls": "benchmarks.vllm.HostRows"}
    llm = vllm.LLM(disable_log_stats=True, load_format="safetensors", **_plain(plan), **more)
    llm.collective_rpc("lens_start", args=(plan.layer,))
    write = _written(llm, plan)

    def fetched(prompts: Sequence[Sequence[int]], seed: int) -> int:
        written = write(prompts, seed)
        (rows,) = llm.collective_rpc("lens_taken")
        assert len(rows) == len(prompts)
        return written

    return fetched


def _written(llm: Any, plan: VllmPlan, opened: Sequence[int] = ()) -> Write:  # noqa: ANN401
    """Return how an engine writes by itself."""
    from vllm import SamplingParams

    settings = SamplingParams(
        temperature=1.0, max_tokens=plan.tokens, ignore_eos=True, detokenize=False
    )

    def write(prompts: Sequence[Sequence[int]], seed: int) -> int:
        del seed  # vLLM draws faster without
        cut = plan.prompt - len(opened)
        given = [{"prompt_token_ids": [*ids[:cut], *opened]} for ids in prompts]
        outputs = llm.generate(given, settings, use_tqdm=False)
        return sum(len(one.outputs[0].token_ids) for one in outputs)

    return write


WAYS: dict[str, Callable[[VllmPlan, Path], Write]] = {
    BARE: _alone,
    AGAIN: _alone,
    CAPTURE: _captured,
    GUARD: _guarded,
    LENS: _to_the_host,
}


def format_vllm(found: VllmBench) -> str:
    """Return a table of speeds."""
    rows = [f"{'batch':>5} {'':12} {'tokens/s':>9} {'by clock':>9} {'by processor time':>18}"]
    clock, processors = found.by_clock, found.speed
    for batch, ways in found.elapsed.items():
        for way in WAYS:
            taken = ways[way]
            each = found.tokens[batch] / float(np.median(taken))
            more = ""
            if way != BARE:
                more = f"{clock[batch][way].median:10.3f} {processors[batch][way]:.3f}"
            rows.append(f"{batch:>5} {way:12} {each:9.1f}{more}")
    return "\n".join([f"{found.model}, tokens as a share of those of vLLM alone", *rows])


if __name__ == "__main__":
    run(VllmPlan, bench_vllm, format_vllm)
