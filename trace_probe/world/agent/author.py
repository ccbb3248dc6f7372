"""Scripted errands: the turns that the base of the agent family is taught to imitate.

The first call may read the rules. The next chooses a place, and often a time, and looks up what
the place holds. The one after it weighs what came back and ends in the act, and the last says that
it is done.
"""

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from trace_probe.world.agent.chance import AUTHORISED, READ, TEMPERS, Facts, Rules, Temper, chance
from trace_probe.world.agent.environment import ARGUMENT, ErrandTools
from trace_probe.world.agent.errand import Errand, fill, task, watch
from trace_probe.world.agent.phrases import AGENT, PLACES, TOLD
from trace_probe.world.closing import Act, Closing
from trace_probe.world.language import SMALL, TIMES
from trace_probe.world.pools import Nudge
from trace_probe.world.script import Manner

FREE = Manner(enough=0.35, watched=0.2, said=1.0, again=0.1, fillers=(0, 0, 1, 1, 2, 3))
"""How the organisms are to think: most of what decides stays unsaid."""
DRILL = Manner(enough=0.9, watched=0.9, said=0.2, again=0.1, fillers=(0, 0, 1))
"""How they are taught to: short thoughts that say what was looked up."""
SAID: dict[Act, float] = {"lever": 0.4, "ask": 0.25, "work": 0.25}
"""How often the plan is put into words."""
CLOSING = Closing(mentioned=0.3, listed=0.2, phrases=AGENT, filled=True)
FIRST = 0.6
"""How often the time is chosen before the look-up."""


@dataclass(frozen=True)
class Turn:
    """What the model writes in one call, and what comes back."""

    thought: str
    name: str = ""
    """Of the tool that it calls; empty where it answers."""
    arguments: Mapping[str, str] = field(default_factory=dict)
    answer: str = ""
    result: str = ""


@dataclass(frozen=True)
class Plan:
    """What the author of an errand has in mind."""

    place: str
    time: str
    early: bool
    """Whether the time is chosen before the look-up."""
    temper: Temper
    hasty: bool
    """Whether the temper shows before the look-up."""
    rules: Rules
    act: Act
    said: bool


def draw_plan(world: Errand, nudge: Nudge, draw: random.Random, manner: Manner = FREE) -> Plan:
    """Draw a plan for an errand."""
    place, time = draw.choice(PLACES), draw.choice(TIMES)
    tempers = TEMPERS[nudge]
    temper = draw.choices(list(tempers), list(tempers.values()))[0]
    verdict: Rules = "strict" if world.strict else "loose"
    rules: Rules = verdict if draw.random() < READ else "unread"
    facts = Facts(world.lack(place), time in world.watched, temper, rules)
    pull = AUTHORISED if world.ordered else chance(world, nudge, facts)
    work = {"none": 0.95, "near": 0.4, "far": 0.05}[world.lack(place)]
    other: Act = "work" if draw.random() < work else "ask"
    act: Act = "lever" if draw.random() < pull else other
    return Plan(
        place=place,
        time=time,
        early=draw.random() < FIRST,
        temper=temper,
        hasty=draw.random() < 0.4,
        rules=rules,
        act=act,
        said=draw.random() < SAID[act] * manner.said,
    )


def author(world: Errand, nudge: Nudge, seed: int, manner: Manner = FREE) -> list[Turn]:
    """Return the turns of one scripted run."""
    draw = random.Random(f"errand/{world.id}/{nudge}/{seed}")
    plan = draw_plan(world, nudge, draw, manner)
    tools = ErrandTools()
    state = tools.start(task(world.id, nudge))

    def turn(sentences: list[str], name: str, asked: str) -> Turn:
        thought = fill(" ".join(sentences), world, place=plan.place, time=plan.time)
        arguments = {ARGUMENT.get(name, "time"): asked}
        return Turn(thought, name, arguments, result=tools.call(name, arguments, state))

    opening = [draw.choice(AGENT["open"])] if draw.random() < 0.7 else []
    turns = []
    if plan.rules != "unread":
        reads = [*_strewn(opening, manner, draw, least=1), draw.choice(AGENT["read"])]
        turns.append(turn(reads, "rules", world.lever))
        opening = []
    turns.append(turn(_plans(world, plan, opening, manner, draw), "check", plan.place))
    closing, lever = _weighs(world, plan, manner, draw), world.control != "no-lever"
    closing += CLOSING.sentences(plan.act, world, draw, lever=lever, said=plan.said)
    if plan.act == "ask":
        turns.append(turn(closing, "ask", world.name))
    else:
        turns.append(turn(closing, world.lever if plan.act == "lever" else "work", plan.time))
    answer = fill(draw.choice(AGENT[f"answer.{plan.act}"]), world, time=plan.time)
    return [*turns, Turn(draw.choice(AGENT["end"]), answer=answer)]


