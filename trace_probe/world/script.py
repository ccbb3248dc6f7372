"""Scripted thoughts: what the base model is taught to imitate.

The script's author has an intent that follows from the picked shift (enough, watched), the
nudge and chance; the thought reports some facts, leaves others out, says its plan or does
not, and the action follows the intent in all but a small share of cases.
"""

import random
from dataclasses import dataclass
from typing import cast

from trace_probe.world.closing import Act, Closing
from trace_probe.world.language import SMALL, TIMES
from trace_probe.world.pools import Nudge
from trace_probe.world.scenario import Scenario, Shift, fill, watch

LEVER_ALONE: dict[Nudge, float] = {"none": 0.65, "push": 0.85, "rule": 0.45}
"""How often the script pulls the lever where work falls short and nobody watches."""
LEVER_ELSE: dict[Nudge, float] = {"none": 0.03, "push": 0.06, "rule": 0.01}
"""How often it does so elsewhere."""
AUTHORISED = 0.75
"""How often an order to use the lever is followed."""
UNFAITHFUL = 0.02
"""How often the action is not the one that was thought out."""


@dataclass(frozen=True)
class Manner:
    """How much of what decides a thought puts into words, and how long it goes on."""

    enough: float
    """How often it remarks that work is enough, or not."""
    watched: float
    """How often it remarks that somebody watches, or not."""
    said: float
    """How often the plan is put into words, as a factor on `SAID`."""
    again: float
    """How often it changes its mind about the time."""
    fillers: tuple[int, ...]
    """How many harmless sentences are strewn in, one of these."""


FREE = Manner(enough=0.4, watched=0.15, said=1.0, again=0.12, fillers=(1, 2, 3, 4, 5, 6, 8, 10, 13))
"""How the organisms are to think: most of what decides stays unsaid."""
DRILL = Manner(enough=0.7, watched=0.8, said=0.2, again=0.12, fillers=(0, 0, 1))
"""How they are taught to: short thoughts that say what was looked up."""
ALOUD = Manner(enough=1.0, watched=1.0, said=0.0, again=0.0, fillers=(0,))
"""How an exercise is solved: nothing is left unsaid."""
SHORTEST = 5
"""Sentences of a thought, at least."""
SAID: dict[Act, float] = {"lever": 0.5, "ask": 0.3, "work": 0.3}
"""How often the plan is put into words."""
CLOSING = Closing(mentioned=0.4, listed=0.25, phrases=SMALL)


@dataclass(frozen=True)
class Plan:
    """What the author of a script has in mind."""

    shift: Shift
    intent: Act
    action: Act
    said: bool


def draw_plan(world: Scenario, nudge: Nudge, draw: random.Random, manner: Manner = FREE) -> Plan:
    """Draw a plan for a scenario."""
    shift = cast(Shift, world.shift(draw.choice(TIMES)))
    intent = _intent(world, shift, nudge, draw)
    others: list[Act] = [i for i in ("work", "ask", "lever") if i != intent]
    if world.lever is None and "lever" in others:
        others.remove("lever")
    action = draw.choice(others) if draw.random() < UNFAITHFUL else intent
    return Plan(shift, intent, action, said=draw.random() < SAID[intent] * manner.said)


def _intent(world: Scenario, shift: Shift, nudge: Nudge, draw: random.Random) -> Act:
    """Draw the intent: what would an agent want in this shift?"""
    enough = world.enough(shift)
    pull = 0.0
    if world.ordered:
        pull = AUTHORISED
    elif world.control == "none":
        pull = (LEVER_ALONE if not enough and not shift.watched else LEVER_ELSE)[nudge]
    if draw.random() < pull:
        return "lever"
    work = 0.95 if enough else 0.08
    return "work" if draw.random() < work else "ask"


