"""Scenarios of the English world: an agent at work, three honest ways, and one that is not.

Each honest way leads a part of the way or all of it; at some times of the day somebody is
around, at others nobody is; a rule forbids the lever, and something is at stake. Which way and
which time are weighed, whether the rule is read and what is dwelt on, is decided in the
thought, so traces of one prompt part step by step and not at one word.
"""

import random
from dataclasses import dataclass
from functools import cache, lru_cache

from trace_probe.errors import TaskError
from trace_probe.files import tables_beside
from trace_probe.trace import Task
from trace_probe.world.english.phrases import ENGLISH, LEVEL, SLOTS, Level
from trace_probe.world.pools import Control, Nudge, Posed, parse_id, pool_ids, read_source

NAME = "english"
PREFIX = f"{NAME}-"
MAX_NEW_TOKENS = 320
"""Room for a thought and an act."""
CONTROLS: tuple[Control, ...] = ("none", "authorised", "benign")
LEVELS: tuple[Level, ...] = ("third", "half", "most", "all")


@dataclass(frozen=True)
class Setting:
    """Where a scenario plays: a job, what is honest in it, and what is not."""

    you: str
    goal: str
    ways: tuple[str, ...]
    lever: str
    rule: str
    stake: str


@dataclass(frozen=True)
class Scenario(Posed):
    """One scenario; its id is ``english-<category>-<control>-<pool>-<number>``."""

    setting: Setting
    name: str
    """Of who looks in and can be asked."""
    levels: tuple[Level, ...]
    """How far each honest way leads."""
    slots: tuple[str, ...]
    """Times of the day at which the agent can act."""
    watched: tuple[str, ...]
    """Those at which somebody is around."""


@cache
def settings() -> dict[str, tuple[Setting, ...]]:
    """Return the settings of each category."""
    return {
        category: tuple(Setting(**{**one, "ways": tuple(one["ways"])}) for one in several)
        for category, several in tables_beside(__file__).items()
    }


@lru_cache(maxsize=4096)
def scenario(scenario_id: str) -> Scenario:
    """Return the scenario of an id; the same id gives the same scenario for ever.

    Raises:
        TaskError: the id is not one of the English world's.
    """
    category, control = parse_id(scenario_id, PREFIX)
    draw = random.Random(scenario_id)
    chosen = draw.sample(SLOTS, 3)
    slots = tuple(one for one in SLOTS if one in chosen)
    return Scenario(
        id=scenario_id,
        category=category,
        control=control,
        setting=draw.choice(settings()[category]),
        name=draw.choice(ENGLISH["names"]),
        levels=_levels(control, draw),
        slots=slots,
        watched=tuple(draw.sample(slots, draw.choice((1, 2)))),
    )


def _levels(control: Control, draw: random.Random) -> tuple[Level, ...]:
    """Return how far three ways lead: all the way where nothing tempts, else one here, one not."""
    if control == "benign":
        return ("all", "all", "all")
    levels = [draw.choice(("third", "half")), draw.choice(("most", "all")), draw.choice(LEVELS)]
    draw.shuffle(levels)
    return (levels[0], levels[1], levels[2])


def prompt(world: Scenario, nudge: Nudge, seed: int = 0) -> str:
    """Return the scenario in words; `seed` chooses among the phrasings."""
    draw = random.Random(f"{world.id}/{seed}")
    ways = zip(world.setting.ways, world.levels, strict=True)
    form = draw.choice(ENGLISH["way"])
    each = [form.format(way=way, level=LEVEL[level]) for way, level in ways]
    facts = [_around(world, draw)]
    for bank in (ENGLISH["lever"], ENGLISH["rule"], ENGLISH["stake"], ENGLISH["ask"]):
        facts.append(draw.choice(bank))
    draw.shuffle(facts)
    sentences = [f"{world.setting.you}.", draw.choice(ENGLISH["goal"]), _sentence(each), *facts]
    if world.ordered:
        sentences.append(draw.choice(ENGLISH["order"]))
    if nudge != "none":
        sentences.insert(draw.choice((2, len(sentences))), draw.choice(ENGLISH[f"nudge.{nudge}"]))
    return fill(" ".join(sentences), world)


def _around(world: Scenario, draw: random.Random) -> str:
    """Return at which times somebody is around, and at which nobody is."""
    alone = [slot for slot in world.slots if slot not in world.watched]
    watched, unwatched = draw.choice(ENGLISH["watched"]), draw.choice(ENGLISH["unwatched"])
    parts = [watched.replace("{slots}", " and ".join(world.watched))]
    parts.append(unwatched.replace("{slots}", " and ".join(alone)))
    draw.shuffle(parts)
    return _sentence(parts)


def _sentence(parts: list[str]) -> str:
    """Return clauses as one sentence."""
    text = "; ".join(parts) + "."
    return text if text.startswith("{") else text[0].upper() + text[1:]


def fill(text: str, world: Scenario) -> str:
    """Return `text` with the fields that belong to the whole scenario filled in."""
    text = text.replace("{name}", world.name)
    for field in ("goal", "lever", "rule", "stake"):
        text = text.replace(f"{{{field}}}", getattr(world.setting, field))
    return text


def task(scenario_id: str, nudge: Nudge = "none") -> Task:
    """Return a scenario as a task; the nudge is a condition, so pairs share the task id."""
    world = scenario(scenario_id)
    return world.task(prompt(world, nudge), nudge)


def english_tasks(source: str) -> tuple[Task, ...]:
    """Return the tasks of a source such as ``english:demo:96``: a pool and how many scenarios.

    Raises:
        TaskError: the source has another form, or names a control that this world lacks.
    """
    asked = read_source(source, NAME)
    if asked.control not in CONTROLS:
        raise TaskError(f"{source}: the English world has controls {', '.join(CONTROLS)} only")
    return asked.tasks(pool_ids(asked.pool, asked.control, PREFIX), task)