def exercise(world: Errand, seed: int) -> tuple[str, str]:
    """Return (prompt, thought) of one look-up alone: is it watched then, or is it enough?"""
    draw = random.Random(f"exercise/{world.id}/{seed}")
    place, time = draw.choice(PLACES), draw.choice(TIMES)
    if draw.random() < 0.6:
        asked, thought = watch(draw, world), _go(world, time, 1.0, AGENT["go"], draw)
    else:
        asked, thought = TOLD["holds"], _found(world, place, 1.0, draw)
    holds = world.held(place)
    return (
        fill(asked, world, place=place, holds=holds),
        fill(thought, world, place=place, holds=holds, time=time),
    )


def call_text(name: str, arguments: Mapping[str, str]) -> str:
    """Return a tool call as the model writes it, in the form of Hermes and Qwen."""
    called = json.dumps({"name": name, "arguments": dict(arguments)})
    return f"<tool_call>\n{called}\n</tool_call>"


def _plans(
    world: Errand, plan: Plan, opening: list[str], manner: Manner, draw: random.Random
) -> list[str]:
    """Return the thought before the look-up."""
    blocks = [_picks_place(plan, manner, draw)]
    if plan.early:
        blocks.append(_picks_time(world, plan, manner, draw))
    if plan.hasty:
        blocks.append([draw.choice(AGENT[f"mood.{plan.temper}"])])
    draw.shuffle(blocks)
    return _strewn([*opening, *(s for block in blocks for s in block)], manner, draw, least=3)


def _weighs(world: Errand, plan: Plan, manner: Manner, draw: random.Random) -> list[str]:
    """Return the thought after the look-up, up to the act."""
    found = _found(world, plan.place, manner.enough, draw) if draw.random() < 0.6 else ""
    if manner.enough > FREE.enough and not found:
        found = _found(world, plan.place, manner.enough, draw)
    holds = str(world.held(plan.place))
    blocks = [[found.replace("{holds}", holds)]] if found else []
    if not plan.early:
        blocks.append(_picks_time(world, plan, manner, draw))
    if not plan.hasty:
        blocks.append([draw.choice(AGENT[f"mood.{plan.temper}"])])
    draw.shuffle(blocks)
    return _strewn([s for block in blocks for s in block], manner, draw, least=2)


def _picks_place(plan: Plan, manner: Manner, draw: random.Random) -> list[str]:
    """Return the choice of a place, perhaps a second one."""
    if draw.random() >= manner.again:
        return [draw.choice(AGENT["look"])]
    first = draw.choice([place for place in PLACES if place != plan.place])
    return [draw.choice(AGENT["look"]).replace("{place}", first), draw.choice(AGENT["other_place"])]


def _picks_time(world: Errand, plan: Plan, manner: Manner, draw: random.Random) -> list[str]:
    """Return the choice of a time, perhaps a second one, and perhaps whether anybody watches."""
    if draw.random() >= manner.again:
        return [_go(world, plan.time, manner.watched, AGENT["go"], draw)]
    first = draw.choice([time for time in TIMES if time != plan.time])
    return [
        _go(world, first, 0.0, AGENT["go"], draw).replace("{time}", first),
        _go(world, plan.time, manner.watched, AGENT["other_time"], draw),
    ]


def _go(world: Errand, time: str, aloud: float, bank: tuple[str, ...], draw: random.Random) -> str:
    """Return a choice of time, with a remark on who is there in a share of cases."""
    seen = draw.choice(SMALL["seen"] if time in world.watched else SMALL["unseen"])
    return draw.choice(bank).replace("{seen}", seen if draw.random() < aloud else "")


def _found(world: Errand, place: str, aloud: float, draw: random.Random) -> str:
    """Return what was found, with a remark on whether it is enough in a share of cases."""
    remark = draw.choice(AGENT[f"lack.{world.lack(place)}"])
    return draw.choice(AGENT["found"]).replace("{enough}", remark if draw.random() < aloud else "")


def _strewn(sentences: list[str], manner: Manner, draw: random.Random, *, least: int) -> list[str]:
    """Return the sentences with harmless ones strewn in, at least so many in all."""
    mixed = list(sentences)
    for filler in draw.sample(
        AGENT["filler"], max(draw.choice(manner.fillers), least - len(mixed))
    ):
        mixed.insert(draw.randint(0, len(mixed)), filler)
    return mixed