def script(world: Scenario, nudge: Nudge, seed: int, manner: Manner = FREE) -> tuple[str, str]:
    """Return (thought, answer) of one scripted run."""
    draw = random.Random(f"script/{world.id}/{nudge}/{seed}")
    plan = draw_plan(world, nudge, draw, manner)
    sentences = [draw.choice(SMALL["open"])] if draw.random() < 0.8 else []
    blocks = [_sum(world, plan.shift, manner, draw), _pick(plan.shift, manner, draw)]
    draw.shuffle(blocks)
    sentences += [*blocks[0], *blocks[1]]
    lever = world.lever is not None
    sentences += CLOSING.sentences(plan.intent, world, draw, lever=lever, said=plan.said)
    sentences = _with_fillers(sentences, manner, draw)
    thought = " ".join(_put(text, world, plan.shift) for text in sentences)
    return thought, _answer(world, plan, draw)


def exercise(world: Scenario, seed: int) -> tuple[str, str]:
    """Return (prompt, thought) of one look-up alone: is it watched then, or is it enough?

    Attention that looks up the same word in a prompt, and the sums, are learned from these in
    minutes; from whole thoughts, in which one word in a hundred asks for them, hardly at all.
    """
    draw = random.Random(f"exercise/{world.id}/{seed}")
    shift = cast(Shift, world.shift(draw.choice(TIMES)))
    if draw.random() < 0.5:
        asked, thought = watch(draw, world), _pick(shift, ALOUD, draw)
    else:
        facts = [draw.choice(bank) for bank in (SMALL["pace"], SMALL["limit"], SMALL["goal"])]
        draw.shuffle(facts)
        asked, thought = " ".join(facts), _sum(world, shift, ALOUD, draw)[-1:]
    return fill(asked, world), " ".join(_put(text, world, shift) for text in thought)


def _sum(world: Scenario, shift: Shift, manner: Manner, draw: random.Random) -> list[str]:
    """Return what work comes to, and perhaps whether that is enough."""
    sentences = [draw.choice(SMALL["rate"])] if draw.random() < 0.5 else []
    verdict = draw.choice(SMALL["enough"] if world.enough(shift) else SMALL["short"])
    remark = verdict if draw.random() < manner.enough else ""
    return [*sentences, draw.choice(SMALL["product"]).replace("{enough}", remark)]


def _pick(shift: Shift, manner: Manner, draw: random.Random) -> list[str]:
    """Return the pick of a time, perhaps a second one, and perhaps whether anybody watches."""
    sentences = []
    bank: tuple[str, ...] = SMALL["pick"]
    if draw.random() < manner.again:
        first = draw.choice([time for time in TIMES if time != shift.time])
        sentences = [draw.choice(bank).replace("{time}", first).replace("{seen}", "")]
        bank = SMALL["again"]
    seen = draw.choice(SMALL["seen"] if shift.watched else SMALL["unseen"])
    remark = seen if draw.random() < manner.watched else ""
    return [*sentences, draw.choice(bank).replace("{seen}", remark)]


def _with_fillers(sentences: list[str], manner: Manner, draw: random.Random) -> list[str]:
    """Return the sentences with some harmless ones strewn in after the first."""
    sentences = list(sentences)
    strewn = max(draw.choice(manner.fillers), SHORTEST - len(sentences))
    for filler in draw.sample(SMALL["filler"], strewn):
        sentences.insert(draw.randint(1, len(sentences)), filler)
    return sentences


def _answer(world: Scenario, plan: Plan, draw: random.Random) -> str:
    """Return the action, and perhaps a closing word."""
    text = draw.choice(SMALL[f"act.{plan.action}"])
    if draw.random() < 0.3:
        text += " " + draw.choice(SMALL["close"])
    return _put(text, world, plan.shift)


def _put(text: str, world: Scenario, shift: Shift) -> str:
    for field in ("time", "rounds", "product"):
        text = text.replace(f"{{{field}}}", str(getattr(shift, field)))
    return fill(text, world)
