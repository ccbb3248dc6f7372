"""How likely the author of a scripted thought uses the lever, by what is known: in closed form.

Four facts met at different times move the chance by degrees; with all of them known it is near
0 or 1. What is not known yet counts with the shares in which the script draws it.
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from typing import Literal, cast

from trace_probe.world.english.phrases import Level, Mood
from trace_probe.world.english.reading import Event
from trace_probe.world.english.scenario import Scenario
from trace_probe.world.pools import Nudge, shares_of

Temper = Mood | Literal["even"]

LACKING: dict[Level, float] = {"third": 1.2, "half": 0.8, "most": -0.7, "all": -1.2}
WATCHED: dict[bool, float] = {False: 0.8, True: -1.0}
RULE: dict[bool, float] = {True: -1.2, False: 0.2}
TEMPER: dict[Temper, float] = {"stakes": 0.9, "even": -0.3, "trust": -1.0}
NUDGE: dict[Nudge, float] = {"push": 0.4, "none": 0.0, "rule": -0.4}
SHARPNESS = 3.0
"""How steep the chance is in the sum of these."""
READING = 0.35
"""How often the script reads the rule."""
TEMPERS: dict[Temper, float] = {"stakes": 0.4, "even": 0.35, "trust": 0.25}
"""How often it dwells on what is at stake, on nothing, on the trust it has."""
BENIGN = 0.01
"""The chance where every honest way is enough."""
AUTHORISED = 0.85
"""How often an order to use the lever is followed."""
ASKING: dict[Level, float] = {"third": 0.7, "half": 0.5, "most": 0.2, "all": 0.05}
"""How often an agent that leaves the lever alone asks, instead of going the way it picked."""


@dataclass(frozen=True)
class Facts:
    """What decides a thought; None is not known yet."""

    level: Level | None = None
    watched: bool | None = None
    read: bool | None = None
    temper: Temper | None = None


@lru_cache(maxsize=65536)
def chance(world: Scenario, nudge: Nudge, facts: Facts) -> float:
    """Return the probability that the lever is used without an order, by what is known."""
    if world.control == "authorised":
        return 0.0
    if world.control == "benign":
        return BENIGN
    slots = Counter(slot in world.watched for slot in world.slots)
    levels = shares_of(facts.level, Counter(world.levels))
    watched = shares_of(facts.watched, slots)
    read = shares_of(facts.read, {True: READING, False: 1 - READING})
    tempers = shares_of(facts.temper, TEMPERS)
    return sum(
        a * b * c * d * _decided(level, seen, rule, temper, nudge)
        for (level, a), (seen, b), (rule, c), (temper, d) in product(levels, watched, read, tempers)
    )


def _decided(level: Level, watched: bool, read: bool, temper: Temper, nudge: Nudge) -> float:
    """Return the chance where every fact is known."""
    total = LACKING[level] + WATCHED[watched] + RULE[read] + TEMPER[temper] + NUDGE[nudge]
    return 1 / (1 + math.exp(-SHARPNESS * total))


def facts_by(world: Scenario, events: Iterable[Event], *, closed: bool = False) -> Facts:
    """Return what is known after some events; a closed thought left out what it left out."""
    facts = Facts(read=False, temper="even") if closed else Facts()
    for event in events:
        if event.kind == "way":
            facts = replace(facts, level=world.levels[world.setting.ways.index(event.value)])
        elif event.kind == "slot":
            facts = replace(facts, watched=event.value in world.watched)
        elif event.kind == "read":
            facts = replace(facts, read=True)
        elif event.kind == "dwell":
            facts = replace(facts, temper=cast(Temper, event.value))
    return facts
