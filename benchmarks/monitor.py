"""What probes on guard cost while a model writes, beside the same generation without any."""

import copy
import re
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.command import Figures, Say, run
from benchmarks.spread import Spread
from trace_probe.model.blocks import HookedBlocks
from trace_probe.model.facts import ModelFacts
from trace_probe.model.local import Model, load_model
from trace_probe.model.peers import Sizes, random_model
from trace_probe.monitor.live import Monitor
from trace_probe.probing.linear import LinearProbe
from trace_probe.probing.mlp import MLPProbe
from trace_probe.probing.probe import ProbeCard, SavedProbe
from trace_probe.probing.recipe import Head, Recipe, parse_features
from trace_probe.trace import Sampling
from trace_probe.world.scenario import world_tasks
from trace_probe.world.worlds import WORLDS

Writing = Generator[object, None, None]
NEVER = 1e9
RANDOM = re.compile(r"random:(\d+)x(\d+)")
"""Layers and width of a network with random weights, in Qwen3's proportions."""
BARE, ONE, EIGHT = "no probe", "1 probe", "8 probes, 4 layers"


@dataclass(frozen=True)
class MonitorPlan:
    """What is written, how often; the weights of probes are random, which cost what others do."""

    model: str = "organism:rl-s0"
    rounds: int = 30
    seed: int = 0
    features: str = "last,mean,max,running-mean,running-max"
    """What each probe reads of its layer, by commas; without a running one it has no memory."""
    head: Head = "linear"
    """linear or mlp."""


@dataclass(frozen=True)
class MonitorBench(Figures):
    """Time for each token of each round."""

    model: str
    device: str
    tokens: tuple[int, ...]
    """Written in each round, by each way the same."""
    seconds: dict[str, tuple[float, ...]]
    """Medians of a round's tokens are not taken: what is done every few tokens would be lost."""

    @property
    def overhead(self) -> dict[str, Spread]:
        """Return by how much longer than without a probe each way took, round by round."""
        bare = self.seconds[BARE]
        return {
            name: Spread.of([a / b - 1 for a, b in zip(taken, bare, strict=True)])
            for name, taken in self.seconds.items()
            if name != BARE
        }


def bench_monitor(plan: MonitorPlan, say: Say) -> MonitorBench:
    """Write the same answers without probes and under guard, in turns, token by token.

    On a CPU processor time is counted, which other work on the machine disturbs least.
    """
    model = _model(plan)
    device = next(iter(model.blocks.network.parameters())).device.type
    clock = time.process_time if device == "cpu" else time.perf_counter
    monitors = {ONE: _monitor(_twin(model), plan, 1, 1), EIGHT: _monitor(_twin(model), plan, 8, 4)}
    tokens: list[int] = []
    seconds: dict[str, list[float]] = {name: [] for name in (BARE, ONE, EIGHT)}
    for number, task in enumerate(world_tasks(f"world:bench:{plan.rounds + 1}")):
        sampling, prompt = WORLDS["world"].sampling(plan.seed + number), model.render(task)
        written, taken = _in_turns(_ways(model, monitors, prompt, sampling), clock, number)
        if number:  # the first round warms up
            tokens.append(written)
            for name, each in taken.items():
                seconds[name].append(each)
            say(f"round {number}: {written} tokens")
    return MonitorBench(
        model.name, device, tuple(tokens), {name: tuple(each) for name, each in seconds.items()}
    )


def _model(plan: MonitorPlan) -> Model:
    if not (shape := RANDOM.fullmatch(plan.model)):
        return load_model(plan.model)
    return random_model(Sizes(layers=int(shape[1]), width=int(shape[2])), plan.seed)


def _twin(model: Model) -> Model:
    """Return a model of the same weights whose blocks bear hooks of their own.

    Hooks stay on while a generation lasts, and would slow down the bare one beside it.
    """
    network = model.blocks.network
    shared: dict[int, Any] = {id(one): one for one in (*network.parameters(), *network.buffers())}
    return model.through(HookedBlocks(copy.deepcopy(network, shared), model.name))


