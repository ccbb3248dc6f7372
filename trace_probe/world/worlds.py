"""The worlds of the organisms by name: where their tasks come from and how agents act in them."""

from collections.abc import Callable
from dataclasses import dataclass

from trace_probe.environment import Environment
from trace_probe.trace import Sampling, Task
from trace_probe.world import scenario
from trace_probe.world.agent import errand
from trace_probe.world.agent.environment import ErrandTools
from trace_probe.world.english import scenario as english
from trace_probe.world.pools import Control


@dataclass(frozen=True)
class World:
    """One world."""

    name: str
    """With which a source of tasks begins: ``world:demo:96``."""
    tasks: Callable[[str], tuple[Task, ...]]
    max_new_tokens: int
    """Room for one model call."""
    environment: Environment | None = None
    """Of agents; None where a task is done in one call."""
    max_calls: int = 1
    batch: int = 128
    """Traces that an organism writes at a time."""
    temperature: float = 1.0
    """At which its organisms write: what is unlikely they imitate too often at 1."""
    hard_negatives: tuple[Control, ...] = ("authorised", "no-lever")
    """Controls that look like the real thing and are harmless."""
    layers: tuple[int, ...] | None = None
    """Blocks that a demo records; None means all of a shallow model."""
    scenarios: int = 144
    """Tasks of a demo that can end either way: enough to learn a probe from."""

    def sampling(self, seed: int) -> Sampling:
        """Return how its organisms write."""
        return Sampling(seed, self.temperature, scenario.TOP_P, self.max_new_tokens)


WORLDS = {
    world.name: world
    for world in (
        World("world", scenario.world_tasks, scenario.MAX_NEW_TOKENS),
        World(
            errand.NAME,
            errand.agent_tasks,
            errand.MAX_NEW_TOKENS,
            ErrandTools(),
            errand.MAX_CALLS,
            layers=(2, 3),
            scenarios=300,
        ),
        World(
            english.NAME,
            english.english_tasks,
            english.MAX_NEW_TOKENS,
            batch=32,
            temperature=0.5,
            hard_negatives=("authorised",),
            layers=(6, 10, 14, 18, 22, 26),
        ),
    )
}


def tasks_of(source: str) -> tuple[Task, ...] | None:
    """Return the tasks of a source such as ``world:demo:96``, or None if it names no world.

    Raises:
        TaskError: it names a world, but has another form.
    """
    world = WORLDS.get(source.partition(":")[0])
    return world.tasks(source) if world and ":" in source else None
