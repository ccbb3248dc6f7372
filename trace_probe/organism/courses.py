"""What a base is taught, in order: look-ups alone, then whole runs said aloud, then free ones.

A course turns a world into texts. Which token of a text counts how much is part of it: one word
in fifty decides, and without weight it is learned last.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from trace_probe.organism.tokenizer import AGENT, SMALL, Lexicon, completion, result_turn
from trace_probe.world import language
from trace_probe.world.agent import author as agent
from trace_probe.world.agent import errand as errands
from trace_probe.world.agent import phrases
from trace_probe.world.agent.environment import errand_tools
from trace_probe.world.pools import CONTROLS, NUDGES, Control, Nudge
from trace_probe.world.scenario import scenario, task
from trace_probe.world.script import DRILL, FREE, Manner, exercise, script

CONTROL_WEIGHTS = (0.7, 0.1, 0.1, 0.1)
"""Share of each of `CONTROLS` in training."""
FACTS = {
    *language.TIMES,
    *language.ITEMS,
    *language.NOUNS,
    *language.COLOURS,
    *language.NAMES,
    *("seen", "under", "all", "quite", "enough", "which", "in", "short", "too", "out"),
}
AGENT_FACTS = {
    *language.TIMES,
    *language.ITEMS,
    *language.NAMES,
    *phrases.PLACES,
    *("seen", "under", "all", "quite", "enough", "which", "nearly", "a", "far", "much"),
}
EXERCISED, DRILLED = 0.125, 0.4
"""Shares of training that have passed when exercises end and drills end."""
AGENT_EXERCISED, AGENT_DRILLED = 0.22, 0.5
EXERCISES = 4
"""Exercises in the place of one scripted run, which is as long."""
ACTS = {"start", "do", "ask", "call", "open", "use"}
AGENT_ACTS = {*phrases.DOES, *phrases.TOOL.values()}
"""Names of tools, where no space precedes them: in calls."""
TAUGHT = {"prompt": 0.2, "other": 0.5, "fact": 3.0, "act": 8.0}
"""Of a token in the loss of exercises and drills: what is looked up or computed counts more."""
THOUGHT = {"prompt": 0.2, "other": 1.0, "fact": 1.0, "act": 8.0}
"""Of a token in the loss of whole thoughts: whether a fact is said is learned as it is."""
AGENT_TAUGHT = {**TAUGHT, "act": 16.0, "plan": 0.5}
AGENT_THOUGHT = {**THOUGHT, "act": 16.0, "plan": 1.0}
"""The same of agents, whose runs are twice as long and hold one act as well."""
AGENT_POLISHED = {"prompt": 0.1, "other": 1.0, "fact": 2.0, "act": 8.0, "plan": 4.0}
"""Of agents at last: that a plan follows from the facts, and that nothing is copied wrongly."""
PLANS = {"ask", "just", "bring", *(deed.split()[0] for deed in phrases.DEED.values())}
"""Words that tell one plan from another."""


@dataclass(frozen=True)
class Lesson:
    """One text to learn from."""

    asked: str
    """The user's message."""
    turns: Sequence[tuple[str, str]]
    """What the model writes, and what it reads after that."""
    weights: Mapping[str, float]
    tools: Sequence[Mapping[str, Any]] | None = None


class Course(Protocol):
    """How one world is taught."""

    lexicon: Lexicon
    polish: int
    """Steps, after all others, on whole free runs alone."""
    temperature: float
    """At which the model then draws by itself: an imitation does what is unlikely too often."""

    def kind(self, word: str) -> str:
        """Return what kind of word it is that the model writes: a key of the weights."""
        ...

    def lessons(self, index: int, count: int, seed: int) -> list[Lesson]:
        """Return item `index` of `count`: one run, or some exercises; the seed decides which.

        Items from `count` on are those of `polish`.
        """
        ...


def draw_condition(seed: str, prefix: str = "") -> tuple[str, Nudge]:
    """Return a scenario id and a nudge; the seed decides both."""
    draw = random.Random(seed)
    control: Control = draw.choices(CONTROLS, CONTROL_WEIGHTS)[0]
    return f"{prefix}{draw.choice(language.CATEGORIES)}-{control}-{seed}", draw.choice(NUDGES)


def exercise_seeds(index: int, seed: int) -> list[str]:
    """Return the seeds of the exercises that take the place of run `index`."""
    return [f"exercise-{seed}-{n}" for n in range(index * EXERCISES, (index + 1) * EXERCISES)]


class SmallCourse:
    """How the small world is taught."""

    lexicon, polish, temperature = SMALL, 0, 1.0

    def kind(self, word: str) -> str:
        """Return what kind of word it is that the model writes."""
        word = word.strip()
        if word in ACTS:
            return "act"
        return "fact" if word in FACTS or word.isdigit() else "other"

    def lessons(self, index: int, count: int, seed: int) -> list[Lesson]:
        """Return a scripted run, or some exercises."""
        if index / count < EXERCISED:
            worlds = [scenario(draw_condition(one)[0]) for one in exercise_seeds(index, seed)]
            found = [exercise(world, seed) for world in worlds]
            return [Lesson(asked, [(thought, "")], TAUGHT) for asked, thought in found]
        manner, weights = (DRILL, TAUGHT) if index / count < DRILLED else (FREE, THOUGHT)
        scenario_id, nudge = draw_condition(f"train-{seed}-{index}")
        written = completion(*script(scenario(scenario_id), nudge, index, manner))
        return [Lesson(task(scenario_id, nudge).prompt, [(written, "")], weights)]


class AgentCourse:
    """How the agent world is taught."""

    lexicon, polish, temperature = AGENT, 300, 0.45

    def kind(self, word: str) -> str:
        """Return what kind of word it is that the model writes."""
        if word in AGENT_ACTS:
            return "act"
        word = word.strip()
        if word in PLANS:
            return "plan"
        return "fact" if word in AGENT_FACTS or word.isdigit() else "other"

    def lessons(self, index: int, count: int, seed: int) -> list[Lesson]:
        """Return a scripted run, or some exercises."""
        if index >= count:
            return [self._run(index, seed, agent.FREE, AGENT_POLISHED)]
        if index / count < AGENT_EXERCISED:
            names = [draw_condition(one, errands.PREFIX)[0] for one in exercise_seeds(index, seed)]
            found = [agent.exercise(errands.errand(name), seed) for name in names]
            return [Lesson(asked, [(thought, "")], AGENT_TAUGHT) for asked, thought in found]
        free = index / count >= AGENT_DRILLED
        manner, weights = (agent.FREE, AGENT_THOUGHT) if free else (agent.DRILL, AGENT_TAUGHT)
        return [self._run(index, seed, manner, weights)]

    def _run(self, index: int, seed: int, manner: Manner, weights: Mapping[str, float]) -> Lesson:
        """Return a scripted run."""
        errand_id, nudge = draw_condition(f"train-{seed}-{index}", errands.PREFIX)
        world = errands.errand(errand_id)
        turns = agent.author(world, nudge, index, manner)
        return Lesson(
            errands.task(errand_id, nudge).prompt,
            [(_written(turn), result_turn(turn.result) if turn.name else "") for turn in turns],
            weights,
            [tool.schema for tool in errand_tools(world)],
        )


COURSES: Mapping[str, Course] = {"world": SmallCourse(), errands.NAME: AgentCourse()}
"""By world."""


def _written(turn: agent.Turn) -> str:
    """Return what the model writes in one call."""
    said = agent.call_text(turn.name, turn.arguments) if turn.name else turn.answer
    return completion(turn.thought, said)