def _ways(
    model: Model, monitors: dict[str, Monitor], prompt: Sequence[int], sampling: Sampling
) -> dict[str, Writing]:
    """Return generations of the same tokens, none of which has begun."""

    def bare() -> Writing:
        text = model.text_stream()
        for token, _, _ in model.tokens(prompt, sampling.seed, sampling, (), lambda *_: None):
            yield text.feed(token)

    return {
        BARE: bare(),
        **{
            name: monitor.watch_ids(prompt, sampling.seed, sampling)
            for name, monitor in monitors.items()
        },
    }


def _in_turns(
    ways: dict[str, Writing], clock: Callable[[], float], turn: int
) -> tuple[int, dict[str, float]]:
    """Write a token by each way after another, in random order; return tokens, seconds.

    Where the first token of a way comes with the reading of the prompt, that is not counted.
    """
    names = list(ways)
    taken = dict.fromkeys(names, 0.0)
    next(ways[BARE])  # the last token of the prompt, which a monitor does not tell of
    for way in ways.values():
        next(way)
    running, tokens = set(names), 0
    order = np.random.default_rng(turn)  # a fixed one gives each way a neighbour of its own
    while running:
        for name in order.permutation(names).tolist():
            began = clock()
            ended = next(ways[name], None) is None
            taken[name] += clock() - began
            running -= {name} if ended else set()
        tokens += bool(running)
    return tokens, taken


def _monitor(model: Model, plan: MonitorPlan, probes: int, layers: int) -> Monitor:
    """Return a monitor of random probes, spread over the last layers, none of which alarms."""
    rng = np.random.default_rng(0)
    chosen = [model.n_layers - 1 - i % min(layers, model.n_layers) for i in range(probes)]
    return Monitor(model, [random_probe(model, plan, layer, rng) for layer in chosen])


def random_probe(
    model: ModelFacts, plan: MonitorPlan, layer: int, rng: np.random.Generator | None = None
) -> SavedProbe:
    """Return a probe that has learned from noise and never alarms."""
    rng = rng or np.random.default_rng(0)
    features = parse_features(plan.features.split(","))
    card = ProbeCard(
        name="random",
        model=model.name,
        tokenizer=model.tokenizer,
        **vars(Recipe((layer,), features, plan.head, C=1.0)),
        d_model=model.d_model,
        labeller="",
        training_tasks=(),
        calibration_tasks=(),
        threshold=NEVER,
        target_false_alarm_rate=0.0,
        guaranteed_false_alarm_rate=0.0,
    )
    return SavedProbe(card, _head(plan.head, card.width, rng))


def _head(name: str, width: int, rng: np.random.Generator) -> LinearProbe | MLPProbe:
    """Return a head that has learned from noise."""
    if name == "linear":
        return LinearProbe.of(rng.standard_normal(width) / np.sqrt(width), 0.0)
    shapes = {"mean": (width,), "scale": (width,), "hidden_weight": (128, width)}
    more = {"hidden_bias": (128,), "out_weight": (128,), "out_bias": (1,)}
    return MLPProbe.from_tensors(
        {
            key: rng.standard_normal(shape).astype(np.float32)
            for key, shape in (shapes | more).items()
        }
    )


def format_monitor(found: MonitorBench) -> str:
    """Return a table of time for each token."""
    written, overhead = np.array(found.tokens), found.overhead
    head = f"{found.model} on {found.device}, {len(written)} rounds, {written.sum():,} tokens each"
    rows = [f"{'':20} {'ms a token':>11}   overhead, between rounds"]
    for name, seconds in found.seconds.items():
        each = float(np.median(np.array(seconds) / written * 1e3))
        more = overhead.get(name)
        shown = f"  {more:.1%}" if more else ""
        rows.append(f"{name:20} {each:11.3f}{shown}")
    return "\n".join([head, *rows])


if __name__ == "__main__":
    run(MonitorPlan, bench_monitor, format_monitor)
